"""A task and data -> a trained model, through Lightning; and what it is worth."""

from audiossm.tasks.checkpoint import load_model, save_model
from audiossm.training.fit import train_keywords
from audiossm.training.fit_generation import train_generation
from audiossm.training.options import GenerateOptions, TrainOptions

__all__ = ["GenerateOptions", "TrainOptions", "load_model", "save_model", "train_generation", "train_keywords"]
