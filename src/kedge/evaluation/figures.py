"""The images of the page: answers that deserve a look, and strips of what corruptions and attacks do to an image.

Answers that deserve one are the most and the least certain, and the most confident mistakes.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kedge.data.corruptions import corrupt
from kedge.evaluation.inputs import to_unit
from kedge.evaluation.sets import Shifts

THUMBNAIL = 96  # px, longest side


def thumbnail(image: Tensor) -> str:
    """A data: URL of `image` `[C, H, W]` (uint8, or float in [0, 1]), at most 96 px; PNG up to 32 px, else JPEG."""
    pixels = (to_unit(image) * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    pixels = pixels[:3] if len(pixels) >= 3 else pixels[:1]
    picture = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    kind = "png" if max(picture.size) <= 32 else "jpeg"
    stream = io.BytesIO()
    picture.save(stream, format=kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def choose(columns: dict[str, Tensor], most: int) -> dict[str, list[int]]:
    """Positions of up to `most` images each: by log odds, ties in the order of the set."""
    order = columns["log_odds"].argsort(descending=True, stable=True)
    wrong = order[columns["rank"][order] > 0]
    half = len(order) // 2
    return {
        "most_certain": order[: min(most, len(order) - half)].tolist(),
        "least_certain": order.flip(0)[: min(most, half)].tolist(),
        "confident_mistakes": wrong[:most].tolist(),
    }


def example_images(columns: dict[str, Tensor], data: Any, indices: Tensor, most: int = 8) -> dict[str, list[dict]]:
    """The chosen images of `data` with what was predicted; `indices` are their positions in the whole set."""
    paths = getattr(data, "paths", None)

    def entry(i: int) -> dict[str, Any]:
        image, label = data[i]
        return {
            "index": int(indices[i]),
            "path": "/".join(PurePath(paths[i]).parts[-2:]) if paths else None,
            "label": data.class_names[int(label)],
            "predicted": data.class_names[int(columns["predicted"][i])],
            "correct": bool(columns["rank"][i] == 0),
            "confidence": float(columns["confidence"][i]),
            "uncertainty": float(columns["uncertainty"][i]) if "uncertainty" in columns else None,
            "thumbnail": thumbnail(image),
        }

    return {group: [entry(i) for i in chosen] for group, chosen in choose(columns, most).items()}


def corruption_strips(images: Any, position: int, shifts: Shifts, seed: int) -> list[dict[str, Any]]:
    """A strip for each corruption: the first of `images`, at `position` of the whole set, at each severity."""
    image = to_unit(images[0][0][None])
    settings: dict[str, Any] = {
        "indices": torch.tensor([position]), "seed": seed, "frost_textures": shifts.frost_textures
    }  # fmt: skip

    def tile(name: str, severity: int) -> dict[str, str]:
        return {"label": f"severity {severity}", "thumbnail": thumbnail(corrupt(image, name, severity, **settings)[0])}

    return [
        {"title": name.replace("_", " "), "images": [tile(name, severity) for severity in shifts.severities]}
        for name in shifts.corruptions
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
