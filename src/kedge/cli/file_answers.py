"""What a model answers to image files, a row for each: decoded, asked, and said by its rules."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedge.cli.answers import FIELDS, OF_SETS, encodable
from kedge.experiments.side_by_side import cores
from kedge.rejection import answered

if TYPE_CHECKING:
    from torch import Tensor

    from kedge.anchoring import PixelModel
    from kedge.data.traits import Traits
    from kedge.postprocess import SetRule

__all__ = ["predict_files", "read"]

PHOTOS = 4  # decoded at a time for a file that takes them as they are
NO_ANSWER = "the model's output is NaN: no answer"


def predict_files(
    model: "PixelModel",
    paths: Sequence[str] | Sequence[Path],
    rule: Mapping[str, Any] | None = None,
    references: int | Literal["adaptive"] | None = None,
    batch_size: int = 32,
    set_rule: "SetRule | None" = None,
    answer_all: bool = False,
    traits: "Traits | None" = None,
) -> Iterator[dict[str, Any]]:
    """One row for each path, in order: path, answer, label, confidence, uncertainty, reject, unknown, error, log_odds.

    Images are decoded while those before them go through the model; a few batches of them are held at a time.

    `rule` is a reject rule (see `kedge.rejection`), or None: then nothing is said of rejecting; `unknown` is what the
    rule of the model says, None where it has none. The answer is the label always with `answer_all`. With
    `references="adaptive"` also references_used: how many references the image got. With a `set_rule` of the model also
    set: the names of the classes in the prediction set, the most probable first, and what says whether the promise
    holds, expected_right and unfamiliar (see `PredictionSets.usual`). The traits of the files are counted in `traits`.
    """
    import torch

    from kedge.checks import PROBABILITIES, looks_like_probabilities
    from kedge.postprocess import undo
    from kedge.unknown import answer, foreign, words

    anchored = model.count() > 0
    if references is not None and not anchored:
        raise ValueError("--references is for anchored models: a plain model and an exported file have none")
    names = model.class_names or [str(i) for i in range(model.num_outputs)]
    own = words(model.class_names)
    columns = [*FIELDS, *(["references_used"] if references == "adaptive" else [])]
    columns += [] if set_rule is None else OF_SETS
    members = {"keep_per_reference": True} if set_rule is not None and set_rule.of_members else {}
    for part, decoded in _decoded(paths, model, batch_size, traits):
        rows: list[dict[str, Any]] = [{**dict.fromkeys(columns), "path": encodable(str(path))} for path in part]
        for row, fault in zip(rows, decoded, strict=True):
            if isinstance(fault, str):
                row["error"] = encodable(fault)
        images = [each for each in decoded if not isinstance(each, str)]
        if not images:
            yield from rows
            continue
        if model.takes_photos:
            prediction = model.predict_photos(images)
        else:
            batch = torch.stack(images).to(model.mean.device).float() / 255
            asked = {"references": references} if anchored else {}
            prediction = model.predict(batch, check=False, **asked, **members)
        if looks_like_probabilities(undo(model.steps, prediction.logits)):
            warnings.warn(f"careful: {PROBABILITIES}", stacklevel=2)
        assert prediction.confidence is not None
        assert prediction.log_odds is not None
        fits = [] if set_rule is None else set_rule.sets(prediction).tolist()
        usual = None if set_rule is None else set_rule.usual(prediction)
        meets = None if rule is None else answered(rule, prediction.confidence, prediction.log_odds)
        strange = None if model.unknown is None else foreign(model.unknown, prediction.logits, prediction.familiarity)
        for i, row in enumerate(row for row in rows if row["error"] is None):
            if bool(prediction.confidence[i].isnan()):
                row["error"], row["reject"] = NO_ANSWER, True
                continue
            row["label"] = names[int(prediction.label[i])]  # type: ignore[index]
            row["confidence"], row["log_odds"] = float(prediction.confidence[i]), float(prediction.log_odds[i])
            if prediction.uncertainty is not None:
                row["uncertainty"] = float(prediction.uncertainty[i])
            if prediction.references_used is not None:
                row["references_used"] = int(prediction.references_used[i])
            if meets is not None:
                row["reject"] = not meets[i]
            if strange is not None:
                row["unknown"] = bool(strange[i])
            row["answer"] = row["label"] if answer_all else answer(row["label"], row["unknown"], row["reject"], own)
            if usual is not None:
                ranked = prediction.logits[i].argsort(descending=True, stable=True).tolist()
                row["set"] = [names[k] for k in ranked if fits[i][k]]
                row["expected_right"], row["unfamiliar"] = (bool(flags[i]) for flags in usual)
        yield from rows


def _decoded(
    paths: Sequence[str] | Sequence[Path], model: "PixelModel", batch_size: int, traits: "Traits | None"
) -> "Iterator[tuple[Sequence[Any], list[Tensor | str]]]":
    """(paths, their images or why there is none) of each batch, decoded by threads a batch ahead."""
    from kedge.data import DataError

    def one(path: str | Path) -> "tuple[Tensor | str, list[str]]":
        own: list[str] = []
        try:
            return read(Path(path), model.input_shape, model.takes_photos, own), own
        except DataError as error:
            return getattr(error, "reason", str(error)), []

    if model.takes_photos:
        batch_size = min(batch_size, PHOTOS)  # each as large as it was taken
    with ThreadPoolExecutor(min(8, cores())) as pool:
        parts = (paths[start : start + batch_size] for start in range(0, len(paths), batch_size))

        def begun(part: Sequence[Any]) -> "tuple[Sequence[Any], list[Future[tuple[Tensor | str, list[str]]]]]":
            return part, [pool.submit(one, path) for path in part]

        ahead = [begun(part) for part in islice(parts, 2)]
        while ahead:
            part, futures = ahead.pop(0)
            images = [future.result() for future in futures]
            if traits is not None:
                for path, (_, own) in zip(part, images, strict=True):
                    traits.add(own, str(path))
            yield part, [image for image, _ in images]
            ahead += [begun(after) for after in islice(parts, 1)]


def read(path: Path, shape: tuple[int, ...], whole: bool = False, traits: list[str] | None = None) -> "Tensor":
    """Decode an image as evaluation does: uint8 `[C, H, W]`, resized to cover the shape, centre cropped.

    `whole`: for a file that does that itself, `[H, W, 3]`; a large JPEG is decoded smaller all the same. A list
    `traits` is extended by those of the file (`kedge.data.traits`).

    Raises:
        DataError: if it cannot be read.
    """
    from kedge.data import UnreadableImage
    from kedge.data.formats import advice, is_unread
    from kedge.evaluation.inputs import decoded

    try:
        if whole:
            from kedge.data.decode import least_side, open_image
            from kedge.deploy import as_photo

            return as_photo(open_image(path, least=least_side(shape[1]), traits=traits))
        return decoded(path, shape, traits)
    except UnreadableImage as error:
        if is_unread(path.name) and path.exists():
            kind = path.suffix.lower()
            raise UnreadableImage(str(path), f"{kind} is a kind that is not read. {advice([kind])}") from None
        raise error
