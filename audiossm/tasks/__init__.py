"""What models are for: a task is an encoder, a backbone and a head."""

from audiossm.tasks.keywords import KeywordConfig, KeywordModel

__all__ = ["KeywordConfig", "KeywordModel"]
