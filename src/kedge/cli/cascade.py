"""`kedge cascade`: a small model for images of which it is sure, a large one for the rest; the rule between them."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from kedge.cli.load_data import workers_for
from kedge.cli.resolve_model import find
from kedge.cli.validation_data import images_to_fit_on
from kedge.rejection import in_words

if TYPE_CHECKING:
    import torch

FEWEST = 40  # images, half of which choose
LOSS = 0.005


def run(
    small: str,
    large: str,
    *,
    out: str,
    data: str | None = None,
    split: str = "val",
    max_loss: float | None = None,
    max_risk: float | None = None,
    certainty: float | None = None,
    all_references: bool = False,
    to: Literal["kedge", "onnx"] = "kedge",
    format: Literal["table", "json"] = "table",
    batch_size: int = 32,
    seed: int = 0,
    device: str = "auto",
) -> int:
    """Let a small model answer where it is sure, and a large one the rest.

    The confidence from which the small answer stands is chosen on half of the validation images (those that the runs
    held out of training): the fewest images are passed on for which accuracy falls by no more than --max_loss below
    that of the large model alone. That is at the edge of what those images allow: on others about every second such
    choice loses more, unless --certainty is asked for. On the other half the cascade is measured beside each model
    alone: accuracy, share passed on, milliseconds for an image. Both models and the rule are written to a folder that
    kedge predict and evaluate take as a MODEL.

    An anchored small model is folded with its first reference, so that RUN RUN is a cascade too: one reference where
    that is sure, all of them where it is not.

    Args:
        small (SMALL): the model that is asked first: a run, a model folder or an exported .onnx file
        large (LARGE): the model for the rest; it may be the same anchored one, with all its references
        out (FOLDER): where to write the cascade
        data: images to choose and measure on: an image folder, parquet files, a folder of $KEDGE_DATA or a hub name;
            null: those that the run of LARGE held out of training
        split: part of the data; not test: those images are for judging the result
        max_loss (SHARE): how much accuracy may be lost against the large model alone, such as 0.005; null: 0.005, or
            with --max_risk not looked at
        max_risk (SHARE): the largest share of wrong answers among those of the small model that stand; null: not looked
            at
        certainty (SHARE): choose so that what is asked holds on all images like these, with this probability, such as
            0.95: more are passed on, and it takes many images (for a loss of 0.005 over 500 to choose on); null: on
            those images
        all_references: an anchored small model answers with all of its references; else it is folded to its first one
        to: write model folders, or ONNX files, which have one reference each
        format: how to print what was measured
        batch_size: {BATCH_SIZE}
        seed: of the halves
        device: {DEVICE}

    Exit status: 0; 3 where the cascade costs as much as the large model alone.
    """
    for name, share in (("max_loss", max_loss), ("max_risk", max_risk)):
        if share is not None and not 0 <= share < 1:
            raise ValueError(f"--{name} is a share of images, at least 0 and below 1, not {share:g}")
    if certainty is not None and not 0 < certainty < 1:
        raise ValueError(f"--certainty is a probability, between 0 and 1, not {certainty:g}")
    sources = {"small": find(small), "large": find(large)}
    import torch

    from kedge.cascade import Cascade, save_cascade
    from kedge.cascade_rule import choose_rule
    from kedge.data import generator
    from kedge.deploy import folded
    from kedge.training.held_out import unseen

    models: dict[str, Any] = {name: source.load(device) for name, source in sources.items()}
    if models["small"].count() and not all_references:
        models["small"] = folded(models["small"].cpu()).to(models["large"].mean.device)
    both = Cascade(
        models["small"], models["large"], {"threshold": 1.0}
    )  # says what does not fit before images are read
    if to == "onnx":
        both.check_exportable()
    max_loss = LOSS if max_loss is None and max_risk is None else max_loss
    images = images_to_fit_on(sources["large"], models["large"], data, split)
    if (record := sources["small"].record()) is not None:
        images = unseen(images, record, sources["small"].name)
    if len(images) < FEWEST:
        raise ValueError(f"{len(images)} images are too few to choose a rule on one half and measure on the other: "
                         f"name {FEWEST} or more with --data")  # fmt: skip
    pixels = torch.cat([batch for batch, _ in images.batches(256, workers=workers_for(images))])
    order = torch.randperm(len(images), generator=generator(seed, "cascade"))
    choosing, judging = order[: len(order) // 2], order[len(order) // 2 :]
    first, second = (_timed(models[name], pixels[choosing], batch_size)[0] for name in ("small", "large"))
    labels = images.labels
    right, other = (each.label.cpu() == labels[choosing] for each in (first, second))
    choice = choose_rule(first.log_odds.cpu(), right, other, max_loss, max_risk, certainty)
    cascade = Cascade(models["small"], models["large"], choice.rule)
    rows: dict[str, dict[str, Any]] = {}
    for name, model in (("small alone", models["small"]), ("large alone", models["large"]), ("cascade", cascade)):
        answer, milliseconds = _timed(model, pixels[judging], batch_size)
        rows[name] = {"accuracy": float((answer.label.cpu() == labels[judging]).double().mean()), "passed": None,
                      "milliseconds": milliseconds}  # fmt: skip
    passed = torch.cat([cascade.passed_on(_float(part, cascade)).cpu() for part in pixels[judging].split(batch_size)])
    rows["cascade"]["passed"] = float(passed.double().mean())
    measured = {"models": rows, "chosen_on": len(choosing), "measured_on": len(judging), "batch_size": batch_size,
                "max_loss": max_loss, "max_risk": max_risk, "certainty": certainty,
                "device": str(models["large"].mean.device)}  # fmt: skip
    folder = save_cascade(cascade.cpu(), out, measured, onnx=to == "onnx")
    if format == "json":
        print(json.dumps({**measured, "rule": choice.rule, "folder": str(folder)}, indent=2))
    else:
        print(_table(rows, choice.rule, measured))
    print(f"saved: {folder}    kedge predict {folder} IMAGES...", file=sys.stderr)
    if both.left_out:
        print(f"careful: {both.left_out}", file=sys.stderr)
    if rows["cascade"]["milliseconds"] >= rows["large alone"]["milliseconds"]:
        print("careful: the cascade takes as long as the large model alone: the small one is too slow, or too seldom "
              "sure; allow a larger loss, or use the large model", file=sys.stderr)  # fmt: skip
        return 3
    return 0


def _float(part: "torch.Tensor", model: Any) -> "torch.Tensor":
    return part.to(model.mean.device).float() / 255


def _timed(model: Any, pixels: "torch.Tensor", batch_size: int) -> tuple[Any, float]:
    """What a model answers to images, batch by batch, and milliseconds for an image; the first batch is asked twice."""
    import torch

    from kedge.anchoring.prediction import conclude

    parts = [_float(part, model) for part in pixels.split(batch_size)]
    model.predict(parts[0], check=False)
    started = time.perf_counter()
    logits = torch.cat([model.predict(part, check=False).logits.cpu() for part in parts])
    seconds = time.perf_counter() - started
    return conclude(logits, None, "classification"), 1000 * seconds / len(pixels)


def _table(rows: dict[str, Any], rule: dict[str, float], measured: dict[str, Any]) -> str:
    lines = [
        f"the small answer stands from a confidence of {in_words(rule)}, chosen on {measured['chosen_on']} images",
        f"on {measured['measured_on']} others    accuracy   passed on   ms an image",
    ]
    for name, row in rows.items():
        passed = "" if row["passed"] is None else f"{row['passed']:.1%}"
        lines.append(f"{name:<15}{row['accuracy']:>10.2%}{passed:>12}{row['milliseconds']:>14.3f}")
    return "\n".join(lines)
