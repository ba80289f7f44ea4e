"""A task and data -> a trained model, through Lightning; and what it is worth."""

from audiossm.tasks.checkpoint import load_model, save_model
from audiossm.training.fit import train_keywords
from audiossm.training.options import TrainOptions

__all__ = ["TrainOptions", "load_model", "save_model", "train_keywords"]
