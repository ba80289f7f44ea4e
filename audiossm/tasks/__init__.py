"""What models are for: a task is an encoder, a backbone and a head."""

from audiossm.tasks.checkpoint import load_model, parameter_count, save_model
from audiossm.tasks.enhancement import EnhancementConfig, EnhancementModel
from audiossm.tasks.generation import GenerationConfig, GenerationModel
from audiossm.tasks.keywords import KeywordConfig, KeywordModel

__all__ = [
    "EnhancementConfig",
    "EnhancementModel",
    "GenerationConfig",
    "GenerationModel",
    "KeywordConfig",
    "KeywordModel",
    "load_model",
    "parameter_count",
    "save_model",
]
