"""What a run says before its first epoch."""

from typing import Any

from torch import nn

from kedge.data import ImageSet
from kedge.epsilon import print_ball
from kedge.training.cost import Cost
from kedge.training.folder import RunFolder
from kedge.training.masking import anchored_arguments, masking
from kedge.training.module import attacks, ball
from kedge.training.recipe import Recipe
from kedge.training.resolve import reasons, unused_weights
from kedge.training.start_from import trained_eps

__all__ = ["about_bank", "opening"]


def opening(
    recipe: Recipe,
    folder: RunFolder,
    train: ImageSet,
    val: ImageSet,
    model: nn.Module,
    objective: nn.Module,
    facts: dict[str, Any],
) -> str:
    """The lines before the first epoch: data, network, attack, folder, cost; `facts` as in run.json."""
    cost, wrong = facts.get("cost"), facts["data"].get("wrong_labels", 0)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    kind = "anchored " if recipe.anchored else ""
    start = "pretrained" if recipe.pretrained else "from random weights"
    left = unused_weights(facts.get("given", {}), recipe, train)
    why = reasons(facts.get("given", {}), recipe, len(train))
    if recipe.init_from is not None:
        start = f"from {recipe.init_from}"
    return (
        f"{train.name}: {len(train)} images to train on, {f'{len(val)} to validate, ' if not recipe.folds else ''}"
        f"{len(train.class_names)} classes, "
        f"{'x'.join(str(n) for n in train.image_shape)}\n"
        + (f"{_folds(recipe, len(train), facts.get('given', {}).get('folds') is None)}\n" if recipe.folds else "")
        + (f"label noise: {wrong} of the {len(train)} training labels are a random other class\n" if wrong else "")
        + f"{kind}{recipe.model}, {size:.1f} M parameters, {start}; {recipe.epochs} epochs of batches of "
        f"{recipe.batch_size}, {recipe.optimizer} at {recipe.lr:.3g}, on {recipe.world} {recipe.device}, "
        f"precision {recipe.precision}\n"
        + (f"{fitted}\n" if (fitted := getattr(getattr(model, "network", None), "kedge_weights", "")) else "")
        + _masking(recipe)
        + (f"{why}\n" if why else "")
        + (f"{left}\n" if left else "")
        + (f"{about_bank(recipe)}\n" if about_bank(recipe) and not recipe.folds else "")
        + f"{_attack(recipe, objective)}{_probe(facts.get('probe'), len(val))}"
        f"run folder: {folder.path}" + (f"\n{Cost(**cost)}" if cost and attacks(objective) else "")
    )


def _folds(recipe: Recipe, count: int, chosen: bool) -> str:
    """What is done instead of holding images out, for the line before a run of `count` images."""
    assert recipe.folds is not None
    part = "two thirds" if recipe.folds == 3 else "half" if recipe.folds == 2 else f"{recipe.folds - 1}/{recipe.folds}"
    few = f"{count:,} images are few: none" if chosen else f"of {count:,} images none"
    return (
        f"{few} is held out; {recipe.folds}-fold cross-validation judges ({recipe.folds} trainings of {part}, then one "
        "of all)"
    )


def _masking(recipe: Recipe) -> str:
    if anchored_arguments(recipe.objective) is None:
        return ""
    share, target = masking(recipe.objective)
    return f"references masked: {100 * share:g} %, target {target}\n" if share else "references are not masked\n"


def _probe(record: dict[str, Any] | None, images: int) -> str:
    if record is None:
        return ""
    few = ""
    if "accuracy" not in record:
        return (
            f"linear probe of the frozen network: fitted on {record['images']} in {record['seconds']:.0f} s; training "
            "starts from it, and nothing worse in the folds is kept\n"
        )
    if "folds" in record:
        few = (
            f"; {100 * record['fold_accuracy']:.1f} % of those {record['images']} in {record['folds']}-fold "
            "cross-validation, which tells more than so few validation images"
        )
    return (
        f"linear probe of the frozen network: {100 * record['accuracy']:.1f} % of {images} validation images, fitted "
        f"on {record['images']} in {record['seconds']:.0f} s{few}; training starts from it, and nothing worse on the "
        "validation images is kept\n"
    )


def about_bank(recipe: Recipe) -> str:
    """Which accuracy the line of an epoch has and which the last one; nothing where they are the same."""
    if not recipe.anchored or recipe.references == 1:
        return ""
    return (
        "epochs are validated with the first reference of the bank alone, which is quick; the last line and the model "
        f"have the mean over all {recipe.references}, which is often more accurate"
    )


def _attack(recipe: Recipe, objective: nn.Module) -> str:
    attack = ball(objective)
    if attack is None:
        return ""
    eps, before = print_ball(attack.eps, attack.norm), trained_eps(recipe)
    other = "" if before in (None, eps) else f"; what it starts from was trained at {before}"
    off = "" if recipe.val_pgd_steps else "; validation images are not attacked, so the last epoch is kept"
    return f"trained on images under {attack.phrase}, eps {eps}{other}{off}\n"
