"""The model card: a README.md for people and for the hub. (What travels inside exported files is `deploy.card`.)"""

import re
from pathlib import Path
from typing import Any

from kedge._version import __version__
from kedge.anchoring import PixelModel
from kedge.anchoring.prototypes import reads_features
from kedge.deploy import card_text as text
from kedge.deploy.card_results import eval_results, evaluation, limits, quick_look
from kedge.deploy.photos import ENOUGH, photos_in
from kedge.postprocess import kind_of
from kedge.regular import read_text
from kedge.rejection import in_words, set_on
from kedge.reporting.evaluations import evaluation_of, on_validation
from kedge.training.recorded import read_run
from kedge.unknown import in_words as unknown_in_words
from kedge.yaml_text import parse_yaml

MARKER = "<!-- Written by kedge card, which writes it anew: delete this line to keep your own changes. -->"
FILE = "README.md"
LARGEST_CARD = 10_000_000  # bytes


def stated_license(path: Path) -> str | None:
    """The licence in the metadata of the card at `path`; None if there is none."""
    if not path.is_file():
        return None
    try:
        match = re.match(r"---\n(.*?)\n---", read_text(path, LARGEST_CARD), re.DOTALL)
        stated = parse_yaml(match[1], str(path)).get("license") if match else None
    except ValueError:
        return None
    return str(stated) if stated else None


def is_ours(path: Path) -> bool:
    """Whether the card at `path` may be replaced: there is none, or kedge wrote it and nobody took the marker out."""
    return not path.is_file() or MARKER in path.read_text(encoding="utf-8", errors="replace")


def model_card(
    model: PixelModel,
    run: Path | None = None,
    repo: str | None = None,
    license: str | None = None,
    changed: str = "",
    means: int | None = None,
    by_name: bool = True,
) -> str:
    """The card of `model` as Markdown with the hub's metadata.

    Names of classes and data sets are escaped; of paths only the last part is written, of runs what is below runs/.

    Args:
        model: what the card is about.
        run: its run folder: recipe, run.json and the newest evaluation are read from it.
        repo: "owner/name", where it will be found; None: the folder itself is.
        license: the hub's word for it, such as "mit" or "cc-by-4.0"; None: the card says that there is none.
        changed: what was done to the model after it was evaluated, in a sentence; the table is then said to be of the
            model before, and its numbers stay out of the metadata.
        means: how many images each reference is the mean of; None: as the run says, of an unchanged model.
        by_name: whether the network has a name that it is rebuilt from; else whoever loads it needs its code.
    """
    recipe, facts = read_run(run)
    results, why = evaluation_of(run, model.describe_steps(), facts, bool(changed))
    if means is None and not changed:
        means = means_of(recipe, facts)
    name = repo.partition("/")[2] if repo else run.resolve().name if run is not None else "A model of kedge"
    did = "adapted" if facts.get("adaptation") else "trained"
    steps = [kind_of(step) for step in model.steps_in_force()]
    parts = [
        _metadata(model, recipe, None if changed else results, run, repo or name, license),
        MARKER,
        f"# {text.escaped(name)}",
        _what(model, did),
        _use(model, repo, by_name),
        text.training(recipe, facts, run, any(step.changes_labels for step in steps)),
        evaluation(results, why, run, changed),
        limits(results, bool(facts.get("folds"))),
        _answers(model, changed),
        _references(model, means),
        _license(license),
        text.papers(recipe, results, str((facts.get("adaptation") or {}).get("how", "")), steps),
        f"## Versions\n\nWritten by kedge {__version__}"
        + (f"; {did} with {_versions(facts)}." if facts.get("kedge") else "."),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def means_of(recipe: dict[str, Any], facts: dict[str, Any]) -> int | None:
    """How many training images each reference of a run's bank is the mean of; None unless it was chosen so."""
    train, k = (facts.get("data") or {}).get("train"), recipe.get("references")
    if recipe.get("choose") != "mean" or recipe.get("init_from") is not None:
        return None
    return train // k if isinstance(train, int) and isinstance(k, int) and k > 0 else None


def _metadata(
    model: PixelModel,
    recipe: dict[str, Any],
    results: dict[str, Any] | None,
    run: Path | None,
    name: str,
    license: str | None,
) -> str:
    from huggingface_hub import ModelCardData

    classifies = model.task == "classification" and len(model.input_shape) == 3
    hub_data = text.hub_name(recipe.get("data"), run)
    numbers = []
    if results is not None and classifies:
        usable = not (on_validation(results) or quick_look(results, model.count() or 1))
        numbers = eval_results(results, hub_data) if usable else []
    data = ModelCardData(
        library_name="kedge",
        license=license,
        pipeline_tag="image-classification" if classifies else None,
        tags=["kedge", "calibration", *(["anchoring"] if model.count() else [])],
        datasets=None if hub_data is None else [hub_data],
        metrics=[numbers[0].metric_type] if numbers else None,
        model_name=name if numbers else None,
        eval_results=numbers or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _what(model: PixelModel, did: str) -> str:
    network = str((getattr(model.network, "kedge_architecture", None) or {}).get("name", type(model.network).__name__))
    count = f"{sum(p.numel() for p in model.parameters()):,}"
    shape = " × ".join(map(str, model.input_shape))
    kind = (
        f"It is anchored: it looks at an image as a reference and the difference from it, and predicts with "
        f"{_count(model.count(), 'reference')}; where they disagree it is uncertain "
        "([arXiv 2406.00529](https://arxiv.org/abs/2406.00529))."
        if model.count()
        else ""
    )
    names = model.class_names
    listed = [text.escaped(n, 60) for n in (names or [])[: text.MANY]]
    more = len(names or []) - len(listed)
    rest = f" and {more:,} more (in config.json)" if more else ""
    classes = f"\n\nClasses: {', '.join(listed)}{rest}." if names else ""
    return (
        f"A {text.escaped(network)} ({count} parameters) for {'classification into' if names else ''} "
        f"{model.num_outputs:,} {'classes' if model.task == 'classification' else 'outputs'}, {did} with kedge. "
        f"It takes images of {shape} (channels, height, width) with values in [0, 1]; normalisation is inside. {kind}"
    ).replace("  ", " ").rstrip() + classes


def _use(model: PixelModel, repo: str | None, by_name: bool) -> str:
    shape = ", ".join(map(str, model.input_shape))
    also = "" if by_name else ", model=network"
    call = f'kedge.from_pretrained("{repo}"{also})' if repo else f'kedge.load("."{also})'
    where = "" if repo else " in this folder"
    photos = len(model.input_shape) == 3 and model.input_shape[1] == model.input_shape[2]
    size = f"{model.input_shape[-1]}, {model.input_shape[0]}"
    read = f'images = kedge.data.read_image("photo.jpg", {size})[None] / 255\n' if photos else ""
    answers = ["prediction.confidence", *(["prediction.uncertainty"] if model.count() else [])]
    if model.task == "classification":
        answers.insert(0, "model.class_names[prediction.label[0]]" if model.class_names else "prediction.label")
    lines = [
        "## Use",
        f"```python\nimport kedge\n\nmodel = {call}\n{read}prediction = model.predict(images)  # [B, {shape}], values "
        f"in [0, 1]\nprint({', '.join(answers)})\n```",
    ]
    if not by_name:
        lines.append(f"`network` is a {type(model.network).__name__}, made by the code it was trained with.")
    elif model.task == "classification" and len(model.input_shape) == 3:
        lines.append(f"or{where} on the command line:")
        lines.append(f"```console\n$ kedge predict {f'hf-hub:{repo}' if repo else '.'} photo.jpg\n```")
    return "\n\n".join(lines)


def _answers(model: PixelModel, changed: str) -> str:
    from kedge.reporting.rows import number

    lines = ["## Confidence and rejection"]
    if model.steps:
        lines += [
            f"{kind_of(name).sentence} ({words})."
            for name, words in zip(model.steps, model.describe_steps(), strict=True)
        ]
    if model.unknown is not None:
        lines.append(_unknown(model.unknown))
    rule = model.reject
    if rule is None:
        lines.append("No reject threshold is stored with the model.")
        return "\n\n".join(lines)
    how = (
        f"so that {number(rule['coverage'], '%')} % of {set_on(rule)} are answered" if "coverage" in rule
        else f"for at most {number(rule['risk'], '%')} % wrong answers on {set_on(rule)}" if "risk" in rule
        else "by hand"
    )  # fmt: skip
    sentence = f"An answer with a confidence below {in_words(rule)} should be rejected. This threshold was set {how}"
    if isinstance(rule.get("validation_accuracy"), float):
        sentence += f"; of those answered {number(rule['validation_accuracy'], '%')} % were right"
    lines.append(sentence + (f". {changed}" if changed else "."))
    return "\n\n".join(lines)


def _unknown(rule: dict[str, Any]) -> str:
    """What is answered with unknown, what was promised of that, and why it is this score."""
    from kedge.reporting.rows import number

    stored = (
        " The directions that it is by, means of features of three training images or more each, are stored with the "
        "model."
    )
    sentence = (
        f"An image is answered with `unknown`, none of the classes, where {unknown_in_words(rule)} (higher is more "
        f"familiar).{stored if reads_features(rule) else ''}"
    )
    if isinstance(rule.get("expected"), float) and isinstance(rule.get("images"), int):
        sentence += (
            f" The threshold was set on {set_on(rule)} ({rule['images']:,}): of images like these "
            f"{number(rule['expected'], '%')} % are expected not to be called unknown."
        )
    why = (rule.get("chosen") or {}).get("why")
    return sentence + (f" The score was chosen so: {text.escaped(str(why), 400)}." if why else "")


def _references(model: PixelModel, means: int | None) -> str:
    count = photos_in(model, means)
    if not model.count():
        sentence = (
            "The first layer holds a map made of one reference image, a photo perhaps, which can be made out in it."
            if count
            else "The model holds no images. Whether its weights remember any was not looked into."
        )
        return f"## Privacy\n\n{sentence}"
    bank = f"The bank holds {_count(len(model.references), 'reference')}"
    if model.residuals is not None:
        bank += f" and {_count(len(model.residuals), 'residual')} (differences between training images and references)"
    if means is not None and means > 1 and model.residuals is None:
        sentence = f"{bank}, made as the mean of {f'{means:,} images' if means < ENOUGH else 'many images'}."
        sentence += " Outlines of single images may show in it." if means < ENOUGH else ""
    elif count:
        sentence = (
            f"{bank}. They are images, training photos as a rule, stored in the file as they are: "
            "whoever has the model can look at them."
        )
    else:
        sentence = f"{bank} of one colour: no photo."
    return f"## References and privacy\n\n{sentence} Whether the weights remember images was not looked into."


def _license(license: str | None) -> str:
    if license is not None:
        return f"## License\n\n{text.escaped(license)}"
    return (
        "## License\n\nNone was stated, so nobody is permitted anything: ask the owner. "
        "(For the owner: `--license mit`, for example, and the licence of the training images counts too.)"
    )


def _versions(facts: dict[str, Any]) -> str:
    known = ("kedge", "torch", "torchvision", "timm", "python")
    return ", ".join(f"{name} {text.escaped(facts[name], 40)}" for name in known if name in facts)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
