"""What of its training photos a model would give away, and the same model without them."""

import copy

from torch import Tensor

from kedge.anchoring import AnchoredModel, PixelModel, PlainModel, plain
from kedge.anchoring.fold import FoldedStem

# A mean over so many images shows none of them; one over a few shows outlines of each.
ENOUGH, FEWEST = 100, 10


def photos_in(model: PixelModel, means_of: int | None = None) -> int:
    """How many images, which may be photos, anyone who has the model can look at: of the bank, residuals, a folded map.

    A residual counts: it is an image minus a reference, and the references are beside it. A reference folded into the
    first layer counts: a channel of the map looks like it. An image of one colour does not count, nor do means over at
    least 100 images each.

    Args:
        model: any kedge model.
        means_of: how many images each reference is the mean of, where that is known; it cannot be seen.
    """
    known = means_of is not None and means_of >= ENOUGH
    if not isinstance(model, AnchoredModel):
        maps = [stem.map for stem in model.network.modules() if isinstance(stem, FoldedStem) and stem.map is not None]
        return 0 if known else sum(_has_content(map_) for map_ in maps)
    residuals = 0 if model.residuals is None else len(model.residuals)
    if known:
        return residuals
    bank = model.references.float()
    if bank.ndim > 2:
        flat = (bank.flatten(2).amax(2) - bank.flatten(2).amin(2)).amax(1) <= 1e-6
    else:
        flat = (bank - model.mean.float()).abs().amax(1) <= 1e-6
    return int((~flat).sum()) + residuals


def _has_content(map_: Tensor) -> bool:
    """Whether a folded map `[1, C, H, W]` varies in its inner half: that of one colour does so at the padding only."""
    inner = map_.float()
    for axis in range(2, map_.ndim):
        inner = inner.narrow(axis, map_.shape[axis] // 4, max(1, map_.shape[axis] // 2))
    values = inner.flatten(2)
    return bool((values.amax(2) - values.amin(2)).max() > 1e-5 * max(1.0, float(values.abs().max())))


def with_mean_reference(model: AnchoredModel, mean: Tensor | None = None) -> AnchoredModel:
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
    made = copy.deepcopy(model)
    made.references = model.references.mean(0) if mean is None else mean
    made.residuals = None
    return made.eval()


def folded(model: AnchoredModel, reference: int = 0) -> PlainModel:
    """The plain model that `model` is with one reference of its bank, which `kedge.save` and `kedge.load` take.

    Its first layer holds a map `[C_out, H, W]` in place of the reference: one linear filter of the picture for each
    channel. That is no secret: a channel looks like the picture without its colours, and whoever knows the filters
    (the anchored model, published elsewhere) gets the picture itself, by least squares. Fold a mean where that
    matters. The plain model has no uncertainty.
    """
    twin = copy.deepcopy(model).eval()
    twin.steps = {}  # else folding would put them into the network, from where they could not be removed
    made = plain(twin.fold(reference), mean=0.0, std=1.0, example=model.input_shape, task=model.task).eval()
    made.class_names, made.reject, made.steps = model.class_names, model.reject, copy.deepcopy(model.steps)
    return made
