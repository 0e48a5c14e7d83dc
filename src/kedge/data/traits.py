"""What a file has that an image of 8-bit grey or RGB has not: further frames, an alpha channel, 16 bits, CMYK."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from PIL import Image

from kedge.printable import printable

ANIMATED, TRANSPARENT, DEEP, INKS = "animated", "transparent", "deep", "inks"
_WORDS = {
    ANIMATED: "animated or of several pages (the first image is read)",
    TRANSPARENT: "with an alpha channel (left out: what is transparent shows the colour stored there)",
    DEEP: "of more than 8 bits a channel (read as 8)",
    INKS: "CMYK (read as RGB without its colour profile)",
}
_WHITE = 255  # the largest value of 8 bits
_SIXTEEN = (";16", ";16B", ";16L", ";16N")  # how Pillow calls what it reads


def traits_of(image: Image.Image) -> list[str]:
    """The traits of an opened image; its pixels are not decoded for that."""
    several = image.format != "MPO" and getattr(image, "is_animated", False)  # whose second one is a preview
    return [
        trait
        for trait, has in (
            (ANIMATED, several),
            (TRANSPARENT, image.has_transparency_data),
            (DEEP, _is_deep(image)),
            (INKS, image.mode == "CMYK"),
        )
        if has
    ]


@dataclass
class Traits:
    """Files with traits.

    Attributes:
        counts: how many have each.
        first: which of them came first.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, traits: Iterable[str], name: str) -> None:
        """Count a file called `name`."""
        for trait in traits:
            self.counts[trait] += 1
            self.first.setdefault(trait, name)

    def line(self) -> str:
        """One line of words: each trait, how the files are read, one of them; empty without any."""
        return "; ".join(
            f"{self.counts[trait]:,} {words}, such as {printable(self.first[trait])}"
            for trait, words in _WORDS.items()
            if self.counts[trait]
        )


def _is_deep(image: Image.Image) -> bool:
    if image.mode.startswith("I;16"):
        return True
    # Of colour Pillow keeps the upper byte, and its mode does not say so: what the file holds does. BMP packs a pixel.
    tiles = getattr(image, "tile", None) or ()
    stored = tiles[0][3] if tiles else None
    if image.format == "PPM":  # what its header calls white is above 255; of grey its mode says so
        return image.mode == "I" or (isinstance(stored, tuple) and stored[-1] > _WHITE)
    raw = stored[0] if isinstance(stored, tuple) and stored else stored
    return isinstance(raw, str) and raw.endswith(_SIXTEEN) and not raw.startswith("BGR")
