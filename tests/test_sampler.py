"""What is sampled step by step is what the model's parallel form says, code for code."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from audiossm.backbones import SaShiMi, hybrid_stack
from audiossm.kernels import draw_reference
from audiossm.kernels.draw import Readout
from audiossm.tasks.generation import GenerationConfig, GenerationModel
from audiossm.training.sampler import log_likelihood, sample, sample_all

CODES = 20


class Codes(nn.Module):
    """The least that a generation model has."""

    def __init__(self, backbone, classes=0):
        super().__init__()
        self.start, self.backbone = CODES, backbone
        self.embedding = nn.Embedding(CODES + 1, 8, padding_idx=CODES)
        self.class_embedding = nn.Embedding(classes, 8) if classes else None
        self.head = nn.Linear(8, CODES)

    def embed(self, codes, label=None):
        h = self.embedding(codes)
        return h if label is None else h + self.class_embedding(label).unsqueeze(1)

    def forward(self, codes, state=None, rate=None, label=None):
        y, state = self.backbone(self.embed(codes, label), state, rate=rate)
        return self.head(y), state


def sashimi(**sizes):
    return SaShiMi(8, **{"layers": 1, "pool": (2, 3), "d_state": 4} | sizes)


BACKBONES = {
    "sashimi": sashimi,
    "a mamba in the centre": lambda: SaShiMi(8, 1, (2, 2), mixers=("s4d", "s4d", "mamba")),
    "u-net": lambda: sashimi(unet=True),
    "stack": lambda: hybrid_stack("s4d gru", 8),
}


def build(backbone, classes=0):
    torch.manual_seed(0)
    return Codes(backbone(), classes).eval()


@torch.no_grad()
def expected(model, batch, length, prompt=None, label=None, **chosen):
    """Draw one code after another from outputs of the parallel form on all codes so far."""
    device = model.head.weight.device
    generator = torch.Generator(device).manual_seed(5)
    codes = torch.full((batch, 1), CODES, device=device)
    if prompt is not None:
        codes = torch.cat((codes, prompt.expand(batch, -1)), 1)
    identity = Readout(torch.eye(CODES, device=device), torch.zeros(CODES, device=device))
    uniform, drawn, piece = [], [], next(sample(model, batch, 1000, label=label)).shape[1]
    for _ in range(length):
        if not uniform:
            uniform = list(torch.empty(piece, batch, device=device).uniform_(generator=generator))
        logits = model(codes, label=label)[0][:, -1]
        drawn.append(draw_reference(logits, identity, uniform.pop(0), **chosen))
        codes = torch.cat((codes, drawn[-1][:, None]), 1)
    return torch.stack(drawn, 1)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("heard", (0, 7))
def test_codes_are_those_of_the_parallel_form(backbone, heard):
    model, prompt = build(BACKBONES[backbone]), torch.randint(CODES, (1, heard)) if heard else None
    chosen = {"temperature": 0.9, "top_p": 0.95}
    found = sample_all(model, 2, 40, seed=5, prompt=prompt, **chosen)
    assert torch.equal(found, expected(model, 2, 40, prompt, **chosen))


def test_a_class_is_heard_with_every_code():
    model, label = build(sashimi, classes=3), torch.tensor([2, 0, 1])
    found = sample_all(model, 3, 30, seed=5, label=label)
    assert torch.equal(found, expected(model, 3, 30, label=label))


def test_a_seed_gives_the_same_codes_again_and_another_others():
    model = build(sashimi)
    first, again, other = (sample_all(model, 2, 50, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(sample_all(model, 2, 20, seed=1), first[:, :20])


def test_pieces_are_short_and_come_to_the_length():
    pieces = list(sample(build(sashimi), 2, 45))
    assert sum(piece.shape[1] for piece in pieces) == 45 and max(piece.shape[1] for piece in pieces) <= 16
    assert not list(sample(build(sashimi), 2, 0))


def test_the_most_probable_codes_are_likelier_than_drawn_ones():
    model = build(sashimi)
    greedy, drawn = (sample_all(model, 4, 60, temperature=t) for t in (0.0, 1.0))
    assert (log_likelihood(model, greedy) > log_likelihood(model, drawn)).all()


@pytest.mark.parametrize(
    "options, message",
    (
        ({"prompt": torch.zeros(3, 4, dtype=torch.int64)}, "one sequence or of all 2"),
        ({"label": torch.zeros(3, dtype=torch.int64)}, "each of 2 sequences"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
    ),
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        sample_all(build(sashimi, classes=2), 2, 5, **options)


def test_a_model_in_training_or_of_mixtures_is_refused():
    with pytest.raises(ValueError, match="eval mode"):
        sample_all(build(sashimi).train())
    model = build(sashimi)
    model.embedding = nn.Linear(1, 8)
    with pytest.raises(ValueError, match="mixtures"):
        sample_all(model)


def test_the_generation_task_is_sampled():
    torch.manual_seed(0)
    config = GenerationConfig(classes=("a", "b"), d_model=8, layers=1, pools=(2, 2), d_state=4)
    model, label = GenerationModel(config).eval(), torch.tensor([1])
    codes = sample_all(model, 1, 30, temperature=0.0, label=label)
    outputs, _ = model(torch.cat((torch.tensor([[model.start]]), codes[:, :-1]), 1), label=label)
    assert torch.equal(outputs.argmax(-1), codes)
    with pytest.raises(ValueError, match="mixtures"):
        sample_all(GenerationModel(replace(config, coding="mixture")).eval(), label=label)
