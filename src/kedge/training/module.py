"""The LightningModule of a run: model, objective, optimizer, schedule, moving average, validation."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.protocol import independent
from kedge.checks import check_target_values
from kedge.data import BatchAugmentation, ImageSet, derive_seed, generator
from kedge.objectives import Objective, set_looks, set_progress, set_streams
from kedge.objectives._whole_batch import WholeBatch, gathered
from kedge.seeds import seed_torch
from kedge.training.batches import EpochBatches, Unreadable
from kedge.training.build import make_optimizer, make_schedule, set_residuals, step_passes
from kedge.training.calibration import rows_at_a_time
from kedge.training.errors import TrainingStopped
from kedge.training.recipe import Recipe
from kedge.training.sharding import here, shard
from kedge.training.validation import Validation, ValidationBatches
from kedge.weights.batch_norm import freeze_statistics

__all__ = ["Run"]

CHECK_EVERY = 50  # steps between looks at the loss: each look waits for the device
NEVER = 2**31 - 1


class Run(LightningModule):
    """One training run of `model` by `recipe`.

    Every random draw of a step comes from generators seeded with (seed, epoch, step), torch's global one among them, so
    a replayed epoch is the same epoch and no generator state needs saving. With `sync` several processes draw alike,
    for the whole batch; without it the rank is in the seed too.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: PixelModel,
        objective: nn.Module,
        train: ImageSet,
        val: ImageSet,
        extra: Mapping[str, ImageSet] | None = None,
        negatives: ImageSet | None = None,
    ) -> None:
        super().__init__()
        assert recipe.epochs is not None
        self.recipe, self._epochs = recipe, recipe.epochs
        self.model = model
        self.objective = objective
        self._objectives = [each for each in objective.modules() if isinstance(each, Objective)]
        self._labelled = {name for each in self._objectives for name in each.labelled_streams}
        for images in (train, val):
            check_target_values(images.labels, model.num_outputs)
        residuals = getattr(model, "residuals", None)
        for each in self._objectives:
            each.prepare(model)
        if residuals is not None and model.residuals is None:  # those of the bank before it was averaged or blurred
            set_residuals(recipe, model, train, min(len(residuals), len(train.sample)))
        self._passes = step_passes(recipe)
        self._before: list[Tensor] = []
        set_looks(objective, 0)  # images that were uint8 are in [0, 1], and the labels have been looked at
        # Compiled for the training step alone, and out of the module tree: what is validated and saved stays as it is.
        self._step_model = (torch.compile(model) if recipe.compile else model,)
        self.train_set, self.val_set, self.extra = train, val, dict(extra or {})
        self.negatives = negatives  # those that are not trained on
        self._augmentation = BatchAugmentation(recipe.augment, train.mirror, recipe.seed)
        self.ema: Any = None
        if recipe.ema is not None:
            from kedge.training.moving_average import MovingAverage  # with timm, that others may not need

            self.ema = MovingAverage(model, recipe.ema)
        self.validation = Validation(recipe, objective, len(val), model.num_outputs)
        self.results: dict[str, float] = {}
        self._logged: dict[str, Tensor] = {}
        self.last_good: str | None = None  # the checkpoint that a stopped run names
        # With `shard` the model as it will be saved; no part of this module.
        self.whole: tuple[PixelModel] | None = None
        self.unreadable = Unreadable(self.extra)

    @property
    def evaluated(self) -> PixelModel:
        """The model that is validated and saved: the moving average of the weights if there is one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def together(self) -> bool:
        """Whether several processes train as one would."""
        return self.recipe.sync and self.trainer.world_size > 1

    # Data

    def train_dataloader(self) -> EpochBatches:
        """This rank's share of the training batches, or all of each."""
        told = self.unreadable, self.trainer, self.together, self.validation.errors
        self._batches = EpochBatches(self.recipe, self.train_set, self.extra, *told)
        return self._batches

    def val_dataloader(self) -> ValidationBatches:
        """This rank's share of the validation images."""
        return ValidationBatches(self.val_set, self.recipe, self.global_rank, self.trainer.world_size)

    def configure_model(self) -> None:
        """Share out the weights, if they are to be; a copy of the model stays to be saved by."""
        if self.recipe.shard and self.whole is None:
            self.whole = (independent(self.model).cpu(),)
            mesh = self.device_mesh
            assert mesh is not None
            shard(self.model, mesh["data_parallel"])

    def configure_optimizers(self) -> Any:
        """Optimizer, and the schedule that steps with it."""
        optimizer = make_optimizer(self.recipe, self.model, self.objective)
        schedule = make_schedule(self.recipe, optimizer, len(self.train_dataloader()))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the errors by class, and which images could not be read; all ranks take part."""
        mine = self.unreadable.training, self.unreadable.extra
        if self.trainer.world_size > 1:  # each rank reads images of its own
            of_ranks: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(of_ranks, mine)
            for each in of_ranks:
                self.unreadable.add(*each)
        checkpoint["unreadable"], checkpoint["unreadable_extra"] = mine
        checkpoint["class_errors"] = self.validation.errors

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from the errors by class, and from the images that the run could not read before it was broken off."""
        self.validation.errors[:] = checkpoint.get("class_errors", [])
        self.unreadable.add(checkpoint.get("unreadable", {}), checkpoint.get("unreadable_extra", {}))

    # Training

    def on_train_epoch_start(self) -> None:
        """Start the epoch's sums, on the device; frozen statistics of batch norm stay so."""
        if self.recipe.batch_norm == "frozen":
            freeze_statistics(self.model)
        self._loss_sum = torch.zeros((), device=self.device, dtype=torch.float64)
        self._bad_step = torch.full((), NEVER, device=self.device)
        self._steps = 0
        self._last = -1
        self._logged = {}
        if self.ema is not None:
            self.ema.follow(self.model)

    def training_step(self, batch: tuple[Tensor, Tensor, dict[str, tuple[Tensor, Tensor]]], step: int) -> Tensor:
        """The loss of one batch: uint8 images `[B, C, H, W]`, labels `[B]`, and both of each stream by its name.

        An optimizer may compute a step again, with the same draws: it is counted once, and what an objective keeps from
        step to step is as the first time.
        """
        images, targets, streams = batch
        model: Any = self._step_model[0]
        share = 1.0
        keys = (self.current_epoch, step, 0 if self.together else self.global_rank)
        if self.together:
            model = WholeBatch(model, derive_seed(self.recipe.seed, "inside", *keys))
            if self._batches.training.world > 1:
                count = self._batches.training.size(step)
                images, targets = gathered(images, count), gathered(targets, count)
        elif self._batches.training.world > 1:  # the mean over processes is to be the mean over images
            share = len(images) * self._batches.training.world / self._batches.training.size(step)
        seed_torch(derive_seed(self.recipe.seed, "step", *keys), images.device)
        draws = generator(self.recipe.seed, "augment", *keys, device=images.device)
        images = self._augmentation(images, draws)
        if streams:
            further: dict[str, Tensor] = {}
            for name, (rows, own) in streams.items():
                further[name] = self._further(name, rows, len(images), keys)
                if name in self._labelled:
                    further[f"{name}_labels"] = self._all_of(name, own)[: len(images)]
            set_streams(self.objective, **further)
        done = self.current_epoch + step / self.trainer.num_training_batches
        set_progress(self.objective, done / self._epochs)
        again, self._last = step == self._last, step
        loss = self._loss(model, self._pixels(images), targets, again)
        if not again:
            self._count(loss.detach(), step)
        return loss if share == 1 else loss * share

    def _loss(self, model: Any, images: Tensor, targets: Tensor, again: bool) -> Tensor:
        if self._passes == 1:
            loss: Tensor = self.objective(model, images, targets)
            return loss
        # Weights that follow the model, as CURE's revision, move once in a step, and are the same in all its passes.
        state = [v for v in self.objective.state_dict(keep_vars=True).values() if not getattr(v, "requires_grad", True)]
        now = [value.clone() for value in state]
        if again:
            _put_back(state, self._before)
        else:
            self._before = now
        loss = self.objective(model, images, targets)
        if again:
            _put_back(state, now)
        return loss

    def _count(self, loss: Tensor, step: int) -> None:
        """Add a step to the sums of the epoch."""
        for each in self._objectives:
            for name, value in each.logged.items():
                self._logged[name] = self._logged.get(name, 0) + value.detach().double()
        bad = torch.where(loss.isfinite(), NEVER, step)
        self._bad_step = torch.minimum(self._bad_step, bad)
        self._loss_sum += loss.double()
        self._steps += 1
        if self._steps % CHECK_EVERY == 0:
            self.check_loss()

    def _further(self, name: str, rows: Tensor, count: int, keys: tuple[int, int, int]) -> Tensor:
        """As many further images of a step as there are images, augmented, as pixels."""
        rows = self._all_of(name, rows)
        draws = generator(self.recipe.seed, "augment", name, *keys, device=rows.device)
        return self._pixels(self._augmentation(rows[:count], draws))

    def _all_of(self, name: str, rows: Tensor) -> Tensor:
        """The rows of a further batch, of all processes where they train as one."""
        batches = self._batches.streams[name]
        together = self.together and batches.world > 1
        return gathered(rows, batches.batch_size * batches.world) if together else rows

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the objectives change the gradients."""
        for each in self._objectives:
            each.on_gradients(self.model)

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average of the weights after the optimizer's step."""
        if self.ema is not None:
            self.ema.move(self.global_step)

    def check_loss(self) -> None:
        """Stop the run if a loss of this epoch was not finite; waits for the device and for the other ranks."""
        step = int(self.trainer.strategy.reduce(self._bad_step.float(), reduce_op="min"))
        if step >= NEVER // 2:
            return
        before = self.current_epoch * self.trainer.num_training_batches
        schedule = self.lr_schedulers()
        rate = schedule.base_lrs[0] * schedule.lr_lambdas[0](before + step)  # type: ignore[union-attr]
        raise TrainingStopped(
            f"the loss became NaN or infinite in epoch {self.current_epoch + 1}, step {step + 1} of "
            f"{self.trainer.num_training_batches}, at learning rate {rate:.3g}. {self._good()} Start a new run "
            f"with a lower lr, such as {(self.recipe.lr or rate) / 3:.2g}, or with clip 1."
        )

    def check_weights(self) -> None:
        """Stop the run if a weight or a statistic is not finite, so that no checkpoint holds one."""
        values = [here(t) for t in self.state_dict().values() if t.is_floating_point()]
        finite = torch.stack([t.isfinite().all() for t in values]).all()
        if not bool(self.trainer.strategy.reduce(finite.float(), reduce_op="min")):
            raise TrainingStopped(
                f"a weight became NaN or infinite in epoch {self.current_epoch + 1}, at learning rate "
                f"{self.optimizers().param_groups[0]['lr']:.3g}. {self._good()} Start a new run with a lower lr, "  # type: ignore[union-attr]
                f"or with clip 1."
            )

    def means(self) -> tuple[float, dict[str, float]]:
        """Training loss, and what the objectives log of their steps: means over the epoch so far and over all ranks."""
        steps, reduce = max(1, self._steps), self.trainer.strategy.reduce
        loss, *logged = (
            float(reduce(total / steps, reduce_op="mean")) for total in (self._loss_sum, *self._logged.values())
        )
        return loss, dict(zip(self._logged, logged, strict=True))

    def _good(self) -> str:
        if self.last_good is None:
            return "No checkpoint had been written."
        return f"The last good checkpoint is {self.last_good} (epoch {self.current_epoch})."

    # Validation

    def on_validation_epoch_start(self) -> None:
        """Look at the loss before time is spent on validating a broken model."""
        self.check_loss()
        if self.trainer.world_size > 1 and not self.together:  # each has its own statistics; the first one's are saved
            for buffer in self.evaluated.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: tuple[Tensor, Tensor], step: int) -> None:
        """Add a batch to the pooled metrics."""
        images, labels = batch
        if len(labels) == 0 and not self.recipe.shard:  # whose blocks all processes put together
            return
        first = step * rows_at_a_time(self.recipe)
        places = (first + torch.arange(len(labels))) * self.trainer.world_size + self.global_rank
        self.validation.add(self.evaluated, self._pixels(images), labels, places)

    def on_validation_epoch_end(self) -> None:
        """Compute the metrics of the whole set, once."""
        self.check_weights()
        if not bool(self.trainer.strategy.reduce(self.validation.finite.float(), reduce_op="min")):
            raise TrainingStopped(
                f"the model's outputs became NaN or infinite in epoch {self.current_epoch + 1}, on validation images. "
                f"{self._good()} Start a new run with a lower lr, or with clip 1."
            )
        self.results = self.validation.results()

    def _pixels(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"images of a set that is trained on must be uint8, 0 to 255, got {images.dtype}")
        images = images.float().div_(255)
        return images.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    @property
    def channels_last(self) -> bool:
        """Whether weights and images lie channels last, which is faster on GPUs with bf16 and on CPUs.

        Never images alone: `kedge.layout` looks after the narrow layers that oneDNN gets wrong in this layout.
        """
        return self.recipe.device != "mps" and not self.recipe.shard


@torch.no_grad()
def _put_back(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
