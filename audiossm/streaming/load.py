"""One door for the files of all tasks."""

from pathlib import Path

from audiossm.streaming.enhancement import Enhancer, load_enhancer
from audiossm.streaming.files import task_of
from audiossm.streaming.generation import Generator, load_generator
from audiossm.streaming.model import Model, load_keywords


def load(path_or_name: str | Path) -> Model | Enhancer | Generator:
    """Load a model from a path, or a released model by its name: what it is depends on the task in the file.

    Keywords give a `Model` and enhancement an `Enhancer`, of which `stream(rate)` is pushed audio; generation gives a
    `Generator`, of which `sampler(seed)` makes it.

    Raises:
        FileNotFoundError: there is neither such a file nor such a released model.
        ValueError: the file is none of ours, or of another version, in one line.
    """
    task = task_of(str(path_or_name))
    if task == "enhancement":
        return load_enhancer(path_or_name)
    return load_generator(path_or_name) if task == "generation" else load_keywords(path_or_name)
