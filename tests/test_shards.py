"""Clips in tar files are those of the folder they were packed from."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audiossm.data import find_clips, read_audio
from audiossm.data.recordings import open_recordings
from audiossm.tasks import GenerationConfig
from audiossm.training import GenerateOptions, train_generation

RATE = 2000


def add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def encoded(samples, format="FLAC"):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=format)
    return file.getvalue()


def sound(seed, length=1200):
    rng = np.random.default_rng(seed)
    return (3000 * np.sin(np.arange(length) / rng.uniform(2, 9)) + rng.normal(0, 90, length)).astype(np.int16)


@pytest.fixture
def shards(tmp_path):
    """Two shards for training and one for val: four clips of 0.6 s each, described in three ways."""
    root = tmp_path / "shards"
    root.mkdir()
    for k, name in enumerate(("train-000", "train-001", "val-000")):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            for i in range(4):
                label = ("high", "low")[i % 2]
                form = ("flac", "wav")[i % 2]
                add(tar, f"{k}{i}.{form}", encoded(sound(10 * k + i), form.upper()))
                if i < 2:
                    add(tar, f"{k}{i}.cls", f"{label}\n".encode())
                else:
                    add(tar, f"{k}{i}.json", json.dumps({"label": label, "speaker": "s", "take": i}).encode())
    return root


def test_the_clips_of_shards(shards):
    clips = find_clips(shards)
    assert len(clips) == 12 and [clip.split for clip in clips] == ["train"] * 8 + ["val"] * 4
    assert [clip.label for clip in clips[:4]] == ["high", "low", "high", "low"]
    assert clips[2].speaker == "s" and clips[2].path == shards / "train-000.tar" / "02.flac"
    assert len(find_clips(shards, "val")) == 4
    assert [clip.path.name for clip in find_clips(shards, where={"take": "3"})] == ["03.wav", "13.wav", "23.wav"]


@pytest.mark.parametrize("memory", [8.0, 0.0])
def test_what_is_read_is_what_was_packed(shards, memory):
    found, _ = open_recordings(find_clips(shards), None, memory)
    for i in range(12):
        assert (found.read(i, 5, 1000) == sound(10 * (i // 4) + i % 4)[5:1000]).all()
    samples, rate = read_audio(shards / "val-000.tar" / "21.wav")
    assert rate == RATE and np.array_equal(samples * 32768, sound(21))


def test_training_on_shards_is_training_on_a_folder(shards, tmp_path):
    """To the bit, told of classes, from memory and from disk."""
    (tmp_path / "folder").mkdir()
    rows = ["path,label,speaker,split"]
    for k, split in enumerate(("train", "train", "val")):
        for i in range(4):
            soundfile.write(tmp_path / "folder" / f"{k}{i}.wav", sound(10 * k + i), RATE)
            rows.append(f"{k}{i}.wav,{('high', 'low')[i % 2]},s,{split}")
    (tmp_path / "folder" / "manifest.csv").write_text("\n".join(rows) + "\n")
    config = GenerationConfig(pools=(2,), d_model=4, layers=1, d_state=4)
    options = GenerateOptions(epochs=2, batch=4, window=0.3)
    trained = []
    for i, (data, memory) in enumerate(((tmp_path / "folder", 8.0), (shards, 8.0), (shards, 0.0))):
        how = {"conditional": True, "memory": memory, "progress": False, "say": lambda line: None}
        train_generation(data, tmp_path / str(i), config, options, **how)
        trained.append(load_file(tmp_path / str(i) / "model.safetensors"))
    for other in trained[1:]:
        assert all(torch.equal(trained[0][name], other[name]) for name in other)


def test_shards_that_cannot_be_read(shards):
    (shards / "train-002.tar").write_bytes(b"no tar file" * 99)
    with pytest.raises(ValueError, match=r"train-002\.tar cannot be read as a tar file") as raised:
        find_clips(shards)
    assert "\n" not in str(raised.value)


def test_shards_without_clips(shards, tmp_path):
    with pytest.raises(ValueError, match="no clips with take '9' in the 3 tar files"):
        find_clips(shards, where={"take": "9"})
    with pytest.raises(FileNotFoundError, match=r"no 99\.wav in .*train-000\.tar"):
        read_audio(shards / "train-000.tar" / "99.wav")


def test_a_stray_tar_among_recordings(shards):
    soundfile.write(shards / "loose.wav", sound(0), RATE)
    assert [clip.path.name for clip in find_clips(shards)] == ["loose.wav"]


def test_a_json_that_is_none(shards):
    with tarfile.open(shards / "train-003.tar", "w") as tar:
        add(tar, "a.wav", encoded(sound(0), "WAV"))
        add(tar, "a.json", b"[1, 2")
    with pytest.raises(ValueError, match=r"a\.json in .*train-003\.tar cannot be read"):
        find_clips(shards)
