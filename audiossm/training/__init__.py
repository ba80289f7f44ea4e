"""A task and data -> a trained model, through Lightning; and what it is worth."""

from audiossm.tasks.checkpoint import load_model, save_model
from audiossm.training.fit import train_keywords
from audiossm.training.fit_enhancement import train_enhancement
from audiossm.training.fit_generation import train_generation
from audiossm.training.options import EnhanceOptions, GenerateOptions, TrainOptions

__all__ = [
    "EnhanceOptions",
    "GenerateOptions",
    "TrainOptions",
    "load_model",
    "save_model",
    "train_enhancement",
    "train_generation",
    "train_keywords",
]
