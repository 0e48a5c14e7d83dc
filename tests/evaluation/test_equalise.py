import io
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from sklearn.metrics import roc_auc_score

import kedge.data as kd
from kedge.data import Origin, TensorSet
from kedge.evaluation.equalise import Step, common_step, difference, equalise
from kedge.evaluation.inputs import convert


def a_set(name: str, formats: dict[str, int], side: int | tuple[int, int], quality: int | None = None) -> TensorSet:
    low, high = side if isinstance(side, tuple) else (side, side)
    made = TensorSet(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.zeros(2), ["a1"], name)
    made.origin = Origin(formats, ((low, low), (high, high)), quality)
    return made


LOSSLESS = a_set("inside", {"PNG": 10}, 32)
CASES = {
    "same": (a_set("o", {"WEBP lossless": 10}, 32), None, Step()),
    "jpeg at its size": (a_set("o", {"JPEG": 10}, 32, 75), "o was compressed at nearly its final size", Step(None, 75)),
    "jpeg a little larger": (a_set("o", {"JPEG": 10}, 48, 80), r"JPEG of quality 80, 48×48", Step(None, 80)),
    "jpeg shrunk to half": (a_set("o", {"JPEG": 10}, 64, 95), None, Step()),
    "some lossy": (a_set("o", {"JPEG": 4, "PNG": 6}, 32, 75), "60% PNG, 40% JPEG", Step(None, 75)),
    "hardly any lossy": (a_set("o", {"JPEG": 1, "PNG": 9}, 32, 75), None, Step(None, 75)),
    "lossy webp": (a_set("o", {"WEBP lossy": 10}, 32), "WEBP lossy", Step(None, 75)),
    "enlarged": (a_set("o", {"PNG": 10}, 28), r"inside is not enlarged, o is enlarged \(28 to 32 px\)", Step(28)),
    "mixed": (a_set("o", {"PNG": 10}, (25, 64)), r"some of o is enlarged \(25 to 32 px\)", Step(25)),
    "a stray tiny image": (a_set("o", {"PNG": 10}, (3, 64)), "3 to 32 px", Step(16)),
    "enlarged jpeg": (a_set("o", {"JPEG": 10}, 20, 60), "compressed.*; inside is not enlarged", Step(20, 60)),
    "arrays": (a_set("o", {"array": 10}, 32), None, Step()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_gives_two_sets_away(case):
    outside, words, step = CASES[case]
    found = difference(LOSSLESS, outside)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(words, found), found
        assert found.endswith(
            "a detector can tell these sets apart without looking at what they show (--equalise, equalise=True, passes "
            "both through the same steps)"
        )
    assert common_step(LOSSLESS, [outside]) == step


def test_both_sides_count():
    jpeg = a_set("inside", {"JPEG": 10}, 32, 90)
    assert difference(jpeg, a_set("o", {"JPEG": 10}, 32, 85)) is None
    assert "quality 90, o of quality 60" in difference(jpeg, a_set("o", {"JPEG": 10}, 32, 60))
    assert "arrays, whose past is not known" in difference(jpeg, a_set("o", {"array": 10}, 32))
    assert "shrunk after compression" in difference(jpeg, a_set("o", {"JPEG": 10}, 90, 90))
    both = a_set("a", {"PNG": 10}, 16), a_set("b", {"PNG": 10}, 15)
    assert difference(*both) is None  # enlarged alike
    assert "enlarged" in difference(both[0], a_set("b", {"PNG": 10}, 8))
    assert common_step(jpeg, [a_set("o", {"PNG": 10}, 28), a_set("p", {"JPEG": 10}, 40, 70)]) == Step(28, 70)
    assert difference(LOSSLESS, a_set("o", {"PNG": 10}, 64), (3, 64, 64)).startswith("inside is enlarged (32 to 64 px)")


def test_the_step_itself():
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert equalise(images, (3, 32, 32), Step()) is images
    made = equalise(images, (1, 20, 30), Step(10, 50))
    assert made.shape == (3, 1, 20, 30)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    pixels = (images * 255).round().to(torch.uint8)
    coded = equalise(images, (3, 32, 32), Step(quality=75))
    for image, ours in zip(pixels, coded, strict=True):
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=75)  # PIL halves chroma by default
        assert np.array_equal(np.asarray(Image.open(file)), (ours * 255).round().byte().permute(1, 2, 0).numpy())
    alone = torch.cat([equalise(i[None], (3, 28, 28), Step(20, 80)) for i in images])
    assert torch.equal(alone, equalise(images, (3, 28, 28), Step(20, 80)))
    for wrong in ({"quality": 0}, {"quality": 101}, {"size": 0}):
        with pytest.raises(ValueError, match="got"):
            Step(**wrong)


def test_the_step_in_words():
    assert Step(28, 75).words((3, 32, 32)) == (
        "every image, of the data and of the other sets alike, resized to 28×28, encoded as JPEG of quality 75, chroma "
        "at half resolution and decoded, resized to 32×32"
    )
    assert Step().words((1, 32, 32)) == "every image, of the data and of the other sets alike, resized to 32×32"


def high_frequencies(images: torch.Tensor) -> torch.Tensor:
    """The energy in the finer half of the cosine transform of 8×8 blocks, `[B]`: knows nothing of what is shown."""
    blocks = images.mean(1).unfold(1, 8, 8).unfold(2, 8, 8).numpy()
    fine = np.add.outer(np.arange(8), np.arange(8)) >= 9
    return torch.from_numpy(np.square(dctn(blocks, axes=(3, 4), norm="ortho")[..., fine]).mean((1, 2, 3)))


def change_when_encoded(images: torch.Tensor) -> torch.Tensor:
    """How much JPEG of quality 75 changes an image for its contrast, `[B]`: hardly, if it was such a JPEG before."""
    again = equalise(images, tuple(images.shape[1:]), Step(quality=75))
    return (images - again).abs().mean((1, 2, 3)) / images.std((1, 2, 3)).clamp_min(0.01)


def separated(detector, inside: torch.Tensor, outside: torch.Tensor) -> float:
    """AUROC of a detector, at least 0.5: either sign may be learnt."""
    values = torch.cat([detector(inside), detector(outside)])
    auroc = float(roc_auc_score([1] * len(inside) + [0] * len(outside), values.numpy()))
    return max(auroc, 1 - auroc)


@pytest.fixture
def packs(monkeypatch):
    root = os.environ.get("KEDGE_DATA")
    if not root or not os.path.isdir(os.path.join(root, "tiny_imagenet32_jpeg")):
        pytest.skip("needs the image packs in $KEDGE_DATA")


@pytest.mark.slow
def test_compression_gives_a_pack_away_before_and_not_after(packs):
    inside = kd.load("cifar10", "test").subset(range(1500))
    outside = kd.load("tiny_imagenet32_jpeg", "test").subset(range(1500))
    assert "JPEG of quality 75" in difference(inside, outside)
    step = common_step(inside, [outside])
    assert step == Step(None, 75)
    before = [s.images.float() / 255 for s in (inside, outside)]
    after = [equalise(images, (3, 32, 32), step) for images in before]
    assert separated(change_when_encoded, *before) > 0.99
    assert separated(change_when_encoded, *after) < 0.55


@pytest.mark.slow
@pytest.mark.parametrize("how", ["compressed", "enlarged"])
def test_one_history_for_images_of_one_kind(packs, tmp_path, how):
    both = kd.load("cifar10", "test")
    inside = both.subset(range(1500))
    (tmp_path / "others" / "any").mkdir(parents=True)
    for i in range(1500, 3000):
        image = Image.fromarray(both.images[i].permute(1, 2, 0).numpy())
        if how == "compressed":
            image.save(tmp_path / "others" / "any" / f"{i}.jpg", quality=75)
        else:
            image.resize((28, 28), Image.Resampling.BILINEAR).save(tmp_path / "others" / "any" / f"{i}.png")
    outside = kd.load(tmp_path / "others")  # in its own size: what was enlarged while loading cannot be undone
    assert difference(inside, outside) is not None
    step = common_step(inside, [outside])
    assert step == (Step(None, 75) if how == "compressed" else Step(28))
    images = [s.images.float() / 255 for s in (inside, outside)]
    before = [convert(i, (3, 32, 32)) for i in images]
    after = [equalise(i, (3, 32, 32), step) for i in images]
    assert separated(high_frequencies, *before) > 0.7
    assert separated(high_frequencies, *after) < 0.55
