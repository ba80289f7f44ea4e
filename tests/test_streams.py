"""Long streams made of clips: where the words are, how loud, and the same again by the same seed."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile

from audiossm.data.audio import read_audio, read_blocks
from audiossm.data.streams import StreamOptions, audible, make_streams, rms

RATE = 16000
BEGIN, END = 0.3, 0.7  # where a tone lies in its clip, in seconds
HZ = {"low": 500, "high": 1500, "_other_": 3000}


def clip(hz, rate=RATE, level=0.2, noise=0.001):
    t = np.arange(rate) / rate
    tone = level * np.sin(2 * np.pi * hz * t) * ((t >= BEGIN) & (t < END))
    return tone + np.random.default_rng(hz).normal(0, noise, rate)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data folder of tones, three seconds of loud noise that is weak in the tones' band, and some speech."""
    root = tmp_path_factory.mktemp("streams")
    for label, hz in HZ.items():
        for i in range(6 if label != "_other_" else 3):
            path = root / "data" / "test" / label / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, clip(hz), RATE)
    (root / "data/test/_silence_").mkdir()
    soundfile.write(root / "data/test/_silence_/0.wav", np.zeros(RATE), RATE)
    rng = np.random.default_rng(0)
    for name, rate in (("noise", 16000), ("speech", 22050)):
        (root / name).mkdir()
        for i in range(2):
            soundfile.write(root / name / f"{i}.wav", rng.normal(0, 0.1, 3 * rate), rate)
    return root


def build(folders, rate=RATE, seed=0, **options):
    return make_streams(
        folders / "data",
        "test",
        rate,
        [folders / "noise"],
        [folders / "speech"],
        seed,
        StreamOptions(**options),
    )


def play(stream):
    pieces = list(stream.pieces())
    return np.concatenate([piece for piece, _ in pieces]), [word for _, words in pieces for word in words]


def band(audio, rate, hz):
    """The power of a tone within 30 Hz."""
    spectrum = np.abs(np.fft.rfft(audio)) ** 2 / len(audio) ** 2 * 2
    return spectrum[np.abs(np.fft.rfftfreq(len(audio), 1 / rate) - hz) < 30].sum()


def test_what_streams_there_are(folders):
    names = {stream.name: stream.certain for stream in build(folders)}
    assert names == {
        "words in noise": True,
        "words in speech": False,
        "background clips": True,
        "noise": True,
        "speech": False,
    }
    alone = make_streams(folders / "data", "test", RATE)
    assert [stream.name for stream in alone] == ["words in noise", "background clips"]


@pytest.mark.parametrize("rate", [16000, 8000, 44100])
def test_the_truth_is_where_the_words_are(folders, rate):
    """At an SNR of 30 dB the power in a word's band says when it is heard."""
    audio, words = play(build(folders, rate, snr=(30, 30), gain_db=(0, 0))[0])
    assert audio.dtype == np.float32 and len(words) > 4
    for word in words:
        assert word.end - word.start == pytest.approx(END - BEGIN, abs=0.03)
        begin, end = round(word.start * rate), round(word.end * rate)
        inside = band(audio[begin:end], rate, HZ[word.label])
        assert inside == pytest.approx(0.02, rel=0.1)
        before = band(audio[begin - (end - begin) : begin - round(0.03 * rate)], rate, HZ[word.label])
        after = band(audio[end + round(0.03 * rate) : 2 * end - begin], rate, HZ[word.label])
        assert max(before, after) < inside / 100


def test_every_word_is_said_once_and_others_are_no_words(folders):
    noise, speech = build(folders)[:2]
    labels = [word.label for stream in (noise, speech) for word in play(stream)[1]]
    assert sorted(labels) == ["high"] * 6 + ["low"] * 6


def test_pauses(folders):
    _, words = play(build(folders, gap=(1.0, 1.2))[0])
    assert all(b.start - a.end >= 1.0 for a, b in pairwise(words))


@pytest.mark.parametrize("snr", [0.0, 12.0])
def test_snr(folders, snr):
    """The bed is stationary: its power just before a word against what the word adds."""
    audio, words = play(build(folders, snr=(snr, snr), gap=(2, 2))[0])
    for word in words:
        begin, end = round(word.start * RATE), round(word.end * RATE)
        bed = rms(audio[begin - 16000 : begin - 6000]) ** 2
        got = 10 * np.log10(rms(audio[begin:end]) ** 2 / bed - 1)
        assert got == pytest.approx(snr, abs=1.0)


def test_the_level_of_words_varies_and_silence_is_not_amplified(folders, tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    [stream, *_] = make_streams(folders / "data", "test", RATE, [tmp_path], options=StreamOptions(gain_db=(-20, 0)))
    audio, words = play(stream)
    levels = [rms(audio[round(word.start * RATE) : round(word.end * RATE)]) for word in words]
    assert max(levels) < 0.15 and min(levels) < max(levels) / 2
    assert rms(audio[:RATE]) == 0  # the first pause


def test_a_seed_gives_the_same_again(folders):
    first, again, other = (play(build(folders, seed=seed)[0]) for seed in (3, 3, 4))
    assert np.array_equal(first[0], again[0]) and first[1] == again[1]
    assert first[1] != other[1]
    stream = build(folders, seed=3)[0]
    assert np.array_equal(play(stream)[0], play(stream)[0])  # a stream can be heard again


def test_streams_without_words_are_the_recordings(folders):
    *_, noise, speech = build(folders)
    audio, words = play(noise)
    want = [read_audio(folders / "noise" / f"{i}.wav")[0] for i in range(2)]
    assert words == [] and np.array_equal(audio, np.concatenate(want))
    assert len(play(speech)[0]) == 6 * RATE


def test_a_long_recording_comes_in_blocks_at_any_rate(tmp_path):
    """In blocks it is what it is as a whole."""
    audio = np.random.default_rng(0).normal(0, 0.1, (3 * 44100, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", audio, 44100, subtype="FLOAT")
    for rate in (44100, 16000):
        blocks = list(read_blocks(tmp_path / "a.wav", rate, seconds=0.5))
        whole, _ = read_audio(tmp_path / "a.wav", rate)
        assert len(blocks) >= 6 and max(map(len, blocks)) <= rate
        np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-5)


def test_audible_part_spans_a_short_pause_and_ignores_a_far_click():
    t = np.arange(RATE) / RATE
    tone = 0.3 * np.sin(2 * np.pi * 400 * t)
    word = tone * (((t >= 0.3) & (t < 0.45)) | ((t >= 0.55) & (t < 0.7)))
    word[100:110] = 0.3
    begin, end = audible(word, RATE)
    assert (begin / RATE, end / RATE) == (pytest.approx(0.3, abs=0.011), pytest.approx(0.7, abs=0.011))


def test_silence_has_bounds_too():
    assert audible(np.zeros(RATE), RATE) == (0, RATE)


def test_bad_input(folders, tmp_path):
    (tmp_path / "_silence_").mkdir()
    soundfile.write(tmp_path / "_silence_/0.wav", np.zeros(RATE), RATE)
    with pytest.raises(ValueError, match="no words in"):
        make_streams(tmp_path, "test", RATE)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        make_streams(folders / "data", "test", RATE, [tmp_path / "none"])
    soundfile.write(tmp_path / "a.wav", np.full(100, np.nan), RATE, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN"):
        list(read_blocks(tmp_path / "a.wav", RATE))
    (tmp_path / "b.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="cannot be read as audio"):
        list(read_blocks(tmp_path / "b.wav", RATE))
