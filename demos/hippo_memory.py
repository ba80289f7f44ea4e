"""Draw how much of its past a few numbers hold: LegS, the memory that state space models grew out of.

    python demos/hippo_memory.py OUT.png

A signal is read sample by sample; all that is kept are the coefficients of its whole history in Legendre polynomials.
On the left is what 16, 32 and 64 of them recall at the end, on the right what 64 recalled at four times on the way. The
errors, relative L2, are printed as JSON.
"""

import json
import sys

import matplotlib
import torch

from audiossm.mixers.legs_memory import recall, remember

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LENGTH = 2000
SIZES = (16, 32, 64)
TIMES = (250, 500, 1000, 2000)  # samples heard


def main(out: str) -> None:
    """Write the picture."""
    signal = tune()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5.5))
    errors = {}
    for row, n in enumerate(SIZES):
        label = f"{n} coefficients"
        errors[label] = draw(left, -3 * row, signal, remember(signal, n)[-1], label)
    memories = remember(signal, SIZES[-1])
    for row, heard in enumerate(TIMES):
        label = f"after {heard} samples"
        errors[label] = draw(right, -3 * row, signal[:heard], memories[heard - 1], label)
    for axis, rows in ((left, len(SIZES)), (right, len(TIMES))):
        axis.set(xlabel="sample", yticks=[], xlim=(0, LENGTH), ylim=(1.8 - 3 * rows, 1.8))
        axis.spines[["top", "left", "right"]].set_visible(False)
    left.set_title(f"the whole history at the end: {LENGTH} samples")
    right.set_title(f"the history so far in {SIZES[-1]} coefficients")
    figure.tight_layout()
    figure.savefig(out, dpi=110)
    print(json.dumps(errors))


def tune() -> torch.Tensor:
    """Return a smooth signal (LENGTH,): a swelling chirp."""
    t = torch.arange(LENGTH, dtype=torch.float64) / LENGTH
    return torch.sin(2 * torch.pi * (2 * t + 6 * t**2)) * (0.3 + 0.7 * torch.sin(torch.pi * t))


def draw(axis: plt.Axes, height: float, signal: torch.Tensor, memory: torch.Tensor, label: str) -> float:
    """Draw a signal and what is recalled of it, one upon the other; return the relative L2 error."""
    when = (torch.arange(len(signal)) + 0.5) / len(signal)  # the middle of each sample
    recalled = recall(memory, when)
    error = ((recalled - signal).norm() / signal.norm()).item()
    axis.plot(height + signal, color="0.75", lw=4)
    axis.plot(height + recalled, color="C0", lw=1.2)
    axis.text(0, height + 1.15, f"{label}: error {100 * error:.2g} %", fontsize=9)
    return error


if __name__ == "__main__":
    main(*sys.argv[1:])
