"""How good speech sounds and how well it is understood: PESQ wide band, STOI, ESTOI and SI-SDR of a file."""

import importlib.util
import warnings

import numpy as np
import torch

from audiossm.data import resample

RATE = 16000  # Hz, at which wide-band PESQ listens
SHORTEST = 0.4  # seconds, of which STOI hears nothing less
UNTOLD = 1e-5  # pystoi's answer where there is too little speech
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

    What cannot be told, as PESQ where no speech is found, is NaN; so is all of what is silent or lasts under 0.4 s.
    """
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as si_sdr
    from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality as pesq
    from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility as stoi

    if len(clean) < SHORTEST * rate or not clean.any():
        return np.full(len(METRICS), np.nan)
    heard, wanted = (torch.from_numpy(resample(audio, rate, RATE)) for audio in (estimate, clean))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pystoi's, of files that are too short for it
        try:
            quality = float(pesq(heard, wanted, RATE, "wb"))
        except Exception as error:  # no speech in `wanted`, which has an error of its own, or in `heard`, which has not
            if not isinstance(error, ValueError) and not type(error).__module__.startswith(("pesq", "cypesq")):
                raise
            quality = np.nan
        understood = np.array([float(stoi(heard, wanted, RATE, extended=kind)) for kind in (False, True)])
    understood[np.isclose(understood, UNTOLD, rtol=1e-3, atol=0)] = np.nan
    return np.array([quality, *understood, float(si_sdr(heard, wanted))])
