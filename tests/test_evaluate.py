"""Evaluation: a run folder and its file agree, programs can rely on the report; augmentation does what it says."""

import numpy as np
import pytest
import torch

from audiossm.data import add_highband, augment, find_clips, load_clips, resample
from audiossm.streaming import load
from audiossm.training import load_model
from audiossm.training.evaluate import evaluate_keywords, evaluate_model
from audiossm.training.predict import file_predictor, module_predictor
from audiossm.training.statistics import bootstrap, difference, interval

RATES = [16000, 8000, 44100, 11025]


@pytest.fixture(scope="module")
def clips(toys):
    return load_clips(find_clips(toys, "test"), 16000, 1.0, progress=False)


@pytest.fixture(scope="module")
def reports(trained, exported, toys):
    return [evaluate_model(model, toys, RATES) for model in (trained, exported)]


# Module and file


def test_module_and_file_have_the_same_report(reports):
    assert reports[0] == reports[1]


@pytest.mark.parametrize("rate", [*RATES, 22050, 48000])
def test_module_and_file_make_the_same_predictions(trained, exported, clips, rate):
    heard = np.stack([resample(clip, 16000, rate) for clip in clips.samples(slice(None))])
    logits = module_predictor(load_model(trained)[0], "cpu")(heard, rate)
    got = file_predictor(load(exported))(heard, rate)
    want = torch.from_numpy(logits).softmax(-1).numpy()
    np.testing.assert_array_equal(got.argmax(1), want.argmax(1))
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)


def test_a_clip_that_ends_within_a_frame_is_heard_to_its_end(trained, exported, clips):
    """Both complete the last frame with zeros."""
    heard = clips.samples(slice(0, 4))[:, :12345]
    want = torch.from_numpy(module_predictor(load_model(trained)[0], "cpu")(heard, 16000)).softmax(-1).numpy()
    got = file_predictor(load(exported))(heard, 16000)
    assert np.linalg.norm(got - want) < 1e-4 * np.linalg.norm(want)
    stream = load(exported).stream()
    np.testing.assert_allclose(stream.scores(heard[0], last=True)[-1], got[0], atol=1e-5)


# The report


def test_keys_of_the_report(reports):
    report = reports[0]
    assert [report[name] for name in ("task", "n", "models")] == ["keywords", 21, 1]
    counts = np.array(report["confusion"]["counts"])
    assert counts.sum() == 21 and counts.trace() == round(21 * report["rates"]["16000"]["accuracy"] / 100)
    assert list(report["rates"]) == ["16000", "8000", "44100", "11025"]
    for row in report["rates"].values():
        measured = {"accuracy", "ci95", "decimated", "resampled_first", "highband", "over_native", "over_resampled"}
        assert set(row) == measured
        assert 0 <= row["ci95"][0] <= row["accuracy"] <= row["ci95"][1] <= 100
        assert row["accuracy"] >= 80  # at rates never heard in training too


def test_decimated_only_where_the_rate_divides(reports):
    given = {rate for rate, row in reports[0]["rates"].items() if row["decimated"] is not None}
    assert given == {"8000"}


def test_what_each_column_measures(clips):
    """A stand-in for a model notes what it is given."""
    seen = []

    def predict(audio, rate):
        seen.append((rate, audio))
        return np.eye(3)[clips.targets if rate == 8000 else 0 * clips.targets]

    row = evaluate_keywords([predict], clips, [8000])["rates"]["8000"]
    native = clips.samples(slice(None))
    assert [rate for rate, _ in seen] == [16000, 8000, 16000, 8000]
    np.testing.assert_array_equal(seen[0][1], native)
    np.testing.assert_array_equal(seen[1][1], np.stack([resample(clip, 16000, 8000) for clip in native]))
    assert seen[2][1].shape == native.shape
    np.testing.assert_array_equal(seen[3][1], native[:, ::2])
    share = round(100 * float(np.mean(clips.targets == 0)), 3)
    assert (row["accuracy"], row["decimated"], row["resampled_first"]) == (100.0, 100.0, share)
    assert row["over_native"]["points"] == pytest.approx(100 - share)


def test_several_models_are_a_mean(clips):
    models = [lambda audio, rate, k=k: np.eye(3)[(clips.targets + (np.arange(21) < k)) % 3] for k in (0, 6)]
    row = evaluate_keywords(models, clips, [16000])["rates"]["16000"]
    assert row["accuracy"] == pytest.approx(100 * (1 + 15 / 21) / 2, abs=1e-3)
    assert row["ci95"][0] < row["accuracy"] < row["ci95"][1]


def test_models_of_different_words_have_no_mean(trained, toys):
    with pytest.raises(ValueError, match="different labels"):
        evaluate_model([trained, "keywords"], toys, [16000])


def test_highband_is_above_the_clips_own_band(clips):
    audio = np.stack([resample(clip, 16000, 48000) for clip in clips.samples(slice(0, 6))])
    full = add_highband(audio, 48000, 8000.0)
    spectrum = np.abs(np.fft.rfft(full - audio)) ** 2
    hertz = np.fft.rfftfreq(audio.shape[1], 1 / 48000)
    assert spectrum[:, hertz < 7900].sum() < 0.01 * spectrum[:, hertz > 8100].sum()  # sibilance follows its envelope
    assert full.shape == audio.shape and full.dtype == np.float32
    np.testing.assert_array_equal(full, add_highband(audio, 48000, 8000.0))


def test_highband_only_where_a_rate_has_room_for_it(clips):
    seen = []

    def predict(audio, rate):
        seen.append(rate)
        return np.eye(3)[clips.targets]

    rows = evaluate_keywords([predict], clips, [8000, 48000], highband=True)["rates"]
    assert rows["8000"]["highband"] is None and rows["48000"]["highband"] == 100.0
    assert seen.count(48000) == 2


def test_a_difference_is_paired():
    """Two models that err on the same clips differ by less than their own intervals are wide."""
    rng = np.random.default_rng(0)
    right = rng.random((1, 1000)) < 0.9
    better = right | (rng.random((1, 1000)) < 0.05)
    gain = difference(better, right)
    low, high = gain["ci95"]
    assert 0 < low < gain["points"] < high and high - low < 1.5
    one, other = interval(right), interval(better)
    assert one[1] > other[0]  # the two intervals overlap
    assert bootstrap(np.full(50, 0.25)) == [25.0, 25.0]


@pytest.mark.parametrize(("right", "n"), [(0, 10), (10, 10), (7, 21), (4000, 4107)])
def test_the_interval_is_wilsons(right, n):
    z, p = 1.959963984540054, right / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = interval((np.arange(n) < right)[None])
    assert low == pytest.approx(100 * (centre - half), abs=6e-4)
    assert high == pytest.approx(100 * (centre + half), abs=6e-4)


def test_labels_that_the_model_does_not_know(trained, make, tmp_path):
    data = make.toys(tmp_path / "data", ["low"], {"test": 1})
    (data / "low").rename(data / "hum")
    with pytest.raises(ValueError, match="labelled hum, but the classes are high, low, warble"):
        evaluate_model(trained, data, [16000])


@pytest.mark.parametrize("rate", [0, -8000, 3999, 200000])
def test_rates_that_no_microphone_has(trained, toys, rate):
    with pytest.raises(ValueError, match="4000 to 192000"):
        evaluate_model(trained, toys, [16000, rate])


# Augmentation


@pytest.fixture
def audio():
    torch.manual_seed(0)
    return torch.randn(40, 1000)


def test_shift_moves_and_fills_with_zeros(audio):
    shifted = augment.shift(audio.abs() + 1, 100)
    assert shifted.shape == audio.shape
    moves = set()
    for before, after in zip(audio.abs() + 1, shifted, strict=True):
        inside = torch.nonzero(after)[:, 0]
        first, last = int(inside[0]), int(inside[-1])
        move = first - (999 - last)  # zeros in front, or behind
        moves.add(move)
        assert abs(move) <= 100 and len(inside) == 1000 - abs(move)
        assert torch.equal(after[first : last + 1], before[max(0, -move) : 1000 - max(0, move)])
    assert len(moves) > 20 and min(moves) < 0 < max(moves)
    assert torch.equal(augment.shift(audio, 0), audio)


def test_gain_is_within_its_range(audio):
    db = 20 * torch.log10(augment.gain(audio, -15, 6) / audio)
    assert db.min() > -15.01 and db.max() < 6.01
    assert float(db.std(1).max()) < 1e-3 and float(db.mean(1).std()) > 3  # one a clip


@pytest.mark.parametrize("snr", [0.0, 20.0])
def test_noise_has_the_ratio_asked_for(audio, snr):
    added = augment.coloured_noise(audio, snr, snr) - audio
    got = 10 * torch.log10(audio.square().mean(1) / added.square().mean(1))
    torch.testing.assert_close(got, torch.full_like(got, snr), atol=0.01, rtol=0)


def test_some_changes_a_share_of_the_clips(audio):
    changed = augment.some(audio, 0.3, lambda rows: rows + 1) - audio
    assert sorted(changed.mean(1).round().tolist()) == [0.0] * 28 + [1.0] * 12
    assert torch.equal(augment.some(audio, 0.0, lambda rows: rows + 1), audio)


def test_noise_behind_silence_is_silence():
    silence = torch.zeros(3, 1000)
    assert torch.equal(augment.coloured_noise(silence, 5, 40), silence)


def test_background_is_cut_out_of_recordings_at_the_ratio_asked_for(audio):
    recordings = torch.randint(-9000, 9000, (5000,), dtype=torch.int16)
    added = augment.background(audio, recordings, 10.0, 10.0) - audio
    got = 10 * torch.log10(audio.square().mean(1) / added.square().mean(1))
    torch.testing.assert_close(got, torch.full_like(got, 10.0), atol=0.1, rtol=0)
    windows = (recordings / 32768.0).unfold(0, 1000, 1)
    match = torch.nn.functional.cosine_similarity(added[0], windows, dim=1).max()
    assert match > 0.999


def test_a_room_rings_after_the_sound_and_not_before():
    click = torch.zeros(30, 16000)
    click[:, 4000] = 1.0
    heard = augment.reverberate(click, 16000, 0.2, 0.2)
    assert float(heard[:, :4000].abs().max()) < 1e-5 and torch.allclose(heard[:, 4000], torch.ones(30), atol=1e-5)
    tail = heard[:, 4001:].square()
    below = 10 * torch.log10(tail.sum(1))
    assert -15.1 < float(below.min()) < float(below.max()) < 0.1
    decay = 10 * torch.log10(tail[:, 1500:1700].mean() / tail[:, 100:300].mean())  # 1,400 samples: 87.5 ms
    assert -31 < float(decay) < -22  # 60 dB in 0.2 s are 26 dB


def test_clipping_cuts_off_peaks(audio):
    clipped = augment.clip(audio, 0.2)
    limit = clipped.abs().amax(1)
    assert (limit <= audio.abs().amax(1)).all() and (limit > 0.19 * audio.abs().amax(1)).all()
    inside = audio.abs() < limit.unsqueeze(1)
    assert torch.equal(clipped[inside], audio[inside]) and int((~inside).sum()) > 500


def test_mixup(audio):
    mixed, partner, share = augment.mixup(audio, 0.3)
    assert mixed.shape == audio.shape and sorted(partner.tolist()) == list(range(40))
    assert 0.5 <= float(share.min()) <= float(share.max()) <= 1  # a clip is never the smaller part
    torch.testing.assert_close(mixed, share[:, None] * audio + (1 - share)[:, None] * audio[partner])
    mixed, partner, share = augment.mixup(audio, 0.0)
    assert torch.equal(mixed, audio) and torch.equal(partner, torch.arange(40)) and torch.equal(share, torch.ones(40))


def test_band_limit_puts_the_floor_above_a_channel():
    features = torch.rand(40, 30, 20) + 1
    limited = augment.band_limit(features, 11, 0.0, 1.0)
    kept = (limited != 0).all(1).sum(1)
    for clip, before, count in zip(limited, features, kept, strict=True):
        assert torch.equal(clip[:, :count], before[:, :count]) and not clip[:, count:].any()
    assert int(kept.min()) >= 11 and int(kept.max()) < 20 and len(set(kept.tolist())) > 3
    assert torch.equal(augment.band_limit(features, 11, 0.0, 0.0), features)


def test_another_mouth_moves_the_spectrum_alone():
    torch.manual_seed(0)
    features = torch.arange(20.0).expand(300, 5, 20)  # a channel holds its number
    moved = augment.move_channels(features, 1.5)
    by = moved[:, 0, 10] - 10
    assert -1.5 <= by.min() < -1.2 and 1.2 < by.max() <= 1.5
    expected = (features + by[:, None, None]).clamp(0, 19)
    torch.testing.assert_close(moved, expected)
    assert torch.equal(augment.move_channels(features, 0.0), features)


def test_another_pace_keeps_the_end():
    torch.manual_seed(0)
    features = torch.arange(200.0).unsqueeze(1).expand(300, 200, 3)  # a tick holds its number
    said = augment.stretch(features, 0.15)
    pace = said[:, -1, 0] - said[:, -2, 0]
    assert 0.85 <= pace.min() < 0.88 and 1.12 < pace.max() <= 1.15 and (said[:, -1] == 199).all()
    torch.testing.assert_close(said[:, 100, 1], 199 - 99 * pace, rtol=1e-3, atol=0.0)
    assert torch.equal(augment.stretch(features, 0.0), features)


@pytest.mark.parametrize(("axis", "widest"), [(1, 25), (2, 4)])
def test_masks_put_the_channels_mean(axis, widest):
    torch.manual_seed(0)
    features = torch.rand(40, 200, 20)
    masked = augment.mask(features, axis, widest, 2)
    mean = features.mean((0, 1)).expand_as(features)
    hidden = masked != features
    assert torch.equal(masked[hidden], mean[hidden])
    width = hidden.all(3 - axis).sum(1)
    assert torch.equal(hidden.any(3 - axis), hidden.all(3 - axis))  # whole ticks, whole channels
    assert 0 < int(width.max()) <= 2 * widest and len(set(width.tolist())) > 2
    assert torch.equal(augment.mask(features, axis, widest, 0), features)


def test_rates_around():
    assert augment.rates_around(16000, 0.12, 400) == list(range(14400, 17601, 400))
    assert augment.rates_around(16000, 0.0, 400) == [16000]
