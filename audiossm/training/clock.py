"""How long a training is: so many epochs, or so many minutes of wall time, on whatever machine.

The learning rate and the average of the weights ask `length` for the number of all steps. Epochs tell it beforehand. By
the clock it is foretold: the steps so far, divided by the share of the time that has passed.
"""

import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar

BETWEEN = 0.5  # seconds after which the clock is looked at again, or a little later
EARLIEST = 0.001  # share of the time for which any is taken that is less: nothing can be foretold yet
VALIDATIONS = 20  # that a training has at most, beside the last one
PAUSE = 10  # how many times as long as a validation it trains at least before the next


class Clock(Callback):
    """Ends a training after the step at which its minutes are up; validation and checkpoints count.

    Devices must agree on the last step and, at each step, on the learning rate. So the clock of the first process tells
    all of them the time, about once a second, for that takes a wait; what follows from it they reckon alike.

    Attributes:
        limit: seconds of the whole training.
        seconds: of them those that had passed when the clock was looked at; a resumed training goes on counting.
        first: those of the first step, which compiles. The learning rate, whose rise is short, takes no notice of them.
        steps: that the whole training will have, as foretold at `seconds`.
        again: `seconds` from which on the end of an epoch is followed by a validation.
    """

    def __init__(self, minutes: float):
        self.limit = 60 * minutes
        self.seconds = self.first = 0.0
        self.again = self.limit / VALIDATIONS
        self.steps = 1 / EARLIEST
        self.begun = 0.0  # by the clock, had there been no stop
        self.due, self.stride = 0, 1  # the step after which to look at the clock, and how many later again

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on."""
        self.begun = monotonic() - self.seconds

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at the clock where that is due; let a validation follow where that is, and at the end."""
        done = trainer.global_step
        if trainer.world_size == 1 or done >= self.due:
            took = self.look(trainer)
            if done == 1:
                self.first = self.seconds
            share = (self.seconds - self.first) / (self.limit - self.first) if self.limit > self.first else 1.0
            self.steps = done / min(1.0, max(EARLIEST, share))
            self.stride = max(1, self.stride * 2 if took < BETWEEN else self.stride // 2)
            self.due = done + max(1, min(self.stride, int(self.steps) - done))
        validate = trainer.should_stop or self.seconds >= self.again
        trainer.check_val_every_n_epoch = 1 if validate else sys.maxsize

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the clock, to know what the validation takes."""
        self.look(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look again: where the time is up now, what has been validated is the result."""
        took = self.look(trainer)
        self.again = self.seconds + max(self.limit / VALIDATIONS, PAUSE * took)

    def look(self, trainer: Trainer) -> float:
        """Learn the time from the first process, stop if it is up, and return the seconds since the last look."""
        before, self.seconds = self.seconds, trainer.strategy.broadcast(monotonic() - self.begun)
        trainer.should_stop = trainer.should_stop or self.seconds >= self.limit
        return self.seconds - before

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        kept = {name: getattr(self, name) for name in ("first", "steps", "again")}
        return kept | {"seconds": monotonic() - self.begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        vars(self).update(state_dict)


class ClockBar(RichProgressBar):
    """Shows the time that has passed in place of the number of epochs, which nobody knows."""

    def _get_train_description(self, current_epoch: int) -> str:
        clock = clock_of(self.trainer)
        assert clock is not None
        return f"Epoch {current_epoch}, {clock.seconds / 60:.1f} of {clock.limit / 60:g} min"


def clock_of(trainer: Trainer) -> Clock | None:
    """Return what ends a training by the clock; None: it is one of so many epochs."""
    return next((callback for callback in trainer.callbacks if isinstance(callback, Clock)), None)  # type: ignore[attr-defined]


def length(trainer: Trainer) -> Callable[[], float]:
    """Return a function that says how many steps the whole training has, by the clock as far as is known by then."""
    clock = clock_of(trainer)
    if clock is not None:
        return lambda: clock.steps
    steps = trainer.estimated_stepping_batches
    return lambda: steps
