"""Generation at the edge: audio from a model file, sample by sample, with no torch.

model = audiossm.streaming.load("gen.onnx")
sampler = model.sampler(seed=0, temperature=0.95)
for block in sampler.blocks(160000):             # (1, n) float32, constant memory however long
    play(block[0])
"""

from audiossm.streaming.generation.model import Generator, load_generator
from audiossm.streaming.generation.sampler import Sampler

__all__ = ["Generator", "Sampler", "load_generator"]
