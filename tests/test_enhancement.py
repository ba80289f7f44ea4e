"""Enhancement: the models obey the law, are as late as they say, and their spectra are spectra."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.signal
import torch
from safetensors.torch import load_file

from audiossm.backbones.bands import BandBlock
from audiossm.backbones.places import EveryPlace
from audiossm.export.enhancement_frame import all_places
from audiossm.mixers import GRU, MinGRU
from audiossm.tasks import EnhancementConfig, EnhancementModel, GenerationModel, load_model, save_model
from audiossm.tasks.checkpoint import parameter_count, task_of
from audiossm.tasks.spectrum import Analysis, Compression, Synthesis, erb_bands, rise_and_fall
from audiossm.training.recipes import load_recipe, recipe_names

from .law import check_law

RATE = 4000
SPECTRUM = EnhancementConfig(rate=RATE, window=0.012, frame=0.004, bands=8, fold=2, d_model=3, layers=2, d_state=4)
WAVEFORM = EnhancementConfig(rate=RATE, encoder="waveform", d_model=4, layers=1, d_state=4, pools=(2, 2))
ENCODERS = pytest.mark.parametrize("config", [SPECTRUM, WAVEFORM], ids=["spectrum", "waveform"])


def build(config):
    torch.manual_seed(0)
    return EnhancementModel(config).eval()


def test_law_on_the_spectrum():
    check_law(lambda: EnhancementModel(SPECTRUM), channels=1)


@pytest.mark.parametrize("mixer", ["min-gru", "gru", "mamba2"])
def test_law_of_the_same_mixer_in_all_bands(mixer):
    check_law(lambda: EnhancementModel(replace(SPECTRUM, mixer=mixer, d_model=4)), channels=1, slower={}, examples=6)


def test_places_do_not_meet():
    module, u = EveryPlace(MinGRU(3), 4), torch.randn(2, 9, 12)
    y, state = module(u)
    alone, last = module.mixer(u[:, :, 3:6])
    assert torch.allclose(y[:, :, 3:6], alone) and torch.allclose(state["h"][:, 1], last["h"])


@pytest.mark.parametrize("rate", [RATE, 5000])
def test_law_on_the_waveform(rate):
    check_law(lambda: EnhancementModel(WAVEFORM), channels=1, rate=rate, examples=6)


@pytest.mark.parametrize(("window", "hop"), [(32, 16), (54, 14)])
def test_law_of_a_spectrum_and_back(window, hop):
    """At every cut within two frames, and of whole frames at once."""
    analysis, synthesis = Analysis(window, hop).double(), Synthesis(window, hop).double()
    u = torch.randn(2, 5 * hop + 3, 1, dtype=torch.float64)
    whole, _ = analysis(u)
    for cut in range(2 * hop + 1):
        first, state = analysis(u[:, :cut])
        second, _ = analysis(u[:, cut:], state)
        torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=0, atol=1e-12)
    y, _ = synthesis(whole)
    torch.testing.assert_close(y[:, hop:], u[:, : y.shape[1] - hop], rtol=0, atol=1e-6)  # matrices of float32


@pytest.mark.parametrize(("window", "hop"), [(64, 32), (128, 32)])
def test_spectra_are_those_of_numpy(window, hop):
    u = torch.randn(1, 10 * hop, 1, dtype=torch.float64)
    spectra, _ = Analysis(window, hop).double()(u)
    padded = np.pad(u[0, :, 0].numpy(), (window - hop, 0))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    expected = np.fft.rfft(frames * rise_and_fall(window, hop).numpy()) / math.sqrt(window / 2)
    found = spectra[0, :, 0].numpy() + 1j * spectra[0, :, 1].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_window_of_two_frames_is_the_square_root_of_a_hann_window():
    expected = np.sqrt(scipy.signal.windows.hann(65, sym=True)[:-1])  # at whole samples
    shifted = np.sqrt(np.sin(np.pi * (np.arange(64) + 0.5) / 64) ** 2)  # ours lies between them
    np.testing.assert_allclose(rise_and_fall(64, 32).numpy(), shifted, atol=1e-12)
    assert np.abs(rise_and_fall(64, 32).numpy() - expected).max() < 0.03


@pytest.mark.parametrize(
    ("bands", "frequencies", "rate"),
    [(128, 257, 16000), (64, 129, 16000), (32, 129, 16000), (2, 9, 8000), (9, 9, 8000)],
)
def test_bands_share_out_every_frequency(bands, frequencies, rate):
    triangles = erb_bands(bands, frequencies, rate)
    torch.testing.assert_close(triangles.sum(0), torch.ones(frequencies))
    assert (triangles >= 0).all() and (triangles.sum(1) > 0).all()
    centres = (triangles * torch.arange(frequencies)).sum(1) / triangles.sum(1)
    assert (centres.diff() > 0).all()


def test_bands_widen_with_frequency():
    triangles = erb_bands(64, 129, 16000)
    width = (triangles > 0).sum(1)
    assert width[:10].max() <= 2 and width[-2] > 8


def test_compression_keeps_phases():
    spectra = torch.randn(3, 2, 7, dtype=torch.float64)
    magnitude, re, im = Compression(0.3, 0.0)(spectra).unbind(1)
    expected = torch.complex(*spectra.unbind(1))
    torch.testing.assert_close(magnitude, expected.abs() ** 0.3)
    torch.testing.assert_close(torch.complex(re, im), torch.polar(expected.abs() ** 0.3, expected.angle()))


@ENCODERS
def test_no_output_hears_what_comes_later_than_the_latency_says(config):
    """Change a sample: outputs that do not depend on it stay to the bit, and the first that may does change."""
    model = build(config)
    u = torch.randn(1, 20 * model.frame, 1)
    for at in (7 * model.frame, 7 * model.frame + 1, 8 * model.frame - 1):
        changed = u.clone()
        changed[:, at] += 1.0
        before, after = (model(audio)[0][0, :, 0] for audio in (u, changed))
        first = int((before != after).nonzero()[0])
        assert at // model.frame * model.frame <= first <= at + model.delay
        assert first - model.delay + model.latency > at  # as the model's docstring promises


def test_an_untrained_model_lets_audio_pass_a_little_softer_and_late_by_the_delay():
    model = build(EnhancementConfig(d_model=8, layers=1, d_state=4))
    assert (model.frame, model.delay, model.latency) == (128, 128, 256)
    u = 0.1 * torch.randn(1, 4000, 1)
    y, _ = model(u)
    late = u[:, : y.shape[1] - model.delay]
    assert torch.corrcoef(torch.stack((y[0, model.delay :, 0], late[0, :, 0])))[0, 1] > 0.9


def test_silence_stays_silence_and_gains_are_bounded():
    model = build(SPECTRUM)
    y, _ = model(torch.zeros(1, 500, 1))
    assert not y.any()
    with torch.no_grad():
        model.network.head.weight.mul_(1e4)
        mask, _ = model.network.mask(torch.randn(2, 9, 2, model.network.spread.shape[1]))
    assert mask.abs().max() <= 1 + 1e-6


@ENCODERS
def test_a_share_of_the_input_stays(config):
    """In eval mode: of a model that takes all away, a twentieth."""
    model, u = build(replace(config, floor=0.05)), torch.randn(1, 400, 1)
    with torch.no_grad():
        for parameter in model.network.head.parameters():
            parameter.zero_()
    y, _ = model(u)
    late = u[:, : y.shape[1] - model.delay]
    assert torch.allclose(y[:, model.delay :], 0.05 * late, atol=1e-6)
    assert not model.train()(u)[0].any()


@pytest.mark.parametrize("mixer", [MinGRU(3), GRU(3)], ids=["min-gru", "gru"])
def test_a_frame_of_all_places(mixer):
    """As a file computes it: the step of the parallel form."""
    block, u = BandBlock(EveryPlace(mixer, 4), 4, 3).eval(), torch.randn(2, 5, 12)
    v = block.norm(u)
    y, state = block.mixer(v)
    last, after = all_places(block, block.apart(u[:, 4]), block.mixer(v[:, :4])[1])
    assert torch.allclose(last.view(2, 12), y[:, 4], atol=1e-6)
    assert torch.allclose(after["h"].view_as(state["h"]), state["h"], atol=1e-6)


@pytest.mark.parametrize("name", ["small", "base"])
def test_recipes_keep_to_their_sizes(name):
    assert name in recipe_names("enhancement")
    config = load_recipe(name, "enhancement").config
    model = EnhancementModel(config)
    assert parameter_count(model) <= {"small": 60_000, "base": 500_000}[name]
    assert model.latency / config.rate <= 0.020


def test_another_mixer_has_its_own_state_size():
    """That of the recipe's is not asked of it: S5's must be a multiple of its blocks."""
    config = load_recipe("small", "enhancement").with_mixer("s5").config
    assert config.mixer == "s5" and config.d_state is None
    assert EnhancementModel(config).initial_state(1)


@ENCODERS
def test_a_model_is_saved_and_read(tmp_path, config):
    model = build(config)
    save_model(tmp_path, model, {"epochs": 1})
    assert task_of(tmp_path) == "enhancement"
    again, training = load_model(tmp_path, EnhancementModel)
    assert again.config == config and training == {"epochs": 1}
    u = torch.randn(1, 300, 1)
    torch.testing.assert_close(again(u)[0], model(u)[0], rtol=0, atol=0)
    assert not any("matrix" in name or "spread" in name for name in load_file(tmp_path / "model.safetensors"))
    with pytest.raises(ValueError, match="is one of enhancement: this is for generation"):
        load_model(tmp_path, GenerationModel)


def test_bad_sizes_are_told_in_a_line():
    for wrong, message in [
        ({"encoder": "mel"}, "encoder must be 'spectrum' or 'waveform'"),
        ({"frame": 0.012}, "frame must be from 0.001 to 0.01"),
        ({"window": 0.015}, "window must be from two frames to 0.128"),
        ({"bands": 63}, "bands must be a multiple of fold"),
        ({"rate": 100}, "rate, the native one"),
    ]:
        with pytest.raises(ValueError, match=message):
            EnhancementConfig(**wrong)
    with pytest.raises(ValueError, match="bands must be from 2 to 65"):
        EnhancementModel(EnhancementConfig(rate=4000, bands=68))
    with pytest.raises(ValueError, match="no sampling rate"):
        build(SPECTRUM)(torch.zeros(1, 10, 1), rate=8000)
