"""A trained model as a folder: model.safetensors holds the weights, model.json what to build and how it came about."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from audiossm.tasks.keywords import KeywordConfig, KeywordModel

FORMAT = 1


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


def save_model(folder: Path, model: KeywordModel, training: dict[str, Any]) -> None:
    """Write a model with a JSON-able summary of its training into a folder."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    about = {"format": FORMAT, "task": "keywords", "config": asdict(model.config), "training": training}
    write_beside(folder / "model.safetensors", save(state))
    write_beside(folder / "model.json", (json.dumps(about, indent=2) + "\n").encode())


def load_model(folder: str | Path) -> tuple[KeywordModel, dict[str, Any]]:
    """Read a model, in eval mode, and the summary of its training. Weights only: nothing in the folder is executed.

    Raises FileNotFoundError or ValueError with one line where the folder holds no finished model of ours.
    """
    folder = Path(folder)
    if not (folder / "model.json").is_file():
        if (folder / "last.ckpt").is_file():
            raise FileNotFoundError(f"the training in {folder} has not finished: go on with --resume")
        raise FileNotFoundError(f"no trained model in {folder}: expected model.json and model.safetensors")
    try:
        about = json.loads((folder / "model.json").read_text())
        if about["format"] > FORMAT:
            raise ValueError(f"it is of format {about['format']}; this audiossm reads up to {FORMAT}")
        config = about["config"]
        model = KeywordModel(KeywordConfig(**{**config, "labels": tuple(config["labels"])}))
        model.load_state_dict(load_file(folder / "model.safetensors"))
        training = about["training"]
    except (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError) as error:
        what = f"{type(error).__name__} {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"the model in {folder} cannot be read: {' '.join(what.split())[:300]}") from None
    return model.eval(), training


def parameter_count(model: torch.nn.Module) -> int:
    """Count the trained parameters."""
    return sum(p.numel() for p in model.parameters())
