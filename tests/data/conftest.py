import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture(seed: int, height: int = 24, width: int = 24, mode: str = "RGB") -> Image.Image:
    """A smooth random image: random values at a few points, enlarged."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """make({"train/cat": 5, ...}, size=(h, w), kind="png", mode="RGB") -> root of an image folder."""

    def make(
        classes: dict[str, int],
        size: tuple[int, int] = (24, 24),
        kind: str = "png",
        mode: str = "RGB",
        name: str = "photos",
    ) -> Path:
        root = tmp_path / name
        for c, (folder, count) in enumerate(classes.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(100 * c + i, *size, mode).save(root / folder / f"{i:03d}.{kind}")
        return root

    return make


@pytest.fixture
def packs() -> Path:
    """The folder of image packs, $KEDGE_DATA; tests that need it are skipped without it."""
    root = os.environ.get("KEDGE_DATA")
    if not root or not (Path(root) / "cifar10").is_dir():
        pytest.skip("needs the image packs in $KEDGE_DATA")
    return Path(root)
