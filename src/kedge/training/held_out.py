"""Which images a run trained on and which it held out, among those that its data holds now: the one answer to both."""

from collections.abc import Callable, Collection
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kedge import data
from kedge.data import DataError, ImageSet
from kedge.data.sets import size_of
from kedge.training.folder import RunFolder
from kedge.training.recipe import read_recipe
from kedge.training.record import ImageRecord

__all__ = ["RunImages", "unseen"]

ENOUGH = 30  # held-out images of which more may be gone than half


class RunImages:
    """The images of a run, as its data holds them now.

    What it trained on and held out is what its record says; names and places of files count for nothing. Of a run
    without one nothing is known, unless a part of the data is for validation.

    Args:
        run: the run's folder.
        place: where the data is now, such as a folder that was moved; None: where the recipe says.

    Raises:
        ValueError: if the folder does not say on what data it was trained.
    """

    def __init__(self, run: Path, place: str | None = None) -> None:
        self._run = run
        self.name = run.resolve().name
        self.recipe = read_recipe(run / "recipe.yaml")
        self.record = ImageRecord.read(run)
        self._facts: dict[str, Any] = RunFolder(run).facts() if (run / "run.json").is_file() else {}
        if place is None and self.recipe.data is None:
            raise ValueError(f"{run} does not say what it was trained on: name the data")
        self.data: str = place or str(self.recipe.data)

    @cached_property
    def own_part(self) -> bool:
        """Whether validation images are a part of the data, and not drawn from the training images."""
        return "val" in data.splits(self.data)

    def check_known(self) -> None:
        """Raise ValueError for a run without a record, of images that were drawn: nobody can tell which they are."""
        if self.record is not None or self.own_part:
            return
        why = f"{self.name} was made by a version that kept no record of the images it trained on"
        if lost := self._facts.get("record"):
            why = f"{self.name} has lost {lost}, which says what it trained on and held out: put it back from a copy"
        raise ValueError(
            f"{why}. Without it no image can be called held out: name other labelled images that it was not trained on "
            "with --data, or train again"
        )

    @cached_property
    def train(self) -> ImageSet:
        """The images that the run trained on and that are still there.

        Raises:
            ValueError: there are none.
        """
        if self.record is None:
            self.check_known()
            return self.whole
        _check_comparable(self.whole, self.record.keys_of, self.name)
        trained = set(self.record.trained)
        return _part(self.whole, trained.__contains__, "train", self.name)

    @cached_property
    def val(self) -> ImageSet:
        """The images that the run held out, that are still there and that the model never saw.

        Of data with a part val that part, without what the model saw.

        Raises:
            ValueError: if too few are left, in words that count what became of the others.
        """
        return self._held_out().readable()[0]

    def _held_out(self) -> ImageSet:
        if self.record is None:
            self.check_known()
            return self._own
        keys = self.record.held_out
        if self.own_part or not keys:  # none was held out where a few were trained on and no other was looked at
            try:
                return unseen(self._own if self.own_part else self.whole, self.record, self.name)
            except ValueError as error:
                if self.recipe.folds and not self.own_part:
                    raise ValueError(f"{error}. {self._about_folds()}") from None
                raise
        _check_comparable(self.whole, self.record.held_of, self.name)
        still = len(keys.intersection(self.whole.keys()))
        if still < min(ENOUGH, (len(keys) + 1) // 2):
            raise ValueError(
                f"of the {len(keys):,} images that {self.name} held out of training {still:,} are left in {self.data} "
                f"({self.left_out}): too few to measure on. Put them back, name other labelled images that it was not "
                "trained on with --data, or train again"
            )
        return _part(self.whole, keys.__contains__, "val", self.name)

    def _about_folds(self) -> str:
        folder = self._run / "folds" / "1"
        return (
            f"It held none out, as cross-validation in {self.recipe.folds} folds judged it: its own page and the last "
            "lines of the training say how. What else is to be done takes labelled images that it has not seen "
            "(--data; --validation with --unlabelled), or a training that holds some out (kedge train ... --folds 0); "
            f"each fold can be evaluated on its own, such as kedge evaluate {folder} --split val"
        )

    @cached_property
    def left_out(self) -> str:
        """What became of the images held out and what is not used, in words; empty where nothing changed."""
        if self.record is None:
            return ""
        if self.own_part or not self.record.held_out:
            images = self._own if self.own_part else self.whole
            count = self.record.count(images)
            return f"{count:,} of {len(images):,} left out, as it was trained on them" if count else ""
        held_out, keys = self.record.held_out, self.whole.keys()
        new = sum(key not in held_out and key not in self.record.seen for key in keys)
        counts = (
            (len(held_out.difference(keys)), "of the held-out images gone or changed"),
            (self._moved(held_out), "of them in another class now"),
            (new, "neither trained on nor held out, and left out"),
        )
        return ", ".join(f"{count:,} {words}" for count, words in counts if count)

    def _moved(self, held_out: Collection[bytes]) -> int:
        """How many of the held-out images are of another class than they were."""
        assert self.record is not None
        now = self.whole.class_names
        then = (self._facts.get("data") or {}).get("classes") or now
        before = {
            (k, then[y])
            for k, y in zip(self.record.held, self.record.held_labels.tolist(), strict=True)
            if k in held_out
        }
        after = {
            (k, now[y]) for k, y in zip(self.whole.keys(), self.whole.labels.tolist(), strict=True) if k in held_out
        }
        return len(after - before)

    def _load(self, split: str) -> ImageSet:
        """A part of the data in the shape that the run saw, of its classes."""
        shape = (self._facts.get("data") or {}).get("image_shape")
        size, channels = (size_of(shape), shape[0]) if shape else (self.recipe.image_size, None)
        images = data.load(self.data, split, size, channels)
        if split == "train" and self.record is None and self.recipe.train_images is not None:
            images = images.subset(range(min(self.recipe.train_images, len(images))))
        order = self.recipe.class_order
        return images if order is None else images.only_classes(order)

    @cached_property
    def whole(self) -> ImageSet:
        """All images of its part train, of its classes."""
        return self._load("train")

    @cached_property
    def _own(self) -> ImageSet:
        return self._load("val")


def unseen(images: ImageSet, record: ImageRecord, name: str) -> ImageSet:
    """The images that the model of a run was not trained on; all where its record cannot be compared with them.

    Raises:
        ValueError: if it was trained on so many that too few are left.
    """
    if not (shared := record.count(images)):
        return images
    others = len(images) - shared
    if others < min(ENOUGH, (len(images) + 1) // 2):
        raise ValueError(
            f"{shared:,} of the {len(images):,} images of {images.name} ({images.split}) are training images of "
            f"{name}, bit for bit: the {others:,} others are too few to measure on"
        )
    return _part(images, lambda key: key not in record.seen, images.split, name)


def _part(images: ImageSet, keep: Callable[[bytes], bool], split: str, name: str) -> ImageSet:
    chosen = torch.tensor([keep(key) for key in images.keys()], dtype=torch.bool)  # noqa: SIM118 - not a dict
    if not chosen.any():
        raise DataError(f"{images.name}: none of the {len(images):,} images here is one that {name} knows")
    part = images.subset(chosen)
    part.split = split
    return part


def _check_comparable(images: ImageSet, keys_of: str, name: str) -> None:
    if images.keys_of != keys_of:
        raise ValueError(
            f"{name} knows its images by {keys_of}, and those of {images.name} are known by {images.keys_of}: it "
            "cannot be told which of them it trained on"
        )
