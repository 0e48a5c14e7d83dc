"""The epochs of a run: Lightning's trainer, set up by the recipe."""

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

from kedge.layout import channels_last
from kedge.training.callbacks import AtomicCheckpoints, Bar, EpochRows, LastCheckpoint, Snapshots
from kedge.training.folder import RunFolder
from kedge.training.module import Run
from kedge.training.recipe import Recipe
from kedge.training.sharding import Sharded, put_together

__all__ = ["quiet", "train_epochs"]

PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def train_epochs(
    run: Run, folder: RunFolder, checkpoint: Path | None, progress: bool, main: bool, digests: dict[str, Any]
) -> RunFolder:
    """Train `run` to its last epoch, from `checkpoint` on if there is one; gives the folder, which all ranks then know.

    `main`: whether this is the first process, which writes; `digests`: of the recipe and the images, as in run.json.

    Raises:
        KeyboardInterrupt: naming the folder to go on with.
    """
    recipe = run.recipe
    assert recipe.batch_size is not None
    if recipe.device != "mps" and not recipe.shard:  # faster on GPUs with bf16 and on CPUs
        channels_last(run, always=True)
    rows = EpochRows(folder, main, progress)
    callbacks: list[Callback] = [rows, LastCheckpoint(folder, digests)]
    if recipe.snapshots:
        callbacks.append(Snapshots(folder, recipe.snapshots))
    bar = progress and sys.stdout.isatty()
    if bar:
        callbacks.append(Bar(leave=False, console_kwargs={"file": getattr(sys.stdout, "raw", sys.stdout)}))
    trainer = Trainer(
        accelerator="gpu" if recipe.device == "cuda" else recipe.device,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        strategy=_strategy(recipe),
        precision=PRECISIONS[recipe.precision],
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.clip,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        logger=False,
        enable_progress_bar=bar,
        enable_model_summary=False,
        limit_val_batches=1.0 if len(run.val_set) else 0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    try:
        trainer.fit(run, ckpt_path=checkpoint, weights_only=True)
        if run.whole is not None:
            run.model = put_together(run.model, run.whole[0])
        return rows.folder
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        if not trainer.interrupted:
            raise
        where = f"after epoch {trainer.current_epoch}" if run.last_good else "before the first epoch was over"
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
        raise KeyboardInterrupt(f"interrupted {where}; go on with --resume {folder.path}") from error


def _strategy(recipe: Recipe) -> Any:
    """How several devices train together."""
    if recipe.shard:
        return Sharded(recipe.world)
    # Buffers are the same in all processes, or each process's own until validation.
    return DDPStrategy(broadcast_buffers=False) if recipe.world > 1 else "auto"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's hints and adverts, and warnings about what is meant to be so, off the user's screen."""
    loggers = [
        logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric", "lightning", "torch.distributed")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", module=r"torch\.optim\.lr_scheduler")
            # A kernel over one channel has two layouts that are the same memory.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
