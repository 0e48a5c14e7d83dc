"""What goes into a model and what comes out of it: images in [0, 1], whole labels, logits; of anything else, words.

A look at values waits for the device. `predict`, `evaluate` and `export` look once per call, objectives at their first
batch; a model called as a function looks at shapes and dtypes alone.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

# How far beyond [0, 1] values may lie. Bicubic resizing oversteps edges: by up to 0.28 at worst with antialiasing, by
# 0.27 without it on drawings, 0.12 on photographs. Images normalised by a mean and a deviation lie further out.
OVERSHOOT = 0.3
SHOWN = 8  # positions of wrong images that are listed


def readable(values: Tensor) -> bool:
    """Whether the values can be looked at: they cannot where a graph is traced or compiled, nor under `vmap`."""
    traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(values)
    return not traced and values.device.type != "meta"


def check_tensor(value: Any, what: str = "images", like: str = "[B, C, H, W]") -> None:
    """Raise TypeError, with the way to one, for what is no tensor: an array, a list, an opened picture, a loader."""
    if isinstance(value, Tensor) or hasattr(value, "is_floating_point"):  # what stands for one where a graph is traced
        return
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}".removeprefix("builtins.")
    ways = {
        "numpy.ndarray": "torch.from_numpy(array) makes one, of images with the channels first",
        "list": "torch.stack(list) makes one of tensors, torch.tensor(list) of numbers",
        "tuple": "torch.stack makes one of tensors; of a pair (images, labels) pass the two",
        "torch.DataLoader": "pass its batches, one at a time",
        "str": "kedge.data.read_image reads a file",
        "PIL.Image": "kedge.data.read_image reads a file, torchvision's pil_to_tensor turns a picture into one",
    }
    advice = f"; {ways[kind]}" if kind in ways else ""
    raise TypeError(f"{what} must be a torch tensor {like}, got {kind}{advice}")


def check_images(images: Tensor, what: str = "images", ranged: bool = True) -> None:
    """Raise ValueError, in words, unless `images` `[B, C, H, W]` can be images in [0, 1].

    Values may overstep by `OVERSHOOT` at each end, and are then taken as they are. Of vectors `[B, D]`, which have no
    range, and without `ranged`, only NaN and infinity are refused. Other dtypes than floating point are left to the
    model.
    """
    check_tensor(images, what)
    if not images.is_floating_point() or images.numel() == 0 or not readable(images):
        return
    low, high = torch.stack(torch.aminmax(images.detach())).tolist()
    most = OVERSHOOT if ranged and images.ndim > 2 else sys.float_info.max
    if low >= -most and high <= 1 + most:  # not of NaN
        return
    rows = images.detach().reshape(len(images), -1)
    if bool((lost := ~rows.isfinite().all(1)).any()):
        raise ValueError(f"{what} must be finite: {positions(lost)} NaN or infinity")
    bounds = torch.aminmax(rows.float(), dim=1)
    wrong = (bounds.min < -OVERSHOOT) | (bounds.max > 1 + OVERSHOOT)
    if low < -OVERSHOOT:
        advice = (
            "normalised already? Leave that out, the model does it (mean= and std= of kedge.anchor and kedge.plain)"
        )
    else:
        largest = next((top for top in (255, 4095, 65535) if high <= top), None)
        advice = f"divide by {largest} if they are 0 to {largest}" if largest else "divide by the largest value"
    raise ValueError(
        f"{what} must be in [0, 1], before normalisation, got [{low:.3g}, {high:.3g}]: {positions(wrong)} values more "
        f"than {OVERSHOOT:g} beyond it; {advice}"
    )


def positions(wrong: Tensor) -> str:
    """How many rows of `wrong` `[B]` bool are meant and which, for a sentence that goes on with what they hold."""
    places = wrong.nonzero()[:, 0].tolist()
    first = ", ".join(map(str, places[:SHOWN])) + (", ..." if len(places) > SHOWN else "")
    return f"{len(places)} of {len(wrong)} ({'number' if len(places) == 1 else 'numbers'} {first}) " + (
        "holds" if len(places) == 1 else "hold"
    )


def unit_images(images: Tensor, what: str = "images") -> Tensor:
    """Images as floating point in [0, 1]: uint8 is divided by 255, bool is 0 and 1, floats are looked at.

    Raises TypeError for any other dtype, whose range is not known, and ValueError as `check_images` does.
    """
    check_tensor(images, what)
    if images.dtype == torch.uint8:
        return images.float() / 255
    if images.dtype == torch.bool:
        return images.float()
    if not images.is_floating_point():
        raise TypeError(
            f"{what} must be uint8 or floating point in [0, 1], got {images.dtype}, of which the largest value is not "
            "known: convert to uint8 if they are 0 to 255, else divide by it"
        )
    check_images(images, what)
    return images


def class_indices(labels: Tensor, what: str = "labels") -> Tensor:
    """Labels as int64. Raises TypeError for floating point, of which 1.7 would become 1."""
    check_tensor(labels, what, "[B]")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"{what} must be whole numbers (class indices), got {labels.dtype} {list(labels.shape)}")
    return labels.long()


def whole_labels(labels: Iterable[Any], what: str = "labels") -> Tensor:
    """Labels, a tensor or anything that gives numbers, as int64 `[N]`; 1.0 is 1.

    Raises ValueError for one that is no whole number, such as 1.7 or NaN, and says which.
    """
    values = (
        labels if isinstance(labels, Tensor) else torch.as_tensor([_number(v, i, what) for i, v in enumerate(labels)])
    )
    if values.is_floating_point():
        wrong = values != values.trunc()  # NaN too
        if bool((wrong | values.isinf()).any()):
            place = int((wrong | values.isinf()).nonzero()[0, 0])
            raise ValueError(
                f"{what}: a label is {float(values[place]):g}; labels are whole numbers, one for each image (number "
                f"{place})"
            )
    return values.long()


def _number(value: Any, place: int, what: str) -> int:
    """A label as int, if it is a whole number of whatever type, or written as one."""
    try:
        number = int(value)
        if (isinstance(value, str) or number == value) and -(2**63) <= number < 2**63:
            return number
    except (TypeError, ValueError, OverflowError):  # no number, NaN, infinity
        pass
    words = f"of shape {list(value.shape)}" if getattr(value, "ndim", 0) else repr(value)
    raise ValueError(f"{what}: a label is {words}; labels are whole numbers, one for each image (number {place})")


def check_target_values(targets: Tensor, classes: int | None) -> None:
    """Raise ValueError for class indices `[B]` out of range or targets `[B, C]` that are no probabilities."""
    if targets.numel() == 0 or targets.ndim not in (1, 2) or not readable(targets):
        return
    if targets.is_floating_point() != (targets.ndim == 2):
        return  # neither indices nor probabilities: left to the loss
    targets = targets.detach()
    if targets.ndim == 1:
        low, high = (int(n) for n in torch.stack(torch.aminmax(targets.long())).tolist())
        if low < 0 or (classes is not None and high >= classes):
            last = "C - 1" if classes is None else classes - 1
            first = "; where yours begin with 1, subtract 1" if low >= 1 and high == classes else ""
            raise ValueError(f"targets must be classes 0 to {last} of the model, got {low if low < 0 else high}{first}")
        return
    slack = 0.02 if targets.dtype in (torch.bfloat16, torch.float16) else 1e-3
    values = targets.float()
    sums = values.sum(1)
    # Not <=, so that NaN is wrong.
    wrong = ~((values >= -slack).all(1) & ((sums - 1).abs() <= slack))
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0, 0])
        row = ", ".join(f"{v:.3g}" for v in values[place, :SHOWN].tolist()) + (
            ", ..." if values.shape[1] > SHOWN else ""
        )
        raise ValueError(
            f"targets [B, C] must be probabilities, 0 or more and 1 in sum: {positions(wrong)} others, the first "
            f"[{row}], with sum {float(sums[place]):.4g}"
        )


def answers_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each row of logits `[B, C]` answers its label `[B]`; a row with NaN, whatever `argmax` says, does not."""
    return (logits.argmax(1) == labels) & ~logits.isnan().any(1)


def probability_like(logits: Tensor) -> Tensor:
    """Whether logits `[B, C]` look like probabilities, no value below 0 and every row with sum 1: a scalar tensor.

    A single row may be so by chance, so it has to be so exactly.
    """
    slack = 0.02 if logits.dtype in (torch.bfloat16, torch.float16) else 1e-3 if len(logits) >= 4 else 1e-5
    values = logits.detach().float()
    return (values >= 0).all() & ((values.sum(1) - 1).abs() < slack).all()


def looks_like_probabilities(logits: Tensor) -> bool:
    """`probability_like`, read; False of no rows and of what cannot be read."""
    return logits.ndim == 2 and len(logits) > 0 and readable(logits) and bool(probability_like(logits))


PROBABILITIES = (
    "what it returns looks like probabilities (no value below 0, every row with sum 1), but it is taken for logits: "
    "confidences and calibration are far off. Return logits, or the logarithm"
)


def unlike_classes(
    first: Sequence[str] | int, second: Sequence[str] | int, names: tuple[str, str] = ("the first", "the second")
) -> str | None:
    """How two lists of classes differ, in words; None where they are the same in the same order.

    A number stands for so many outputs without names. `names`: what the two are called.
    """
    one, other = (each if isinstance(each, int) else len(each) for each in (first, second))
    if isinstance(first, int) or isinstance(second, int):
        of = [f"{len(c)} classes" if not isinstance(c, int) else f"{c} outputs without names" for c in (first, second)]
        return None if one == other else f"{names[0]} has {of[0]}, {names[1]} {of[1]}"
    if list(first) == list(second):
        return None
    more = ((names[0], [c for c in first if c not in second]), (names[1], [c for c in second if c not in first]))
    listed = [f"{name} also has {', '.join(own[:8])}{', ...' if len(own) > 8 else ''}" for name, own in more if own]
    if listed:
        return "; ".join(listed)
    this, that = next((x, y) for x, y in zip(first, second, strict=False) if x != y)
    return f"they are in another order: {this!r} stands where {names[1]} has {that!r}"
