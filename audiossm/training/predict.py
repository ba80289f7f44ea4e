"""What a keyword model makes of clips: from a checkpoint, or from an exported file as a stream hears it."""

from collections.abc import Callable

import numpy as np
import torch

from audiossm.streaming import FrameClock, Model
from audiossm.tasks import KeywordModel

BATCH = 64
FILE_BATCH = 8  # more streams at a time fall out of the CPU's cache

Predict = Callable[[np.ndarray, int], np.ndarray]  # clips (n, samples) float32 at a rate in Hz -> (n, classes) scores


def module_predictor(model: KeywordModel, device: str | None = None) -> Predict:
    """Return a function that classifies clips with a module: the logits at the end of each clip."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()

    @torch.inference_mode()
    def predict(audio: np.ndarray, rate: int) -> np.ndarray:
        parts = torch.from_numpy(whole_frames(audio, rate)).split(BATCH)
        return np.concatenate(
            [model(part.to(device).unsqueeze(-1), rate=rate)[0][:, -1].cpu().numpy() for part in parts]
        )

    return predict


def file_predictor(model: Model) -> Predict:
    """Return a function that classifies clips with an exported file, several streams at a time, frame by frame."""

    def predict(audio: np.ndarray, rate: int) -> np.ndarray:
        clock = FrameClock(rate)
        sessions = model.sessions(clock)

        def hear(streams: np.ndarray) -> np.ndarray:
            state = np.zeros((len(streams), model.metadata.state_size), np.float32)
            begin = frame = 0
            while begin + clock.samples <= streams.shape[1]:
                inputs = {"audio": streams[:, begin : begin + clock.samples], "state": state}
                session = sessions[frame % clock.period]
                posteriors, state = session.run(["posteriors", "state_out"], inputs)
                begin += clock.samples - clock.shared(frame)
                frame += 1
            return posteriors

        audio = whole_frames(audio, rate)
        return np.concatenate([hear(audio[i : i + FILE_BATCH]) for i in range(0, len(audio), FILE_BATCH)])

    return predict


def whole_frames(audio: np.ndarray, rate: int) -> np.ndarray:
    """Pad clips (n, samples) with zeros to a whole number of frames, as `flush` does at the end of a stream."""
    frame = FrameClock(rate).grid / 50  # samples; at some rates a half
    samples = int(np.ceil(np.ceil(audio.shape[1] / frame) * frame))
    return np.pad(audio, ((0, 0), (0, samples - audio.shape[1])))
