"""GRU, LSTM and TCN are torch's layers with a state, MinGRU is a scan; alone and in a file."""

import pytest
import torch
from torch.nn import functional as F

from audiossm.backbones import Block, Stack
from audiossm.mixers import GRU, LSTM, TCN, MinGRU, recurrent

from .law import check_law
from .mixer_checks import check_file, check_gradients, relative

MIXERS = (GRU, LSTM, TCN, MinGRU)


@pytest.mark.parametrize("mixer", MIXERS)
def test_law(mixer):
    check_law(lambda: mixer(d_model=5), channels=5, slower={})


@pytest.mark.parametrize("taps, dilations", ((2, (1,)), (5, (3, 1)), (3, (50,))))
def test_law_of_other_convolutions(taps, dilations):
    check_law(lambda: TCN(4, taps, dilations), channels=4, slower={}, examples=6)


def test_law_of_a_stack():
    check_law(lambda: Stack(Block(mixer(4), 4) for mixer in MIXERS), channels=4, slower={}, examples=4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_gradients_are_those_of_the_step(mixer):
    torch.manual_seed(0)
    check_gradients(mixer(5), channels=5)


@pytest.mark.parametrize("mixer", (GRU, LSTM))
def test_it_is_torchs_layer(mixer):
    module, u = mixer(6), torch.randn(3, 40, 6)
    torchs = mixer.layer(6, 6, batch_first=True)
    torchs.load_state_dict(module.cell.state_dict())
    y, last = torchs(u)
    found, state = module(u)
    assert torch.equal(found, y)
    last = last if isinstance(last, tuple) else (last,)
    assert all(torch.equal(part, x[0]) for part, x in zip(state.values(), last, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("mixer", (GRU, LSTM))
def test_more_steps_than_cudnn_takes_at_once(mixer, monkeypatch):
    module, u = mixer(6), torch.randn(2, 40, 6)
    (whole, after), state = module(u), module.initial_state(2)
    monkeypatch.setattr(recurrent, "LONGEST", 7)
    y, last = module(u, state)
    assert relative(y, whole) < 1e-6 and all(relative(last[name], after[name]) < 1e-6 for name in last)


def test_gru_is_its_equations():
    """The step of torch's documentation, written out."""
    torch.manual_seed(0)
    module, h = GRU(4).double(), torch.randn(1, 4, dtype=torch.float64)
    x, cell = torch.randn(1, 4, dtype=torch.float64), module.cell
    r_x, z_x, n_x = F.linear(x, cell.weight_ih_l0, cell.bias_ih_l0).chunk(3, dim=1)
    r_h, z_h, n_h = F.linear(h, cell.weight_hh_l0, cell.bias_hh_l0).chunk(3, dim=1)
    z, n = (z_x + z_h).sigmoid(), (n_x + (r_x + r_h).sigmoid() * n_h).tanh()
    _, state = module(x.unsqueeze(1), {"h": h})
    torch.testing.assert_close(state["h"], (1 - z) * n + z * h)


def test_min_gru_is_its_equations():
    torch.manual_seed(0)
    module, h, x = MinGRU(4).double(), torch.randn(1, 4).double(), torch.randn(1, 4).double()
    step, v = module.select(x).chunk(2, dim=1)
    y, state = module(x.unsqueeze(1), {"h": h})
    z = step.sigmoid()
    torch.testing.assert_close(state["h"], (1 - z) * h + z * v)
    torch.testing.assert_close(y[:, 0], state["h"] + module.d * x)


def test_min_gru_begins_with_the_memories_that_were_asked_for():
    """As long as 1 / step: what is left of a state after so many steps of silence is 1 / e."""
    module = MinGRU(64, dt_min=0.01, dt_max=0.1).double()
    u, steps = torch.zeros(1, 2000, 64).double(), F.softplus(module.select.bias[:64])
    _, first = module(u[:, :0])
    _, state = module(u, {"h": first["h"] + 1})
    assert 0.0099 < steps.min() < 0.02 and 0.05 < steps.max() < 0.101
    silent = module.select.bias[64:]  # where it ends, whatever it was
    torch.testing.assert_close(state["h"][0] - silent, (1 - silent) * torch.exp(-2000 * steps), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("taps, dilation", ((2, 1), (3, 4), (5, 3)))
def test_a_tcn_layer_is_a_padded_convolution(taps, dilation):
    torch.manual_seed(0)
    module, u = TCN(4, taps, (dilation,)).double(), torch.randn(2, 30, 4, dtype=torch.float64)
    layer, dense = module.depthwise[0], torch.zeros(4, 4, taps, dtype=torch.float64)
    dense[range(4), range(4)] = layer.weight[:, 0].detach()
    padded = F.pad(u.transpose(1, 2), ((taps - 1) * dilation, 0))
    inner = F.relu(F.conv1d(padded, dense, layer.bias, dilation=dilation)).transpose(1, 2)
    assert relative(module(u)[0].detach(), (u + module.pointwise[0](inner)).detach()) < 1e-12


def test_a_tcn_hears_its_window_and_no_more():
    torch.manual_seed(0)
    module = TCN(20, taps=3, dilations=(1, 2, 4)).double()
    u = torch.randn(1, 40, 20, dtype=torch.float64).requires_grad_()
    module(u)[0][0, -1].sum().backward()
    heard = u.grad[0].abs().sum(1) > 0
    assert heard[-15:].all() and not heard[:-15].any()  # 1 + 2 · (1 + 2 + 4)


@pytest.mark.parametrize("mixer", MIXERS)
def test_file(mixer):
    """Of frames of four steps; of one, a keyword model's: tests/test_catalog.py."""
    torch.manual_seed(0)
    operators = check_file(mixer(7), 7)
    if mixer in (GRU, LSTM):
        assert operators.count(mixer.__name__) == 1 and len(operators) <= 12


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_rate_is_refused(mixer):
    assert not mixer.any_rate
    with pytest.raises(ValueError, match=f"{mixer.__name__} has no sampling rate"):
        mixer(3)(torch.zeros(1, 5, 3), rate=16000)


@pytest.mark.parametrize("bad", ({"taps": 1}, {"dilations": ()}, {"dilations": (1, 0)}))
def test_bad_convolutions_are_refused(bad):
    with pytest.raises(ValueError, match="at least 2 taps and one dilation") as raised:
        TCN(4, **bad)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("mixer", (GRU, LSTM))
def test_no_channels_are_refused(mixer):
    with pytest.raises(ValueError, match="at least 1, not 0"):
        mixer(0)
