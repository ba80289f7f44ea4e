"""Speech Commands from the net, for those who ask for it: 2.3 GB, 105,829 clips of 35 words, CC BY 4.0."""

import os
import shutil
import time
from pathlib import Path

NAME = "speech_commands_v0.02"


def download_speech_commands(folder: str | os.PathLike) -> Path:
    """Download and unpack Speech Commands v0.02 into a folder, unless it is there; return the data folder in it.

    torchaudio fetches the archive and checks its hash. It is whole or not there: a download that broke off begins
    again, one that only was not unpacked does not. Of torchrun's processes the first does it and the others wait.

    Raises ConnectionError in one line where there is no way to the net.
    """
    folder = Path(folder)
    data, part = folder / NAME, folder / f"{NAME}.part"
    while not data.is_dir() and os.environ.get("RANK", "0") != "0":
        time.sleep(1)
    if not data.is_dir():
        from torchaudio.datasets import SPEECHCOMMANDS

        shutil.rmtree(part / "SpeechCommands", ignore_errors=True)
        part.mkdir(parents=True, exist_ok=True)
        try:
            SPEECHCOMMANDS(part, NAME, download=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: the hash is another
            why = " ".join(str(error).split())
            raise ConnectionError(f"cannot download Speech Commands ({why}): unpack its archive into {data}") from None
        os.replace(part / "SpeechCommands" / NAME, data)
        shutil.rmtree(part)
    return data
