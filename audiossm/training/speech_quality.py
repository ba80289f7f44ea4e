"""How good speech sounds and how well it is understood: PESQ wide band, STOI, ESTOI and SI-SDR of a file."""

import importlib.util
import warnings

import numpy as np
import torch

from audiossm.data import resample

RATE = 16000  # Hz, at which wide-band PESQ listens
METRICS = ("pesq", "stoi", "estoi", "si_sdr")


def check_installed() -> None:
    """Raise ModuleNotFoundError, in one line, where the libraries that score are missing."""
    missing = [name for name in ("pesq", "pystoi") if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"to score speech, {' and '.join(missing)} is needed: pip install 'audiossm[enhance]'"
        )


def score(estimate: np.ndarray, clean: np.ndarray, rate: int) -> np.ndarray:
    """Return METRICS of an estimate (n,) of clean speech (n,), float64 (4,): PESQ 1 to 4.6, STOI and ESTOI to 1, dB.

    What cannot be told, as PESQ where no speech is found, is NaN.
    """
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr
    from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality as pesq
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility as stoi

    heard, wanted = (torch.from_numpy(resample(audio, rate, RATE)) for audio in (estimate, clean))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pystoi's, of files that are too short for it
        try:
            quality = float(pesq(heard, wanted, RATE, "wb"))
        except Exception as error:  # the library's own errors, which are of no public base
            if type(error).__module__.split(".")[0] not in ("pesq", "cypesq"):
                raise
            quality = np.nan
        plain, extended = (float(stoi(heard, wanted, RATE, extended=kind)) for kind in (False, True))
    return np.array([quality, plain, extended, float(si_sdr(heard, wanted))])
