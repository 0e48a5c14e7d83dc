"""What the values of a recipe can be: types, choices, ranges, and what contradicts what. Imports nothing slow."""

import contextlib
import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from kedge import catalog
from kedge.epsilon import parse_epsilon
from kedge.gate import as_gate
from kedge.own_code import near_names
from kedge.printable import counted
from kedge.training.nested import check_methods, methods, takes

__all__ = ["CHOICES", "as_type", "check_objectives", "check_recipe"]

# Values that a key may take.
CHOICES = {
    "augment": ("auto", "none", "crop-flip", "trivial", "randaugment", "pixmix"),
    "choose": ("random", "stratified", "kcenter", "mean", "class-mean"),
    "label_noise_kind": ("symmetric", "pair"),
    "class_weights": ("none", "balanced"),
    "head": ("auto", "probe", "leave"),
    "batch_norm": ("auto", "frozen", "train"),
    "ramp": ("linear", "exp"),
    "keep": ("best", "last"),
    "precision": ("auto", "32", "bf16", "16"),
    "device": ("auto", "cpu", "cuda", "mps"),
}
NAMES = ("classes", "ordered")  # keys whose entries are names of classes
# Of imbalance: its keys, and the kinds that there are.
IMBALANCE = ("ratio", "kind", "rare", "order", "largest", "seed")
KINDS = ("long-tailed", "linear", "step")
# Of numbers (low, high, low itself excluded).
RANGES: dict[str, tuple[float, float, bool]] = {
    "image_size": (4, 4096, False),
    "val_fraction": (0, 0.5, True),
    "folds": (0, 100, False),
    "train_images": (2, 1_000_000_000, False),
    "label_noise": (0, 0.9999, False),
    "workers": (0, 256, False),
    "cache_gb": (0, 1_000_000, True),
    "references": (1, 100_000, False),
    "residuals": (0, 1_000_000, False),
    "crop": (0, 1, True),
    "lr": (0, math.inf, True),
    "head_lr": (0, 1000, True),
    "layer_decay": (0, 1, True),
    "unfreeze": (0, 1, False),
    "momentum": (0, 0.9999, False),
    "weight_decay": (0, math.inf, False),
    "clip": (0, math.inf, True),
    "ema": (0, 0.999999, True),
    "warmup": (0, math.inf, False),
    "gamma": (0, 1, True),
    "start_factor": (0, 1, True),
    "end_factor": (0, 1, True),
    "epochs": (1, 1_000_000, False),
    "batch_size": (2, 1_000_000, False),
    "devices": (1, 1024, False),
    "nodes": (1, 100_000, False),
    "seed": (0, 2**32 - 1, False),
    "split_seed": (0, 2**32 - 1, False),
    "val_pgd_steps": (0, 10_000, False),
    "val_pgd_images": (1, 100_000_000, False),
    "average": (0, 1, False),
    "snapshots": (0, 1_000_000, False),
    "coverage": (0, 1, True),
    "risk": (0, 0.9999, False),
    "familiar": (0.5, 0.9999, False),
}


def check_recipe(recipe: Mapping[str, Any], source: str = "") -> None:
    """Raise ValueError for the first value of a whole recipe that cannot work; `source` begins the message."""
    check_methods(recipe, source)
    for key, allowed in CHOICES.items():
        if (value := recipe[key]) not in allowed:
            raise ValueError(f"{source}{key} is one of {', '.join(allowed)}, not {value!r}{near_names(value, allowed)}")
    for key, value in recipe.items():
        if isinstance(value, str) and not value.strip():
            raise ValueError(f"{source}{key} is empty: say what is meant, or leave it out")
    for key, (low, high, open_low) in RANGES.items():
        value = recipe[key]
        bad = value is not None and not (low < value <= high if open_low else low <= value <= high)
        if bad or (isinstance(value, float) and not math.isfinite(value)):
            bound = f"above {low:g}" if open_low else f"{low:g} or more"
            limit = "" if high == math.inf else f", at most {high:g}"
            raise ValueError(f"{source}{key} must be {bound}{limit}, not {value}")
    name, epochs, milestones = recipe["name"], recipe["epochs"], recipe["milestones"]
    if name is not None and (name.startswith(".") or set(name) & set("/\\")):
        raise ValueError(f"{source}name is a folder inside {recipe['runs']}/, it cannot be {name!r}")
    schedule = methods("schedule", recipe["schedule"])[0][0]
    if takes("schedule", schedule, "milestones") and not milestones:
        raise ValueError(f"{source}schedule {schedule} needs milestones, such as [60, 120, 160] (epochs)")
    if milestones != sorted(milestones) or any(m <= 0 for m in milestones):
        raise ValueError(f"{source}milestones are rising epochs above 0, not {milestones}")
    if milestones and epochs is not None and milestones[-1] >= epochs:
        raise ValueError(f"{source}milestone {milestones[-1]:g} is never reached in {counted(epochs, 'epoch')}")
    if wrong := [factor for factor in recipe["layer_lr"] if not 0 <= factor <= 1000]:
        raise ValueError(f"{source}layer_lr are factors on the learning rate, 0 to 1000, not {wrong[0]}")
    if recipe["label_noise"] == 0 and (recipe["label_noise_kind"] != "symmetric" or recipe["label_noise_val"]):
        raise ValueError(
            f"{source}label_noise is 0, and there are no wrong labels of any kind: say which share is wrong"
        )
    if recipe["selection"] is not None and recipe["label_noise"]:
        raise ValueError(
            f"{source}selection {recipe['selection']} chose by the labels as they are, and label_noise makes some "
            "wrong afterwards: leave one out"
        )
    if recipe["weights"] is not None and recipe["model"] == "auto":
        raise ValueError(f"{source}weights {recipe['weights']} are of which network? name it in model")
    starts = recipe["init_from"] is not None or recipe["weights"] is not None or recipe["pretrained"]
    if recipe["average"] is not None and not starts:
        raise ValueError(
            f"{source}average is with the weights that the run starts from: name them with init_from or weights"
        )
    if (warmup := recipe["warmup"]) is not None and epochs is not None and warmup >= max(1, epochs):
        raise ValueError(f"{source}warmup of {warmup:g} epochs leaves nothing of a run of {epochs}")
    batch, world = recipe["batch_size"], recipe["devices"] * recipe["nodes"]
    if batch is not None and batch % world:
        raise ValueError(
            f"{source}batch_size {batch} is shared out over {world} devices and must be a multiple of that"
        )
    if recipe["folds"] == 1:
        raise ValueError(f"{source}folds is 0 (hold some images out), or 2 or more, not 1")
    if (classes := recipe["classes"]) is not None and len(set(classes)) < 2:
        raise ValueError(f"{source}classes needs two different classes or more, not {classes}")
    _check_ordered(recipe, source)
    if recipe["eps"] is not None:
        parse_epsilon(recipe["eps"], f"{source}eps")
    check_objectives(recipe["objective"], source)
    _check_imbalance(recipe["imbalance"], source)
    as_gate(recipe["gate"], f"{source}gate: ")
    for name, place in recipe["extra"].items():
        if not (isinstance(name, str) and isinstance(place, str) and name.strip() and place.strip()):
            raise ValueError(
                f"{source}extra is names and the data that they stand for, such as {{outliers: FOLDER}}, "
                f"not {name!r}: {place!r}"
            )


def _check_ordered(recipe: Mapping[str, Any], source: str) -> None:
    """Raise ValueError for an order that is none, and for a head of ordered classes without one."""
    order, classes, head = recipe["ordered"], recipe["classes"], recipe["arguments"].get("head")
    if order is None:
        if isinstance(head, str) and head in catalog.names("heads") and catalog.stated("heads", head, "ORDERED", False):
            raise ValueError(
                f"{source}head {head} is for classes that have an order, which nothing but you can say: write ordered: "
                "[low, medium, high], from the lowest to the highest, on the command line --ordered low,medium,high"
            )
        return
    if twice := [name for name in order if order.count(name) > 1]:
        raise ValueError(f"{source}ordered names {twice[0]!r} twice: each class has one place")
    if len(order) < 2:
        raise ValueError(f"{source}ordered needs two classes or more, from the lowest to the highest, not {order}")
    if classes is not None and set(classes) != set(order):
        odd = sorted(set(classes) ^ set(order))
        raise ValueError(
            f"{source}classes and ordered are the same classes, and {odd[0]!r} is in one of them alone: ordered is the "
            "whole list, from the lowest to the highest"
        )


def _check_imbalance(imbalance: Mapping[str, Any], source: str) -> None:
    """Raise ValueError for what `kedge.data.imbalanced` takes with no images."""
    for key in imbalance:
        if key not in IMBALANCE:
            raise ValueError(f"{source}imbalance has no {key!r}{near_names(str(key), IMBALANCE)}")
    if not imbalance:
        return
    ratio, kind = imbalance.get("ratio"), imbalance.get("kind", KINDS[0])
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio < math.inf:
        raise ValueError(
            f"{source}imbalance needs the ratio of the most frequent class to the rarest, 1 or more, such as "
            f"{{ratio: 50}}, not {ratio!r}"
        )
    if kind not in KINDS:
        raise ValueError(f"{source}the kind of imbalance is one of {', '.join(KINDS)}, not {kind!r}")


def check_objectives(entries: list[Any] | None, source: str = "") -> None:
    """Raise ValueError for a list of objectives that is none."""
    for entry in entries or []:
        pair = isinstance(entry, dict) and len(entry) == 1
        if not isinstance(entry, str) and not (pair and isinstance(next(iter(entry.values())), dict | None)):
            raise ValueError(
                f"{source}objective is a list of names or {{name: {{argument: value}}}}, outermost first, "
                f"such as [{{Anchored: {{alpha: 0.25, mask_target: label}}}}, CrossEntropy]; {entry!r} is neither"
            )
    if entries is not None and not entries:
        raise ValueError(f"{source}objective is empty; leave it out for the default")


def as_type(source: str, key: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type of the field, or raise ValueError; `1e-3` is text to YAML and a number to people."""
    options = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    if value is None and type(None) in options:
        return None
    kind = next(option for option in options if option is not type(None))
    outer = get_origin(kind) or kind
    if kind is float and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # precision: 32, name: 7
    if outer is list and isinstance(value, tuple):
        value = list(value)
    good = isinstance(value, int | float) if kind is float else isinstance(value, outer)
    if not good or (isinstance(value, bool) and kind is not bool):
        kinds = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        names = {list: "a list", dict: "a mapping"} | kinds
        quote = f"; write it in quotes, {str(value)!r}, if that is its name" if key.startswith("an entry of") else ""
        raise ValueError(f"{source}{key} is {names[outer]}, not {value!r}{quote}")
    if outer is list and (key in NAMES or get_args(kind)[0] is float):
        # Classes are names; typed as anything, because names such as 7 are numbers to YAML and the command line.
        return [as_type(source, f"an entry of {key}", entry, str if key in NAMES else float) for entry in value]
    return float(value) if kind is float else value
