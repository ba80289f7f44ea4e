"""Released models: a folder each with model.onnx, card.md and recipe.yaml. FORMAT.md describes the file."""
