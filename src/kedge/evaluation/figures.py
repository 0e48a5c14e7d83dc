"""The images of the page: answers that deserve a look, and strips of what corruptions and attacks do to an image.

Answers that deserve one are the most and the least certain, and the most confident mistakes.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kedge.data.corruptions import corrupt
from kedge.evaluation.inputs import to_unit
from kedge.evaluation.sets import Shifts

THUMBNAIL = 96  # px, longest side
MOST_CERTAIN = 8  # of the answers that need a look least
BEHIND = 160  # images behind the cells of confusion matrices, of all models together
OF_A_CELL = 6


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


def shared_out(examples: int, models: int) -> tuple[int, int]:
    """How many images of a kind, and behind the cells of its confusion matrix, are shown of each of several models."""
    return min(examples, max(8, examples // models)), BEHIND // models if examples else 0


def choose(columns: dict[str, Tensor], most: int) -> dict[str, list[int]]:
    """Positions of up to `most` images each, of the most certain up to 8: by log odds, ties in the order of the set."""
    order = columns["log_odds"].argsort(descending=True, stable=True)
    wrong = order[columns["rank"][order] > 0]
    half = len(order) // 2
    return {
        "most_certain": order[: min(most, MOST_CERTAIN, len(order) - half)].tolist(),
        "least_certain": order.flip(0)[: min(most, half)].tolist(),
        "confident_mistakes": wrong[:most].tolist(),
    }


def behind_cells(columns: dict[str, Tensor], most: int, chosen: Iterable[int] = ()) -> list[int]:
    """Up to `most` positions that give each cell of a confusion matrix something to look at, beside those `chosen`.

    One image for each cell, then a second one, and so on up to 6: mistakes before right answers, the larger cell
    first. Of mistakes the most certain come first, of right answers the least certain.
    """
    labels, predicted = columns["label"].tolist(), columns["predicted"].tolist()
    order = columns["log_odds"].argsort(descending=True, stable=True).tolist()
    cells: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in order:
        cells[int(labels[i]), int(predicted[i])].append(i)
    for (label, answer), places in cells.items():
        if label == answer:
            places.reverse()
    ranked = sorted(cells.items(), key=lambda cell: (cell[0][0] == cell[0][1], -len(cell[1]), cell[0]))
    shown, more = set(chosen), []
    for turn in range(OF_A_CELL):
        for _, places in ranked:
            if turn < len(places) and places[turn] not in shown:
                more.append(places[turn])
    return more[:most]


def example_images(
    columns: dict[str, Tensor],
    data: Any,
    indices: Tensor,
    files: Sequence[str] | None,
    most: int,
    behind: int,
    thumbnails: dict[int, str],
) -> dict[str, list[dict]]:
    """The chosen images of `data` with what was predicted; `indices` are their positions in the whole set.

    Up to `behind` images that show what is behind the cells of the confusion matrix are "of_cells". `thumbnails` by
    position are kept there for the next model on the same images.
    """

    def entry(i: int) -> dict[str, Any]:
        if i not in thumbnails:
            thumbnails[i] = thumbnail(data[i][0])
        return {
            "index": int(indices[i]),
            "path": files[i] if files else None,
            "label": data.class_names[int(data.labels[i])],
            "predicted": data.class_names[int(columns["predicted"][i])],
            "correct": bool(columns["rank"][i] == 0),
            "confidence": float(columns["confidence"][i]),
            "uncertainty": float(columns["uncertainty"][i]) if "uncertainty" in columns else None,
            "thumbnail": thumbnails[i],
        }

    groups = choose(columns, most)
    groups["of_cells"] = behind_cells(columns, behind, (i for own in groups.values() for i in own))
    return {group: [entry(i) for i in chosen] for group, chosen in groups.items()}


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
