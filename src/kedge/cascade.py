"""A cascade: a small model answers where it is sure, a large one the rest."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kedge import checkpoint
from kedge.anchoring import PixelModel
from kedge.anchoring.prediction import Prediction, conclude, vetted
from kedge.anchoring.protocol import Prepared, network_name
from kedge.catalog import Info
from kedge.checks import check_images, unlike_classes
from kedge.files import whole, write_text
from kedge.json_text import read_json
from kedge.postprocess import SetRule
from kedge.regular import LARGEST_TEXT
from kedge.rejection import answered, in_words, is_rule

__all__ = ["Cascade", "is_cascade", "load_cascade", "save_cascade"]

info = Info(
    "Cascade R-CNN: Delving into High Quality Object Detection", "Cai and Vasconcelos", "CVPR", 2018,
    "https://arxiv.org/abs/1712.00726", "derived",
)  # fmt: skip
RULE = "cascade.json"
FORMAT_VERSION = 1


class Cascade(PixelModel):
    """A small classifier, and a large one for images of which the small one is not sure enough; a model like any other.

    An image whose answer of the small model meets the rule keeps it; the others are given to the large one, whose
    answer stands. Every model answers with its own references and steps. What comes out are the logits of whichever
    answered, so confidences are of two models: calibrate both. There is no uncertainty. `save_cascade` writes it.

    Attributes:
        small, large: the models, not copied.
        rule: `threshold`, the confidence from which the small answer stands, and `log_odds`; see `kedge.rejection`.
    """

    kind: ClassVar[str] = "cascade"

    def __init__(self, small: PixelModel, large: PixelModel, rule: Mapping[str, Any]) -> None:
        """Raises TypeError for what is no model of kedge, ValueError where the two differ or the rule is none."""
        for name, each in (("small", small), ("large", large)):
            if not isinstance(each, PixelModel):
                raise TypeError(f"the {name} model of a cascade is a model of kedge, got {type(each).__name__}")
            if each.task != "classification":
                raise ValueError(f"a cascade is of classifiers, and the {name} model is for {each.task}")
        if small.input_shape != large.input_shape:
            raise ValueError(
                f"the small model takes images of {small.input_shape} (C, H, W) and the large one of "
                f"{large.input_shape}: both see the same image, train them at one size"
            )
        one, other = (each.class_names or each.num_outputs for each in (small, large))
        if (unlike := unlike_classes(one, other, ("the small model", "the large one"))) is not None:
            raise ValueError(f"the two models of a cascade have other classes: {unlike}")
        if not is_rule(rule):
            raise ValueError(f"the rule of a cascade is a threshold, a confidence from 0 to 1, not {rule!r:.80}")
        super().__init__(
            nn.ModuleList([small, large]),
            mean=large.mean.new_zeros(1),  # each model normalises
            std=large.mean.new_ones(1),
            input_shape=large.input_shape,
            num_outputs=large.num_outputs,
        )
        self.rule = dict(rule)
        self.class_names = None if large.class_names is None else list(large.class_names)
        self.ordered = large.ordered
        self.eval()

    @property
    def small(self) -> Any:
        """The model that is asked first."""
        return next(self.network.children())

    @property
    def large(self) -> Any:
        """The model that is asked where the small one is not sure."""
        return list(self.network.children())[1]

    @property
    def left_out(self) -> str:
        """Which rules of its models are none of its own, in words; "" where they have none."""
        words = []
        for name, each in (("small", self.small), ("large", self.large)):
            rules = [rule for rule, own in (("unknown", each.unknown), ("unsure", each.reject)) if own is not None]
            words += [f"the {name} model's for {' and '.join(rules)}"] if rules else []
        if not words:
            return ""
        return (
            f"rules that are left out: {'; '.join(words)}. Each is of the answers of one model to all images, and here "
            "each of two answers some: the cascade gives every image a label. Ask one of its models for the others"
        )

    @torch.no_grad()
    def passed_on(self, images: Tensor) -> Tensor:
        """Which images the large model answers, `[B]` bool."""
        first = self.small.predict(images, check=False)
        return ~answered(self.rule, first.confidence, first.log_odds)

    @torch.no_grad()
    def predict(self, images: Tensor, *, check: bool = True) -> Prediction:
        """Predict in eval mode without gradients; `check` as in `AnchoredModel.predict`."""
        if check:
            check_images(images)
        first = self.small.predict(images, check=False)
        rest = ~answered(self.rule, first.confidence, first.log_odds)
        logits = first.logits
        if bool(rest.any()):
            logits = logits.clone()
            logits[rest] = self.large.predict(images[rest], check=False).logits.to(logits)
        prediction = conclude(logits, None, self.task, steps={})
        return vetted(prediction) if check else prediction

    def network_logits(self, images: Tensor) -> Tensor:
        """The logits of whichever model answers `[B, C]`, with gradients; both are asked about every image."""
        first, second = (each.for_attack()(images) for each in (self.small, self.large))
        sure = ~self.passed_on(images.detach())
        return torch.where(sure[:, None], first, second.to(first))

    def forward(self, images: Tensor) -> Tensor:
        """What `predict` computes as logits `[B, C]`, with gradients."""
        return self.network_logits(images)

    def answers(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None]:
        """The logits of `predict`; there is no uncertainty."""
        return self.predict(images, check=False).logits, None

    def set_rule(self, coverage: float | None = None, references: Any = None) -> SetRule:
        """Raise ValueError: a threshold of one model says nothing of answers of two."""
        raise ValueError(
            "a cascade has no prediction sets: a coverage is promised of the answers of one model to all images, and "
            "here each of two answers some: leave the sets out, or ask one of its two models"
        )

    def feature_layer(self, images: Tensor, references: Any = None) -> nn.Module | None:
        """None: the two models have features of their own."""
        return None

    def for_attack(self, references: Any = None, prepare: Any = None) -> nn.Module:
        """Both models with gradients, and the rule between them."""
        return Prepared(self, prepare)

    def check_foldable(self) -> None:
        """Raise ValueError: a choice between two networks is no network."""
        raise ValueError(
            "a cascade decides image by image which of two models answers, and is no single network: export its two "
            "models, kedge cascade ... --to onnx, which writes the rule beside them"
        )

    def check_exportable(self) -> None:
        """Raise ValueError where a model answers with several references, of which an exported file has one."""
        for name, each in (("small", self.small), ("large", self.large)):
            if each.count() > 1:
                raise ValueError(
                    f"the {name} model answers with {each.count()} references, and an exported file has one: leave out "
                    "--to onnx"
                )

    def fold(self, reference: int = 0) -> nn.Module:
        """Raise ValueError, as `check_foldable`."""
        self.check_foldable()
        return self

    def bare(self) -> nn.Module:
        """Raise ValueError: there are two."""
        raise ValueError("a cascade has two networks: go on with one of its models")

    def state(self) -> dict[str, Any]:
        """Raise TypeError: the models are saved one by one."""
        raise TypeError("a cascade is saved by kedge.cascade.save_cascade, in a folder of two models and a rule")

    def describe(self, references: Any = None) -> dict[str, Any]:
        """As of any model; the network is those of both."""
        names = " then ".join(network_name(each.network) for each in (self.small, self.large))
        return {**super().describe(references), "network": f"{names} (below confidence {in_words(self.rule)})"}


def is_cascade(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that `save_cascade` wrote."""
    return (Path(folder) / RULE).is_file()


def save_cascade(
    cascade: Cascade, folder: str | os.PathLike[str], measured: Mapping[str, Any] | None = None, onnx: bool = False
) -> Path:
    """Write a cascade to a folder: the two models, and the rule as JSON; gives the folder.

    Args:
        cascade: the cascade.
        folder: `small` and `large` inside, model folders, or with `onnx` the files small.onnx and large.onnx; a model
            that is an exported file is copied.
        measured: what was measured of it, kept with the rule.
        onnx: export both models; they are folded, so an anchored one has one reference.

    Raises:
        ValueError: where a model cannot be exported, as it answers with several references; for an exported
            file that has its weights in a file of their own.
    """
    folder = Path(folder)
    models = {"small": cascade.small, "large": cascade.large}
    if onnx:
        cascade.check_exportable()
    from kedge.deploy.onnx_file import weights_beside

    exported: dict[str, Path | None] = {name: getattr(each, "file", None) for name, each in models.items()}
    for name, file in exported.items():
        if file is not None and weights_beside(file).is_file():  # which it asks for by the name that it was written by
            raise ValueError(
                f"{file}, the {name} model, has its weights in a file of their own, and cannot be copied under another "
                "name: take the run or model folder that it was exported from"
            )
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: f"{name}.onnx" if onnx or exported[name] else name for name in models}
    for name, each in models.items():
        if (file := exported[name]) is not None:
            with whole(folder / files[name]) as temporary:
                shutil.copyfile(file, temporary)
        elif onnx:
            from kedge.deploy import export

            export(each, folder / files[name], to="onnx")
        else:
            checkpoint.save(each, folder / files[name])
    stated = {
        "format": "kedge cascade", "format_version": FORMAT_VERSION, **files, "rule": cascade.rule,
        "class_names": cascade.class_names, "input_shape": list(cascade.input_shape),
        "how": "small answers; where its largest softmax probability is below rule.threshold, large answers instead",
        "measured": dict(measured or {}), **({"left_out": words} if (words := cascade.left_out) else {}),
    }  # fmt: skip
    write_text(folder / RULE, json.dumps(stated, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return folder


def load_cascade(folder: str | os.PathLike[str]) -> Cascade:
    """Load what `save_cascade` wrote, in eval mode on the CPU; nothing in it is executed.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a file is not what it says.
    """
    folder = Path(folder)
    if not is_cascade(folder):
        raise FileNotFoundError(f"{folder} holds no {RULE}, so it is no cascade")
    stated = read_json(folder / RULE, LARGEST_TEXT)
    if stated.get("format") != "kedge cascade" or stated.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{folder / RULE} is not a cascade of kedge in format {FORMAT_VERSION}")
    models: dict[str, PixelModel] = {}
    for name in ("small", "large"):
        if stated.get(name) not in (name, f"{name}.onnx"):  # nothing outside of the folder is read
            raise ValueError(f"{folder / RULE}: {name} is {name} or {name}.onnx, not {stated.get(name)!r:.80}")
        path = folder / stated[name]
        if path.suffix == ".onnx":
            from kedge.deploy import load_onnx

            models[name] = load_onnx(path)
        else:
            models[name] = checkpoint.load(path)
    if not isinstance(stated.get("rule"), dict) or not is_rule(stated["rule"]):
        raise ValueError(f"{folder / RULE}: rule is a threshold, a confidence, not {stated.get('rule')!r:.80}")
    return Cascade(models["small"], models["large"], stated["rule"])
