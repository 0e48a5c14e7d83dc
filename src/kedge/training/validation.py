"""What an epoch is validated by: accuracy, NLL and ECE of the validation images, and accuracy under attack."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from kedge import metrics
from kedge.attacks import Attack
from kedge.checks import answers_right
from kedge.data import ImageSet, generator
from kedge.objectives import attacks_images
from kedge.samplers._base import wants_errors
from kedge.training.calibration import rows_at_a_time
from kedge.training.nested import methods
from kedge.training.recipe import Recipe

__all__ = ["Validation", "ValidationBatches", "attacks", "ball"]


class ClassErrors(Metric):
    """The share of wrong answers of each of `classes` classes; NaN for one without images."""

    full_state_update = False
    wrong: Tensor
    images: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        for name in ("wrong", "images"):
            self.add_state(name, torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities `[B, C]` and labels `[B]`."""
        self.images += torch.zeros_like(self.images).scatter_add_(0, labels, torch.ones_like(labels))
        self.wrong += torch.zeros_like(self.wrong).scatter_add_(0, labels, (~answers_right(probs, labels)).long())

    def compute(self) -> Tensor:
        """The shares, float64 `[C]`."""
        return self.wrong.cpu().double() / self.images.cpu()


class Validation(nn.Module):
    """Metrics pooled over the batches of an epoch and over all processes.

    Attributes:
        attack: PGD in the ball that the objective trains on; None if it does not attack, or validation is not to.
        attacked: which images are attacked, `[N]` bool: random ones, as folders are sorted by class.
        finite: whether all outputs of the epoch so far are such that a softmax of them is; a bool on the device.
        errors: for each epoch that is over the share of wrong answers by class, where the sampler draws by them.
    """

    def __init__(self, recipe: Recipe, objective: nn.Module, count: int, classes: int) -> None:
        super().__init__()
        self.finite: Tensor
        self.register_buffer("finite", torch.ones((), dtype=torch.bool), persistent=False)
        self.errors: list[list[float]] = []
        self.by_class = ClassErrors(classes) if wants_errors(recipe.sampler) else None
        if self.by_class is not None and not count:
            raise ValueError(
                f"sampler {methods('sampler', recipe.sampler)[0][0]} draws by the errors on validation images, and "
                "there are none (with folds none are held out): name another sampler, or hold images out"
            )
        inside = ball(objective)
        self.attack: Any = None
        self.metrics = nn.ModuleDict({"accuracy": metrics.Accuracy(), "nll": metrics.NLL(), "ece": metrics.ECE()})
        if recipe.val_pgd_steps and inside is not None:
            self.attack = inside.validation(recipe.val_pgd_steps, recipe.seed)
            self.metrics["pgd"] = metrics.Accuracy()
        order = torch.randperm(count, generator=generator(recipe.seed, "validation attack"))
        self.attacked = torch.zeros(count, dtype=torch.bool)
        self.attacked[order[: recipe.val_pgd_images]] = True

    def add(self, model: nn.Module, images: Tensor, labels: Tensor, places: Tensor) -> None:
        """Add a batch: images `[B, C, H, W]` in [0, 1], labels `[B]`, and where they are in the set, `[B]`."""
        probs = model(images).float().softmax(1)
        self.finite &= probs.isfinite().all()
        for name, metric in self.metrics.items():
            if name != "pgd" and len(labels):
                metric.update(probs, labels)  # type: ignore[operator]
        if self.by_class is not None and len(labels):
            self.by_class.update(probs, labels)
        if self.attack is None or not len(rows := self.attacked[places].nonzero()[:, 0]):
            return
        images, labels = images[rows.to(images.device)], labels[rows.to(labels.device)]
        adversarial = self.attack(model, images, labels, indices=places[rows])
        self.metrics["pgd"].update(model(adversarial).float().softmax(1), labels)  # type: ignore[operator]

    def results(self) -> dict[str, float]:
        """The metrics of the whole set, which begin anew."""
        values = {name: float(metric.compute()) for name, metric in self.metrics.items()}  # type: ignore[operator]
        for metric in self.metrics.values():
            metric.reset()  # type: ignore[operator]
        if self.by_class is not None:
            self.errors.append(self.by_class.compute().tolist())
            self.by_class.reset()
        return values

    @torch.no_grad()
    def under_attack(self, model: nn.Module, images: ImageSet, device: torch.device) -> float:
        """Accuracy of `model`, moved to the device, on those of the images that are attacked."""
        right, places = 0, self.attacked.nonzero()[:, 0]
        model.to(device)
        batches = images.subset(places).batches(256)
        for (batch, labels), where in zip(batches, places.split(256), strict=True):
            pixels, labels = batch.to(device).float() / 255, labels.to(device)
            adversarial = self.attack(model, pixels, labels, indices=where)
            right += int(answers_right(model(adversarial), labels).sum())
        return right / len(places)


class ValidationBatches:
    """The validation images of a process in order, as many batches as every process has: empty ones at the end."""

    def __init__(self, images: ImageSet, recipe: Recipe, rank: int, world: int) -> None:
        self.rows, self.workers = rows_at_a_time(recipe), recipe.workers or 0
        self.count = -(-len(images) // (self.rows * world))
        self.images = images.subset(range(rank, len(images), world))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        yield from self.images.batches(self.rows, self.workers) if len(self.images) else ()
        for _ in range(self.count - -(-len(self.images) // self.rows)):
            yield torch.zeros(0, *self.images.image_shape, dtype=torch.uint8), self.images.labels[:0]


def attacks(objective: nn.Module) -> list[Any]:
    """The attacks inside an objective."""
    return [each.attack for each in objective.modules() if attacks_images(type(each))]


def ball(objective: nn.Module) -> Attack | None:
    """The attack inside an objective that has a form for validation images; None if there is none."""
    return next((attack for attack in attacks(objective) if hasattr(attack, "validation")), None)
