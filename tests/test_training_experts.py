"""Training with experts: their losses are in what is minimised and in what a recorded step returns; drops are told."""

from types import SimpleNamespace

import pytest
import torch

from audiossm.tasks import KeywordConfig, KeywordModel
from audiossm.training import TrainOptions, load_model, train_keywords
from audiossm.training.module import CLIPS, ROWS, Answer, KeywordTraining

SMALL = KeywordConfig(("a", "_"), channels=12, modes=2, pattern="s4d+experts", d_model=8, layers=2, d_state=4)
BATCH = torch.randint(-9000, 9000, (6, 16000), dtype=torch.int16), torch.arange(6) % 2, torch.tensor([[2000, 9000]] * 6)


def training_of(config=SMALL, **options):
    """A training without a trainer, and what it logs."""
    torch.manual_seed(0)
    training, told = KeywordTraining(KeywordModel(config), TrainOptions(batch=6, **options)), {}
    training._trainer = SimpleNamespace(world_size=1)
    training.log = lambda name, value, **_: told.update({name: value})
    training.log_dict = lambda values, **_: told.update(values)
    return training, told


def loss_of(training):
    torch.manual_seed(1)
    return training.training_step(BATCH, 0)


@pytest.mark.parametrize("streams", (0.0, 1.0))
def test_the_routers_losses_are_added_with_their_weights(streams):
    losses = []
    for balance, z in ((0.0, 0.0), (0.3, 0.0), (0.0, 0.2)):
        training, told = training_of(routing_balance=balance, routing_z=z, stream_share=streams)
        losses.append(loss_of(training).item())
        routers = [layer.channels for layer in training.model.backbone.layers]
    assert losses[1] - losses[0] == pytest.approx(0.3 * sum(r.balance.item() for r in routers), rel=1e-3)
    assert losses[2] - losses[0] == pytest.approx(0.2 * sum(r.z.item() for r in routers), rel=1e-3)
    assert told["experts_balance"].item() == pytest.approx(sum(r.balance.item() for r in routers) / 2)
    assert told["experts_dropped"] == 0


def test_what_exceeds_the_capacity_is_told():
    training, told = training_of(capacity=0.5)
    loss_of(training).backward()
    assert 0.4 < told["experts_dropped"] < 0.6  # half of them, as capacity is rounded up
    assert all(layer.channels.router.weight.grad.any() for layer in training.model.backbone.layers)


@pytest.mark.parametrize("streams", (0.0, 1.0))
def test_a_replay_that_sets_nothing_suffices(streams):
    """A recorded step gives what it returns alone: here it is the same call on a model of its own."""
    training, told = training_of(routing_balance=0.3, stream_share=streams)
    recorded, _ = training_of(stream_share=streams)
    want = loss_of(training), told["experts_balance"]
    for router in (layer.channels for layer in training.model.backbone.layers):
        router.balance = router.z = router.dropped = torch.tensor(torch.nan)
    keys = [(rate, how) for rate in training.rates for how in (CLIPS, ROWS)]
    training.graphs = {key: lambda audio, key=key: recorded.hear(audio, *key) for key in keys}
    assert (loss_of(training), told["experts_balance"]) == want


def test_without_experts_nothing_is_added_or_told():
    training, told = training_of(KeywordConfig(("a", "_"), channels=12, modes=2, d_model=8, layers=1, d_state=4))
    assert loss_of(training) == told.pop("train_loss") and not told
    loss, answer = torch.tensor(2.0), Answer(torch.zeros(6, 2), torch.zeros(0, 3), None, 16000)
    assert training.complete(loss, answer) == 2


def test_a_run_tells_of_its_experts(toys, tmp_path):
    said, facts = [], []
    for out, weight in ((tmp_path / "uneven", 0.0), (tmp_path / "even", 3.0)):
        options = TrainOptions(epochs=3, batch=14, lr=0.02, channel_mask=2, routing_balance=weight, capacity=1.0)
        train_keywords(toys, out, SMALL, options, progress=False, say=said.append)
        facts.append(load_model(out)[1]["experts"])
    assert facts[0]["balance"] > facts[1]["balance"] >= 1 and 0 < facts[1]["dropped_share"] < 0.7
    share = 100 * facts[1]["dropped_share"]
    assert (
        said[-2]
        == f"experts: balance {facts[1]['balance']:.2f} (1: all used alike), {share:.2f} % of their choices dropped"
    )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"routing_balance": -1.0}, "routing_balance and routing_z must be at least 0, not -1.0 and 0.001"),
        ({"routing_z": float("nan")}, "must be at least 0"),
        ({"capacity": 0.0}, r"capacity must be positive \(1.25 is usual\)"),
    ],
)
def test_options_without_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainOptions(**options)


def test_options_of_experts_go_with_experts(run, toys, tmp_path):
    code, _, err = run("train", "keywords", "--data", toys, "--out", tmp_path / "run", "--capacity", 1.25)
    assert code == 2 and "go with a --pattern that has experts" in " ".join(err.split())
