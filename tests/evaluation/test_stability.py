"""The two rates of stability: the changes by hand, models whose rates are known, small and few images."""

import json

import pytest
import torch
from torch import nn

from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.evaluation.stability import CHANGES, erased, grey, noisy, rates, recoded, shifted, shuffled
from kedge.reporting import as_csv, table
from kedge.reporting.page import page
from kedge.seeds import generator

PLACES = torch.arange(6)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 3, 32, 28, generator=torch.Generator().manual_seed(0))


def test_a_shift_moves_every_pixel_by_one(images):
    moved = shifted(images, PLACES, 0)
    inner = images[:, :, 1:-1, 1:-1]
    neighbours = {"up": (2, 0, 1, 1), "down": (0, 2, 1, 1), "left": (1, 1, 2, 0), "right": (1, 1, 0, 2)}
    found = set()
    for i in range(6):
        for name, (top, bottom, left, right) in neighbours.items():
            if torch.equal(moved[i, :, 1:-1, 1:-1], images[i, :, top : 32 - bottom, left : 28 - right]):
                found.add((i, name))
    assert len(found) == 6
    assert len({name for _, name in found}) > 1
    assert not torch.equal(moved[:, :, 1:-1, 1:-1], inner)


def test_noise_and_jpeg_stay_near_and_destroyed_images_do_not(images):
    assert 0 < float((noisy(images, PLACES, 0) - images).abs().max()) < 1 / 255
    smooth = nn.functional.avg_pool2d(images[:, :1], 9, 1, 4, count_include_pad=False).expand_as(images)
    assert float((recoded(smooth, PLACES, 0) - smooth).abs().mean()) < 2 / 255
    assert torch.equal(grey(images, PLACES, 0), torch.full_like(images, 0.5))
    gone = erased(images, PLACES, 0)
    assert torch.equal(gone[:, :, :4], images[:, :, :4])
    assert (gone[:, :, 4:28, 4:24] == 0.5).all()


@pytest.mark.parametrize("shape", [(32, 28), (30, 31), (8, 9), (4, 4)])
def test_no_patch_stays_and_none_is_lost(shape):
    images = torch.arange(2 * 3 * shape[0] * shape[1]).float().reshape(2, 3, *shape)
    mixed = shuffled(images, torch.arange(2), 0)
    assert all(
        torch.equal(a.flatten().sort().values, b.flatten().sort().values) for a, b in zip(images, mixed, strict=True)
    )
    side = 4 if min(shape) >= 16 else 2
    high, wide = shape[0] // side, shape[1] // side
    assert (mixed[:, :, : side * high, : side * wide] != images[:, :, : side * high, : side * wide]).all()
    patch = mixed[0, :, :high, :wide]
    whole = [
        images[0, :, r * high : (r + 1) * high, c * wide : (c + 1) * wide] for r in range(side) for c in range(side)
    ]
    assert any(torch.equal(patch, one) for one in whole[1:])


def test_a_change_depends_on_the_place_alone(images):
    for change in CHANGES:
        whole = change.make(images, PLACES, 3)
        assert whole.shape == images.shape
        assert torch.equal(whole[2:4], change.make(images[2:4], PLACES[2:4], 3))
        assert float(whole.min()) >= 0 <= 1 <= 1.0 >= float(whole.max())


def answers(flips: int, kept: int, confidence: float = 0.95) -> dict:
    """Of 40 images: in every change nobody sees the first few flip, in every other one the first few are kept."""
    unseen, gone = torch.zeros(40), torch.ones(40)
    unseen[:flips], gone[:kept] = 1, 0
    sure = torch.full((40,), confidence)
    return {change.name: (unseen if change.kind == "unseen" else gone, sure) for change in CHANGES}


def test_rates_are_shares_of_answers():
    own = rates(answers(10, 4), torch.zeros(40), (3, 32, 32))
    assert own["oversensitive"]["value"] == pytest.approx(0.25)
    assert own["overstable"]["value"] == pytest.approx(0.1)
    for key in ("oversensitive", "overstable"):
        assert 0 <= own[key]["low"] < own[key]["value"] < own[key]["high"] <= 1
    unsure = rates(answers(10, 4, 0.89), torch.zeros(40), (3, 32, 32))
    assert unsure["overstable"]["value"] == 0
    assert unsure["changes"][-1]["kept"]["value"] == pytest.approx(0.1)
    lacking = rates({"shift": answers(1, 1)["shift"]}, torch.zeros(40), (3, 32, 32))
    assert lacking["oversensitive"] is None
    assert lacking["overstable"] is None


def test_the_interval_holds_the_truth_though_changes_of_an_image_hang_together():
    held = 0
    for seed in range(60):
        flips = (torch.rand(200, generator=generator(seed)) < 0.2).float()
        own = {c.name: (flips if c.kind == "unseen" else torch.ones(200), torch.ones(200)) for c in CHANGES}
        found = rates(own, torch.zeros(200), (3, 32, 32), n=200, seed=seed)["oversensitive"]
        held += found["low"] <= 0.2 <= found["high"]
    assert held >= 53


class Constant(nn.Module):
    """The same sure answer to everything."""

    def forward(self, images):
        return torch.tensor([9.0, 0.0, 0.0]).expand(len(images), 3)


class Pixel(nn.Module):
    """Goes by one bit of one pixel: any change may flip it."""

    def forward(self, images):
        last = (images[:, 0, 10, 10] * 255 * 64).round().remainder(2)
        return 20 * torch.stack([last, 1 - last, 0 * last], 1)


def small(count: int = 40, side: int = 32) -> TensorSet:
    pixels = torch.randint(
        0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    return TensorSet(pixels, torch.arange(count) % 3, ["cat", "dog", "hen"], "animals", "test")


def test_models_whose_rates_are_known():
    results = evaluate({"same": Constant(), "bit": Pixel()}, small(), shift=(), stability=True, examples=0)
    same, bit = (results["models"][name]["stability"] for name in ("same", "bit"))
    assert (same["oversensitive"]["value"], same["overstable"]["value"]) == (0, 1)
    assert "every image gets the same answer" in same["notes"][0]
    assert 0.1 < bit["oversensitive"]["value"] < 0.25  # noise alone touches the bit: half of a third
    json.dumps(results, allow_nan=False)
    assert "answers that flip under changes nobody sees" in table(results, 160)
    text = page(results)
    assert "Does it look at the object?" in text
    assert "centre erased" in text
    assert "AES Systems" in text or "2109.11728" in text
    lines = as_csv(results).splitlines()
    assert "same,stability,,,,overstable,1.0," in "\n".join(lines)
    assert any(line.startswith("bit,stability,grey,,,mean_confidence,") for line in lines)


def test_small_and_few_images_are_marked_and_tiny_ones_refused():
    own = evaluate(Pixel(), small(1, 12), shift=(), stability=True, examples=0)["models"]["model"]["stability"]
    assert own["oversensitive"]["low"] is None
    assert any("can be seen" in note for note in own["notes"])
    assert any("1 image is too few" in note for note in own["notes"])
    assert own["changes"][0]["rate"]["high"] > 0.9  # the exact interval of one image
    with pytest.raises(ValueError, match="too small to be taken apart"):
        evaluate(Constant(), small(4, 3), shift=(), stability=True)
    assert evaluate(Constant(), small(4, 3), shift=(), examples=0)["models"]["model"]["stability"] is None


class Lost(nn.Module):
    """No answer to a grey image."""

    def forward(self, images):
        spread = images.flatten(1).std(1)
        return torch.stack([spread / spread, spread, 0 * spread], 1)


def test_what_has_no_answer_is_an_error_and_no_rate():
    results = evaluate(Lost(), small(), shift=(), stability=True, examples=0)
    own = results["models"]["model"]
    assert [error["part"] for error in own["errors"]] == ["stability grey"]
    assert own["stability"]["overstable"] is None
    assert own["stability"]["oversensitive"] is not None
    assert not results["complete"]
    page(results)
