"""Codecs, simulated: as much is lost as real ones lose, and only where they lose it."""

import io
from dataclasses import replace

import pytest
import soundfile
import torch

from audiossm.data import augment
from audiossm.data.augment import cut_above
from audiossm.training.codec import TELEPHONE, coded, quantised_bands, telephone
from audiossm.training.options import EnhanceOptions
from audiossm.training.scenes import Scenes

RATE = 16000


@pytest.fixture
def audio():
    """Two clips (2, 16001): a chord that swells, over soft noise."""
    t = torch.arange(16001) / RATE
    chord = sum((2 * torch.pi * hz * t).sin() / k for k, hz in enumerate((210, 640, 1900, 5100), 1))
    return torch.stack([0.2 * chord * t, 0.05 * chord]) + 1e-3 * torch.randn(2, 16001, generator=torch.manual_seed(0))


def snr(signal, changed):
    return 10 * (signal.square().sum(1) / (signal - changed).square().sum(1)).log10()


def through_file(clip, **how):
    file = io.BytesIO()
    soundfile.write(file, clip.numpy(), RATE, **how)
    file.seek(0)
    return torch.from_numpy(soundfile.read(file, dtype="float32")[0])


def test_a_telephone_loses_what_g711_loses(audio):
    narrow, sent = cut_above(audio, RATE, torch.full((2, 1), TELEPHONE)), telephone(audio, RATE)
    real = torch.stack([through_file(clip, format="WAV", subtype="ULAW") for clip in narrow])
    assert (snr(narrow, sent) - snr(narrow, real)).abs().max() < 2  # dB
    spectrum = torch.fft.rfft(sent).abs().square()
    assert spectrum[:, int(1.1 * TELEPHONE * 16001 / RATE) :].sum() < 1e-3 * spectrum.sum()


@pytest.mark.parametrize("rate", [4000, 16000, 44100])
def test_bands_are_as_clear_as_they_were_asked_to_be(rate):
    audio = 0.1 * torch.randn(2, 16001, generator=torch.manual_seed(0))
    for db in (6.0, 12.0, 18.0):
        assert (snr(audio, quantised_bands(audio, rate, torch.full((2, 1), db))) - db).abs().max() < 2


def test_soft_sounds_beside_loud_ones_are_lost():
    t = torch.arange(RATE) / RATE
    loud, soft = 0.3 * (2 * torch.pi * 3000 * t).sin(), 0.01 * (2 * torch.pi * 3300 * t).sin()
    sent = quantised_bands((loud + soft)[None], RATE, torch.full((1, 1), 6.0))
    left = torch.fft.rfft(sent[0, 1600:-1600]).abs()
    assert left[round(3300 * 0.8)] < 0.3 * torch.fft.rfft(soft[1600:-1600]).abs()[round(3300 * 0.8)]


def test_silence_stays_silent():
    for length in (320, 16001):
        assert coded(torch.zeros(4, length), RATE).abs().max() < 1e-3


def test_only_what_is_heard_is_coded(audio):
    options = replace(EnhanceOptions(band_share=0.0, clip_share=0.0), codec_share=1.0)
    scenes = Scenes(torch.zeros(RATE, dtype=torch.int16), RATE, options)
    scene = scenes.by_microphone(audio, audio)
    assert snr(scene.clean, scene.noisy).max() < 45
    gain = augment.level(scene.clean) / augment.level(audio)
    torch.testing.assert_close(scene.clean, gain * audio, rtol=0, atol=1e-5)
