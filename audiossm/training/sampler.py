"""Generating on the device that trains: codes drawn one after another, on a GPU as a recorded CUDA graph.

    for codes in sample(model, batch=8, length=16000, seed=0): ...       # (8, few) int64 at a time

A graph holds a period of SaShiMi's pools, 16 samples, with drawing and all states in place: replaying it is all that
Python does. What is random comes from a generator of torch, so a seed gives the same codes again on the same kind of
device, in a batch of the same size.

Glossary: B batch, H channels of the backbone, K codes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from audiossm.backbones.sashimi import SaShiMi
from audiossm.backbones.sashimi_step import SaShiMiStep
from audiossm.kernels import Readout, draw
from audiossm.mixers.base import Mixer, State

FEWEST = 16  # samples of a recorded piece


class BackboneStep:
    """Any backbone one sample at a time, called as `SaShiMiStep` is. Its own calls must be fit to be recorded."""

    def __init__(self, backbone: Mixer, state: State, rate: int | None, like: Tensor):
        self.backbone, self.rate, self.input = backbone, rate, torch.empty_like(like)
        self.state = {name: value.clone() for name, value in state.items()}
        self.phase, self.period = 0, 1
        if isinstance(backbone, SaShiMi):
            self.phase, self.period = backbone.phase(state), backbone.periods[-1]

    def slot(self) -> Tensor:
        """Return where the next sample's input belongs, (B, H)."""
        return self.input

    def buffers(self) -> list[Tensor]:
        """Return all that a sample changes."""
        return [self.input, *self.state.values()]

    def settle(self) -> None:
        """Do nothing: all is done."""

    def __call__(self) -> Tensor:
        """Hear the sample in its slot; return (B, H)."""
        y, state = self.backbone(self.input.unsqueeze(1), self.state, rate=self.rate)
        for name, value in state.items():
            self.state[name].copy_(value)
        self.phase = (self.phase + 1) % self.period
        return y[:, 0].contiguous()


@torch.no_grad()
def sample(
    model: Any,
    batch: int = 1,
    length: int = 16000,
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    prompt: Tensor | None = None,
    label: Tensor | None = None,
    rate: int | None = None,
) -> Iterator[Tensor]:
    """Yield what a generation model says next, codes (B, some) int64 on its device, `length` of them in all.

    Args:
        model: a generation model of categorical codes, in eval mode: it has `start`, `embed`, `backbone` and `head`.
        batch: B.
        length: codes to draw for each sequence.
        temperature: of the distribution; 0 takes the most probable code.
        top_p: the share of the most probable codes to draw from (nucleus sampling).
        seed: of the random numbers.
        prompt: (B or 1, P) codes that were heard before.
        label: (B,) classes, where the model is told.
        rate: in Hz, for a model that may change it.

    Raises:
        ValueError: the model is in training mode or of mixtures, or a prompt or a label does not fit the batch.
    """
    readout, table = parts(model)
    device, generator = readout.weight.device, torch.Generator(readout.weight.device).manual_seed(seed)
    codes = torch.full((batch, 1), model.start, device=device)
    if prompt is not None:
        if prompt.ndim != 2 or prompt.shape[0] not in (1, batch):
            raise ValueError(f"a prompt is codes of one sequence or of all {batch}, not {tuple(prompt.shape)}")
        codes = torch.cat((codes, prompt.to(codes).expand(batch, -1)), dim=1)
    if label is not None and label.shape != (batch,):
        raise ValueError(f"label names the class of each of {batch} sequences, it has shape {tuple(label.shape)}")
    heard = model.embed(codes, label)  # (B, 1 + P, H)
    told = None if label is None else heard[:, -1] - table[codes[:, -1]]
    state = model.backbone.initial_state(batch)
    if prompt is not None:
        _, state = model.backbone(heard[:, :-1], state, rate=rate)
    step = step_of(model.backbone, state, rate, heard[:, -1])
    step.slot().copy_(heard[:, -1])

    samples = max(1, FEWEST // step.period) * step.period
    uniform = torch.empty(samples, batch, device=device, dtype=readout.weight.dtype)
    drawn = torch.empty(batch, samples, dtype=torch.int64, device=device)

    def piece() -> None:
        for n in range(samples):
            y = step()
            draw(y, readout, uniform[n], table, step.slot(), drawn[:, n], temperature, top_p, told)
        step.settle()

    replay = record(piece, [*step.buffers(), uniform, drawn]) if device.type == "cuda" else piece
    for begin in range(0, length, samples):
        uniform.uniform_(generator=generator)
        replay()
        yield drawn[:, : length - begin].clone()


def step_of(backbone: Mixer, state: State, rate: int | None, like: Tensor) -> Any:
    """Return a backbone's step in place, the fast one where there is one."""
    if isinstance(backbone, SaShiMi) and not backbone.descents:
        return SaShiMiStep(backbone, state, rate)
    return BackboneStep(backbone, state, rate, like)


def parts(model: Any) -> tuple[Readout, Tensor]:
    """Return how a model's channels become logits, and the embedding of each code (K + 1, H)."""
    if model.training:
        raise ValueError("a model generates in eval mode: call model.eval() first")
    table = getattr(model.embedding, "weight", None)
    if table is None or model.head.out_features >= len(table):
        raise ValueError("only models of categorical codes are sampled here, not those of mixtures")
    backbone, norm = model.backbone, None
    if isinstance(backbone, SaShiMi) and not backbone.descents:
        norm = torch.stack((backbone.norm.weight, backbone.norm.bias)).detach()
    weight = model.head.weight.detach().t().contiguous()
    return Readout(weight, model.head.bias.detach(), norm), table.detach()


def record(piece: Callable[[], None], buffers: list[Tensor]) -> Callable[[], None]:
    """Record what a piece launches and return its replay; the buffers are as they were before."""
    before = [buffer.clone() for buffer in buffers]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        piece()  # compiles the kernels
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        piece()
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    return graph.replay


def sample_all(model: Any, batch: int = 1, length: int = 16000, **options: Any) -> Tensor:
    """Return all that `sample` yields, (B, length)."""
    return torch.cat(list(sample(model, batch, length, **options)), dim=1)


@torch.no_grad()
def log_likelihood(model: Any, codes: Tensor, label: Tensor | None = None, rate: int | None = None) -> Tensor:
    """Return the mean log probability, in nats a sample, that a model gives to codes (B, L): (B,), for best of n."""
    before = F.pad(codes[:, :-1], (1, 0), value=model.start)
    outputs, _ = model(before, rate=rate, label=label)
    return -F.cross_entropy(outputs.transpose(1, 2), codes, reduction="none").mean(1)
