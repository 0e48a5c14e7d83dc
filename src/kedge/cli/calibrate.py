"""`kedge calibrate`: fit a temperature on validation images and save it with the model, or take it out."""

import sys
import warnings
from typing import TYPE_CHECKING, Any

from kedge.cli.ranges import check_values
from kedge.cli.resolve_model import Source, find
from kedge.rejection import in_words

if TYPE_CHECKING:
    import jsonargparse

    from kedge.data import ImageSet

DESCRIPTION = """\
Make confidences fit: divide the logits of a trained model by one number, the temperature.

It is fitted on validation images (those that the run held out of training), saved with the model under its name, and
used by kedge predict, evaluate and export from then on. No label changes. The reject threshold is set anew, for the
same coverage on the same images. --remove takes the temperature out and brings the old threshold back.
"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge calibrate`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(
        prog="kedge calibrate", usage="kedge calibrate MODEL [options]", description=DESCRIPTION
    )
    made.add_argument("model", metavar="MODEL", help="a run folder (runs/NAME, or only NAME) or a model folder")
    made.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="images to fit on: an image folder, parquet files, a folder of $KEDGE_DATA or a hub name; null: those "
        "that the run held out of training",
    )
    made.add_argument(
        "--split", type=str, default="val", help="part of the data; not test: those images are for judging the result"
    )
    made.add_argument("--remove", action="store_true", help="take the temperature out instead of fitting one")
    made.add_argument(
        "--out", type=str | None, default=None, help="model folder to write; null: the model's own, which is replaced"
    )
    made.add_argument("--batch_size", type=int, default=128, help="images that go through the network at a time")
    made.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Fit or remove, save, and say what changed."""
    check_values(config)
    source = find(config.model)
    if source.path is None or not source.path.is_dir():
        raise ValueError(
            f"{config.model} is no folder that kedge saved a model in; an exported file is calibrated by calibrating "
            "the run it came from and exporting it again"
        )
    if source.on_hub and not config.out:
        raise ValueError(f"{config.model} is on the hub, and its copy here is not written to: name a folder with --out")
    import kedge

    model = source.load(config.device)
    if config.remove:
        if "temperature" not in model.steps:
            raise ValueError(f"{config.model} has no temperature to remove")
        lines = _removed(model.remove_step("temperature"), model.reject)
    else:
        images = validation_images(source, model, config.data, config.split)
        lines = _calibrated(model, images, config.batch_size)
    folder = kedge.save(model.cpu(), config.out or source.path)
    print("\n".join(lines))
    print(f"saved: {folder}")
    if not config.remove:
        print(f"take it out again: kedge calibrate {config.out or config.model} --remove")
    return 0


def validation_images(source: Source, model: Any, name: str | None, split: str) -> "ImageSet":
    """The images to fit on, in the size and with the classes of the model.

    Raises:
        ValueError: for test images, and for images that the model may have been trained on, or all but a few of them.
    """
    from kedge.cli.load_data import load_data
    from kedge.cli.trained_on import unseen_by
    from kedge.data.folders import canonical_split

    wanted = canonical_split(split) or split
    if wanted == "test":
        raise ValueError(
            "a temperature is not fitted on test images: they are there to judge the result, and would praise "
            "themselves. Take --split val, or other images with --data"
        )
    trained_on = source.recipe().get("data")
    if wanted != "val" and name in (None, trained_on):
        raise ValueError(
            f"--split {split} of {name or trained_on or 'the data'} holds images that the model was trained on, where "
            "its confidence is no guide. Take --split val, or other images with --data"
        )
    return unseen_by(source, load_data({source.name: source}, {source.name: model}, name, split)[0])


def _calibrated(model: Any, images: "ImageSet", batch_size: int) -> list[str]:
    from kedge.cli.load_data import default_workers
    from kedge.training import calibrate

    before = _threshold(model.steps.get("temperature", {}).get("reject_before", model.reject))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        step = calibrate(model, images, batch_size=batch_size, workers=default_workers(images))
    for warning in said:
        print(f"kedge calibrate: {warning.message}", file=sys.stderr)
    after = _threshold(model.reject)
    lines = [
        f"temperature {step['value']:.4g}, fitted on {step['images']} images of {step['fitted_on']}",
        "on these images        before     after",
        f"NLL                {step['nll_before']:10.4f}{step['nll_after']:10.4f}",
        f"ECE                {step['ece_before']:10.2%}{step['ece_after']:10.2%}",
    ]
    if "reject_before" in step:
        rule = model.reject or {}
        goal = f"keep {rule['coverage']:.0%}" if "coverage" in rule else f"be wrong in {rule['risk']:.1%} at most"
        lines.append(f"reject threshold   {before:>10}{after:>10}   set anew to {goal}")
    elif model.reject is not None:
        lines.append(f"reject threshold   {before:>10}{after:>10}   what it was set for is not stored: left as it is")
    lines.append("(they chose the temperature: judge it on others, with kedge evaluate)")
    return lines


def _removed(record: dict[str, Any], reject: dict[str, Any] | None) -> list[str]:
    lines = [f"temperature {record['value']:.4g} removed: the logits are those of the network again"]
    if "reject_before" in record:
        lines.append(f"reject threshold {_threshold(reject)}, as before the temperature")
    elif reject is not None:
        lines.append(f"reject threshold {_threshold(reject)} stays: none was stored from before the temperature")
    return lines


def _threshold(rule: dict[str, Any] | None) -> str:
    return "none" if rule is None else in_words(rule)
