"""Images to look at: strips of corrupted and attacked ones, and the answers that deserve a look."""

from typing import Any

from kedge.printable import printable

_TITLES = {
    "least_certain": "Least certain",
    "confident_mistakes": "Most confident mistakes",
    "most_certain": "Most certain",
}


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Strips, and for each model its groups of images; fewer or none as `level` grows."""
    if level > 2:
        return None
    most = 4 if level > 1 else None
    models = [
        {"model": i, "groups": [(title, model["images"].get(key, [])[:most]) for key, title in _TITLES.items()]}
        for i, model in enumerate(results["models"].values())
        if any(model["images"].values())
    ]
    strips = [
        {
            "title": printable(strip["title"]).replace("_", " "),
            "images": [
                {"label": printable(image["label"]), "src": safe(image["thumbnail"]), "tiny": tiny(image["thumbnail"])}
                for image in strip["images"]
            ],
        }
        for strip in results["strips"]
    ]
    return {"models": models, "strips": strips} if models or strips else None


def safe(url: Any) -> str:
    """`url` where it is an embedded image, else nothing: the page loads from nowhere."""
    return url if isinstance(url, str) and url.startswith("data:image/") else ""


def tiny(url: Any) -> bool:
    """Whether the image has so few pixels (it is a PNG then) that each should be seen."""
    return isinstance(url, str) and url.startswith("data:image/png")
