"""Strips of images for the page: what each corruption does to one of them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kedge.evaluation.examples import thumbnail
from kedge.evaluation.inputs import to_unit


def corruption_strips(
    images: Any,
    position: int,
    corruptions: Sequence[str],
    severities: Sequence[int],
    seed: int,
    frost_textures: str | None = None,
) -> list[dict[str, Any]]:
    """A strip for each corruption: the first of `images`, at `position` of the whole set, at each severity."""
    import torch

    from kedge.data.corruptions import corrupt

    image = to_unit(images[0][0][None])
    where = torch.tensor([position])

    def shown(name: str, severity: int) -> Tensor:
        return corrupt(image, name, severity, indices=where, seed=seed, frost_textures=frost_textures)[0]

    return [
        {
            "title": name.replace("_", " "),
            "images": [{"label": f"severity {s}", "thumbnail": thumbnail(shown(name, s))} for s in severities],
        }
        for name in corruptions
    ]


def attack_strip(title: str, clean: Tensor, attacked: Tensor, answers: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Images `[n, C, H, W]` in [0, 1] before and after an attack, side by side, with the model's answer to each."""
    pairs = []
    for before, after, (first, second) in zip(clean, attacked, answers, strict=True):
        pairs += [
            {"label": f"clean: {first}", "thumbnail": thumbnail(before)},
            {"label": f"attacked: {second}", "thumbnail": thumbnail(after)},
        ]
    return {"title": title, "images": pairs}
