"""Images distilled by what random networks see teach more than as many photos, and make a bank without photos."""

import statistics
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import choose_references
from kedge.catalog import Info
from kedge.claims import Claim, Criterion
from kedge.claims.photo_free_banks import PhotoFreeBanks
from kedge.data import ImageSet, distilled
from kedge.seeds import derive_seed, generator

info = Info("Dataset Condensation with Distribution Matching", "Zhao and Bilen", "WACV", 2023,
            "https://arxiv.org/abs/2110.04181", "code")  # fmt: skip

STUDENTS, STEPS, BATCH = 3, 300, 32
# What each set begins as, and the steps of distilling: none for the controls.
BEGIN = {
    "photos": ("photos", 0),
    "means": ("means", 0),
    "distilled": ("means", 200),
    "distilled photos": ("photos", 200),
}


class DistilledImages(Claim):
    """Digits, 800 photos: one and five images of every class that students learn from alone, and that are a bank.

    "Accuracy" is that of an MLP 64-48-10 after 300 steps of 32 images, the mean of three; "accuracy kept" its share of
    the accuracy after as many steps on all photos; "CNN" the same of a small convolutional network. "As bank" is an
    anchored network, trained on the photos, with ten references drawn from the set, one of each class; its doubt tells
    500 clothes from the test digits. "distilled" began as the means, which are the control beside photos drawn at
    random. The rates were chosen on validation images of another seed. The published results are of larger images.
    """

    data = ("fashion_mnist",)
    variants = ("all", *(f"{kind}, 1" for kind in BEGIN), "photos, 5", "means, 5", "distilled, 5")
    criteria = (
        Criterion("one of a class: better than the photo it began as", "accuracy", "distilled photos, 1", "photos, 1",
                  "above", 3),
        Criterion("there class means nearly suffice", "accuracy", "means, 1", "distilled, 1", "near", 2),
        Criterion("five of a class: better than photos", "accuracy", "distilled, 5", "photos, 5", "above", 3),
        Criterion("and better than means", "accuracy", "distilled, 5", "means, 5", "above", 1),
        Criterion("they keep 90 % of the accuracy", "accuracy kept", "distilled, 5", None, "above", 90),
        Criterion("as a bank as accurate as photos", "accuracy as bank", "distilled, 1", "photos, 1", "near", 1),
        Criterion("and doubts as well", "AUROC of doubt as bank", "distilled, 1", "photos, 1", "near", 3),
        Criterion("no photo is in that bank", "photos in the bank", "distilled, 1", "photos, 1", "below", 100),
    )  # fmt: skip

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """What students learn from a set, and what it is worth as a bank."""
        banks, model = PhotoFreeBanks(), _anchored(seed)
        images = banks.images(variant, seed)
        model.references = choose_references(_shown(variant, images.train, seed), 10, "stratified", seed)
        bank = banks.measure(model, images)
        accuracy = _learnt(variant, "mlp", seed)
        return {
            "accuracy": accuracy,
            "accuracy kept": 100 * accuracy / _learnt("all", "mlp", seed),
            "accuracy of a CNN": _learnt(variant, "cnn", seed),
            "accuracy as bank": bank["accuracy"],
            "AUROC of doubt as bank": bank["AUROC of doubt"],
            "photos in the bank": bank["photos in the bank"],
        }


def _shown(variant: str, train: ImageSet, seed: int) -> ImageSet:
    if variant == "all":
        return train
    kind, each = variant.split(", ")
    begin, steps = BEGIN[kind]
    return _distilled(int(each), seed, steps, begin)


@cache
def _distilled(each: int, seed: int, steps: int, begin: str) -> ImageSet:
    return distilled(PhotoFreeBanks().images("", seed).train, each, seed, steps, begin)


@cache
def _anchored(seed: int) -> Any:
    claim = PhotoFreeBanks()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train("stratified", claim.images("", seed), seed, Path(folder)).model


@cache
def _learnt(variant: str, kind: str, seed: int) -> float:
    """Percent of the test photos that students have right, the mean over them."""
    images = PhotoFreeBanks().images(variant, seed)
    shown = _shown(variant, images.train, seed)
    pixels, labels, tests = _pixels(shown), shown.labels, _pixels(images.test)
    right = []
    for number in range(STUDENTS):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed(seed, "student", number))
            student = _student(kind)
        draws = generator(seed, "order", number)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
        for _ in range(STEPS):
            batch = torch.randperm(len(labels), generator=draws)[:BATCH]
            optimizer.zero_grad()
            nn.functional.cross_entropy(student(pixels[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            right.append(100 * float((student(tests).argmax(1) == images.test.labels).double().mean()))
    return statistics.fmean(right)


def _student(kind: str) -> nn.Sequential:
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    first = nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))


def _pixels(images: ImageSet) -> Tensor:
    """`[N, 1, 8, 8]` in [-1, 1]."""
    return torch.stack([images[i][0] for i in range(len(images))]) / 127.5 - 1
