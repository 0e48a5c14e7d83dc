"""How long a training will take: said once some steps tell, and where it is in an epoch that takes long."""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

__all__ = ["Pace", "duration", "until"]

TOLD_BY = 3.0  # seconds of steps that an estimate rests on
WORTH_SAYING = 30.0  # seconds: what takes less is over before it is read
EVERY = 60.0  # seconds between lines within an epoch, where no bar is drawn
OFF = 0.3  # of the rest by which an estimate is wrong before that is said
FORWARD = 1 / 3  # of the time of a training step that a forward pass takes


class Pace(Callback):
    """Measures the steps of a run, and says when it will be over.

    Args:
        times: how many times as long as this training all takes, of which it is the first; those of folds.
        lines: whether to say where it is within an epoch.
        clock: seconds.
    """

    def __init__(self, times: float = 1.0, lines: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self.times, self.lines, self.clock = times, lines, clock
        self.seconds, self.steps = 0.0, 0  # of the steps measured; the first of all is not, which warms up
        self.validation: float | None = None  # seconds of the last one
        self.end: float | None = None  # when all is over, as it was said
        self._mark = self._said = clock()
        self._warm = False

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock of a step; correct what was said, now that the validation was measured."""
        self._mark = self.clock()
        if self.end is None or self.validation is None:
            return
        left = self._left(trainer, module, trainer.current_epoch * _steps_of(trainer))
        if left > WORTH_SAYING and abs(self._mark + left - self.end) > OFF * left:
            self._estimate(module, left, "the rest takes")

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, *rest: Any) -> None:
        """Count a step; say how long all takes once that is known, and then where it is."""
        step = rest[-1] + 1
        if not self._warm:
            _wait(module)
            self._mark, self._warm = self.clock(), True
            return
        now = self.clock()
        self.seconds += now - self._mark
        self.steps += 1
        self._mark = now
        if self.end is None:
            if self.steps >= 2 and self.seconds >= TOLD_BY:
                _wait(module)  # a device works behind: what it has not done yet belongs to these steps
                self.seconds += self.clock() - now
                left = self._left(trainer, module, trainer.current_epoch * _steps_of(trainer) + step)
                self._estimate(module, left, f"after {self.steps + 1} steps: training takes")
        elif self.lines and now - self._said >= EVERY:
            left = self._left(trainer, module, trainer.current_epoch * _steps_of(trainer) + step)
            epoch, of = trainer.current_epoch + 1, trainer.max_epochs
            loss = float(outputs["loss"]) if isinstance(outputs, dict) and "loss" in outputs else float("nan")
            self._say(
                module,
                f"epoch {epoch}/{of}, step {step} of {_steps_of(trainer)}  loss {loss:.3f}  "
                f"{duration(left)} left, {until(left)}",
            )

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock of a validation."""
        self._validated_from = self.clock()

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Stop it."""
        self.validation = self.clock() - self._validated_from

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """The line of the epoch says where it is."""
        self._said = self.clock()

    def _left(self, trainer: Trainer, module: Any, done: int) -> float:
        """Seconds until all is over, after `done` steps of the training."""
        assert trainer.max_epochs is not None
        each, recipe = self.seconds / self.steps, module.recipe
        validation = self.validation
        if validation is None:
            validation = FORWARD * each * len(module.val_set) / recipe.batch_size
        steps = trainer.max_epochs * _steps_of(trainer)
        # At the end all images held out meet every reference of the bank.
        own = (steps - done) * each + (trainer.max_epochs - trainer.current_epoch) * validation
        own += validation * (recipe.references if recipe.anchored else 1)
        return own + (self.times - 1) * (own + done * each)

    def _estimate(self, module: LightningModule, left: float, words: str) -> None:
        self.end = self.clock() + left
        if left >= WORTH_SAYING:
            more = " with all folds" if self.times > 1 else ""
            self._say(module, f"{words} {duration(left)}{more}, {until(left)}")

    def _say(self, module: LightningModule, words: str) -> None:
        module.print(words, flush=True)
        self._said = self.clock()


def duration(seconds: float) -> str:
    """In words, rounded to what an estimate can tell: "about 12 minutes"."""
    for unit, size, most in (("second", 1, 100), ("minute", 60, 100), ("hour", 3600, 48), ("day", 86400, float("inf"))):
        if seconds < size * most:
            count = seconds / size
            shown = (
                f"{max(10, round(count, -1)):.0f}" if size == 1 else f"{count:.0f}" if count >= 10 else f"{count:.2g}"
            )
            return f"about {shown} {unit}{'s' * (shown != '1')}"
    raise ValueError(f"no duration: {seconds}")


def until(seconds: float, now: datetime | None = None) -> str:
    """The time of the day so many seconds from now, with the day where it is another one."""
    now = datetime.now() if now is None else now
    then = now + timedelta(seconds=seconds)
    days = (then.date() - now.date()).days
    return (
        f"until {then:%H:%M}" if days == 0 else f"until {then:%A %H:%M}" if days < 7 else f"until {then:%Y-%m-%d %H:%M}"
    )


def _steps_of(trainer: Trainer) -> int:
    return int(trainer.num_training_batches)


def _wait(module: LightningModule) -> None:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
