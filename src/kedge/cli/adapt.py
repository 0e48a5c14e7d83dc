"""`kedge adapt`: take a trained model to a new task, by a new head or by fine-tuning."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.catalog import names, resolve, summary
from kedge.cli.parse import check_sets, check_words, separated, whole_numbers, with_examples
from kedge.cli.ranges import check_values
from kedge.cli.resolve_model import MODEL_HELP, Source, check_weights, find

if TYPE_CHECKING:
    import jsonargparse

    from kedge.data import ImageSet
    from kedge.training.record import ImageRecord

TEST_FRACTION = 0.2  # of the training images, where the data has no part test
DESCRIPTION = """\
Take a trained model to a new task: new images, new classes.

--shots takes a few images of each class, several times, and uses no others. Prints a table; every model is a run folder
of its own. What has finished is not made again: interrupted, the same command goes on. The ways, --how:

"""
EPILOG = """\
examples:
  kedge adapt mine --data flowers                                   a linear probe
  kedge adapt mine --data flowers --how linear-probe,lp-ft,wise-ft --shift corruptions
  kedge adapt mine --data flowers --how linear-probe,anchored-probe --shots 1,5,20,all --draws 3
  kedge adapt timm/resnet18.a1_in1k --data flowers                  published weights (needs a network)"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge adapt`."""
    hows = [how.replace("_", "-") for how in names("procedures")]
    about = "".join(f"  {how:16}{summary('procedures', how)}\n" for how in hows)
    made = with_examples("kedge adapt", "MODEL --data FOLDER", DESCRIPTION + about, EPILOG)
    add = made.add_argument
    several: dict[str, Any] = {"type": str, "nargs": "+", "metavar": "NAME"}
    add("model", metavar="MODEL", help=MODEL_HELP)
    weights = "a file with the weights of the model timm/NAME, in place of those of the library"
    add("--weights", type=str | None, default=None, metavar="FILE", help=weights)
    add("--data", type=str | None, default=None, help="the new images: a folder, parquet files, a name, a hub name")
    add("--how", **several, default=["linear-probe"], help=f"one or several of {', '.join(hows)}")
    add("--shots", type=str, nargs="+", default=["all"], metavar="N", help="images of each class, or all")
    add("--draws", type=int, default=1, help="how often the few images are drawn; also seeds of the trainings")
    add("--share", type=str, default="0.5", help="of wise-ft: the share of the fine-tuned weights, or val: chosen")
    add("--alpha", type=float, default=0.4, help="of anchored-probe: the share of hidden references")
    add("--drawn", type=int, default=4, help="of anchored-probe: references drawn for each image")
    add("--strength", type=float | None, default=None, help="of the probes' regularisation; null: chosen by images")
    add("--epochs", type=int | None, default=None, help="of fine-tuning; null: ten, or more where images are few")
    add("--lr", type=float | None, default=None, help="of fine-tuning, a tenth of it for lp-ft; null: by the network")
    add("--augment", choices=["auto", "none", "crop-flip", "trivial"], default="auto", help="of fine-tuning")
    add("--head", type=str | None, default=None, help="the layer to replace, by its name; null: found")
    add("--references", type=int | None, default=None, help="bank of an anchored model; null: as many as it had")
    add("--val_fraction", type=float, default=0.1, help="of the training images, held out if the data has no part val")
    add("--shift", **several, default=["none"], help="as in kedge evaluate: corruptions, names, published sets")
    add("--severities", type=str, nargs="+", default=["1", "2", "3", "4", "5"], metavar="N", help="of 1 to 5")
    add("--ood", **several, default=[], help="data of other kinds, which the models should notice (AUROC of the MSP)")
    add("--near", **several, default=[], help="the same, close in kind")
    add("--limit", type=int | None, default=None, help="at most so many images under shift and of other kinds")
    add("--seed", type=int, default=0, help="of the images that are held out or drawn, and of the trainings")
    add("--batch_size", type=int, default=128, help="images that go through the network at a time")
    add("--workers", type=int | None, default=None, help="processes that decode images; null: by their size")
    add("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    add("--out", type=str | None, default=None, help="folder of the results; null: runs/MODEL-on-DATA")
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Adapt, measure, print the table, and say where the models are."""
    from kedge.adaptation import Settings
    from kedge.adaptation.shots import parse_shots

    check_values(config, seed=(0, 2**32 - 1))
    hows = _hows(separated(config.how))
    shots = parse_shots(separated(config.shots))
    severities = whole_numbers(config.severities)
    check_words(["none"], severities)
    check_sets(separated(config.ood), separated(config.near))
    if config.data is None:
        raise ValueError("which images? name the new task with --data FOLDER")
    if not 0 < config.val_fraction <= 0.5:
        raise ValueError(f"--val_fraction must be above 0, at most 0.5, got {config.val_fraction}")
    source = find(config.model)
    check_weights([source], config.weights)
    if source.path is not None and source.path.is_file():
        raise ValueError(
            f"{config.model} is a file for inference, without weights to train; give the run or its model folder"
        )
    settings = Settings(
        seed=config.seed,
        head=config.head,
        alpha=config.alpha,
        drawn=config.drawn,
        strength=config.strength,
        share=_share(config.share),
        epochs=config.epochs,
        lr=config.lr,
        references=config.references,
        objective=_objective(source),
        augment=config.augment,
        batch_size=config.batch_size,
        device=config.device,
        source=config.model,
        data=config.data,
        val_fraction=config.val_fraction,
    )
    settings.check()
    from dataclasses import replace

    from kedge import adaptation
    from kedge.cli.evaluate import progress_bar
    from kedge.cli.load_data import default_workers, load_outside, shifts_of

    shift = shifts_of(separated(config.shift))
    model = source.load("cpu", config.weights, headless=True)
    train, val, test = _images(config, model, source.record())
    near = separated(config.near)
    outside = load_outside({source.name: model}, [*separated(config.ood), *near], config.data, test)
    workers = default_workers(train) if config.workers is None else config.workers
    out = Path(config.out) if config.out else Path("runs") / f"{source.name}-on-{Path(config.data).name}"
    try:
        with progress_bar() as (_, say):
            results = adaptation.study(
                model,
                train,
                val,
                test,
                out,
                hows=hows,
                shots=shots,
                draws=config.draws,
                settings=replace(settings, workers=workers),
                shift=shift,
                severities=severities,
                ood=outside or None,
                near=[name for name in outside if name in near],
                limit=config.limit,
                say=say,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; what is finished is kept in {out}, the same command goes on") from None
    print("\n".join(results["table"]))
    print(f"(percent, {test.name} ({test.split}), {len(test)} images)")
    print(
        f"models: {out}/{'all' if shots[-1] is None else shots[-1]}-0/{hows[-1]}, ...   results: {out / 'results.json'}"
    )
    return 0


def _hows(words: list[str]) -> list[str]:
    return list(dict.fromkeys(resolve("procedures", word).replace("_", "-") for word in words))


def _share(text: str) -> float | str:
    if text == "val":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--share is a number from 0 to 1, or val, got {text!r}") from None


def _objective(source: Source) -> list[Any] | None:
    """How a run masked its references, for fine-tuning to go on so; None for any other model."""
    from kedge.training.recorded import anchored_arguments
    from kedge.training.start_from import going_on

    before = source.recipe().get("objective")
    return None if anchored_arguments(before) is None else going_on(before, anchored=True)


def _images(
    config: "jsonargparse.Namespace", model: Any, before: "ImageRecord | None" = None
) -> "tuple[ImageSet, ImageSet, ImageSet]":
    """Training, validation and test images in the size that the model takes.

    `before`: what the model was trained on; nothing of it is drawn to choose by or to measure on.

    Raises:
        ValueError: if there is nothing else.
    """
    from kedge import data
    from kedge.cli.load_data import common_shape
    from kedge.training.held_out import unseen
    from kedge.training.record import ImageRecord

    channels, side = common_shape({config.model: model})
    if side is None:
        raise ValueError(
            f"{config.model} takes images of {model.input_shape}, which are not square: load them in Python"
        )
    train = data.load(config.data, "train", side, channels)
    offered = data.splits(config.data)
    known = before.seen if before is not None and before.keys_of == train.keys_of else frozenset()
    if "val" in offered:
        val = unseen(data.load(config.data, "val", side, channels), ImageRecord.of(train, None, before), "this task")
    else:
        train, val = _drawn(config, train, config.val_fraction, config.seed, known, "val")
    if "test" in offered:
        test = data.load(config.data, "test", side, channels)
        for record, what in ((before, config.model), (ImageRecord.of(train, val), "the new head")):
            if record is not None and (count := record.count(test)):
                print(f"careful: {what} was trained on {count} of the {len(test)} test images", file=sys.stderr)
    else:
        # After the validation images, which are then those that the recipes of the run folders name.
        train, test = _drawn(config, train, TEST_FRACTION, data.derive_seed(config.seed, "test"), known, "test")
        test.split = "test"
        print(
            f"{config.data} has no part test: {len(test)} of its training images, about a fifth of each class, drawn "
            f"by --seed {config.seed}, are held out to measure on and train nothing",
            file=sys.stderr,
        )
    (train, _), (val, _), (test, _) = train.readable(), val.readable(), test.readable()
    print(f"{train.name}: {train.report.summary()}", file=sys.stderr)
    return train, val, test


def _drawn(
    config: "jsonargparse.Namespace", train: "ImageSet", share: float, seed: int, known: frozenset[bytes], part: str
) -> "tuple[ImageSet, ImageSet]":
    """`train` without a part that is drawn from it, and that part."""
    from kedge import data

    try:
        return data.split_validation(train, share, seed, trained=known)
    except data.DataError as error:
        raise ValueError(
            f"{error}. Put images that {config.model} was not trained on into {config.data}/{part}"
        ) from error
