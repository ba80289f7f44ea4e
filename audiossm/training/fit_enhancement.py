"""Train an enhancement model on clean speech and noise, or on recorded pairs, and leave it in a run folder."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from audiossm.data import Clip, find_clips, load_recordings, read_audio
from audiossm.data.audio import sound_files
from audiossm.data.pairs import find_pairs
from audiossm.data.recordings import MEMORY, Recordings, open_recordings
from audiossm.data.windows import PairedWindows, Windows
from audiossm.tasks import EnhancementConfig, EnhancementModel
from audiossm.tasks.checkpoint import load_model, parameter_count, save_model
from audiossm.training.enhancement import EnhancementTraining, window_samples
from audiossm.training.options import EnhanceOptions
from audiossm.training.run import (
    Report,
    about_training,
    begin_run,
    build_trainer,
    check_run_folder,
    fit,
    is_first,
    sharing,
    silent,
)
from audiossm.training.scenes import Scenes
from audiossm.training.splits import for_training
from audiossm.training.window_loader import WindowBatches

LONGEST_ROOM = 1.0  # seconds of an impulse response that are kept
Reader = Callable[[Sequence[Clip]], tuple[Recordings, list[str]]]
SILENT = np.zeros(1, np.int16)  # the noise of those who have none


def train_enhancement(
    out: str | Path,
    config: EnhancementConfig,
    options: EnhanceOptions,
    clean: str | Path | None = None,
    noise: Sequence[str | Path] = (),
    rir: Sequence[str | Path] = (),
    pairs: str | Path | None = None,
    val_clean: str | Path | None = None,
    val_noise: Sequence[str | Path] = (),
    resume: bool = False,
    devices: str = "auto",
    memory: float = MEMORY,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> EnhancementModel:
    """Train on speech and noise that are mixed anew for every batch, or on pairs as they were recorded.

    Devices and resuming are those of `train_keywords`.

    Args:
        out: run folder; gets model.json, model.safetensors, last.ckpt (to resume from) and TensorBoard logs.
        config: size of the model.
        options: of the optimisation and the mixing.
        clean: any folder of clean speech; where it has splits, "train" is learnt from and "val" watched.
        noise: folders of recordings of noise.
        rir: folders of impulse responses of rooms; none: they are made up.
        pairs: instead of both, a folder of noisy and clean files, see `audiossm.data.pairs.find_pairs`.
        val_clean: folder of clean speech to watch.
        val_noise: folders of noise to mix it with; none: the noise of the training.
        resume: go on from out/last.ckpt.
        devices: "auto" for torchrun's processes, else all GPUs or one CPU process; or a number of devices.
        memory: GB of speech that a process may keep; more is read from disk as needed.
        progress: show a bar.
        say: gets one line for each thing worth telling.

    Raises:
        As `train_keywords`.
    """
    local, machines = sharing(devices, options.batch)
    if (clean is None) == (pairs is None) or (clean is not None and not noise):
        raise ValueError("give clean speech and noise to mix, or pairs of noisy and clean files")
    out = Path(out)
    first = is_first()
    say = say if first else silent
    if first:
        check_run_folder(out, resume)
    torch.manual_seed(options.seed)
    model = EnhancementModel(config)
    samples = window_samples(model, options)
    size = math.ceil(samples * (1 + options.speed)) + 1  # what is heard faster is read from more of a recording
    read = partial(open_recordings, rate=config.rate, memory=memory, progress=progress and first)
    clips = find_clips(clean) if clean is not None else []
    if clean is not None:
        train = cut(for_training(clips, Path(clean)), size, read, say)
    else:
        assert pairs is not None
        train = cut_pairs(pairs, size, read, say)
    watched = find_clips(val_clean) if val_clean is not None else [clip for clip in clips if clip.split == "val"]
    val = cut(watched, samples, read, silent) if watched else None
    if min(len(train), len(val or train)) < local * machines:
        raise ValueError(f"fewer windows than devices ({local * machines}): train on fewer devices")
    sounds = load_recordings(noise, config.rate, options.window) if noise else SILENT
    others = load_recordings(val_noise, config.rate, options.window) if val_noise else sounds
    if val is not None and not noise and not val_noise:
        raise ValueError("speech to watch wants noise to be mixed with: give val_noise")
    responses = load_responses(rir, config.rate) if rir else None
    scenes, held_out = (
        Scenes(torch.from_numpy(recordings), config.rate, options, responses) for recordings in (sounds, others)
    )
    if first:
        begin_run(out, config, options, resume)
    if resume and (out / "model.json").is_file():
        say(f"the training in {out} has finished already")
        return load_model(out, EnhancementModel)[0]
    heard = f"{train.recordings.seconds / 3600:.2f} h of speech"
    heard += f", {len(sounds) / config.rate / 3600:.2f} h of noise" if noise else " in pairs"
    say(f"training {parameter_count(model):,} parameters on {len(train.recordings)} recordings, {heard}")
    report = None if progress else Report(say, "val_gain", lambda gain: f"SI-SDR {gain:+.2f} dB on validation")
    trainer = build_trainer(out, options, local, machines, report)
    begun = time.monotonic()
    training = EnhancementTraining(model, scenes, held_out, options)
    fit(trainer, training, WindowBatches(train, val, options), out, resume, say)
    if trainer.is_global_zero:
        about = summary(trainer, train, len(sounds) / config.rate, options, time.monotonic() - begun)
        about |= {"window": samples}
        save_model(out, model.cpu().eval(), about)
    say(f"done: the model is in {out}; try: audiossm export {out} --out model.onnx")
    return model


def cut(clips: Sequence[Clip], size: int, read: Reader, say: Callable[[str], None], kind: str = "") -> Windows:
    """Cut recordings into windows of `size` samples; silence follows those that are shorter."""
    recordings, lines = read(clips)
    for line in lines:
        say(kind + line)
    return Windows(recordings, size, torch.zeros(len(recordings), dtype=torch.int64))


def cut_pairs(root: str | Path, size: int, read: Reader, say: Callable[[str], None]) -> PairedWindows:
    """Cut pairs into windows; raise ValueError where noisy and clean files are of unequal length."""
    pairs = find_pairs(root, "train")
    clean, noisy = (
        cut([Clip(path, "", "", "") for path in paths], size, read, say, kind).recordings
        for kind, paths in {
            "clean: ": [pair.clean for pair in pairs],
            "noisy: ": [pair.noisy for pair in pairs],
        }.items()
    )
    if len(clean) != len(noisy):
        raise ValueError(f"{root} has empty files whose partners are not: take both away")
    unlike = [i for i, ends in enumerate(zip(clean.lengths, noisy.lengths, strict=True)) if ends[0] != ends[1]]
    if unlike:
        pair = pairs[unlike[0]]
        raise ValueError(f"{len(unlike)} of {len(pairs)} pairs are of unequal length: {pair.noisy} and {pair.clean}")
    return PairedWindows(clean, size, torch.zeros(len(clean), dtype=torch.int64), noisy=noisy)


def load_responses(folders: Sequence[str | Path], rate: int) -> torch.Tensor:
    """Read impulse responses of rooms (R, m) at `rate` Hz: each from its highest peak, the direct sound, which is 1."""
    responses = []
    for path in (path for folder in folders for path in sound_files(folder)):
        response = read_audio(path, rate)[0]
        direct = int(np.abs(response).argmax())
        if not response[direct]:
            raise ValueError(f"{path} is silent: it is no impulse response")
        responses.append(response[direct:][: round(LONGEST_ROOM * rate)] / response[direct])
    longest = max(map(len, responses))
    return torch.from_numpy(np.stack([np.pad(response, (0, longest - len(response))) for response in responses]))


def summary(
    trainer: Trainer, train: Windows, noise_seconds: float, options: EnhanceOptions, seconds: float
) -> dict[str, Any]:
    """Return what a reader of the model wants to know of its training."""
    watched = {name: trainer.callback_metrics.get(name) for name in ("val_si_sdr", "val_gain")}
    return {
        "recordings": len(train.recordings),
        "hours": round(train.recordings.seconds / 3600, 3),
        "noise_hours": round(noise_seconds / 3600, 3),
        **{name: None if value is None else round(float(value), 3) for name, value in watched.items()},
        **about_training(trainer, options, seconds),
    }
