"""The one law: every sequence module is called `y, state = module(u, state, rate)` and may be cut anywhere.

Running the pieces of u one after another with the state handed on gives what one call on the whole gives (in eval
mode). A state is a flat dict of named tensors whose size does not depend on time; None is the zero state, and zero
means empty.

Glossary: B batch, L length, H channels, N state, T frame.
"""

import math

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class Mixer(nn.Module):
    """Base of everything that obeys the law: mixers, blocks, stacks, encoders and whole models.

    A subclass implements `forward(u, state=None, rate=None) -> (y, state)` and `initial_state(batch)`.

    Attributes:
        streamable: False for a module that needs the future (a bidirectional one); export refuses it.
        any_rate: whether `rate`, the rate in Hz of the module's own input, may differ from the native one.
        native_rate: rate in Hz that its parameters are meant for; None: it has none.
        when: when to take it, a sentence for `audiossm train --help`; empty for what is not a layer to choose.
    """

    streamable = True
    any_rate = False
    native_rate: int | None = None
    when = ""

    def initial_state(self, batch: int) -> State:
        """Return the zero state for `batch` sequences."""
        raise NotImplementedError

    def refuse_rate(self, rate: int | None) -> None:
        """Raise ValueError for a rate, in modules that do not live in audio time."""
        if rate is not None:
            raise ValueError(f"{type(self).__name__} has no sampling rate: it runs on the clock of its input")

    def step_at(self, rate: int | None) -> float:
        """Return a step at `rate` Hz in steps of the native rate: 1 where no rate is given.

        Raises ValueError for a rate that is not above zero, or where there is no native rate.
        """
        if self.native_rate is None:
            self.refuse_rate(rate)
        if rate is None or self.native_rate is None:
            return 1.0
        if not rate > 0:
            raise ValueError(f"a sampling rate is above 0 Hz, not {rate}")
        return self.native_rate / rate


def part(state: State, prefix: str) -> State:
    """Return the entries of a flat state below `prefix.`, without the prefix."""
    return {name[len(prefix) + 1 :]: value for name, value in state.items() if name.startswith(prefix + ".")}


def whole(parts: dict[str, State]) -> State:
    """Join states into a flat one: {"a": {"x": t}} becomes {"a.x": t}."""
    return {f"{prefix}.{name}": value for prefix, state in parts.items() for name, value in state.items()}


def log_uniform(size: int, low: float, high: float) -> Tensor:
    """Return logarithms (size,) of numbers that are log-uniform from low to high: how steps begin."""
    return torch.rand(size) * (math.log(high) - math.log(low)) + math.log(low)


def slow(parameter: nn.Parameter, lr: float = 0.001) -> nn.Parameter:
    """Mark an SSM parameter (dt, A, B): its own learning rate (S4, Gu et al. 2022, appendix D), no weight decay."""
    parameter.ssm_lr = lr  # type: ignore[attr-defined]
    return parameter
