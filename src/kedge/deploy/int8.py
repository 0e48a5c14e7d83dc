"""An exported ONNX file once more with 8-bit weights and activations, and what that changed."""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge.checks import unlike_classes
from kedge.data import ImageSet, shared_images
from kedge.deploy.agreement import BATCH, Agreement, Pair, agreement_on, pace
from kedge.deploy.card import KEY
from kedge.deploy.exporting import need_onnx
from kedge.deploy.onnx_file import OnnxModel, load_onnx, silence, weights_beside
from kedge.files import scratch_beside
from kedge.full_disk import naming
from kedge.json_text import parse_json
from kedge.postprocess.prediction_sets import PredictionSets
from kedge.training.calibration import predict_familiar
from kedge.training.unknown_rule import rule_anew
from kedge.unknown import in_words

__all__ = ["BOUND", "FEWEST", "Quantised", "quantise"]

BOUND = 0.05  # nats: of the prediction difference on held-out images
SLIGHT = BOUND / 10  # a difference of less is no matter for doubt
FEWEST = 16  # images to calibrate on, and to hold out
SETS = "prediction_sets"


@dataclass(frozen=True)
class Quantised:
    """What `quantise` wrote.

    Attributes:
        path: the file.
        size: bytes before and after.
        milliseconds: of an image, in batches of up to 32, before and after, on this machine.
        calibration, held_out: agreement on the images that ranges were taken from, and on others.
        sets: what became of prediction sets, whose threshold was of the float answers, in words; "" where it had none.
        bound: the difference on held-out images from which the file would have been refused, in nats.
        sets: what became of prediction sets, whose threshold was of the float answers, in words; "" without any.
        unknown: the same of the rule for `unknown`.
    """

    path: Path
    size: tuple[int, int]
    milliseconds: Pair
    calibration: Agreement
    held_out: Agreement
    bound: float
    sets: str = ""
    unknown: str = ""

    def to_json(self) -> dict[str, Any]:
        """All but the path."""
        return {name: value for name, value in asdict(self).items() if name != "path"}

    @property
    def doubt(self) -> str:
        """Why more calibration images may help, in words; "" where nothing says so."""
        known, new = self.calibration, self.held_out
        if new.difference <= max(2 * known.difference, SLIGHT):
            return ""
        return (
            f"held-out images agree less than those it was calibrated on (difference {new.difference:.2g} against "
            f"{known.difference:.2g} nats): calibrate on more images, or on such as it will meet (a network is surer "
            "of images that it was trained on, which agree more anyway)"
        )

    def __str__(self) -> str:
        before, after = (size / 1e6 for size in self.size)
        lines = [
            f"{self.path} ({after:.2f} MB, {before:.2f} in float): 8-bit weights and activations, "
            f"{self.milliseconds[1]:.2f} ms an image here, {self.milliseconds[0]:.2f} in float"
        ]
        for what, own in (("calibration", self.calibration), ("held-out", self.held_out)):
            words = f"on {own.images} {what} images the same label on {own.same} ({own.same / own.images:.1%})"
            lines.append(f"{words}, prediction difference {own.difference:.2g} nats")
        lines[-1] += f" (allowed {self.bound:.2g})"
        own = self.held_out
        pairs = {"right answers": own.accuracy, "calibration error": own.ece, "answered by its rule": own.answered}
        told = [f"{what} {a:.1%} before, {b:.1%} after" for what, pair in pairs.items() if pair for a, b in [pair]]
        lines += [f"held out: {'; '.join(told)}"] if told else []
        return "\n".join([*lines, *(words for words in (self.sets, self.unknown) if words)])


def quantise(
    exported: str | os.PathLike[str],
    path: str | os.PathLike[str],
    calibration: ImageSet,
    held_out: ImageSet,
    bound: float = BOUND,
    full_range: bool = False,
) -> Quantised:
    """Write a float ONNX file of `export` with int8 weights, a scale for each channel, and uint8 activations.

    Ranges of activations are the least and largest values on the calibration images, whose labels take no part. Weights
    use 7 of their 8 bits: with 8, processors without VNNI clip sums of products, and answer otherwise than the one that
    the file was checked on. The file is run on both sets and left only if its prediction difference from the float file
    on held-out images, KL(float ‖ int8), is within the bound. Its card says that it is 8-bit, and how it compared.
    Prediction sets promise their coverage for the answers that they were set on: they are set anew on those of the
    8-bit file to the held-out images, or left out where these have other classes or are too few for the coverage.

    Args:
        exported: the float file.
        path: the file to write, ending in .onnx.
        calibration: images to take ranges from, in the model's shape, 16 or more; 256 is usual.
        held_out: others, of the same kind; for prediction sets such as the model was not trained on.
        bound: in nats.
        full_range: use all 8 bits of weights: closer to the float file, and other answers without VNNI.

    Raises:
        ValueError: for another suffix, a bound of 0 or less, a model that is no classifier, a file that is 8-bit
            already or has its weights beside it, images in another shape, fewer than 16 of either, or images in both.
        ImportError: if the packages for ONNX are not installed.
        RuntimeError: if the 8-bit file differs by more than the bound; none is left.

    Sources: onnxruntime's static quantisation; the check is that of PD-Quant (Liu et al., CVPR 2023), and calibration
    beside held-out images that of MetaAug (Pham et al., ECCV 2024).
    """
    need_onnx()
    final, source = Path(path), Path(exported)
    if final.suffix != ".onnx":
        raise ValueError(f"an 8-bit file must end in .onnx, got {final.name!r}")
    if not bound > 0:
        raise ValueError(f"the bound is a prediction difference above 0, in nats, got {bound}")
    before = load_onnx(source)
    _check(before, source, calibration, held_out)
    with scratch_beside(final) as folder:
        written = folder / final.name
        with naming(final, written):
            _write(source, written, calibration, full_range)
        after = load_onnx(written)
        known, _ = agreement_on(before, after, calibration)
        new, logits = agreement_on(before, after, held_out)
        if not new.difference <= bound:
            raise RuntimeError(
                f"8 bits change the answers too much: on {new.images} held-out images the prediction difference is "
                f"{new.difference:.3g} nats, allowed is {bound:.3g}, and {new.images - new.same} labels change; "
                f"nothing was written to {final}. Calibrate on more images, or keep the float file"
            )
        precision = {
            "weights": "int8",
            "weight_bits": 8 if full_range else 7,
            "activations": "uint8",
            "calibration_images": known.images,
            "held_out_images": new.images,
            "same_label": new.same,
            "prediction_difference": new.difference,
        }
        steps, sets = _sets_anew(before, logits, held_out)
        unknown, about = _unknown_anew(after, held_out)
        _say(written, precision, steps, unknown)
        batch = next(iter(held_out.batches(BATCH)))[0].float() / 255
        milliseconds = (pace(before, batch), pace(load_onnx(written), batch))
        size = source.stat().st_size, written.stat().st_size
        os.replace(written, final)
    return Quantised(final, size, milliseconds, known, new, bound, sets, about)


def _check(model: OnnxModel, source: Path, calibration: ImageSet, held_out: ImageSet) -> None:
    if model.task != "classification":
        raise ValueError(f"8-bit files are checked by the probabilities of classes, and {source.name} is a regression")
    if model.precision is not None:
        raise ValueError(f"{source.name} has 8-bit weights already: quantise the float file")
    if weights_beside(source).exists():
        raise ValueError(f"{source.name} has its weights in a file of their own, which 8-bit files here do not")
    for what, images in (("to calibrate on", calibration), ("held out", held_out)):
        if tuple(images.image_shape) != model.input_shape:
            raise ValueError(f"images {what} are {list(images.image_shape)}, the model takes {list(model.input_shape)}")
        if len(images) < FEWEST:
            raise ValueError(f"{len(images)} images {what} are too few to go by: it takes {FEWEST} or more")
    if shared := len(held_out) if held_out is calibration else shared_images(calibration, held_out):
        raise ValueError(
            f"{shared} held-out images are among those to calibrate on: they say nothing about images it will meet"
        )


def _write(source: Path, written: Path, calibration: ImageSet, full_range: bool) -> None:
    """Fold what is constant, take the ranges, and write 8-bit operations."""
    silence()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """The calibration images, batch by batch."""

        def __init__(self) -> None:
            self._batches = calibration.batches(BATCH)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": (batch[0].float() / 255).numpy()}

    prepared = written.with_name("prepared.onnx")
    with _quiet():
        quant_pre_process(str(source), str(prepared))
        quantize_static(
            str(prepared),
            str(written),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not full_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to do what was just done, which it logs as a warning."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _sets_anew(before: OnnxModel, logits: Tensor, images: ImageSet) -> tuple[dict[str, Any], str]:
    """The steps of the file with prediction sets set anew on 8-bit answers `[N, C]`, and what became of them."""
    steps = dict(before.inside)
    if SETS not in steps:
        return steps, ""
    own, why = PredictionSets(steps[SETS]["value"]), ""
    if (unlike := unlike_classes(images.class_names, before.class_names or before.num_outputs)) is not None:
        why = f"the held-out images have other classes: {unlike}"
    else:
        try:
            anew = PredictionSets(own.fit(logits, images.labels, class_names=before.class_names, **own.again()))
        except ValueError as error:
            why = str(error)
    if why:
        del steps[SETS]
        return steps, f"{own} left out: they were set on the float answers, and could not be set anew: {why}"
    steps[SETS] = {**steps[SETS], "value": anew.value, "fitted_on": f"{images.name} ({images.split})",
                   "images": len(images), **anew.facts(logits, images.labels)}  # fmt: skip
    return steps, f"{own} set anew on the 8-bit answers to the {len(images)} held-out images"


def _unknown_anew(after: OnnxModel, images: ImageSet) -> tuple[dict[str, Any] | None, str]:
    """The rule for `unknown` by the 8-bit file's scores of the held-out images, which must be familiar ones."""
    if after.unknown is None:
        return None, ""
    if unlike_classes(images.class_names, after.class_names or after.num_outputs) is not None:
        return (
            None,
            "the rule for unknown left out: the held-out images have other classes, and it could not be set anew",
        )
    logits, _, familiarity = predict_familiar(after, images, BATCH)
    rule = rule_anew(after.unknown, logits, familiarity)
    if rule is None:
        return None, "the rule for unknown left out: the 8-bit file gives no score to set it by"
    return rule, f"unknown where {in_words(rule)}, set anew on the {len(images)} held-out images"


def _say(path: Path, precision: dict[str, Any], steps: dict[str, Any], unknown: dict[str, Any] | None) -> None:
    """Write what the file is into its card, and take out what names this machine."""
    import onnx

    model = onnx.load(str(path))
    card = next(parse_json(entry.value, str(path)) for entry in model.metadata_props if entry.key == KEY)
    del model.metadata_props[:]
    card |= {"precision": precision, "steps": steps, "unknown": unknown}
    there = [*steps, *(["unknown"] if unknown else [])]
    card["formulas"] = {name: words for name, words in (card.get("formulas") or {}).items() if name in there}
    model.metadata_props.add(key=KEY, value=json.dumps(card, ensure_ascii=False))
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.save(model, str(path))
