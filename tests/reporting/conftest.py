from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import kedge
from kedge.data import TensorSet
from kedge.evaluation import evaluate

NASTY = [
    "<script>alert(1)</script>",
    '"><img src=https://example.org/x onerror=alert(1)>',
    "$x^2$",
    "_under",
    "{{ 7 * 7 }}",
    "\x1b[31mred",
    "a class name that goes on " * 8,
]


def make_results(names: list[str], *, anchored: bool = True, ood: bool = True, **settings: Any) -> dict[str, Any]:
    """Results of small untrained models on small noise: every part of the page, in no time."""
    generator = torch.Generator().manual_seed(0)
    classes = len(NASTY)
    labels = torch.arange(70) % classes
    pixels = torch.randint(0, 256, (70, 3, 8, 8), generator=generator, dtype=torch.uint8)
    data = TensorSet(
        pixels, labels, NASTY, name="<i>photos</i>", split="test", paths=[f"a/b/<{i}>.png" for i in range(70)]
    )
    away = TensorSet(pixels[:20, :1], labels[:20] * 0, ["x"], name="<u>grey</u>")
    example = pixels[:3].float() / 255
    models: dict[str, Any] = {}
    torch.manual_seed(0)
    for i, name in enumerate(names):
        network = nn.Sequential(nn.Conv2d(3, classes, 8), nn.Flatten())
        if anchored and i % 2:
            model = kedge.anchor(network, example=example)
            model.references = example
            model.reject = {"score": "confidence", "threshold": 0.2, "coverage": 0.95}
        else:
            model = kedge.plain(network, example=example)
        models[name] = model
    chosen = {"corruptions": ["gaussian_noise", "contrast"], "severities": (1, 3), "resamples": 40, **settings}
    return evaluate(models, data, ood=away if ood else None, **chosen)


@pytest.fixture(scope="session")
def one() -> dict[str, Any]:
    return make_results(["only"], limit=40)


@pytest.fixture(scope="session")
def three() -> dict[str, Any]:
    return make_results(
        ["standard", "anchored", '<script>alert("m")</script>'], command="kedge evaluate a b c --data photos"
    )


@pytest.fixture(scope="session")
def bare() -> dict[str, Any]:
    return make_results(["only"], corruptions=(), ood=False, resamples=0)


@pytest.fixture(scope="session")
def make() -> Callable[..., dict[str, Any]]:
    return make_results
