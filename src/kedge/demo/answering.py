"""What a model says of one photo, and what speaks for it: the content of the page, without the page."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring import PixelModel, Prediction
from kedge.data import UnreadableImage
from kedge.data.decode import header
from kedge.demo.pictures import overlay, picture
from kedge.demo.saliency import occlusion
from kedge.demo.similar import Similar
from kedge.evaluation.inputs import decoded
from kedge.rejection import in_words
from kedge.unknown import answers, words
from kedge.unknown import in_words as unknown_in_words

CLASSES = 5  # that are named with their probabilities
PICTURES = 6  # of references that answer otherwise
MOST_PIXELS = 120_000_000  # of a photo: 360 MB of memory while it is decoded


class Gone(Exception):
    """Whoever asked went away."""


class Answering:
    """A classifier of images that answers one photo after another, whichever thread asks.

    Args:
        model: in eval mode; it is only read.
        name: what people call it.
        pictures: whether the pictures of its bank may be shown: no photos are in it, or whoever sees the page may see
            them.
        similar: training photos to show the most alike of; None: none are shown.

    Raises:
        ValueError: the model is no classifier, or not one of images.
    """

    def __init__(self, model: PixelModel, name: str, *, pictures: bool = False, similar: Similar | None = None) -> None:
        check_classifier(model, name)
        self.model, self.name, self.similar = model, name, similar
        self.pictures = pictures and model.count() > 0
        self.names = [*(model.class_names or map(str, range(model.num_outputs)))]
        self._turn = threading.Lock()  # two photos at once would take twice the memory, and no less time
        self._decoding = threading.Lock()

    def about(self) -> dict[str, Any]:
        """What the page says of the model before it has a photo."""
        rule = self.model.reject
        return {
            "name": self.name,
            "classes": self.names,
            "references": self.model.count(),
            "pictures": self.pictures,
            "similar": None if self.similar is None else {"looked_at": len(self.similar.photos), "of": self.similar.of},
            "unsure_below": None if rule is None else in_words(rule),
            "unknown_where": None if self.model.unknown is None else unknown_in_words(self.model.unknown),
            "map": find_spec("captum") is not None,
        }

    def answer(self, photo: bytes) -> dict[str, Any]:
        """What the model says of an encoded photo.

        Returns:
            `answer` (the label, or that it is unknown or unsure in the words of `kedge.unknown.words`), `label`,
            `confidence`; `why`, in words, where the answer is not the label; `classes`, the most probable with their
            `confidence`; `uncertainty` or None; `references`, how its references or members answer, or None; `similar`
            photos, or None; `view`, what the model saw; `seconds`.

        Raises:
            UnreadableImage: it is no image, damaged, or too large.
            ValueError: the model's output is NaN.
        """
        start = time.perf_counter()
        image = self._decoded(photo)
        with self._turn:
            prediction, each = self._predict(image[None])
            alike = None if self.similar is None else self.similar.nearest(self.model, image)
        assert prediction.probs is not None
        probs = prediction.probs[0]
        if bool(probs.isnan().any()):
            raise ValueError("the model's output for this photo is NaN: no answer")
        order = probs.argsort(descending=True, stable=True).tolist()
        label = order[0]
        answer, why = self._verdict(prediction, self.names[label])
        return {
            "answer": answer,
            "why": why,
            "label": self.names[label],
            "confidence": float(probs[label]),
            "classes": [{"label": self.names[c], "confidence": float(probs[c])} for c in order[:CLASSES]],
            "uncertainty": None if prediction.uncertainty is None else float(prediction.uncertainty[0]),
            "references": None if each is None else self._references(each, label),
            "similar": None if alike is None else [{**each, "image": picture(each["image"])} for each in alike],
            "view": picture(image),
            "seconds": time.perf_counter() - start,
        }

    def saliency(self, photo: bytes, gone: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """`map`, which places of a photo speak for its label and against it, to lay over `view`; `label`, `seconds`.

        It takes as long as about fifty answers; other photos are answered in between.

        Args:
            photo: an encoded image.
            gone: asked now and then whether nobody waits for the map any more.

        Raises:
            UnreadableImage: as of `answer`.
            ImportError: captum is not installed.
            Gone: nobody waits any more.
        """
        start = time.perf_counter()
        image = self._decoded(photo)

        def logits_of(images: Tensor) -> Tensor:
            if gone():
                raise Gone
            with self._turn:
                return self.model.predict(images, check=False).logits

        label = int(logits_of(image[None])[0].argmax())
        values = occlusion(self.model, image, label, logits_of)
        return {"map": overlay(values), "label": self.names[label], "seconds": time.perf_counter() - start}

    def _decoded(self, photo: bytes) -> Tensor:
        (height, width), _ = header(photo, "the photo")
        if height * width > MOST_PIXELS:
            raise UnreadableImage(
                "the photo", f"{width} x {height} pixels are more than {MOST_PIXELS:,}: make it smaller first"
            )
        with self._decoding:  # a photo of 120 megapixels takes 360 MB while it is decoded
            return decoded(photo, self.model.input_shape).to(self.model.mean.device).float() / 255

    def _predict(self, images: Tensor) -> tuple[Prediction, Tensor | None]:
        """What the model says of one image, and the class that each reference or member answers by itself, `[M]`."""
        if self.model.count() > 1:
            prediction = self.model.predict(images, keep_per_reference=True, check=False)
            assert prediction.per_reference is not None
            return prediction, self.model.decided(prediction.per_reference[:, 0]).argmax(-1)
        members = self.model.answers_of_members(images)[2] if self.model.of_members else None
        return self.model.predict(images, check=False), None if members is None else members[0]

    def _verdict(self, prediction: Prediction, label: str) -> tuple[str, str | None]:
        """The answer, and why it is not the label, by the rules of the model: unknown before unsure."""
        (answer,) = answers(self.model, prediction)
        unknown, _ = words(self.model.class_names)
        if answer == label:
            return label, None
        if answer == unknown:
            return answer, "It does not look like anything that the model was trained on."
        assert self.model.reject is not None
        return answer, f"The confidence is below {in_words(self.model.reject)}, from where on the model answers."

    def _references(self, each: Tensor, label: int) -> dict[str, Any]:
        """How references answer one by one: how many agree with the answer, and which say what else."""
        anchored = self.model.count() > 0
        counts = Counter(each.tolist())
        others = []
        for other, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            if other != label:
                places = (each == other).nonzero()[:PICTURES, 0].tolist() if self.pictures and anchored else []
                bank = self.model.references if places else torch.empty(0)
                others.append(
                    {"label": self.names[other], "count": count, "images": [picture(bank[i].float()) for i in places]}
                )
        return {"of": "references" if anchored else "members", "all": len(each), "agree": counts[label],
                "others": others}  # fmt: skip


def check_classifier(model: Any, name: str) -> None:
    """Raise ValueError, in words, unless `model` is a classifier of images."""
    shape = getattr(model, "input_shape", None)
    if getattr(model, "task", None) != "classification" or shape is None or len(shape) != 3:
        raise ValueError(
            f"the page shows the classes of photos, and {name} is a {getattr(model, 'task', 'foreign')} model for "
            f"inputs of shape {shape}; use model.predict in Python"
        )
