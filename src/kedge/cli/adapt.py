"""`kedge adapt`: take a trained model to a new task, by a new head or by fine-tuning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from kedge.catalog import resolve
from kedge.cli.flags import changed, check_range
from kedge.cli.load_data import load_outside, shifts_of, titles, workers_for
from kedge.cli.output import progress_bar
from kedge.cli.parse import check_sets, check_words, separated, whole_numbers
from kedge.cli.resolve_model import Source, check_weights, find
from kedge.cli.task_images import images_of_task

# What --remember and --add_classes take: everything else is of a new task.
OF_CLASSES = (
    "model", "data", "add_classes", "remember", "photos", "samples", "strength", "head", "val_fraction", "seed",
    "batch_size", "workers", "device", "out",
)  # fmt: skip


def run(
    model: str,
    *,
    weights: str | None = None,
    data: str | None = None,
    add_classes: str | None = None,
    remember: Literal["full", "diagonal", "sparse-uniform", "random", "central"] | None = None,
    photos: int = 20,
    samples: int = 200,
    how: Sequence[str] = ("linear-probe",),
    shots: Sequence[str] = ("all",),
    draws: int = 1,
    share: str = "0.5",
    alpha: float = 0.4,
    drawn: int = 4,
    neighbours: int = 5,
    outliers: float | None = None,
    borrow: int = 3,
    gamma: float = 0.2,
    strength: float | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    layer_lr: str | None = None,
    stages: int = 3,
    budget: int = 12,
    pull: float = 0.0,
    layers: int = 3,
    small: str | None = None,
    augment: Literal["auto", "none", "crop-flip", "trivial"] = "auto",
    head: str | None = None,
    references: int | None = None,
    val_fraction: float = 0.1,
    split_by: str | None = None,
    shift: Sequence[str] = ("none",),
    severities: Sequence[str] = ("1", "2", "3", "4", "5"),
    ood: Sequence[str] = (),
    near: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    workers: int | None = None,
    device: str = "auto",
    out: str | None = None,
) -> int:
    """Take a trained model to a new task: new images, new classes.

    --shots takes a few images of each class, several times, and uses no others. Prints a table; every model is a run
    folder of its own. What has finished is not made again: interrupted, the same command goes on. The ways, --how:

    {procedures_in_words}

    --add_classes adds classes to those that the model has, without the photos of these: from what --remember wrote
    beside its weights while they were there. The result is a model folder of all classes.

    Args:
        model (MODEL): {MODEL}
        weights (FILE): a file with the weights of the model timm/NAME, in place of those of the library
        data (FOLDER): the new images: a folder, parquet files, a name, a hub name; with --remember photos of the
            classes that the model has, null: those of its run
        add_classes (FOLDER): photos of classes that the model does not have, in a folder for each
        remember: write statistics of the classes' features beside the model's weights: a Gaussian of each class, with
            full or diagonal covariance, or the features of a few photos, chosen by one of the other words
        photos: of remember and add_classes: of each class, where features of photos are remembered
        samples: of add_classes: features drawn from the Gaussian of each old class
        how (NAME): one or several of {procedures}
        shots (N): images of each class, or all
        draws: how often the few images are drawn; also seeds of the trainings
        share: of wise-ft: the share of the fine-tuned weights, or val: chosen
        alpha: of anchored-probe: the share of hidden references
        drawn: of anchored-probe: references drawn for each image
        neighbours: of smote: nearest images of the class, one of which is the partner
        outliers: of rcal: the share of a class that its statistics leave out; null: by a factor
        borrow: of rcal: frequent classes that a rare one borrows statistics from
        gamma: of rcal: the weight of what is borrowed
        strength: of the probes' regularisation; null: chosen by images
        epochs: of fine-tuning; null: ten, or more where images are few
        lr: of fine-tuning, a tenth of it for lp-ft; null: by the network
        layer_lr (FACTORS): of fine-tuning: on the rate of the stages of MODEL, from the image on, such as 0,0.1,1, or
            search: those that are best on held-out images; null: all 1
        stages: of --layer_lr search: parts that the layers before the head are cut into
        budget: of --layer_lr search: how many factors are tried at most
        pull: of fine-tuning: how strongly weights are held near those of MODEL (PullTowards), the head's not; 0: free
        layers: of levi: adapting layers, the last one on the features of MODEL
        small (NAME): of levi: the network of timm that learns beside MODEL; null: by the size of the images
        augment: of fine-tuning
        head: the layer to replace, by its name; null: found
        references: bank of an anchored model; null: as many as it had
        val_fraction: of the training images, held out if the data has no part val
        split_by (WAY): what stays together when images are held out to choose by and to measure on: near (near twins),
            folder, folder:2, regex:PATTERN or column:NAME, as in kedge train
        shift (NAME): as in kedge evaluate: corruptions, names, published sets
        severities (N): of 1 to 5
        ood (NAME): data of other kinds, which the models should notice (AUROC of the MSP)
        near (NAME): the same, close in kind
        limit: at most so many images under shift and of other kinds
        seed: of the images that are held out or drawn, and of the trainings
        batch_size: {BATCH_SIZE}
        workers: {WORKERS}
        device: {DEVICE}
        out: folder of the results; null: runs/MODEL-on-DATA

    Examples:
        kedge adapt mine --data flowers                                   a linear probe
        kedge adapt mine --data flowers --how linear-probe,lp-ft,wise-ft --shift corruptions
        kedge adapt mine --data flowers --how linear-probe,anchored-probe --shots 1,5,20,all --draws 3
        kedge adapt mine --data flowers --how finetune --layer-lr search
        kedge adapt mine --data flowers --how levi --layers 3              a small network beside MODEL
        kedge adapt timm/resnet18.a1_in1k --data flowers                  published weights (needs a network)
        kedge adapt mine --remember full                                  while the training photos are there
        kedge adapt mine --add_classes newcomers                          later, without them
    """
    options = locals()
    check_range("seed", seed, 0, 2**32 - 1)
    if not 0 < val_fraction <= 0.5:
        raise ValueError(f"--val_fraction must be above 0, at most 0.5, got {val_fraction}")
    if add_classes is not None or remember is not None:
        for name in changed(run, options):
            if name not in OF_CLASSES:
                raise ValueError(f"--{name} is of a new task, not of --remember or --add_classes: leave it out")
        source = find(model)  # before anything slow is imported
        from kedge.cli import more_classes

        common: dict[str, Any] = {"photos": photos, "head": head, "seed": seed, "batch_size": batch_size}
        common |= {"workers": workers, "device": device}
        if remember is not None:
            more_classes.remember_classes(source, model, remember, data, **common)
        elif data is not None:
            raise ValueError("--data is not needed to add classes: the new photos are those of --add_classes")
        if add_classes is not None:
            common |= {"samples": samples, "strength": strength}
            more_classes.add_new_classes(source, model, add_classes, out, val_fraction, **common)
        return 0
    if data is None:
        raise ValueError("--data FOLDER is missing: the new images: a folder, parquet files, a name, a hub name")
    source = find(model)
    hows = list(dict.fromkeys(resolve("procedures", word).replace("_", "-") for word in separated(how)))
    counts, levels = _shots(separated(shots)), whole_numbers(severities)
    ood, near = separated(ood), separated(near)
    check_words(["none"], levels)
    check_sets(ood, near)
    check_weights([source], weights)
    if source.path is not None and source.path.is_file():
        raise ValueError(f"{model} is a file for inference, without weights to train; give the run or its model folder")
    from kedge.adaptation import Settings

    settings = Settings(
        seed=seed,
        head=head,
        alpha=alpha,
        drawn=drawn,
        neighbours=neighbours,
        outliers=outliers,
        borrow=borrow,
        gamma=gamma,
        strength=strength,
        share=_share(share),
        epochs=epochs,
        lr=lr,
        layer_lr=_factors(layer_lr),
        stages=stages,
        budget=budget,
        pull=pull,
        layers=layers,
        small=small,
        references=references,
        objective=_objective(source),
        augment=augment,
        batch_size=batch_size,
        device=device,
        source=model,
        data=data,
        val_fraction=val_fraction,
    )
    settings.check()
    from dataclasses import replace

    from kedge import adaptation
    from kedge.procedures._search import search_in_words

    shifts = shifts_of(separated(shift))
    network = source.load("cpu", weights, headless=True)
    train, val, test = images_of_task(data, network, model, val_fraction, seed, source.record(), split_by)
    outside = load_outside({source.name: network}, [*ood, *near], data, test)
    folder = Path(out) if out else Path("runs") / f"{source.name}-on-{Path(data).name}"
    try:
        with progress_bar("adapting") as (_, say):
            results = adaptation.study(
                network,
                train,
                val,
                test,
                folder,
                hows=hows,
                shots=counts,
                draws=draws,
                settings=replace(settings, workers=workers_for(train, workers)),
                shift=shifts,
                severities=levels,
                ood=outside or None,
                near=titles(outside, [*ood, *near], near),
                limit=limit,
                say=say,
            )
    except KeyboardInterrupt:
        again = f"interrupted; what is finished is kept in {folder}, the same command goes on"
        raise KeyboardInterrupt(again) from None
    print("\n".join(results["table"]))
    for row in results["rows"]:
        if (search := row.get("adapted", {}).get("layer_lr")) is not None:
            shots_of = "all images" if row["shots"] is None else f"{row['shots']} shots"
            print(f"{row['how']}, {shots_of}, draw {row['draw']}: {search_in_words(search)}")
    print(f"(percent, {test.name} ({test.split}), {len(test)} images)")
    first = f"{'all' if counts[-1] is None else counts[-1]}-0"
    print(f"models: {folder}/{first}/{hows[-1]}, ...   results: {folder / 'results.json'}")
    return 0


def _shots(words: list[str]) -> list[int | None]:
    """Numbers of images of each class, and None for `all`, in the order given. Raises ValueError for anything else."""
    counts: list[int | None] = []
    for word in words:
        if word != "all" and not (word.isdigit() and int(word) > 0):
            raise ValueError(f"--shots are whole numbers above 0, or all, got {word!r}")
        value = None if word == "all" else int(word)
        if value not in counts:
            counts.append(value)
    return counts


def _factors(text: str | None) -> list[float] | str | None:
    if text is None or text == "search":
        return text
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ValueError(f"--layer_lr are numbers with commas between, or search, got {text!r}") from None


def _share(text: str) -> float | str:
    if text == "val":
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"--share is a number from 0 to 1, or val, got {text!r}") from None


def _objective(source: Source) -> list[Any] | None:
    """How a run masked its references, for fine-tuning to go on so; None for any other model."""
    from kedge.training.going_on import going_on
    from kedge.training.recorded import anchored_arguments

    before = source.recipe().get("objective")
    return None if anchored_arguments(before) is None else going_on(before, anchored=True)
