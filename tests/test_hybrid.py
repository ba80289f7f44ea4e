"""Stacks by pattern: each layer is what its word says, the whole streams and exports, wrong patterns are refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from audiossm.backbones import Block, BranchPair, GatedMLP, MixtureOfExperts, Stack, hybrid_stack, jamba
from audiossm.backbones.hybrid import read_pattern
from audiossm.export.frame import unstreamable
from audiossm.export.keywords import build
from audiossm.export.stack import is_one_system
from audiossm.mixers import S4D, Attention, Bidirectional
from audiossm.mixers.catalog import build_mixer
from audiossm.streaming.metadata import DetectorSettings
from audiossm.tasks import KeywordConfig, KeywordModel

from .law import check_law
from .mixer_checks import FRAMES, run_as_file

WIDTH = 4
MAKERS = {
    "s4d": lambda: S4D(WIDTH, 4),
    "attention": lambda: Attention(WIDTH, window=6),
}
MAKERS["mamba"] = MAKERS["s4d"]  # a stand-in: patterns do not care what a mixer does


def stack(pattern, depth=None, **sizes):
    return hybrid_stack(pattern, WIDTH, depth, lambda name: MAKERS[name](), **sizes)


def names(built):
    """Return what the layers of a stack are, as words of a pattern."""
    words = []
    for layer in built.layers:
        mixer = "bidirectional" if isinstance(layer.mixer, Bidirectional) else type(layer.mixer).__name__.lower()
        channels = {GatedMLP: "+mlp", MixtureOfExperts: "+experts"}[type(layer.channels)] if is_pair(layer) else ""
        words.append(mixer + channels)
    return words


def is_pair(layer):
    assert type(layer) in (Block, BranchPair)
    return type(layer) is BranchPair


@pytest.mark.parametrize(
    "pattern, depth, layers",
    (
        ("s4d", None, ["s4d"]),
        ("s4d", 3, ["s4d"] * 3),
        ("s4d*3 attention s4d", None, ["s4d"] * 3 + ["attention", "s4d"]),
        ("s4d*3 attention s4d", 5, ["s4d"] * 3 + ["attention", "s4d"]),
        ("s4d attention", 6, ["s4d", "attention"] * 3),
        ("  attention+mlp*2\n s4d+experts ", 3, ["attention+mlp"] * 2 + ["s4d+experts"]),
        ("bidirectional:s4d*2 bidirectional:attention+mlp", None, ["bidirectional"] * 2 + ["bidirectional+mlp"]),
    ),
)
def test_a_pattern_is_the_stack_that_it_tells(pattern, depth, layers):
    built = stack(pattern, depth)
    assert isinstance(built, Stack) and names(built) == layers
    assert len({id(layer.mixer) for layer in built.layers}) == len(layers)  # none is shared


def test_sizes_reach_the_layers():
    built = stack("s4d attention+mlp s4d+experts", dropout=0.3, expand=3, experts=5, top=1)
    gate, mlp, experts = built.layers
    assert [layer.dropout.p for layer in built.layers] == [0.3] * 3
    assert mlp.channels.out.in_features == 3 * WIDTH and gate.gate.out_features == 2 * WIDTH
    assert experts.channels.widen.shape == (5, WIDTH, 6 * WIDTH) and experts.channels.top == 1


def test_s4d_alone_is_the_isotropic_stack():
    """Its checkpoints fit, and export runs it as one system."""
    built, plain = stack("s4d", 3).eval(), Stack(Block(S4D(WIDTH, 4), WIDTH) for _ in range(3)).eval()
    plain.load_state_dict(built.state_dict())
    u = torch.randn(2, 9, WIDTH)
    assert torch.equal(built(u)[0], plain(u)[0])
    assert (
        is_one_system(built) and not is_one_system(stack("s4d s4d+mlp")) and not is_one_system(stack("s4d attention"))
    )


def test_a_stack_needs_no_maker():
    assert names(hybrid_stack("s4d attention", 8, 4)) == ["s4d", "attention"] * 2


# Jamba


def test_jamba_is_its_papers_block():
    """Eight layers, one of attention to seven of Mamba and it the fifth, experts in every second layer."""
    want = "mamba+mlp mamba+experts mamba+mlp mamba+experts attention+mlp mamba+experts mamba+mlp mamba+experts"
    assert jamba(8) == want
    assert jamba(16) == want + " " + want


def test_jamba_of_other_sizes():
    assert jamba(4, "s4d", period=4, offset=2) == "s4d+mlp s4d+experts attention+mlp s4d+experts"
    layers = jamba(32).split()
    assert [i for i, word in enumerate(layers) if word.startswith("attention")] == [4, 12, 20, 28]
    assert [i for i, word in enumerate(layers) if word.endswith("experts")] == list(range(1, 32, 2))


def test_jamba_by_name():
    assert names(stack("jamba", 8)) == [word.replace("mamba", "s4d") for word in jamba(8).split()]
    assert len(stack("jamba").layers) == 8
    with pytest.raises(ValueError, match="layer 5 of every 8, which does not fit into 4"):
        stack("jamba", 4)


# The causal Transformer


def test_a_transformer_is_attention_and_an_mlp():
    """Within the window it is the textbook's: u + attention(norm(u)), then u + mlp(norm(u))."""
    torch.manual_seed(0)
    built = hybrid_stack("attention+mlp", 8, 3, lambda name: Attention(8, heads=2, window=50)).double()
    built(torch.randn(4, 50, 8, dtype=torch.float64))  # statistics for the norms
    u = torch.randn(2, 50, 8, dtype=torch.float64)
    want = u
    for layer in built.eval().layers:
        h = nn.functional.batch_norm(want.transpose(1, 2), *statistics(layer.mixer_norm)).transpose(1, 2)
        q = turned(layer.mixer.query(h).unflatten(-1, (2, 4)).transpose(1, 2))
        k, v = layer.mixer.key_value(h).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, turned(k), v, is_causal=True)
        want = want + layer.mixer.out(y.transpose(1, 2).flatten(2))
        h = nn.functional.batch_norm(want.transpose(1, 2), *statistics(layer.channels_norm)).transpose(1, 2)
        a, b = layer.channels.widen(h).chunk(2, dim=-1)
        want = want + layer.channels.out(F.silu(a) * b)
    assert error(built(u)[0], want) < 1e-12


def statistics(norm):
    return norm.running_mean, norm.running_var, norm.weight, norm.bias


def turned(x):
    """Rotary positions of heads of four channels: two pairs, one radian and a hundredth a step."""
    z = torch.complex(*x.chunk(2, dim=-1))
    place = torch.arange(x.shape[-2], dtype=torch.float64).unsqueeze(-1)
    z = z * torch.exp(1j * place * torch.tensor([1.0, 0.01], dtype=torch.float64))
    return torch.cat((z.real, z.imag), dim=-1)


def error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


# The law and the file

PATTERNS = {
    "s4d*2 attention": {},
    "attention+mlp attention+mlp": {"slower": {}},  # the causal Transformer
    "mamba+experts": {},  # MoE-Mamba
    jamba(4, period=4, offset=2): {},
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_law(pattern):
    check_law(
        lambda: stack(pattern, dropout=0.1, experts=3), channels=WIDTH, longest=25, examples=4, **PATTERNS[pattern]
    )


@torch.no_grad()
def test_the_exported_frame_is_the_stack():
    torch.manual_seed(0)
    built, (u, before) = stack(jamba(4, period=4, offset=2), experts=3), torch.randn(2, 2, 4 * FRAMES, WIDTH)
    _, state = built(before)
    want, last = built.eval()(u, state)
    got, state, _ = run_as_file(built, u, state, 4)
    assert error(got, want) < 1e-4
    assert all(error(state[name], last[name]) < 1e-4 for name in last)


def keywords(pattern):
    """A keyword model with the stack of a pattern, after a second of noise."""
    torch.manual_seed(0)
    layers = len(read_pattern(pattern))
    model = KeywordModel(
        KeywordConfig(("yes", "_"), channels=6, modes=2, pattern=pattern, d_model=WIDTH, layers=layers)
    )
    model(0.1 * torch.randn(2, 16000, 1))
    return model.eval()


def test_export_refuses_what_looks_both_ways():
    """What it writes of patterns that stream: tests/test_catalog.py."""
    with pytest.raises(ValueError, match=r"cannot be streamed: .*backbone\.layers\.1\.mixer needs the future"):
        build(keywords("s4d bidirectional:s4d"), {}, None, "none", DetectorSettings())


def test_layers_of_one_rate_pass_it_on():
    raw = partial(hybrid_stack, d_model=WIDTH, make=lambda name: build_mixer(name, WIDTH, native_rate=16000))
    assert raw("s4d+mlp s4d").any_rate and not raw("s4d attention").any_rate
    u = torch.randn(1, 20, WIDTH)
    built = raw("s4d+mlp").eval()
    assert not torch.equal(built(u, rate=8000)[0], built(u)[0])


def test_what_looks_both_ways_cannot_stream_and_export_is_told_so():
    built = stack("s4d bidirectional:s4d+mlp attention")
    assert not built.streamable and stack("s4d attention").streamable
    assert "layers.1.mixer" in unstreamable(built)
    y, state = built(torch.randn(2, 9, WIDTH))
    assert y.shape == (2, 9, WIDTH) and list(state) == list(built.initial_state(2))


# Wrong patterns


@pytest.mark.parametrize(
    "pattern, depth, message",
    (
        ("", None, "the pattern is empty"),
        ("  ", 3, "the pattern is empty"),
        ("s4d rnn", None, "no mixer 'rnn'; there are attention, bidirectional, gru,"),
        ("bidirectional:rnn", None, "no mixer 'rnn'"),
        ("s4d+glu", None, r"no channel mixer 'glu' for pattern 's4d\+glu': there are mlp and experts"),
        ("s4d*0", None, r"cannot read 's4d\*0'"),
        ("s4d * 3", None, r"cannot read '\*'"),
        ("s4d,attention", None, "cannot read 's4d,attention'"),
        ("s4d*3 attention s4d", 6, "has 5 layers, which do not fit into 6: make the depth a multiple of 5"),
        ("s4d attention", 1, "has 2 layers, which do not fit into 1"),
        ("s4d", 0, "do not fit into 0"),
    ),
)
def test_wrong_patterns_are_refused_in_one_line(pattern, depth, message):
    with pytest.raises(ValueError, match=message) as caught:
        stack(pattern, depth)
    assert "\n" not in str(caught.value)


def test_sizes_that_do_not_fit_a_layer_are_refused_as_the_layer_does():
    with pytest.raises(ValueError, match="3 heads do not divide d_model 4"):
        hybrid_stack("attention", 4, 1, lambda name: Attention(4, heads=3))
    with pytest.raises(ValueError, match="from 1 to 2 experts, not 5"):
        stack("s4d+experts", experts=2, top=5)
