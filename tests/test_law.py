"""Every mixer, block, stack and task obeys the splitting law, and the check of it notices those that do not."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from audiossm.backbones import Block, DownPool, Stack
from audiossm.kernels.ssm import FEW, LONGEST_CHUNK
from audiossm.mixers import S4D, Filterbank
from audiossm.mixers.base import Mixer, State, slow
from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.tasks.pooling import FadingMean

from .law import LawBroken, check_law

RATES = (16000, 44100, 11025, 8000)
SMALL = KeywordConfig(("a", "b", "_"), channels=6, modes=2, d_model=5, layers=2, d_state=4)
RAW = replace(SMALL, encoder="waveform")


@pytest.mark.parametrize("method", ("zoh", "bilinear"))
@pytest.mark.parametrize("init", ("lin", "inv", "legs"))
def test_s4d(init, method):
    check_law(lambda: S4D(5, d_state=6, init=init, method=method), channels=5)


def test_s4d_as_it_is_built_by_default():
    check_law(lambda: S4D(d_model=7), channels=7, examples=6)


def test_s4d_over_the_boundaries_of_its_blocks():
    assert FEW < LONGEST_CHUNK < 100
    check_law(lambda: S4D(3, d_state=6), channels=3, longest=5 * LONGEST_CHUNK + FEW)


@pytest.mark.parametrize("method", ("zoh", "bilinear"))
def test_s4d_on_raw_audio_at_another_rate(method):
    check_law(lambda: S4D(3, d_state=6, method=method, native_rate=16000), channels=3, rate=44100)


@pytest.mark.parametrize("rate", RATES)
def test_filterbank(rate):
    check_law(lambda: Filterbank(5, modes=3), channels=1, rate=rate, longest=rate // 50)


def test_filterbank_at_a_rate_whose_ticks_have_eight_phases():
    check_law(lambda: Filterbank(4, modes=2), channels=1, rate=4025, longest=200)


def test_filterbank_of_one_mode_and_one_readout():
    check_law(lambda: Filterbank(2, modes=1, readouts=1), channels=1, longest=300)


def test_fading_mean():
    check_law(lambda: FadingMean(5, memory=10.0), channels=5)


def test_fading_mean_over_the_boundaries_of_its_blocks():
    check_law(lambda: FadingMean(3, memory=100.0), channels=3, longest=5 * LONGEST_CHUNK + FEW, examples=6)


@pytest.mark.parametrize("pool", (2, 4, 5))
def test_down_pool(pool):
    check_law(lambda: DownPool(3, 5, pool), channels=3, longest=6 * pool + 1, slower={})


def test_block():
    check_law(lambda: Block(S4D(4, d_state=4), 4, dropout=0.2), channels=4)


def test_stack_of_unlike_layers():
    def make():
        raw = S4D(4, d_state=2, method="bilinear", init="inv")
        return Stack(
            [Block(S4D(4, d_state=6), 4, dropout=0.2), raw, Block(FadingMean(4, memory=20.0), 4), FadingMean(4, 5)]
        )

    check_law(make, channels=4)


def test_stack_on_raw_audio_at_another_rate():
    check_law(lambda: Stack(Block(S4D(3, 4, native_rate=16000), 3) for _ in range(2)), channels=3, rate=8000)


@pytest.mark.parametrize("rate", (None, *RATES))
def test_keywords(rate):
    check_law(lambda: KeywordModel(SMALL), channels=1, rate=rate, longest=(rate or 16000) // 40, examples=8)


@pytest.mark.parametrize("rate", (None, *RATES, 4025))
def test_keywords_on_the_raw_waveform(rate):
    check_law(
        lambda: KeywordModel(RAW),
        channels=1,
        rate=rate,
        longest=(rate or 16000) // 40,
        examples=6,
        cancelled=("encoder.norm.bias", "encoder.widen.bias"),
    )


# The check notices modules that break the law.


class Faulty(S4D):
    """S4D with a fault in what it hands on."""

    def __init__(self, fault):
        super().__init__(3, 4)
        self.fault = fault

    def forward(self, u, state=None, rate=None):
        return self.fault(self, partial(super().forward, rate=rate), u, state)


def forgets(module, run, u, state):
    return run(u)


def keeps_it_to_itself(module, run, u, state):
    y, module.last = run(u, getattr(module, "last", None) if state else None)
    return y, {"x": torch.zeros_like(module.last["x"])}


def hands_on_all_it_heard(module, run, u, state):
    y, new = run(u, state and {"x": state["x"]})
    return y, new | {"heard": torch.cat((state["heard"], u), dim=1) if "heard" in (state or {}) else u}


def looks_ahead(module, run, u, state):
    y, state = run(u, state)
    return y - u.mean(1, keepdim=True), state


def overwrites_its_argument(module, run, u, state):
    y, new = run(u, state)
    if state:
        state["x"].copy_(new["x"])
    return y, state or new


def mixes_the_rows(module, run, u, state):
    y, state = run(u, state)
    return y + u.mean(0), state


def skips_single_samples(module, run, u, state):
    return run(u, state) if u.shape[1] != 1 else (u, state or module.initial_state(len(u)))


def hands_on_half_precision(module, run, u, state):
    y, state = run(u, state)
    return y, {"x": state["x"].bfloat16().to(u.dtype)}


def hears_any_rate(module, run, u, state):
    return S4D.forward(module, u, state)


FAULTS = {
    forgets: "cut into",
    keeps_it_to_itself: "instead of None",
    hands_on_all_it_heard: "the state is",
    looks_ahead: "cut into",
    overwrites_its_argument: "not zero|changed the state",
    mixes_the_rows: "alone",
    skips_single_samples: "cut into",
    hands_on_half_precision: "cut into",
    hears_any_rate: "any_rate",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_check_catches_a_module_that(fault):
    with pytest.raises(LawBroken, match=FAULTS[fault]):
        check_law(lambda: Faulty(fault), channels=3)


def test_the_check_catches_a_parameter_without_gradient():
    def make():
        module = S4D(3, 4)
        module.unused = torch.nn.Parameter(torch.ones(1))
        return module

    with pytest.raises(LawBroken, match="unused"):
        check_law(make, channels=3)


def test_the_check_asks_for_the_poles_it_cannot_find():
    class Gain(Mixer):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(1))

        def forward(self, u, state=None, rate=None):
            return self.gain * u, {}

    with pytest.raises(LawBroken, match="slower"):
        check_law(Gain, channels=3)


def test_the_worked_example_of_the_readme():
    """A reader's first mixer: as it stands there, it obeys the law and stacks."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "class Decay" in block)
    names = {"Mixer": Mixer, "State": State, "slow": slow, "nn": nn, "torch": torch}
    exec(code, names)
    check_law(lambda: names["Decay"](6), channels=6, examples=6)
    check_law(lambda: Stack(Block(names["Decay"](4), 4) for _ in range(2)), channels=4, examples=3)
