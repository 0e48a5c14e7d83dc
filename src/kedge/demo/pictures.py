"""Images and maps as PNG, written into the address itself: a page then asks for no file."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FOR, AGAINST = (214, 69, 0), (0, 90, 200)  # of a map: orange speaks for the label, blue against it
STRONGEST = 190  # of 255, how much of the photo the strongest place of a map covers


def picture(image: Tensor) -> str:
    """A uint8 image `[C, H, W]`, C = 1 or 3, or a float one in [0, 1], as a `data:` address of a PNG."""
    if image.is_floating_point():
        image = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = image.cpu().permute(1, 2, 0).numpy()
    return _address(Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))


def overlay(values: Tensor) -> str:
    """A map `[H, W]`, positive for and negative against the label, as a PNG to lay over the photo.

    The largest value, of either sign, is the strongest colour; where the map is 0 the photo is seen as it is.
    """
    array = values.detach().cpu().double().numpy()
    largest = float(np.abs(array).max())
    share = np.zeros_like(array) if largest == 0 else array / largest
    colours = np.where(share[..., None] > 0, FOR, AGAINST)
    pixels = np.concatenate([colours, (np.abs(share) * STRONGEST).round()[..., None]], -1).astype(np.uint8)
    return _address(Image.fromarray(pixels, "RGBA"))


def _address(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
