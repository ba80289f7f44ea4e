"""Data folders and audio files: what is read, in which split, and the one line that each mistake gives."""

import csv
import shutil

import numpy as np
import pytest
import soundfile

from audiossm.data import Clip, find_clips, load_clips, read_audio, resample, which_split
from audiossm.data.audio import sound_files
from audiossm.data.shards import find_shards


def tone(rate=16000, seconds=1.0, hz=440.0):
    """A sine of amplitude 0.5, float32 (samples,)."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def put(path, rate=16000, seconds=1.0, hz=440.0, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(rate, seconds, hz), rate, **how)
    return path


def manifest(root, rows, columns="path,label,speaker,split"):
    root.mkdir(exist_ok=True)
    with open(root / "manifest.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split(","))
        writer.writerows(rows)


def one_line(raised):
    message = str(raised.value)
    assert message and "\n" not in message
    return message


# Rows of the lists that Speech Commands ships, and others that stand in neither list.
PUBLISHED = {
    "bed/026290a7_nohash_0.wav": "val",
    "bed/060cd039_nohash_0.wav": "val",
    "bed/099d52ad_nohash_0.wav": "val",
    "bed/0c40e715_nohash_0.wav": "test",
    "bed/0ea0e2f4_nohash_1.wav": "test",
    "right/bb05582b_nohash_3.wav": "test",
    "right/988e2f9a_nohash_0.wav": "train",
}


def test_split_is_speech_commands_own():
    assert {name: which_split(name) for name in PUBLISHED} == PUBLISHED


def test_split_ignores_the_folder_and_what_follows_nohash():
    assert which_split("026290a7_nohash_7.flac") == which_split("a/b/026290a7_nohash_0.wav") == "val"


def test_a_folder_per_word(tmp_path):
    for name in PUBLISHED:
        put(tmp_path / name)
    put(tmp_path / "_background_noise_" / "rain.wav")
    put(tmp_path / ".hidden" / "x.wav")
    (tmp_path / "bed" / "notes.txt").write_text("not audio")
    clips = find_clips(tmp_path)
    assert {clip.path.relative_to(tmp_path).as_posix(): clip.split for clip in clips} == PUBLISHED
    assert {(clip.label, clip.speaker) for clip in clips} >= {("bed", "026290a7"), ("right", "bb05582b")}
    assert clips == sorted(clips, key=lambda clip: clip.path) == find_clips(str(tmp_path))
    assert {clip.split for clip in find_clips(tmp_path, "val")} == {"val"}
    assert find_clips(tmp_path, "validation") == find_clips(tmp_path, "val")


def test_lists_go_before_the_hash_and_their_suffix_does_not_matter(tmp_path):
    for name in PUBLISHED:
        put((tmp_path / name).with_suffix(".flac"))
    (tmp_path / "validation_list.txt").write_text("right/988e2f9a_nohash_0.wav\n")
    (tmp_path / "testing_list.txt").write_text("bed/026290a7_nohash_0.wav\r\n")
    splits = {clip.path.stem: clip.split for clip in find_clips(tmp_path)}
    assert (splits.pop("988e2f9a_nohash_0"), splits.pop("026290a7_nohash_0")) == ("val", "test")
    assert set(splits.values()) == {"train"}


def test_a_folder_without_speakers_has_no_splits_and_is_used_whole(tmp_path):
    put(tmp_path / "yes" / "1.wav")
    put(tmp_path / "no" / "deeper" / "1.wav")
    clips = find_clips(tmp_path, split="test")
    assert [(clip.label, clip.speaker, clip.split) for clip in clips] == [("no", "", ""), ("yes", "", "")]


def test_files_without_a_word(tmp_path):
    put(tmp_path / "a.wav")
    assert find_clips(tmp_path) == [Clip(tmp_path / "a.wav", "", "", "")]


def test_a_folder_per_split(tmp_path):
    for split in ("train", "testing"):
        for word in ("yes", "no"):
            put(tmp_path / split / word / "1.wav")
    clips = find_clips(tmp_path)
    assert {(clip.label, clip.split) for clip in clips} == {
        (word, split) for word in ("yes", "no") for split in ("train", "test")
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifest(tmp_path, encoding):
    put(tmp_path / "audio" / "ä.wav")
    put(tmp_path / "b.wav")
    text = "path,label,speaker,split,label12\nb.wav,bed,ann,testing,_unknown_\naudio/ä.wav,yes,bob,train,yes\n"
    (tmp_path / "manifest.csv").write_text(text, encoding=encoding)
    first, second = find_clips(tmp_path)
    assert first == Clip(tmp_path / "audio" / "ä.wav", "yes", "bob", "train")
    assert second == Clip(tmp_path / "b.wav", "bed", "ann", "test")
    assert [clip.label for clip in find_clips(tmp_path, label_column="label12")] == ["yes", "_unknown_"]
    assert find_clips(tmp_path, "test") == [second]


def test_manifest_without_splits_is_used_whole(tmp_path):
    put(tmp_path / "a.wav")
    manifest(tmp_path, [("a.wav", "yes", "ann", "")])
    assert len(find_clips(tmp_path, "test")) == 1


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data folder") as raised:
        find_clips(tmp_path / "nowhere")
    assert "nowhere" in one_line(raised)


@pytest.mark.parametrize("rows", [None, []])
def test_no_clips(tmp_path, rows):
    if rows is not None:
        manifest(tmp_path, rows)
    with pytest.raises(ValueError, match="no clips in") as raised:
        find_clips(tmp_path)
    one_line(raised)


def test_manifest_lacks_columns(tmp_path):
    manifest(tmp_path, [("a.wav", "yes")], "path,label")
    with pytest.raises(ValueError, match="lacks the column speaker, split; it has path, label") as raised:
        find_clips(tmp_path)
    one_line(raised)


def test_manifest_lacks_the_label_column(tmp_path):
    manifest(tmp_path, [("a.wav", "yes", "ann", "train")])
    with pytest.raises(ValueError, match="lacks the column label12"):
        find_clips(tmp_path, label_column="label12")


def test_label_column_without_manifest(tmp_path):
    put(tmp_path / "yes" / "1.wav")
    with pytest.raises(ValueError, match="no column 'label12'"):
        find_clips(tmp_path, label_column="label12")


@pytest.mark.parametrize("row, what", [(("", "yes", "", ""), "no path"), (("a.wav", "", "", ""), "no label")])
def test_manifest_with_a_gap(tmp_path, row, what):
    manifest(tmp_path, [row])
    with pytest.raises(ValueError, match=f"line 2: {what}"):
        find_clips(tmp_path)


def test_manifest_names_missing_files(tmp_path):
    put(tmp_path / "a.wav")
    manifest(tmp_path, [(f"{name}.wav", "yes", "ann", "train") for name in "abc"])
    with pytest.raises(FileNotFoundError, match=r"2 of the 3 files .* the first: .*b\.wav") as raised:
        find_clips(tmp_path)
    one_line(raised)


def test_manifest_that_is_not_text(tmp_path):
    (tmp_path / "manifest.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(ValueError, match="not a CSV file in UTF-8") as raised:
        find_clips(tmp_path)
    one_line(raised)


def test_unknown_split(tmp_path):
    put(tmp_path / "bed" / "026290a7_nohash_0.wav")
    put(tmp_path / "bed" / "0c40e715_nohash_0.wav")
    with pytest.raises(ValueError, match="no split 'train'; it has test, val") as raised:
        find_clips(tmp_path, "train")
    one_line(raised)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "opus"])
def test_every_kind_of_file(tmp_path, suffix):
    how = {"format": "OGG", "subtype": "OPUS"} if suffix == "opus" else {}
    path = put(tmp_path / "yes" / f"1.{suffix}", **how)
    samples, rate = read_audio(path)
    assert (samples.dtype, samples.ndim, rate) == (np.float32, 1, 16000)
    # The codecs are lossy: most of the power must be the tone's.
    assert abs(len(samples) - 16000) <= 1
    spectrum = np.abs(np.fft.rfft(samples)) ** 2
    assert spectrum[435:446].sum() > 0.99 * spectrum.sum()
    assert find_clips(tmp_path)[0].path == path


def test_channels_give_their_mean(tmp_path):
    both = np.stack([tone(), -0.5 * tone()], axis=1)
    soundfile.write(tmp_path / "a.wav", both, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav")[0], tone() / 4, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_resampling_is_band_limited_and_without_delay(tmp_path, rate):
    path = put(tmp_path / "a.wav", rate, subtype="FLOAT")
    samples, got = read_audio(path, 16000)
    assert (got, len(samples), samples.dtype) == (16000, 16000, np.float32)
    inside = slice(1000, -1000)  # away from the ends, where the tone begins and stops
    error = samples[inside] - tone()[inside]
    assert np.linalg.norm(error) < 1e-3 * np.linalg.norm(tone()[inside])


def test_resampling_down_removes_what_cannot_be_kept():
    assert np.abs(resample(tone(16000, hz=6000), 16000, 8000)[500:-500]).max() < 1e-3


def test_not_audio(tmp_path):
    (tmp_path / "a.wav").write_text("these are words, not samples\n" * 9)
    with pytest.raises(ValueError, match=r"a\.wav cannot be read as audio") as raised:
        read_audio(tmp_path / "a.wav")
    one_line(raised)


@pytest.mark.parametrize("make", [lambda p: p.write_bytes(b""), lambda p: soundfile.write(p, np.zeros(0), 8000)])
def test_empty_audio(tmp_path, make):
    make(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"a\.wav (is empty|cannot be read)") as raised:
        read_audio(tmp_path / "a.wav")
    one_line(raised)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_no_numbers(tmp_path, bad):
    soundfile.write(tmp_path / "a.wav", np.array([0, bad, 0]), 16000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"a\.wav holds NaN or infinite") as raised:
        read_audio(tmp_path / "a.wav")
    one_line(raised)


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no audio file at"):
        read_audio(tmp_path / "a.wav")


def test_load_clips_and_its_report(tmp_path):
    put(tmp_path / "yes" / "whole.wav")
    put(tmp_path / "yes" / "short.wav", seconds=0.25)
    put(tmp_path / "no" / "long.wav", seconds=1.5)
    put(tmp_path / "no" / "slow.wav", rate=8000)
    soundfile.write(tmp_path / "no" / "stereo.wav", np.stack([tone(), tone()], 1), 16000)
    soundfile.write(tmp_path / "no" / "loud.wav", 4 * tone(), 16000, subtype="FLOAT")
    clips = find_clips(tmp_path)
    data = load_clips(clips, 16000, 1.0, progress=False)
    assert (data.audio.shape, data.audio.dtype, data.targets.dtype) == ((6, 16000), np.int16, np.int64)
    assert data.labels == ["no", "yes"] and data.targets.tolist() == [0, 0, 0, 0, 1, 1]
    assert [len(data), data.rate, data.clips] == [6, 16000, clips]
    rows = {clip.path.stem: row for clip, row in zip(clips, data.samples(slice(None)), strict=True)}
    assert rows["short"].dtype == np.float32
    assert not rows["short"][4000:].any() and rows["short"][:4000].any()
    np.testing.assert_allclose(rows["whole"], tone(), atol=2**-15)
    np.testing.assert_allclose(rows["long"], tone(seconds=1.5)[4000:20000], atol=2**-15)
    np.testing.assert_allclose(rows["stereo"], tone(), atol=2**-15)
    assert rows["loud"].max() == 1 - 2**-15 and rows["loud"].min() == -1
    report = data.report
    counts = (report.padded, report.cropped, report.resampled, report.downmixed, report.clipped)
    assert (report.clips, counts) == (6, (1, 1, 1, 1, 1))
    assert len(report.lines()) == 5 and all(line.startswith("1 of 6 clips ") for line in report.lines())


def test_sixteen_bits_stay_exact(tmp_path):
    wave = np.random.default_rng(0).integers(-32768, 32768, 16000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", wave, 16000)
    data = load_clips(find_clips(tmp_path), 16000, 1.0, progress=False)
    np.testing.assert_array_equal(data.audio[0], wave)
    assert data.report.lines() == []


def test_labels_in_the_order_of_a_model(tmp_path):
    put(tmp_path / "yes" / "1.wav")
    put(tmp_path / "no" / "1.wav")
    clips = find_clips(tmp_path)
    data = load_clips(clips, 16000, 1.0, labels=["yes", "maybe", "no"], progress=False)
    assert data.labels == ["yes", "maybe", "no"] and data.targets.tolist() == [2, 0]
    with pytest.raises(ValueError, match="labelled no, but the classes are yes") as raised:
        load_clips(clips, 16000, 1.0, labels=["yes"], progress=False)
    one_line(raised)


def test_one_bad_file_is_named(tmp_path):
    for i in range(20):
        put(tmp_path / "yes" / f"{i}.wav", seconds=0.1)
    (tmp_path / "yes" / "7.wav").write_text("no")
    with pytest.raises(ValueError, match=r"7\.wav cannot be read"):
        load_clips(find_clips(tmp_path), 16000, 1.0, progress=False)


@pytest.mark.parametrize("rate, seconds", [(0, 1.0), (16000, 0.0), (16000, -1.0)])
def test_no_room_for_samples(tmp_path, rate, seconds):
    put(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="hold no sample"):
        load_clips(find_clips(tmp_path), rate, seconds, progress=False)


def test_nothing_to_load():
    with pytest.raises(ValueError, match="no clips to load"):
        load_clips([], 16000, 1.0)


def test_a_folder_that_cannot_be_read_is_not_passed_over(toys, tmp_path, closed):
    folder = tmp_path / "data"
    shutil.copytree(toys, folder)
    (folder / "closed").mkdir()
    for look in (find_clips, sound_files, find_shards):
        with pytest.raises(PermissionError, match="closed"):
            look(folder)
