"""How the models were trained: on what, for how long, with which learning rate, and what was found twice."""

from typing import Any

from kedge.printable import printable
from kedge.reporting.rows import dig, number
from kedge.reporting.sections.run import time_in_words
from kedge.reporting.svg import Plot, svg

_CURVES = (
    ("val_accuracy", "Accuracy on validation images", "%", 100.0),
    ("train_loss", "Training loss", "", 1.0),
    ("lr", "Learning rate", "", 1.0),
)


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Sentences and recipe of each model whose training is on record, and the curves of all; None for nothing."""
    models = list(results["models"].values())
    known = [(i, model) for i, model in enumerate(models) if model["training"] is not None]
    if not known:
        return None
    curves = [(i, model["training"]["curve"]) for i, model in known]
    plots = [plot for key, title, label, unit in _CURVES if (plot := _plot(curves, key, title, label, unit))]
    return {
        "plots": plots,
        "models": [
            {"model": i, "sentences": sentences_about(model, results), "recipe": _recipe(model["training"]["recipe"])}
            for i, model in known
        ],
    }


def sentences_about(model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """On what, how long and from where, and which images are there twice."""
    own = model["training"]
    lines = []
    if own["images"] is not None:
        held = f", {own['validation_images']:,} held out to validate" if own["validation_images"] else ""
        of = f" of {printable(own['data'])}" if own["data"] else ""
        lines.append(f"Trained on {own['images']:,} images{of}{held}.")
    epochs, seconds = own["recipe"].get("epochs"), time_in_words(own["seconds"])
    if epochs and seconds:
        end = f", finished {printable(own['finished'])[:10]}" if own["finished"] else ""
        lines.append(f"{epochs} epochs in {seconds}{end}.")
    if own["validation"] and own["validation"].get("accuracy") is not None:
        lines.append(f"Right on {number(own['validation']['accuracy'])} % of the validation images at its end.")
    probe = dig(own, "probe", "accuracy")
    if probe is not None:
        lines.append(
            f"A linear probe of the network as it was before training: {number(probe)} % of the validation images."
        )
    return lines + duplicates(model, results)


def duplicates(model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """Images that are there twice, bit for bit: in training, in the test, and in both."""
    lines = []
    for count, what in ((model["training"]["repeated"], "training"), (results["data"]["repeated"], "test")):
        if count is not None:
            what = "validation" if what == "test" and results["data"]["split"] == "val" else what
            some = f"{count:,} {what} image{' repeats' if count == 1 else 's repeat'} another one"
            lines.append(f"{some if count else f'No {what} image repeats another one'}, bit for bit.")
    if model["trained_on"] is not None:
        lines.append(f"{model['trained_on'] or 'None'} of the images of this page {_were(model['trained_on'])}.")
    if lines:
        lines.append("Near duplicates are not looked for here: kedge audit does.")
    return lines


def _were(count: int) -> str:
    return "was a training image" if count == 1 else "were training images"


def _recipe(recipe: dict[str, Any]) -> list[tuple[str, str]]:
    return [(printable(key).replace("_", " "), printable(_value(value))) for key, value in recipe.items()]


def _value(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else value


def _plot(
    curves: list[tuple[int, dict[str, Any]]], key: str, title: str, label: str, unit: float
) -> dict[str, Any] | None:
    """A curve by epoch of every model that has it."""
    lines = []
    for i, curve in curves:
        pairs = zip(curve.get("epoch", []), curve.get(key, []), strict=False)
        points = [(epoch, unit * value) for epoch, value in pairs if value is not None]
        if len(points) > 1:
            lines.append((i, points))
    if not lines:
        return None
    epochs, values = zip(*(point for _, points in lines for point in points), strict=True)
    low, high = (min(0.0, *values), max(values)) if key != "val_accuracy" else (max(0.0, min(values) - 5), 100.0)
    plot = Plot((min(epochs), max(epochs)), (low, high or 1.0), "epoch", label, width=280, height=200)
    for i, points in lines:
        across, up = [x for x, _ in points], [y for _, y in points]
        plot.line(across, up, i, marks=None if len(points) < 12 else 4)
    last = ", ".join(f"{points[-1][1]:.3g}" for _, points in lines)
    return {"title": title, "aria": f"{title} by epoch, at the end {last}", "plot": svg(plot)}
