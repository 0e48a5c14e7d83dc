"""What of its training photos a model would give away, and the same model without them."""

import copy
from typing import Any

from torch import Tensor, nn

from kedge.anchoring import PixelModel, PlainModel, plain
from kedge.anchoring.fold import FoldedStem

# A mean over so many images shows none of them; one over a few shows outlines of each.
ENOUGH, FEWEST = 100, 10


def photos_in(model: PixelModel, means_of: int | None = None) -> int:
    """How many images, which may be photos, anyone who has the model can look at: of the bank, residuals, a folded map.

    A residual counts: it is an image minus a reference, and the references are beside it. A reference folded into the
    first layer counts: a channel of the map looks like it, and of a patch embedding it can be computed from the map. An
    image of one colour does not count, nor do means over at least 100 images each.

    Args:
        model: any kedge model.
        means_of: how many images each reference is the mean of, where that is known; it cannot be seen.
    """
    known = means_of is not None and means_of >= ENOUGH
    if not model.count():
        stems = [stem for stem in model.network.modules() if isinstance(stem, FoldedStem)]
        return 0 if known else sum(_has_content(stem, tuple(model.input_shape[1:])) for stem in stems)
    residuals = 0 if model.residuals is None else len(model.residuals)
    if known:
        return residuals
    bank = model.references.float()
    if bank.ndim > 2:
        flat = (bank.flatten(2).amax(2) - bank.flatten(2).amin(2)).amax(1) <= 1e-6
    else:
        flat = (bank - model.mean.float()).abs().amax(1) <= 1e-6
    return int((~flat).sum()) + residuals


def _has_content(stem: FoldedStem, sides: tuple[int, ...]) -> bool:
    """Whether what was folded in may show a picture; where that cannot be told, it may.

    Of one colour the map varies where padding reaches, and nowhere else. A layer that sees all of an image (`sides`)
    at once, as a linear one does, has no map: the reference is part of its bias.
    """
    kernel = getattr(stem.layer, "kernel_size", ())
    if isinstance(stem.layer, nn.Linear) or (kernel and all(k >= n for k, n in zip(kernel, sides, strict=False))):
        return True
    if stem.map is None:
        return False
    inner = stem.map.float()
    reach = _padded(stem.layer)
    for axis in range(2, inner.ndim):
        border = reach[axis - 2] if axis - 2 < len(reach) else 0
        inner = inner.narrow(axis, min(border, inner.shape[axis]), max(0, inner.shape[axis] - 2 * border))
    values = inner.flatten(2)
    if values.shape[2] < 2:  # nothing to compare
        return True
    return bool((values.amax(2) - values.amin(2)).max() > 1e-5 * max(1.0, float(values.abs().max())))


def _padded(layer: nn.Module) -> list[int]:
    """How many outputs at each side of each axis of a convolution see its padding; nothing known: none do."""
    padding, stride, kernel = (getattr(layer, name, None) for name in ("padding", "stride", "kernel_size"))
    if not isinstance(stride, tuple) or not isinstance(kernel, tuple):
        return []
    pads = padding if isinstance(padding, tuple) else tuple(k // 2 for k in kernel) if padding == "same" else ()
    return [-(-p // s) for p, s in zip(pads, stride, strict=False)]


def with_mean_reference(model: PixelModel, mean: Tensor | None = None) -> PixelModel:
    """A copy whose bank is one image, `mean` `[C, H, W]` (default: the mean of the bank), and without residuals.

    Predictions change. The threshold and temperature are those of the old bank: set them anew where there are images.
    The mean of a bank of 10 is not anonymous: something of each of the 10 is left in it. One over the training set is.

    Raises:
        ValueError: if the bank has one image only, which is its own mean.
    """
    if mean is None and len(model.references) == 1 and photos_in(model):
        raise ValueError(
            "the bank holds a single photo, and its mean is that photo: give mean=, the mean image of the training set"
        )
    twin: Any = copy.deepcopy(model)
    prepared = twin.bank_prepared
    if mean is None:  # of images that are averaged and blurred already
        twin.references, twin.bank_prepared = model.references.mean(0), prepared
    else:
        twin.references = mean
        twin.prepare_bank(*prepared)
    twin.residuals = None
    alone: PixelModel = twin.eval()
    return alone


def folded(model: PixelModel, reference: int = 0) -> PlainModel:
    """The plain model that `model` is with one reference of its bank, which `kedge.save` and `kedge.load` take.

    Its first layer holds a map `[C_out, H, W]` in place of the reference: one linear filter of the picture for each
    channel. That is no secret: a channel looks like the picture without its colours, and whoever knows the filters
    (the anchored model, published elsewhere) gets the picture itself, by least squares. Fold a mean where that
    matters. The plain model has no uncertainty.
    """
    twin = copy.deepcopy(model).eval()
    twin.steps = {}  # else folding would put them into the network, from where they could not be removed
    network = plain(twin.fold(reference), mean=0.0, std=1.0, example=model.input_shape, task=model.task).eval()
    network.class_names, network.reject, network.steps = model.class_names, model.reject, copy.deepcopy(model.steps)
    network.ordered, network.unknown, network.prototypes = model.ordered, model.unknown, model.prototypes
    return network
