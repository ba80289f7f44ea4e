"""Microphones without hardware: null sinks of PulseAudio. What is played into one, its device hears, in real time.

PortAudio sees each through ALSA as a device of its own name, which can be unplugged: `stop` ends the server.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
NEEDED = ("pulseaudio", "paplay")


def missing():
    """Say why there can be no server here, or None; on Debian and as root what it needs is installed."""
    if sys.platform != "linux":
        return "PulseAudio's null sinks are made for Linux"
    if not all(map(shutil.which, NEEDED)):
        subprocess.run([PROJECT / ".ci" / "sound-packages"], capture_output=True)
    if not all(map(shutil.which, NEEDED)):
        return "needs PulseAudio: apt install libportaudio2 libasound2-plugins pulseaudio pulseaudio-utils"
    return None


class Pulse:
    """A sound server with a microphone for each of `rates`, {name: Hz}; the first one is the default."""

    def __init__(self, folder, rates):
        self.folder = folder
        self.socket = folder / "native"
        sink = "load-module module-null-sink sink_name={} rate={} channels=1 format=s16le norewinds=1\n"
        (folder / "test.pa").write_text(
            f"load-module module-native-protocol-unix socket={self.socket} auth-anonymous=1\n"
            + "".join(sink.format(name, rate) for name, rate in rates.items())
            + f"set-default-source {next(iter(rates))}.monitor\n"
        )
        (folder / "asound.conf").write_text(
            "".join(f"pcm.{name} {{ type pulse device {name}.monitor }}\n" for name in rates)
            + "pcm.!default { type pulse }\n"
        )
        self.environment = os.environ | {
            "PULSE_SERVER": f"unix:{self.socket}",
            "ALSA_CONFIG_PATH": f"/usr/share/alsa/alsa.conf:{folder}/asound.conf",
        }
        self.start()

    def start(self):
        private = {name: str(self.folder) for name in ("HOME", "XDG_RUNTIME_DIR", "PULSE_RUNTIME_PATH")}
        options = "-n --daemonize=no --exit-idle-time=-1 --disable-shm=yes --realtime=no --high-priority=no"
        with open(self.folder / "log", "wb") as log:
            self.server = subprocess.Popen(
                ["pulseaudio", *options.split(), "--use-pid-file=no", "-F", self.folder / "test.pa"],
                env=os.environ | private,
                stdout=log,
                stderr=log,
            )
        for _ in range(200):
            # The default is set last, so it tells that everything is there.
            asked = subprocess.run(["pactl", "get-default-source"], env=self.environment, capture_output=True)
            if asked.returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("PulseAudio does not start: " + (self.folder / "log").read_text())

    def stop(self):
        """Unplug all microphones."""
        self.server.kill()
        self.server.wait()
        self.socket.unlink(missing_ok=True)

    def play(self, file, name):
        """Begin to say a sound file to the microphone `name`."""
        return subprocess.Popen(["paplay", "-d", name, file], env=self.environment, stderr=subprocess.PIPE, text=True)
