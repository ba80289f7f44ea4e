"""Enhancement at the edge: noisy speech in, clean speech out, frame by frame, with no torch.

model = audiossm.streaming.load("denoise")              # a path, or a released model's name
stream = model.stream(rate=48000)                       # any rate; constant memory from here on
for chunk in microphone:
    play(stream.push(chunk))                            # what is ready, in order and aligned with the input
play(stream.flush())                                    # the rest: all together as long as the input
"""

from audiossm.streaming.enhancement.facts import EnhancementFacts
from audiossm.streaming.enhancement.model import Enhancer, load_enhancer
from audiossm.streaming.enhancement.stream import EnhancementStream

__all__ = ["EnhancementFacts", "EnhancementStream", "Enhancer", "load_enhancer"]
