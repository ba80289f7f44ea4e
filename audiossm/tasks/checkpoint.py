"""A trained model as a folder: model.safetensors holds the weights, model.json what to build and how it came about."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from audiossm.tasks.enhancement import EnhancementModel
from audiossm.tasks.generation import GenerationModel
from audiossm.tasks.keywords import KeywordModel

FORMAT = 1
TASKS = {model.task: model for model in (KeywordModel, GenerationModel, EnhancementModel)}
M = TypeVar("M", KeywordModel, GenerationModel, EnhancementModel)


def write_beside(path: Path, data: bytes) -> None:
    """Write a file so that it is either whole or not there: beside its place, then renamed."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:
        raise type(error)(f"cannot write {path}: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)


def save_model(
    folder: Path, model: KeywordModel | GenerationModel | EnhancementModel, training: dict[str, Any]
) -> None:
    """Write a model with a JSON-able summary of its training into a folder."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    about = {"format": FORMAT, "task": model.task, "config": asdict(model.config), "training": training}
    write_beside(folder / "model.safetensors", save(state))
    write_beside(folder / "model.json", (json.dumps(about, indent=2) + "\n").encode())


def task_of(folder: str | Path) -> str:
    """Return the task of the model in a run folder; raises what `load_model` does."""
    return read_about(Path(folder))["task"]


def load_model(
    folder: str | Path,
    kind: type[M] = KeywordModel,  # type: ignore[assignment]
) -> tuple[M, dict[str, Any]]:
    """Read a model, in eval mode, and the summary of its training. Weights only: nothing in the folder is executed.

    Raises FileNotFoundError or ValueError with one line where the folder holds no finished model of ours, or one of
    another kind.
    """
    folder = Path(folder)
    about = read_about(folder)
    if TASKS[about["task"]] is not kind:
        raise ValueError(f"the model in {folder} is one of {about['task']}: this is for {kind.task}")
    try:
        config = {name: tuple(v) if isinstance(v, list) else v for name, v in about["config"].items()}
        model = kind(kind.config_type(**config))  # type: ignore[arg-type]
        model.load_state_dict(load_file(folder / "model.safetensors"))
        training = about["training"]
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        raise unreadable(folder, error) from None
    return model.eval(), training


def read_about(folder: Path) -> dict[str, Any]:
    """Return what model.json says; raises what `load_model` does."""
    if not (folder / "model.json").is_file():
        if (folder / "last.ckpt").is_file():
            raise FileNotFoundError(f"the training in {folder} has not finished: go on with --resume")
        raise FileNotFoundError(f"no trained model in {folder}: expected model.json and model.safetensors")
    try:
        about = json.loads((folder / "model.json").read_text())
        if about["format"] > FORMAT:
            raise ValueError(f"it is of format {about['format']}; this audiossm reads up to {FORMAT}")
        if about["task"] not in TASKS:
            raise ValueError(f"this audiossm knows no task {about['task']!r}")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise unreadable(folder, error) from None
    return about


def unreadable(folder: Path, error: Exception) -> ValueError:
    """Say in one line why the model in a folder cannot be read."""
    what = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"the model in {folder} cannot be read: {' '.join(what.split())[:300]}")


def parameter_count(model: torch.nn.Module) -> int:
    """Count the trained parameters."""
    return sum(p.numel() for p in model.parameters())
