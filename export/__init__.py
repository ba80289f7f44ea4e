"""A task's model -> one ONNX file, verified against the module."""

from audiossm.export.enhancement import export_enhancement
from audiossm.export.generation import export_generation
from audiossm.export.golden import write_golden
from audiossm.export.keywords import Exported, export_keywords

__all__ = ["Exported", "export_enhancement", "export_generation", "export_keywords", "write_golden"]
