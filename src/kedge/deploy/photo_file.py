"""Files that take a photo as it was decoded, of any size, and answer: written, and compared with the model."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.protocol import independent
from kedge.confidence import log_odds
from kedge.data.decode import evaluation_view, to_tensor
from kedge.deploy.answering import OOD, REJECT, Answering
from kedge.deploy.card import photo_card, read_card, write_card
from kedge.deploy.exporting import TOLERANCE, Exported, check_target, export, load_program, save_program
from kedge.deploy.familiar import with_familiarity
from kedge.deploy.onnx_file import PhotoModel, load_onnx, weights_beside
from kedge.deploy.photo_onnx import write_with_photo_input
from kedge.deploy.photo_view import PhotoView
from kedge.files import scratch_beside
from kedge.full_disk import naming
from kedge.seeds import generator
from kedge.unknown import score_of

# Height and width of photos of noise that every file is compared on, besides those it is checked with.
NOISE = ((1, 1), (1, 90), (131, 2), (37, 64), (301, 203), (480, 640))

Answer = Mapping[str, Any]


@dataclass(frozen=True)
class PhotoExported(Exported):
    """What was written of a model that takes photos, as `Exported`; `images` counts the photos that were passed.

    Attributes:
        sizes: how many heights and widths these have.
        noise: how many photos of noise, of other sizes, it was checked on besides.
    """

    sizes: int = 0
    noise: int = len(NOISE)
    network: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)

    def load(self) -> Callable[[Tensor], Tensor]:
        """The network of the file as a function from images `[B, C, H, W]` in [0, 1] to logits, on the CPU."""
        return super().load() if self.network is None else self.network

    def __str__(self) -> str:
        first = super().__str__().partition(": checked on ")
        sizes = f"{self.images} photos of {self.sizes} size{'' if self.sizes == 1 else 's'} and " if self.images else ""
        return (
            f"{first[0]}: takes a photo of any size, checked on {sizes}{self.noise} of noise from 1 pixel on, largest "
            f"difference of a logit {self.largest_difference:.1e} (allowed {self.allowed:.1e})"
        )


def as_photo(image: Image.Image | Tensor) -> Tensor:
    """A PIL image or uint8 `[C, H, W]` as files that take photos want it: uint8 `[H, W, 3]`, grey in all three."""
    return to_tensor(image, 3).permute(1, 2, 0).contiguous()


def view_of(photo: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The evaluation view of a photo `[H, W, 3]` by Pillow, uint8 `[C, side, side]`: the one that files agree with."""
    return to_tensor(evaluation_view(Image.fromarray(photo.numpy()), shape[-1]), shape[0])


def export_photo(
    model: PixelModel, path: str | os.PathLike[str], to: str = "onnx", photos: Sequence[Tensor] = ()
) -> PhotoExported:
    """Fold `model` and write it as a file that takes a photo, uint8 `[H, W, 3]` of any size, and gives its answer.

    Resizing, cropping and normalisation are inside, to the bit as `kedge predict` does them with Pillow, as are
    temperature, reject rule and the rule for unknown images. It is compared with the model on photos, as `export` does
    it on images, and on noise from 1 × 1 pixel on; a file that disagrees by more than 1e-4 of the largest logit, or
    whose answers do not follow from its logits, is not left.

    ONNX: input `photo`; optional inputs `reject_threshold` (log odds) and, with a rule for unknown images,
    `unknown_threshold` (of its score); outputs `answer` (a string), `label`, `confidence`, `probabilities`, `log_odds`,
    `logits` and, with such a rule, `score`, each `[1]` or `[1, C]`. A `.pt2` takes the same in this order, thresholds
    too, and gives a dictionary with `place`, that of the answer among `answers` of its card, in place of `answer`.

    Args:
        model: as for `export`.
        path: as for `export`.
        to: "onnx" or "torch".
        photos: real photos, uint8 `[H, W, 3]` each, see `as_photo`.

    Raises:
        ValueError: as `export`; for a model of other than square images with 1 or 3 channels, and for a regression.
        ImportError: if the packages for ONNX are not installed.
        RuntimeError: as `export`.
    """
    check_target(model, path, to)
    final = Path(path)
    check_shape(model.input_shape)
    card = read_card(write_card(model), final.name)
    Answering(card)  # raises where it cannot answer
    views = torch.stack([view_of(photo, model.input_shape) for photo in photos]) if photos else None
    original = independent(model).cpu().float().eval()
    with scratch_beside(final) as folder:
        if to == "onnx":
            return with_photo_input(export(model, folder / final.name, to, views).path, final, photos, original)
        folded = with_familiarity(original, original.fold())
        whole = PhotoNetwork(folded, card)
        written = folder / final.name
        with naming(final, written):
            _write_torch(whole, card, written)
        run = _answers_of(written, whole.answering)
        difference, allowed = _compare(run, original, whole.both, photos, whole.answering, model.input_shape, final)
        os.replace(written, final)
    return PhotoExported(final, to, len(photos), bool(photos), difference, allowed, None, _sizes(photos),
                         network=_logits_of(whole))  # fmt: skip


def with_photo_input(
    network: str | os.PathLike[str],
    path: str | os.PathLike[str],
    photos: Sequence[Tensor] = (),
    model: Callable[[Tensor], Tensor] | None = None,
) -> PhotoExported:
    """Write an ONNX file of `export` or `quantise` once more as one that takes photos, see `export_photo`.

    Args:
        network: the file, images in and logits out. If its weights are in a file beside it, that becomes the new one's.
        path: the file to write, ending in .onnx.
        photos: real photos, uint8 `[H, W, 3]` each, to compare on.
        model: what it is compared with, images `[B, C, H, W]` in [0, 1] to logits; None: the file at `network`.
    """
    final, source = Path(path), Path(network)
    if final.suffix != ".onnx":
        raise ValueError(f"a file for to='onnx' must end in .onnx, got {final.name!r}")
    before = load_onnx(source)
    if before.takes_photos:
        raise ValueError(f"{source.name} takes photos already")
    check_shape(before.input_shape)
    answering = Answering(before.card)
    with scratch_beside(final) as folder:
        written, weights = folder / final.name, weights_beside(source)
        beside = None
        with naming(final, written):
            write_with_photo_input(source, before.card, written)
            if weights.is_file():
                # Under the name that the network has it by: a file of another name needs that one beside it.
                beside = folder / weights.name
                shutil.copyfile(weights, beside)
        loaded = load_onnx(written)
        assert isinstance(loaded, PhotoModel)
        session: Any = before.network
        difference, allowed = _compare(
            loaded.answer, model or before, session.both, photos, answering, before.input_shape, final
        )
        if beside is not None:
            final.unlink(missing_ok=True)  # an earlier file would run on with the weights of this one
            beside = beside.replace(final.with_name(beside.name))
        os.replace(written, final)
    return PhotoExported(final, "onnx", len(photos), bool(photos), difference, allowed, beside, _sizes(photos))


class PhotoNetwork(nn.Module):
    """A folded network between the view of a photo and the answer: a photo and thresholds in, a dictionary out."""

    def __init__(self, network: nn.Module, card: Mapping[str, Any]) -> None:
        super().__init__()
        self.view, self.network, self.answering = PhotoView(tuple(card["input_shape"])), network, Answering(card)

    def forward(self, photo: Tensor, *thresholds: Tensor) -> dict[str, Tensor]:
        """The outputs of `Answering`, and the logits."""
        logits, familiarity = self.both(self.view(photo))
        more = thresholds if familiarity is None else (familiarity, *thresholds)
        return {**self.answering(logits, *more), "logits": logits}

    def both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits `[B, C]` of images `[B, C, H, W]` in [0, 1], and how familiar they are `[B]` where the rule asks."""
        said = self.network(images)
        return said if self.answering.familiar else (said, None)


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise ValueError for a model that photos cannot be made into images for, within a file."""
    if len(shape) != 3 or shape[1] != shape[2] or shape[0] not in (1, 3):
        raise ValueError(
            f"a photo is made into a square image with 1 or 3 channels, and the model takes {list(shape)}: export it "
            "for images (without --input photo)"
        )


def _write_torch(whole: PhotoNetwork, card: Mapping[str, Any], path: Path) -> None:
    thresholds = tuple(whole.answering.defaults().values())
    photo = torch.randint(0, 256, (301, 203, 3), dtype=torch.uint8, generator=generator(0))
    sides = {0: torch.export.Dim("height", min=1), 1: torch.export.Dim("width", min=1)}
    program = torch.export.export(
        whole.eval(), (photo, *thresholds), dynamic_shapes=(sides, tuple({} for _ in thresholds))
    )
    save_program(program, json.dumps(photo_card(card, whole.answering), ensure_ascii=False), path)


def _answers_of(path: Path, answering: Answering) -> Callable[[Tensor], Answer]:
    program, defaults = load_program(path), tuple(answering.defaults().values())

    def run(photo: Tensor) -> Answer:
        with torch.no_grad():
            said = dict(program(photo, *defaults))
        return {**said, "answer": answering.answers[int(said["place"])]}

    return run


def _compare(
    run: Callable[[Tensor], Answer],
    model: Callable[[Tensor], Tensor],
    both: Callable[[Tensor], tuple[Tensor, Tensor | None]],
    photos: Sequence[Tensor],
    answering: Answering,
    shape: tuple[int, ...],
    final: Path,
) -> tuple[float, float]:
    """The largest difference of a logit from `model` and what is allowed, on photos and noise.

    Raises:
        RuntimeError: for a larger difference, for a familiarity other than `both` says, which was compared with the
            model's when it was written, and for answers that are not those of the logits and rules.
    """
    draws = generator(0)
    noise = [torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=draws) for size in NOISE]
    difference, scale = 0.0, 1.0
    for photo in [*photos, *noise]:
        said = run(photo)
        with torch.no_grad():
            view = view_of(photo, shape)[None].float() / 255
            expected, familiarity = model(view), both(view)[1] if answering.familiar else None
        logits = torch.as_tensor(said["logits"])
        scale = max(scale, float(expected.abs().max()))
        largest = float((logits - expected).abs().max())
        if not largest <= difference:
            difference = largest
        _check_answer(said, logits, familiarity, answering, final)
    # not <=, so that NaN is refused too
    if not difference <= TOLERANCE * scale:
        raise RuntimeError(
            f"the file disagrees with the model on {len(photos)} photos and {len(noise)} of noise: the largest "
            f"difference of a logit is {difference:.3g}, allowed is {TOLERANCE * scale:.3g}; nothing was written to "
            f"{final}"
        )
    return difference, TOLERANCE * scale


def _check_answer(said: Answer, logits: Tensor, familiarity: Tensor | None, answering: Answering, final: Path) -> None:
    """Raise RuntimeError unless label, probabilities, log odds, score and answer are what logits and rules say.

    Logits are `[1, C]`; `familiarity` `[1]` is the score where it goes by prototypes.
    """
    odds, own = float(log_odds(logits)), float(said["log_odds"][0])
    label = int(said["label"][0])
    sure, known, scored = own >= float(answering.defaults()[REJECT]), True, True
    if answering.score is not None:
        score = float(said["score"][0])
        known = score >= float(answering.defaults()[OOD])
        expected = float(score_of(answering.score, logits) if familiarity is None else familiarity)
        scored = abs(score - expected) <= 10 * TOLERANCE * max(1.0, abs(expected))
    answer = answering.answers[label if sure else -2] if known else answering.answers[-1]
    probabilities = torch.as_tensor(said["probabilities"])
    agreed = {
        "label": label == int(logits.argmax()),
        "probabilities": torch.allclose(probabilities, logits.softmax(1), atol=1e-5),
        "confidence": float(said["confidence"][0]) == float(probabilities.max()),
        "log_odds": abs(odds - own) <= TOLERANCE * max(1.0, abs(odds)),
        "score": scored,
        "answer": said["answer"] == answer,
    }
    if wrong := [name for name, right in agreed.items() if not right]:
        raise RuntimeError(
            f"the file's {' and '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not what its logits say; nothing "
            f"was written to {final}"
        )


def _sizes(photos: Sequence[Tensor]) -> int:
    return len({tuple(photo.shape[:2]) for photo in photos})


def _logits_of(whole: PhotoNetwork) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return whole.both(images)[0]

    return run
