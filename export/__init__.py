"""A task's model -> one ONNX file, verified against the module."""

from audiossm.export.keywords import Exported, export_keywords

__all__ = ["Exported", "export_keywords"]
