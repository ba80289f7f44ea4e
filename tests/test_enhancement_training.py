"""Enhancement: scenes are what was asked for, losses what they say, and training learns, resumes and is evaluated."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from audiossm.data import augment
from audiossm.data.pairs import Pair, find_pairs
from audiossm.export import export_enhancement
from audiossm.kernels import dispatch
from audiossm.tasks import EnhancementConfig, EnhancementModel, load_model
from audiossm.training import EnhanceOptions, train_enhancement
from audiossm.training.enhancement import EnhancementTraining
from audiossm.training.enhancement_loss import WINDOWS, compressed, distance, si_sdr, spectral
from audiossm.training.evaluate_enhancement import by_snr, evaluate_enhancement
from audiossm.training.fit_enhancement import load_responses
from audiossm.training.graphed import Recorded
from audiossm.training.scenes import Scenes, at_snr
from audiossm.training.speech_quality import score

RATE = 4000
TINY = EnhancementConfig(rate=RATE, window=0.008, frame=0.004, bands=8, fold=2, d_model=6, layers=1, d_state=4)
PLAIN = EnhanceOptions(
    window=0.5,
    speed=0.0,
    tone_share=0.0,
    room_share=0.0,
    noise_speed=1.0,
    second_share=0.0,
    babble_share=0.0,
    hiss_share=0.0,
    empty_share=0.0,
    band_share=0.0,
    clip_share=0.0,
)
OPTIONS = EnhanceOptions(epochs=2, batch=4, window=0.5, lr=0.01)


def voice(rng, seconds=1.0):
    """Tones of a few pitches with pauses between them."""
    t = np.arange(round(seconds * RATE)) / RATE
    hz = rng.uniform(150, 400) * (1 + 0.1 * np.sin(2 * np.pi * 3 * t))
    sound = sum(np.sin(2 * np.pi * k * np.cumsum(hz) / RATE) / k for k in (1, 2, 3))
    return (0.1 * sound * (np.sin(2 * np.pi * 2 * t + rng.uniform(0, 6)) > 0)).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Clean speech (12 files and 3 to watch), noise, and 3 pairs for training and 3 for test."""
    root, rng = tmp_path_factory.mktemp("enhance"), np.random.default_rng(0)
    for folder, count in {"clean": 12, "val": 3, "noise": 2}.items():
        (root / folder).mkdir()
        for i in range(count):
            sound = rng.normal(0, 0.05, 2 * RATE) if folder == "noise" else voice(rng)
            soundfile.write(root / folder / f"{i}.wav", sound, RATE)
    for split in ("train", "test"):
        for kind in ("clean", "noisy"):
            (root / "pairs" / f"{kind}_{split}set_wav").mkdir(parents=True)
        for i in range(3):
            clean = voice(rng, 2.0)
            soundfile.write(root / "pairs" / f"clean_{split}set_wav" / f"p_{i}.wav", clean, RATE)
            noisy = clean + rng.normal(0, 0.03, len(clean))
            soundfile.write(root / "pairs" / f"noisy_{split}set_wav" / f"p_{i}.wav", noisy, RATE)
    return root


def train(folders, out, options=OPTIONS, **how):
    if "pairs" not in how:
        how |= {"clean": folders / "clean", "noise": [folders / "noise"]}
    return train_enhancement(out, TINY, options, progress=False, say=lambda line: None, **how)


@pytest.fixture(scope="module")
def learnt(folders, tmp_path_factory):
    """A run that has learnt to take white noise away."""
    out = tmp_path_factory.mktemp("learnt") / "run"
    options = replace(PLAIN, epochs=50, batch=6, lr=0.02, snr=(0.0, 5.0), level_db=(-25.0, -15.0))
    train(folders, out, options, val_clean=folders / "val", val_noise=[folders / "noise"])
    return out


# Scenes


def speech(batch=3, seconds=1.0):
    return torch.from_numpy(np.stack([voice(np.random.default_rng(i), seconds) for i in range(batch)]))


def hiss(seconds=4.0):
    return (3000 * torch.randn(round(seconds * RATE))).to(torch.int16)


@pytest.mark.parametrize("snr", [-5.0, 0.0, 12.5])
def test_the_snr_is_what_was_asked_for(snr):
    scene = Scenes(hiss(), RATE, replace(PLAIN, snr=(snr, snr)))(speech())
    noise = scene.noisy - scene.clean
    found = 20 * (augment.active_level(scene.clean, RATE) / augment.level(noise)).log10()
    torch.testing.assert_close(found, torch.full_like(found, snr), atol=1e-3, rtol=0)


def test_the_level_is_what_was_asked_for_and_nothing_is_beyond_full_scale():
    scene = Scenes(hiss(), RATE, replace(PLAIN, level_db=(-30.0, -30.0)))(speech())
    found = 20 * augment.active_level(scene.clean, RATE).log10()
    torch.testing.assert_close(found, torch.full_like(found, -30.0), atol=1e-3, rtol=0)
    loud = Scenes(hiss(), RATE, replace(PLAIN, level_db=(10.0, 10.0)))(speech())
    assert loud.noisy.abs().max() <= 0.991


def test_active_level_leaves_pauses_out():
    tone = torch.sin(torch.arange(RATE) * 0.3)
    audio = torch.stack((tone, tone * (torch.arange(RATE) < RATE // 4)))
    torch.testing.assert_close(
        *augment.active_level(audio, RATE).flatten(), rtol=0.05, atol=0
    )  # a frame ends within the tone


def test_a_scene_of_everything_is_finite_and_differs_each_time():
    shares = {name: 0.5 for name in vars(PLAIN) if name.endswith("share")}
    scenes = Scenes(hiss(), RATE, replace(PLAIN, **shares))
    one, other = scenes(speech(8)), scenes(speech(8))
    assert one.noisy.isfinite().all() and one.clean.isfinite().all() and not torch.equal(one.noisy, other.noisy)
    silent = Scenes(torch.zeros(1, dtype=torch.int16), RATE, PLAIN)(torch.zeros(2, RATE))
    assert not silent.noisy.any() and not silent.clean.any()


def test_a_pause_that_fills_a_window_is_not_wanted():
    """Its SI-SDR would have the steepest gradient of all: the less a model lets through, the steeper."""
    scene = Scenes(hiss(), RATE, replace(PLAIN, level_db=(-20.0, -20.0)))(speech() * torch.tensor([[1], [1e-4], [0]]))
    assert (augment.level(scene.clean) > 0.02).flatten().tolist() == [True, False, False]
    assert not scene.clean[1:].any() and (augment.level(scene.noisy) > 1e-3).all()


def test_without_speech_nothing_is_wanted():
    scene = Scenes(hiss(), RATE, replace(PLAIN, empty_share=1.0))(speech())
    assert not scene.clean.any() and (augment.level(scene.noisy) > 1e-3).all()


def test_rooms_keep_what_comes_early():
    """An echo after 10 ms is wanted, one after 100 ms is not."""
    response = torch.zeros(1, RATE // 2)
    response[0, [0, RATE // 100, RATE // 10]] = torch.tensor([1.0, 0.5, 0.25])
    audio = torch.randn(2, RATE)
    heard, clean = Scenes(hiss(), RATE, replace(PLAIN, room_share=1.0), response).in_rooms(audio)
    for found, taps in [(heard, response[0]), (clean, response[0] * (torch.arange(RATE // 2) < RATE // 20))]:
        expected = np.stack([np.convolve(row, taps)[:RATE] for row in audio.numpy()])
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_responses_begin_with_the_direct_sound(tmp_path):
    response = np.zeros(400)
    response[[30, 90]] = -0.5, 0.25
    soundfile.write(tmp_path / "a.wav", response, RATE, subtype="FLOAT")
    found = load_responses([tmp_path], RATE)
    assert found[0, 0] == 1 and found[0, 60] == -0.5 and found.shape == (1, 370)


def test_cut_above_and_faster():
    t = torch.arange(RATE) / RATE
    low, high = torch.sin(2 * torch.pi * 200 * t), torch.sin(2 * torch.pi * 1500 * t)
    cut = augment.cut_above((low + high).unsqueeze(0), RATE, torch.tensor([[1000.0]]))
    torch.testing.assert_close(cut[0], low, atol=2e-3, rtol=0)
    fast = augment.faster(low.unsqueeze(0), 1.25)
    torch.testing.assert_close(fast[0], torch.sin(2 * torch.pi * 250 * t)[: len(fast[0])], atol=1e-3, rtol=0)


def test_noise_is_heard_slower_and_faster():
    """A ramp's slope is its pace."""
    ramp = torch.arange(20000).to(torch.int16)
    found = 32768 * augment.pieces(ramp, 50, 1000, 1.5)
    slope = found.diff(dim=1).median(1).values
    assert 0.66 < slope.min() < 0.9 < 1.1 < slope.max() < 1.51
    torch.testing.assert_close(found[:, 0], found[:, 0].round())
    steady = found[:, -1] > found[:, 0]  # the others begin again
    assert (found.diff(dim=1) - slope[:, None])[steady].abs().max() < 0.02


def test_a_babble_is_of_the_others():
    """Each row has a power of its own: of two, a babble of one talker is the other, begun elsewhere."""
    speech = torch.stack((torch.arange(100.0), -torch.arange(100.0)))
    found = augment.babble(speech, 1)
    assert torch.equal(found.sort(1).values, speech.flip(0).sort(1).values)
    many = augment.babble(torch.eye(7)[:, :, None].expand(7, 7, 9).flatten(1), 6)
    assert torch.equal(many.sum(1), torch.full((7,), 54.0))
    assert augment.babble(speech[:1], 3).shape == (1, 100)


def test_soft_windows_are_learnt_from_as_loud_ones_are():
    scenes = Scenes(torch.zeros(1, dtype=torch.int16), RATE, PLAIN)
    training = EnhancementTraining(EnhancementModel(TINY).eval(), scenes, scenes, PLAIN)
    training.enhance = lambda noisy, clean: (noisy, clean)
    clean = speech(2)
    noisy = clean + 0.05 * torch.randn(clean.shape)
    loud, soft = training.hear(noisy, clean), training.hear(0.1 * noisy, 0.1 * clean)
    torch.testing.assert_close(loud, soft, rtol=1e-3, atol=1e-3)
    assert training.hear(0 * noisy, 0 * clean).isfinite().all()


def test_noise_keeps_its_shape():
    noise, loudness = torch.randn(2, 50), torch.tensor([[0.1], [0.2]])
    scaled = at_snr(noise, loudness, torch.tensor([[0.0], [20.0]]))
    torch.testing.assert_close(augment.level(scaled), loudness * torch.tensor([[1.0], [0.1]]))


# Losses


def test_si_sdr_is_that_of_torchmetrics():
    target, noise = torch.randn(4, 900), torch.randn(4, 900)
    estimate = 0.3 * target + 0.1 * noise
    torch.testing.assert_close(
        si_sdr(estimate, target), scale_invariant_signal_distortion_ratio(estimate, target), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(si_sdr(7 * estimate, target), si_sdr(estimate, target), rtol=1e-4, atol=1e-3)


def test_compressed_spectra_are_those_of_scipy():
    audio, window = np.random.default_rng(0).normal(size=2000), WINDOWS[0]
    shape = scipy.signal.windows.hann(window, sym=False)
    padded = np.pad(audio, window // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[:: window // 4]
    expected = np.fft.rfft(frames * shape).T * (2 / window) ** 0.5
    magnitude, whole = compressed(torch.from_numpy(audio)[None], window)
    np.testing.assert_allclose(magnitude[0], np.abs(expected) ** 0.3, atol=2e-4)
    np.testing.assert_allclose(
        torch.view_as_complex(whole)[0], np.abs(expected) ** 0.3 * np.exp(1j * np.angle(expected)), atol=2e-4
    )


def test_losses_are_zero_of_the_same_and_grow_with_noise():
    target = torch.randn(2, 4000)
    assert all(not value.any() for value in spectral(target, target))
    near, far = (torch.stack(spectral(target + share * torch.randn_like(target), target)) for share in (0.1, 0.5))
    assert (near < far).all()


@pytest.mark.parametrize("level", [0.0, 1e-8, 1.0])
def test_gradients_are_finite_in_silence(level):
    estimate = (level * torch.randn(2, 4000)).requires_grad_()
    target = torch.stack((torch.zeros(4000), level * torch.randn(4000)))
    sum(part.sum() for part in distance(estimate, target)).backward()
    assert estimate.grad.isfinite().all()


# Training


def weights(run):
    return load_file(run / "model.safetensors")


def test_training_takes_noise_away(learnt):
    training = json.loads((learnt / "model.json").read_text())["training"]
    assert training["val_gain"] > 3 and training["recordings"] == 12 and training["steps"] == 100
    assert list((learnt / "logs").glob("events*"))


def test_pairs_are_learnt_from_as_they_are(folders, tmp_path):
    model = train(folders, tmp_path / "run", replace(PLAIN, epochs=1, batch=4), pairs=folders / "pairs")
    assert model.config == TINY
    assert json.loads((tmp_path / "run" / "model.json").read_text())["training"]["recordings"] == 3


def test_a_pair_is_heard_as_it_was_recorded(folders):
    options = replace(PLAIN, level_db=(-20.0, -20.0))
    scenes = Scenes(torch.zeros(1, dtype=torch.int16), RATE, options)
    training = EnhancementTraining(EnhancementModel(TINY), scenes, scenes, options)
    clean = (10000 * torch.randn(2, training.samples + 1)).to(torch.int16)
    noisy = (clean + 1000).to(torch.int16)
    scene = training.scene((clean, *[None] * 3, noisy), scenes)
    scale = (scene.clean[:, :1] / clean[:, 1:2]).abs()
    torch.testing.assert_close(scene.noisy, scale * noisy[:, 1:], rtol=1e-3, atol=1e-4)


def test_a_resumed_run_is_the_uninterrupted_one(folders, tmp_path, monkeypatch):
    train(folders, tmp_path / "whole")
    step, steps = EnhancementTraining.training_step, []

    def stopping(self, batch, batch_idx):
        steps.append(batch_idx)
        if len(steps) == 5:
            raise SystemExit
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(EnhancementTraining, "training_step", stopping)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            train(folders, tmp_path / "run")
    assert not (tmp_path / "run" / "model.json").exists()
    train(folders, tmp_path / "run", resume=True)
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_step_can_be_recorded_on_a_gpu(monkeypatch):
    """As in tests/test_recordable.py."""
    monkeypatch.setattr(dispatch, "capable", lambda device: True)
    model = EnhancementModel(TINY)
    scenes = Scenes(torch.zeros(1, dtype=torch.int16), RATE, OPTIONS)
    step = Recorded(model, EnhancementTraining(model, scenes, scenes, OPTIONS).hear, ())
    tensors = {name: value.detach() for name, value in (*step.named_parameters(), *step.named_buffers())}
    with FakeTensorMode() as fakes:
        there = {name: fakes.from_tensor(value).to("cuda") for name, value in tensors.items()}
        audio = torch.zeros(3, 2000, device="cuda")
        found = functional_call(step, there, (audio, audio.clone()))
    assert found.shape == (3, 3) and found.device.type == "cuda"


# Pairs, and what they are evaluated with


def test_pairs_are_found_by_name_by_number_and_by_manifest(folders, tmp_path):
    assert [pair.name for pair in find_pairs(folders / "pairs")] == ["p_0", "p_1", "p_2"]
    assert find_pairs(folders / "pairs", "train")[0].clean.parent.name == "clean_trainset_wav"
    sound = np.zeros(100)
    for path in ("noisy/book_snr5_fileid_12.wav", "clean/clean_fileid_12.wav", "noisy/x_snr-5_fileid_3.wav"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / path, sound, RATE)
    with pytest.raises(ValueError, match=r"1 of 2 files in .*noisy have none of their name in .*clean: .*fileid_3"):
        find_pairs(tmp_path)
    (tmp_path / "noisy" / "x_snr-5_fileid_3.wav").unlink()
    (pair,) = find_pairs(tmp_path)
    assert pair.snr == 5 and pair.clean.name == "clean_fileid_12.wav"
    manifest = "path,split,clean_path,snr_db\nnoisy/book_snr5_fileid_12.wav,test,clean/clean_fileid_12.wav,10\n"
    (tmp_path / "manifest.csv").write_text(manifest)
    assert find_pairs(tmp_path)[0].snr == 10
    with pytest.raises(ValueError, match="has no pairs of split 'val'; it has test"):
        find_pairs(tmp_path, "val")


def test_evaluate(run, learnt, folders, tmp_path):
    pytest.importorskip("pesq", reason="pesq is not installed: it takes a C compiler")
    pytest.importorskip("pystoi")
    code, out, err = run(
        *("evaluate", learnt, "--data", folders / "pairs", "--json", "--pictures", tmp_path / "pictures"),
        *("--beside", f"clean={folders / 'pairs' / 'clean_testset_wav'}"),
    )
    assert code == 0, err
    report = json.loads(out)
    assert report["n"] == 3 and list(report["scores"]) == ["noisy", "model", "clean"] and report["by_snr"] == {}
    scores = {name: row["si_sdr"]["mean"] for name, row in report["scores"].items()}
    assert scores["noisy"] + 2 < scores["model"] < scores["clean"]
    gain = report["scores"]["model"]["si_sdr"]["over_noisy"]
    assert gain["mean"] == pytest.approx(scores["model"] - scores["noisy"], abs=1e-3)
    assert gain["ci95"][0] <= gain["mean"] <= gain["ci95"][1]
    assert report["scores"]["clean"]["estoi"]["mean"] == pytest.approx(1, abs=1e-3)
    assert len(list((tmp_path / "pictures").glob("gains-*.png"))) == 3


def test_scores_by_snr():
    pairs = [Pair(Path("a"), Path("b"), snr) for snr in (5, -5, None, 5)]
    scores = np.arange(16.0).reshape(4, 4)
    scores[0, 0] = np.nan  # no speech was found: left out
    found = by_snr(pairs, {"noisy": scores, "model": 2 * scores})
    assert list(found) == ["-5", "5"] and list(found["5"]) == ["noisy", "model"]
    assert found["5"]["noisy"] == {"pesq": 12, "stoi": 7, "estoi": 8, "si_sdr": 9}
    assert found["-5"]["model"] == {"pesq": 8, "stoi": 10, "estoi": 12, "si_sdr": 14}


def test_what_cannot_be_scored_is_told():
    """Of the same, the best; silence and moments have no score; an estimate that is silent has no PESQ."""
    pytest.importorskip("pesq", reason="pesq is not installed: it takes a C compiler")
    pytest.importorskip("pystoi")
    noise = (0.1 * np.random.default_rng(0).normal(size=32000)).astype(np.float32)
    silence = np.zeros_like(noise)
    assert np.isnan(score(noise, silence, 16000)).all() and np.isnan(score(noise[:90], noise[:90], 16000)).all()
    assert np.isnan(score(silence, noise, 16000)[0])
    assert score(noise, noise, 16000)[1] == pytest.approx(1, abs=1e-4)


def test_evaluate_a_file_at_other_rates(learnt, folders, tmp_path):
    """The file scores as the module does, and about as well at another rate."""
    pytest.importorskip("pesq", reason="pesq is not installed: it takes a C compiler")
    pytest.importorskip("pystoi")
    export_enhancement(learnt, tmp_path / "dn.onnx")
    module, file = (
        evaluate_enhancement([model], folders / "pairs", rates=rates)
        for model, rates in [(learnt, ()), (tmp_path / "dn.onnx", (8000,))]
    )
    for metric in ("stoi", "si_sdr"):
        both = [report["scores"]["model"][metric]["mean"] for report in (module, file)]
        assert both[0] == pytest.approx(both[1], abs=1e-2)
    heard = file["rates"]["8000"]
    assert heard["model"]["si_sdr"] == pytest.approx(heard["band_limited"]["si_sdr"], abs=0.5)
    with pytest.raises(ValueError, match="hears 4000 Hz alone: export it"):
        evaluate_enhancement([learnt], folders / "pairs", rates=(8000,))


# Bad input


def test_bad_options_are_told_in_a_line():
    for wrong, message in [
        ({"snr": (5.0, -5.0)}, "snr is a range from low to high"),
        ({"room_share": 1.5}, "room_share must be from 0 to 1"),
        ({"window": 0.1}, "at least 0.25 seconds"),
        ({"speed": 0.6}, "speed must be"),
        ({"magnitude_weight": 0.0, "complex_weight": 0.0, "sdr_weight": 0.0}, "weights of the loss"),
    ]:
        with pytest.raises(ValueError, match=message):
            EnhanceOptions(**wrong)


def test_bad_input_is_told_in_a_line(run, folders, learnt, tmp_path):
    (tmp_path / "empty").mkdir()
    for kind, samples in {"clean": RATE, "noisy": 3 * RATE // 4}.items():
        (tmp_path / "unlike" / kind).mkdir(parents=True)
        soundfile.write(tmp_path / "unlike" / kind / "a.wav", 0.1 * np.ones(samples), RATE)
    out = ("--out", tmp_path / "run")
    for arguments, message in [
        (("train", "enhance", "--clean", folders / "clean", "--noise", tmp_path / "none", *out), "there is no folder"),
        (("train", "enhance", "--clean", tmp_path / "empty", "--noise", folders / "noise", *out), "no clips in"),
        (("train", "enhance", "--pairs", folders / "clean", *out), "one folder of noisy files"),
        (("evaluate", learnt, "--data", folders / "clean"), "one folder of noisy files"),
        (("evaluate", learnt, "--data", folders / "pairs", "--beside", f"x={folders / 'val'}"), "lacks 3 of 3 files"),
        (("evaluate", learnt, "--data", tmp_path / "unlike"), "lasts 0.75 s where its clean file lasts 1.00: no pair"),
    ]:
        code, printed, err = run(*arguments)
        assert code == 1 and "done" not in printed and message in err and len(err.strip().splitlines()) == 1, err
    for arguments, message in [
        (("train", "enhance", "--clean", folders / "clean", *out), "--pairs DIR"),
        (("train", "enhance", "--pairs", folders / "pairs", "--snr", "5", *out), "is not a range"),
        (("evaluate", learnt, "--data", folders / "pairs", "--beside", "x"), "NAME=DIR"),
        (("evaluate", learnt, "--data", folders / "pairs", "--stream"), "an enhancement model is given"),
    ]:
        code, printed, err = run(*arguments)
        assert code == 2 and message in err, err
    assert not (tmp_path / "run").exists()


def test_unequal_pairs_are_refused(folders, tmp_path):
    for kind, samples in {"clean": 4000, "noisy": 3000}.items():
        (tmp_path / kind).mkdir()
        soundfile.write(tmp_path / kind / "a.wav", 0.1 * np.ones(samples), RATE)
    with pytest.raises(ValueError, match="1 of 1 pairs are of unequal length"):
        train(folders, tmp_path / "run", pairs=tmp_path)


def test_scores_need_their_libraries(learnt, folders, run, monkeypatch):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "pesq" else find(name, *a))
    code, _, err = run("evaluate", learnt, "--data", folders / "pairs")
    assert code == 1 and "pip install 'audiossm[enhance]'" in err


def test_a_model_of_another_task_is_refused(trained, folders):
    with pytest.raises(ValueError, match="is one of keywords"):
        load_model(trained, EnhancementModel)
