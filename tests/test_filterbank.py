"""The filterbank hears the same at every rate, and the runtime's taps are its taps."""

import math

import numpy as np
import pytest
import torch

from audiossm import streaming
from audiossm.mixers import Filterbank
from audiossm.mixers.filterbank import POWER_FLOOR, TICKS_PER_SECOND, clock_rate, phases
from audiossm.streaming import FrameClock

RATES = (16000, 44100, 22050, 11025, 8000, 48000, 4025)


@pytest.fixture(scope="module")
def bank():
    """A filterbank whose channels differ in more than their scale, as after training."""
    torch.manual_seed(0)
    bank = Filterbank(channels=9, modes=3, readouts=2).requires_grad_(False)
    for parameter in bank.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return bank


@pytest.fixture(scope="module")
def default():
    return Filterbank().requires_grad_(False)


def as_complex(pairs):
    return torch.view_as_complex(pairs.detach().double().contiguous()).numpy()


def centres(bank):
    return bank.centre.numpy().astype(float) / (2 * math.pi)


def noise(samples, batch=1):
    return 0.1 * torch.randn(batch, samples, 1, generator=torch.Generator().manual_seed(samples))


def error(found, expected):
    assert found.shape == expected.shape
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# Taps


@pytest.mark.parametrize("rate", RATES)
def test_the_runtime_computes_the_same_taps(bank, rate):
    edge = streaming.Filterbank(as_complex(bank.poles()), as_complex(bank.weights()), bank.readouts)
    clock = FrameClock(rate)
    found = bank.taps(rate).numpy()
    assert len(found) == phases(rate)
    for tick in range(max(4, phases(rate))):
        of_frame = streaming.taps(edge, clock, tick // 4)
        assert error(of_frame[tick % 4 % len(of_frame)], found[tick % len(found)]) < 1e-5


@pytest.mark.parametrize("rate, count", [*zip(RATES, (1, 2, 4, 8, 1, 1, 8), strict=True)])
def test_phases_are_as_many_as_ticks_begin_differently(rate, count):
    assert phases(rate) == count
    assert len({tick * rate % TICKS_PER_SECOND for tick in range(100)}) == count


def test_rates_are_rounded_as_the_runtime_rounds_them():
    assert [clock_rate(rate) for rate in (16000, 16012, 16013, 44110, 7, 11020)] == [
        16000,
        16000,
        16025,
        44100,
        25,
        11025,
    ]
    assert all(
        clock_rate(rate) == rate for rate in (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)
    )
    assert all(clock_rate(rate) == FrameClock(rate).grid for rate in range(4000, 8000))


def test_a_rate_near_a_clock_rate_sounds_like_it(bank):
    u = noise(2000)
    assert torch.equal(bank(u, rate=44110)[0], bank(u, rate=44100)[0])


# The definition


def integrated(bank, channel, audio, rate):
    """One channel's log-power (T,) of audio (L,), by quadrature of its modes' answers to each held sample."""
    nodes, node_weights = np.polynomial.legendre.leggauss(12)
    poles, weights = as_complex(bank.poles())[channel], as_complex(bank.weights())[channel]
    gain = 1 / np.sinc(poles.imag.mean() / (2 * np.pi * rate))
    held = np.arange(len(audio)) / rate
    out = []
    for tick in range(len(audio) * TICKS_PER_SECOND // rate):
        power = []
        for readout in range(bank.readouts):
            now = (tick + (readout + 1) / bank.readouts) / TICKS_PER_SECOND
            begin, end = np.minimum(held, now), np.minimum(held + 1 / rate, now)
            t = (begin + end)[:, None] / 2 + (end - begin)[:, None] / 2 * nodes  # (L, nodes)
            heard = (np.exp(poles[:, None, None] * (now - t)) * node_weights).sum(-1) * (end - begin) / 2 * audio
            power.append(abs(gain * weights @ heard.sum(-1)) ** 2)
        out.append(math.log(1 + np.mean(power) / POWER_FLOOR))
    return np.array(out)


@pytest.mark.parametrize("rate, channel", ((16000, 4), (44100, 8), (11025, 0), (11025, 5), (4025, 3), (8000, 6)))
def test_log_power_is_that_of_the_integrated_modes(bank, rate, channel):
    exact = Filterbank(9, 3, 2).double()
    exact.load_state_dict(bank.state_dict())
    assert centres(bank)[channel] < rate / 2
    u = noise(rate // 12).double()
    y, _ = exact(u, rate=rate)
    assert y.shape[1] == 16
    assert error(y[0, :, channel].detach().numpy(), integrated(exact, channel, u[0, :, 0].numpy(), rate)) < 1e-9


@pytest.mark.parametrize("rate", RATES)
def test_a_tick_comes_as_soon_as_its_samples_have(bank, rate):
    for samples in (0, 1, 57, math.ceil(rate / 200) - 1, math.ceil(rate / 200), math.ceil(rate / 25) - 1):
        assert bank(noise(samples), rate=rate)[0].shape == (1, samples * 200 // rate, 9)


def test_what_comes_later_changes_nothing(bank):
    u = noise(1700)
    louder = torch.cat((u[:, :800], 3 * u[:, 800:]), dim=1)
    y, z = bank(u)[0], bank(louder)[0]
    assert torch.equal(y[:, :10], z[:, :10]) and not torch.equal(y[:, 10], z[:, 10])


# What is heard


def tones(hz, rate, seconds=0.4, amplitude=0.1):
    """A batch (B, L, 1) of tones at (B,) frequencies."""
    t = np.arange(round(seconds * rate)) / rate
    return torch.tensor(amplitude * np.sin(2 * np.pi * hz[:, None] * t)).float().unsqueeze(-1)


def test_a_tone_is_as_loud_at_every_rate(default):
    channel = np.arange(0, 64, 3)
    hz = centres(default)[channel]
    loud = {}
    for rate in (8000, 16000, 44100, 48000):
        y, _ = default(tones(hz, rate), rate=rate)
        loud[rate] = np.where(hz < 0.4 * rate, y[np.arange(len(hz)), -1, channel].numpy(), np.nan)
    loud = np.stack(list(loud.values()))
    assert np.isfinite(loud).sum() > 75
    assert (np.nanmax(loud, axis=0) - np.nanmin(loud, axis=0)).max() < 0.05
    # Half of a tone turns the way its channel does.
    assert np.nanmax(abs(loud - math.log((0.1 / 2) ** 2 / POWER_FLOOR))) < 0.05


def test_a_tone_is_loudest_in_its_channel(default):
    channel = np.array([0, 20, 40, 63])
    y, _ = default(tones(centres(default)[channel], 44100), rate=44100)
    assert y[:, -1].argmax(-1).tolist() == channel.tolist()


@pytest.mark.parametrize("rate", (8000, 11025, 4025))
def test_channels_above_half_the_rate_hear_nothing(default, rate):
    y, _ = default(noise(rate // 10), rate=rate)
    above = torch.tensor(centres(default) >= rate / 2)
    assert above.any() and (y[..., above] == 0).all() and (y[:, 4:, ~above] > 0).all()


@pytest.mark.parametrize("rate", RATES)
def test_silence_is_zero(default, rate):
    y, _ = default(torch.zeros(1, rate // 10, 1), rate=rate)
    assert y.shape[1] > 10 and not y.any()


# The filters at the start


def test_centres_are_evenly_spaced_on_the_erb_scale(default):
    hz = centres(default)
    number = 21.4 * np.log10(1 + 4.37 * hz / 1000)
    assert hz[0] == pytest.approx(60) and hz[-1] == pytest.approx(7600)
    assert np.diff(number) == pytest.approx(np.full(63, (number[-1] - number[0]) / 63), rel=1e-3)


@pytest.mark.parametrize("modes", (1, 2, 4, 5))
def test_a_filter_passes_its_centre_unchanged_and_one_erb_around_it(modes):
    bank = Filterbank(12, modes)
    poles, weights, hz = as_complex(bank.poles()), as_complex(bank.weights()), centres(bank)

    def response(hz):
        return abs((weights / (2j * np.pi * hz[:, None] - poles)).sum(1))

    erb = 24.7 * (4.37 * hz / 1000 + 1)
    assert response(hz) == pytest.approx(np.ones(12), abs=1e-4)
    for edge in (hz - erb / 2, hz + erb / 2):
        assert response(edge) ** 2 == pytest.approx(np.full(12, 0.5), abs=1e-3)


def test_poles_are_stable_and_on_both_sides_of_the_centre(default):
    poles = as_complex(default.poles())
    assert (poles.real < 0).all()
    assert poles.imag.mean(1) == pytest.approx(2 * np.pi * centres(default), rel=1e-5)
