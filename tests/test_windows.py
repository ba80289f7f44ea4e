"""Recordings and their windows: what is read where, in which order, and what is refused."""

import numpy as np
import pytest
import soundfile
import torch

from audiossm.data import find_clips
from audiossm.data.audio import read_audio, to_int16
from audiossm.data.recordings import open_recordings
from audiossm.data.windows import Windows, loudness

LENGTHS = {"a.wav": 1000, "b.wav": 64, "c.flac": 333, "d.wav": 20}


@pytest.fixture
def folder(tmp_path):
    """Recordings of several lengths whose samples tell where they are: a different ramp each."""
    for k, (name, length) in enumerate(LENGTHS.items()):
        soundfile.write(tmp_path / name, (np.arange(length) + 2000 * k).astype(np.int16), 8000)
    return tmp_path


def recordings(folder, rate=None, memory=8.0):
    return open_recordings(find_clips(folder), rate, memory)[0]


def windows(folder, size=64, **how):
    found = recordings(folder, **how)
    return Windows(found, size, torch.arange(len(found)))


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


# Reading


@pytest.mark.parametrize("memory", [8.0, 1e-9])
def test_what_is_read_is_what_was_written(folder, memory):
    found = recordings(folder, memory=memory)
    assert found.fits == (memory == 8.0) and found.rate == 8000 and list(found.lengths) == list(LENGTHS.values())
    assert (found.read(0, 990, 1010) == [*range(990, 1000), *[0] * 10]).all()
    assert (found.read(2, -3, 2) == [0, 0, 0, 4000, 4001]).all()
    assert (found.read(1, 64, 70) == 0).all() and len(found.read(1, 5, 5)) == 0


@pytest.mark.parametrize(("own", "rate"), [(8000, 16000), (44100, 16000), (16000, 11025)])
def test_a_piece_that_is_resampled_is_that_of_the_whole(tmp_path, own, rate):
    """Far from the ends, where soxr has no neighbours in either."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(own) / own)
    soundfile.write(tmp_path / "tone.wav", tone, own, subtype="FLOAT")
    found = recordings(tmp_path, rate, memory=0.0)
    whole = to_int16(read_audio(tmp_path / "tone.wav", rate)[0])
    assert abs(found.lengths[0] - len(whole)) <= 1
    for begin in (0, 1, 3001, rate - 500):
        piece = found.read(0, begin, begin + 500)
        assert np.abs(piece - whole[begin : begin + 500].astype(int)).max() < 60  # of 16,384: a quarter of a percent


def test_what_is_odd_is_said(folder):
    soundfile.write(folder / "e.wav", np.zeros((50, 2), np.int16), 16000)
    soundfile.write(folder / "f.wav", np.zeros(0, np.int16), 8000)
    found, said = open_recordings(find_clips(folder), 8000, memory=1e-6)
    assert said[:3] == [
        "1 of 6 recordings holding no samples: left out",
        "1 of 6 recordings at another sampling rate: resampled to 8000 Hz",
        "1 of 6 recordings with several channels: the channels' mean taken",
    ]
    assert "read from disk" in said[3] and len(found) == 5 and found.lengths[-1] == 25


def test_mixed_rates_are_refused(folder):
    soundfile.write(folder / "e.wav", np.zeros(50, np.int16), 16000)
    with pytest.raises(ValueError, match=r"several rates \(8000, 16000 Hz\): --rate 16000 resamples all"):
        recordings(folder)


def test_files_that_are_no_audio(folder):
    (folder / "notes.wav").write_text("these are words" * 9)
    with pytest.raises(ValueError, match=r"notes\.wav cannot be read as audio"):
        recordings(folder)


@pytest.mark.parametrize("memory", [8.0, 0.0])
def test_samples_that_are_no_numbers(tmp_path, memory):
    soundfile.write(tmp_path / "nan.wav", np.full(99, np.nan, np.float32), 8000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"nan\.wav holds NaN"):
        recordings(tmp_path, memory=memory).read(0, 0, 50)


# Rows of a manifest


def manifest(folder, rows):
    lines = ["path,label,speaker,split,language", *(f"{name},x,s,train,{language}" for name, language in rows)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")


def test_where(folder):
    manifest(folder, [("a.wav", "en"), ("b.wav", "ar"), ("c.flac", "en")])
    assert [clip.path.name for clip in find_clips(folder, where={"language": "en"})] == ["a.wav", "c.flac"]
    assert [clip.path.name for clip in find_clips(folder, where={"language": "en", "path": "a.wav"})] == ["a.wav"]
    with pytest.raises(ValueError, match="have language 'de': there language is ar, en"):
        find_clips(folder, where={"language": "de"})
    with pytest.raises(ValueError, match="lacks the column dialect"):
        find_clips(folder, where={"dialect": "en"})


def test_where_without_a_manifest(folder):
    with pytest.raises(ValueError, match=r"has no manifest\.csv, so there is no column 'language'"):
        find_clips(folder, where={"language": "en"})


# Windows


def test_a_window_holds_what_lies_at_its_place(folder):
    audio, heard, label, fresh = windows(folder)[torch.tensor([[0, 100, 0], [2, 300, 1], [3, 0, 1]])]
    assert audio.shape == (3, 65) and audio.dtype == torch.int16
    assert audio[0].tolist() == list(range(99, 164))
    assert audio[1, :34].tolist() == list(range(4299, 4333)) and not audio[1, 34:].any()
    assert heard.tolist() == [64, 33, 20] and label.tolist() == [0, 2, 3] and fresh.tolist() == [False, True, True]


def test_the_silence_behind_a_recording_may_count(folder):
    cut = windows(folder)
    _, heard, _, _ = Windows(cut.recordings, 64, cut.labels, pad=True)[torch.tensor([[2, 300, 1], [3, 0, 1]])]
    assert heard.tolist() == [64, 64]


def test_an_epoch_covers_all_recordings_evenly(folder):
    cut = windows(folder)
    assert cut.counts().tolist() == [15, 1, 5, 1] and len(cut) == 22
    seen = torch.zeros(1000)
    for seed in range(200):
        places = cut.spread(draw(seed))
        assert places[:, 0].bincount().tolist() == [15, 1, 5, 1] and places[:, 2].all()
        begin = places[places[:, 0] == 0, 1]
        assert begin.min() >= 0 and begin.max() <= 1000 - 64
        for b in begin.tolist():
            seen[b : b + 64] += 1
    middle = seen[100:900] / 200
    assert middle.min() > 0.7 and middle.max() < 1.3
    assert torch.equal(cut.spread(draw(5)), cut.spread(draw(5)))
    assert not torch.equal(cut.spread(draw(5)), cut.spread(draw(6)))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_rows_go_on_where_they_were(folder, rows):
    steps = windows(folder).in_a_row(draw(), rows).view(-1, rows, 3)
    assert len(steps) == 22 // rows and steps[0, :, 2].all()
    for before, after in zip(steps[:-1].reshape(-1, 3), steps[1:].reshape(-1, 3), strict=True):
        assert after[2] or (after[0] == before[0] and after[1] == before[1] + 64)
    assert len({tuple(place) for place in steps.reshape(-1, 3)[:, :2].tolist()}) == 22 // rows * rows


def test_validation_covers_every_sample_once(folder):
    cut = windows(folder)
    _, heard, _, fresh = cut[cut.one_by_one()]
    assert heard.sum() == sum(LENGTHS.values()) and fresh.all()


# Loudness


def test_loudness(tmp_path):
    for k, amplitude in enumerate((0.5, 0.05)):
        tone = amplitude * np.sin(2 * np.pi * 100 * np.arange(8000) / 8000)
        soundfile.write(tmp_path / f"{k}.wav", tone, 8000)
    level = loudness(recordings(tmp_path))
    low, median, high = level["rms_db"]
    assert (low, median, high) == pytest.approx((-29.03, -19.03, -9.03), abs=0.1)
    assert level["peak"] == pytest.approx(0.5, abs=0.001)


def test_silence_is_refused(tmp_path):
    soundfile.write(tmp_path / "nothing.wav", np.zeros(8000, np.int16), 8000)
    with pytest.raises(ValueError, match="the recordings are silent"):
        loudness(recordings(tmp_path))
