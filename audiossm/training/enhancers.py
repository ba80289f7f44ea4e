"""An enhancement model as a function of a whole recording, from a run folder or from an exported file."""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from audiossm.streaming import load_enhancer
from audiossm.tasks import EnhancementModel
from audiossm.tasks.checkpoint import load_model


class Enhancer(Protocol):
    """Enhances recordings (n,) float32: the output is as long as the input and in time with it, within full scale."""

    rate: int  # native, Hz

    def __call__(self, noisy: np.ndarray, rate: int) -> np.ndarray:
        """Enhance a recording at `rate` Hz."""


class OfRun:
    """The module of a run folder, which hears a recording at once."""

    def __init__(self, run: str | Path):
        self.name, self.model = run, load_model(run, EnhancementModel)[0]
        self.rate = self.model.config.rate

    def __reduce__(self) -> tuple[type["OfRun"], tuple[str | Path]]:
        """Be opened anew by another process."""
        return OfRun, (self.name,)

    @torch.inference_mode()
    def __call__(self, noisy: np.ndarray, rate: int) -> np.ndarray:
        """Enhance a recording; raise ValueError at a rate that the module cannot hear."""
        if rate != self.rate and not self.model.any_rate:
            raise ValueError(f"the model in {self.name} hears {self.rate} Hz alone: export it, and evaluate the file")
        delay = self.model.delay
        behind = delay + -(len(noisy) + delay) % self.model.frame
        audio = torch.from_numpy(np.pad(noisy, (0, behind)))[None, :, None]
        y, _ = self.model(audio, rate=rate if self.model.any_rate else None)
        return y[0, delay : delay + len(noisy), 0].clamp(-1, 1).numpy()


class OfFile:
    """An ONNX file through the runtime, frame by frame."""

    def __init__(self, path: str | Path):
        self.model = load_enhancer(path)
        self.rate = self.model.metadata.rate

    def __reduce__(self) -> tuple[type["OfFile"], tuple[str | Path]]:
        """Be opened anew by another process."""
        return OfFile, (self.model.name,)

    def __call__(self, noisy: np.ndarray, rate: int) -> np.ndarray:
        """Enhance a recording."""
        stream = self.model.stream(rate)
        return np.concatenate((stream.push(noisy), stream.flush())).clip(-1, 1)


def open_enhancer(model: str | Path) -> Enhancer:
    """Open a run folder, an ONNX file or a released model by its name."""
    return OfRun(model) if Path(model).is_dir() else OfFile(model)
