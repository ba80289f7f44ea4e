"""Teachers: trained models whose posteriors are a target beside the labels.

Knowledge distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531). The teachers hear the very audio that the
student hears, noise, room, mixup and all: a fixed target for a clip that is heard otherwise each time would be a wrong
one (Beyer et al. 2022, arXiv 2106.05237). What the student masks in its own features they do hear.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audiossm.tasks import KeywordConfig, KeywordModel, load_model
from audiossm.training.splits import names


class Teachers:
    """The mean of models' softened posteriors, in eval mode and without gradient.

    No nn.Module, so that whoever holds it does not save, average, synchronise or train its models.

    Args:
        models: that know the same labels.
        temperature: logits are divided by it.
    """

    def __init__(self, models: Sequence[KeywordModel], temperature: float):
        self.models = nn.ModuleList(models).eval().requires_grad_(False)
        self.temperature = temperature

    @torch.no_grad()
    def posteriors(self, audio: Tensor, rate: int) -> Tensor:
        """Return the posteriors (B, T, classes) at each step of audio (B, n) at `rate` Hz."""
        softened = []
        for model in self.models:
            features, _ = model.encoder(audio.unsqueeze(-1), rate=rate)  # type: ignore[operator]
            logits, _ = model.classify(features)  # type: ignore[operator]
            softened.append((logits / self.temperature).softmax(-1))
        return torch.stack(softened).mean(0)

    def loss(self, logits: Tensor, posteriors: Tensor) -> Tensor:
        """Return T² KL(posteriors || softened student) for each row of logits and posteriors (B, classes): (B,).

        T², since the gradient of the softened difference falls with it: the weight then means the same at any T.
        """
        student = (logits / self.temperature).log_softmax(-1)
        return self.temperature**2 * F.kl_div(student, posteriors, reduction="none").sum(-1)


def load_teachers(runs: Sequence[str | Path], config: KeywordConfig, temperature: float) -> Teachers | None:
    """Read the models of run folders to teach one that is built from `config`; None if there are none.

    Raises FileNotFoundError or ValueError where a run holds no model, or one with other labels or of another rate.
    """
    models = [load_model(run)[0] for run in runs]
    for run, known in zip(runs, (model.config for model in models), strict=True):
        if known.labels != config.labels:
            strange = names(set(known.labels) ^ set(config.labels))
            how = f"only one of the two has {strange}" if strange else "they are in another order"
            raise ValueError(f"the teacher in {run} has other labels than the student: {how}")
        if known.rate != config.rate:
            raise ValueError(
                f"the teacher in {run} has the native rate {known.rate} Hz, not {config.rate}: it must agree"
            )
    return Teachers(models, temperature) if models else None
