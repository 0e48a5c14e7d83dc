"""What the head of a frozen network reads, computed once for a whole set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from kedge.anchoring import PixelModel, derangement
from kedge.anchoring.last_layer import inputs_of
from kedge.anchoring.outputs import collecting
from kedge.anchoring.references import blurred
from kedge.anchoring.twin import evaluating
from kedge.data import ImageSet, generator

__all__ = ["drawn_features", "features"]

Reader = Callable[..., Tensor]


@torch.no_grad()
def features(
    model: PixelModel,
    head: str,
    images: ImageSet,
    batch_size: int = 256,
    workers: int = 0,
    others: bool = False,
    references: int | None = None,
) -> Tensor:
    """Features `[N, D]` on the CPU: what `head` reads, in eval mode, of the images as they are, without augmentation.

    Of an anchored model the mean over its whole bank, as predictions are: a linear head of the mean is the mean over
    references of the head. Costs one forward pass of an image for each reference.

    `others`: for the images that the bank was chosen from. One that is in the bank never meets itself, [x, 0], as no
    test image does: the mean is over the others, and where there are none over the first other image of the set.

    `references`: so many of the bank, all if None. Of a model that was just converted one is enough: all give the same.
    """
    rows = []
    with _reading(model, head) as read:
        for batch, _ in images.batches(batch_size, workers):
            pixels = _unit(batch, model)
            if not model.count():
                rows.append(read(pixels).cpu())
            elif others:
                rows.append(_over_others(read, pixels, model.references, images, model).cpu())
            else:
                every = torch.stack([read(pixels, r) for r in model.references[:references].split(1)])
                rows.append(every.mean(0).cpu())
    return torch.cat(rows)


def _over_others(read: Reader, pixels: Tensor, references: Tensor, images: ImageSet, model: PixelModel) -> Tensor:
    """Features `[B, D]`, for each image the mean over the references that it does not equal."""
    other = torch.stack([~_equal(pixels, r) for r in references])
    count = other.sum(0)
    each = [read(pixels, r[None]) * use[:, None] for r, use in zip(references, other, strict=True)]
    means = torch.stack(each).sum(0) / count.clamp(min=1)[:, None]
    for row in (count == 0).nonzero().flatten().tolist():
        own = pixels[row : row + 1]
        candidates = (_unit(images[i][0][None], model) for i in range(len(images)))
        stand_in = next((r for r in candidates if not bool(_equal(own, r[0]))), own)  # all images alike: itself
        means[row] = read(own, stand_in)[0]
    return means


def _equal(pixels: Tensor, reference: Tensor) -> Tensor:
    """Which of `[B, C, H, W]` are the image `[C, H, W]`, to less than a grey level."""
    return (pixels - reference).abs().flatten(1).amax(1) < 0.5 / 255


@torch.no_grad()
def drawn_features(
    model: PixelModel,
    head: str,
    images: ImageSet,
    draws: int,
    masked: bool,
    seed: int,
    batch_size: int = 256,
    workers: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Features `[R, N, D]` of [r, x - r], and of [0, x - r] if `masked`, for R references drawn for each image.

    In each draw every image gets another one of the set, and no image itself, or the mean of others, blurred, where the
    bank of the model is averaged and blurred. Costs R forward passes of each image, or 2 R if `masked`, once.
    """
    if len(images) < 2:
        raise ValueError(f"{images.name} holds {len(images)} image: a reference is another image, so it takes two")
    drawn, hidden = [], []
    average, blur = getattr(model, "bank_prepared", (1, 0))
    with _reading(model, head) as read:
        for draw in range(draws):
            source = generator(seed, "anchored probe", draw)
            partners = [images.subset(derangement(len(images), source)) for _ in range(average)]
            others = zip(*(each.batches(batch_size, workers) for each in partners), strict=True)
            rows, masks = [], []
            for (batch, _), references in zip(images.batches(batch_size, workers), others, strict=True):
                x, r = _unit(batch, model), torch.stack([_unit(each, model) for each, _ in references]).mean(0)
                r = blurred(r, blur)
                rows.append(read(x, r).cpu())
                if masked:
                    masks.append(read(x, r, torch.ones(len(x), dtype=torch.bool, device=x.device)).cpu())
            drawn.append(torch.cat(rows))
            hidden += [torch.cat(masks)] if masked else []
    return torch.stack(drawn), torch.stack(hidden) if masked else None


@contextmanager
def _reading(model: PixelModel, head: str) -> Iterator[Reader]:
    """A function that calls the model, in eval mode, with pixels, references and mask, and gives what its head read."""
    layer = model.network.get_submodule(head) if head else model.network

    with evaluating(model), collecting(layer) as calls:

        def read(pixels: Tensor, references: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            calls.clear()
            if references is None:
                model(pixels)
            else:
                model(pixels, references=references, mask=mask)
            (inputs,) = calls
            return inputs_of(layer, inputs).float()

        yield read


def _unit(batch: Tensor, model: PixelModel) -> Tensor:
    return batch.to(model.mean.device).float() / 255
