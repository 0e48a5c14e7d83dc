"""Which places of a photo the answer rests on: what it loses when they are covered."""

from collections.abc import Callable

import torch
from torch import Tensor

from kedge.anchoring import PixelModel

WINDOW, STEP = 4, 8  # a square is a fourth of a side wide and moves by an eighth: 49 places
AT_A_TIME = 16  # covered images that go through the network together
NEEDS = 'a map of the photo needs captum: python -m pip install -e ".[demo]"'


def need_captum() -> None:
    """Raise ImportError, saying what to install, where captum is missing."""
    try:
        import captum.attr  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{NEEDS} ({error})") from None


def occlusion(
    model: PixelModel, image: Tensor, label: int, logits_of: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """By how much the log odds of a class fall when a place is covered, `[H, W]` float32 on the CPU.

    A square of the model's mean colour moves over the image; each pixel has the mean over the squares that cover it.
    Of an anchored model it is the answer of the whole bank, the mean over its references. The same image gives the
    same map: nothing is drawn.

    Args:
        model: a classifier of images.
        image: `[C, H, W]` in [0, 1], in the shape that the model takes.
        label: whose log odds.
        logits_of: what gives the logits of a few images, such as one that waits for its turn; None: `model.predict`.

    Raises:
        ImportError: captum is not installed.

    Source: Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, as in captum.
    """
    need_captum()
    from captum.attr import Occlusion

    channels, height, width = image.shape
    colour = model.mean.to(image).reshape(-1, 1, 1).expand(channels, height, width).clamp(0, 1)
    window = (channels, -(-height // WINDOW), -(-width // WINDOW))
    step = (channels, -(-height // STEP), -(-width // STEP))

    def log_odds(images: Tensor) -> Tensor:
        logits = (model.predict(images, check=False).logits if logits_of is None else logits_of(images)).float()
        others = torch.arange(logits.shape[1], device=logits.device) != label
        return logits[:, label] - logits[:, others].logsumexp(1)

    with torch.no_grad():
        values = Occlusion(log_odds).attribute(
            image[None], window, step, baselines=colour[None], perturbations_per_eval=AT_A_TIME
        )
    return values[0].mean(0).float().cpu()
