"""The epochs of a run: Lightning's trainer, and what happens at each end: a line, a row, a checkpoint."""

import copy
import logging
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import save_file

from kedge import checkpoint
from kedge.files import whole
from kedge.layout import channels_last
from kedge.regular import file_digest
from kedge.training.banner import about_bank
from kedge.training.digests import vouch
from kedge.training.folder import RunFolder
from kedge.training.module import Run
from kedge.training.pace import Pace
from kedge.training.recipe import Recipe
from kedge.training.sharding import Sharded, put_together

__all__ = ["AtomicCheckpoints", "Bar", "EpochRows", "LastCheckpoint", "Snapshots", "quiet", "train_epochs"]

log = logging.getLogger("kedge")
COLLAPSED = 0.5  # of the best accuracy under attack so far
PARTS = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"}
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def train_epochs(
    run: Run,
    folder: RunFolder,
    checkpoint: Path | None,
    progress: bool,
    main: bool,
    digests: dict[str, Any],
    times: float = 1.0,
) -> RunFolder:
    """Train `run` to its last epoch, from `checkpoint` on if there is one; gives the folder, which all ranks then know.

    `main`: whether this is the first process, which writes; `digests`: of the recipe and the images, as in run.json;
    `times`: how many times as long as this training all takes, for the estimate of that; 0 leaves it out.

    Raises:
        KeyboardInterrupt: naming the folder to go on with.
    """
    recipe = run.recipe
    assert recipe.batch_size is not None
    if run.channels_last:
        channels_last(run, always=True)
    rows = EpochRows(folder, main, progress)
    callbacks: list[Callback] = [rows, LastCheckpoint(folder, digests)]
    if recipe.snapshots:
        callbacks.append(Snapshots(folder, recipe.snapshots))
    bar = progress and sys.stdout.isatty()
    if times and main:
        callbacks.append(Pace(times, lines=progress and not bar))
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
        # Only the first process knows the folder.
        go_on = f"; go on with --resume {folder.path}" if main else ""
        raise KeyboardInterrupt(f"interrupted {where}{go_on}") from error


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


class EpochRows(Callback):
    """Keeps metrics.csv, and with `lines` prints a line per epoch; a replayed epoch replaces its row."""

    def __init__(self, folder: RunFolder, main: bool, lines: bool = True) -> None:
        self.folder, self.main, self.lines = folder, main, lines
        self.began = time.monotonic()

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Tell the other ranks where the run is: only the first one made the folder."""
        self.folder = RunFolder(Path(trainer.strategy.broadcast(str(self.folder.path))))

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the row of the epoch that ends; before the checkpoint, so that none is missing."""
        assert isinstance(module, Run)
        if not len(module.val_set):  # else validation did
            module.check_loss()
        loss, logged = module.means()
        if not self.main:
            return
        epoch, results = trainer.current_epoch + 1, module.results
        row = {
            "epoch": epoch,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": loss,
            **{f"val_{name}": results[name] for name in ("accuracy", "nll", "ece") if name in results},
            "seconds": time.monotonic() - self.began,
            **({"val_pgd": results["pgd"]} if "pgd" in results else {}),
            **logged,
        }
        earlier = self.folder.rows(before=epoch - 1)
        self.folder.write_rows([*earlier, row])
        if "pgd" in results:
            self._watch([r["val_pgd"] for r in earlier if "val_pgd" in r], row, module)
        if not self.lines:
            return
        one = " (one reference)" if about_bank(module.recipe) else ""
        robust = f", under PGD {100 * row['val_pgd']:.1f} %" if "val_pgd" in row else ""
        validated = ""
        if results:
            validated = (
                f"val accuracy {100 * row['val_accuracy']:.1f} %{one}{robust}, NLL {row['val_nll']:.3f}, "
                f"ECE {100 * row['val_ece']:.1f} %  "
            )
        module.print(
            f"epoch {epoch:>{len(str(trainer.max_epochs))}}/{trainer.max_epochs}  loss {loss:.3f}  "
            f"{validated}({row['seconds']:.1f} s)",
            flush=True,  # a file or a pipe would show it thousands of letters later
        )

    def _watch(self, earlier: list[float], row: dict[str, Any], module: Run) -> None:
        """Keep the weights that are best under attack; say so when robustness breaks down."""
        best, now = max(earlier, default=-1.0), row["val_pgd"]
        # As metrics.csv has it, rounded: a replayed epoch must find what it found.
        top = self.folder.best_row()
        if top is not None and top["epoch"] == row["epoch"]:
            state = {k: v.detach().cpu().contiguous().clone() for k, v in module.evaluated.state_dict().items()}
            with whole(self.folder.best(row["epoch"])) as temporary:
                save_file(state, temporary)
        elif now < COLLAPSED * best and best - now > 0.1:
            ratio = f" The abnormal ratio is {row['abnormal_ratio']:.2f}." if "abnormal_ratio" in row else ""
            log.warning(
                "epoch %d: accuracy under PGD fell from %.1f %% to %.1f %%: catastrophic overfitting, as one-step "
                "attacks are prone to.%s More steps, AAER or a smaller eps help; the best weights so far are kept.",
                row["epoch"],
                100 * best,
                100 * now,
                ratio,
            )


class Bar(RichProgressBar):
    """Lightning's bar, counting epochs from 1 as the lines do."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"epoch {current_epoch + 1}/{self.trainer.max_epochs}"


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt at each epoch's end, unless a weight in it is not finite."""

    def __init__(self, folder: RunFolder, digests: dict[str, Any]) -> None:
        """`digests`: of the recipe and the images of the run, as in run.json."""
        self.folder, self.path, self.digests = folder, folder.checkpoint, digests

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say in the checkpoint whose it is, and keep there the rows that are of it and what its best weights are."""
        if trainer.is_global_zero:
            top = self.folder.best_row()
            best = None
            if top is not None and (weights := self.folder.best(top["epoch"])).is_file():
                best = {"epoch": top["epoch"], "sha256": file_digest(weights)}
            checkpoint["kedge"] = {**self.digests, "rows": self.folder.rows(), "best": best}

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Write the checkpoint; all ranks take part."""
        assert isinstance(module, Run)
        module.check_weights()
        trainer.save_checkpoint(self.path)
        module.last_good = str(self.path)
        # Only now: should this epoch be replayed, and end otherwise, the best one before is still wanted.
        if trainer.is_global_zero and (top := self.folder.best_row()) is not None:
            self.folder.clear_best(but=top["epoch"])


class Snapshots(Callback):
    """Saves the model as it is evaluated every `every` epochs, as a model folder of its own."""

    def __init__(self, folder: RunFolder, every: int) -> None:
        self.folder, self.every = folder, every

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Save a copy: the one that trains is not touched. A replayed epoch replaces its own."""
        assert isinstance(module, Run)
        epoch = trainer.current_epoch + 1
        if trainer.is_global_zero and epoch % self.every == 0:
            model = copy.deepcopy(module.evaluated).cpu().to(memory_format=torch.contiguous_format).eval()
            checkpoint.save(model, self.folder.snapshot(epoch))


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all, and that are read as tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write under a temporary name, then move it into place; OSError leaves the earlier one intact."""
        # To an open file: a full disk is then an OSError, by name torch makes something else of it.
        with whole(path) as temporary:
            with temporary.open("wb") as file:
                torch.save(checkpoint, file)
            vouch(Path(path), temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint of a run; ValueError if it is damaged, something else, or would run code."""
        try:
            read = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken file can raise nearly anything in a reader
            first = str(error).strip().split("\n")[0][:200]
            if isinstance(error, pickle.UnpicklingError):  # whose words advise to run what is in the file
                first = "more than tensors and plain values, or cut off"
            raise ValueError(
                f"{path} is damaged, or not a checkpoint of a run ({type(error).__name__}: {first}). "
                f"Delete it to begin the run again from the start with the same --resume"
            ) from error
        missing = PARTS - set(read) if isinstance(read, dict) else PARTS
        if missing:
            raise ValueError(f"{path} is not the checkpoint of a run: it lacks {', '.join(sorted(missing))}")
        return read
