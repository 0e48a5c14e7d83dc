"""The models under evaluation: what each is, and whether it fits the data."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import AnchoredModel, PixelModel
from kedge.checks import PROBABILITIES, looks_like_probabilities
from kedge.evaluation.cache import model_digest
from kedge.evaluation.inputs import conversion, convert, to_unit
from kedge.scores import Outputs, outputs_of

PROBE = 8  # images that every model is tried on before anything is measured


@dataclass(frozen=True)
class Subject:
    """One model under evaluation, with where it runs and what it takes.

    Attributes:
        fields: the fields of `Outputs` that it can give.
        head: weight and bias of its last layer, or None.
        digest: what stands for it where parts of an evaluation are kept; None: nothing can.
        pace: seconds for an image, as a few images say.
        warnings: what a few images say against its numbers, for the results.
    """

    name: str
    model: Callable[[Tensor], Any]
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    references: Any = None
    fields: frozenset[str] = frozenset({"logits"})
    head: tuple[Tensor, Tensor] | None = None
    digest: str | None = None
    pace: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def temperature(self) -> float:
        """What its logits are divided by."""
        return (self.model.temperature or 1.0) if isinstance(self.model, PixelModel) else 1.0

    def outputs(self, images: Tensor, features: bool = False, masked: bool = False) -> Outputs:
        """What the model says about float images `[B, C, H, W]` in [0, 1] of any convertible shape, on its device."""
        shown = convert(images, self.shape).to(self.dtype)
        return outputs_of(
            self.model,
            shown,
            self.references,
            features=features and "features" in self.fields,
            masked=masked and "masked" in self.fields,
            check=False,  # `to_unit` did
        )

    def description(self, image_shape: tuple[int, ...]) -> dict[str, Any]:
        """What the results say of the model."""
        module = self.model if isinstance(self.model, nn.Module) else None
        inner = module.network if isinstance(module, PixelModel) else self.model
        anchored = isinstance(self.model, AnchoredModel)
        return {
            "kind": "anchored" if anchored else "plain" if isinstance(module, PixelModel) else "callable",
            "network": _network_name(inner),
            "parameters": (sum(p.numel() for p in module.parameters()) or None) if module is not None else None,
            "references": _reference_words(self.model, self.references)
            if isinstance(self.model, AnchoredModel)
            else None,
            "device": str(self.device),
            "input_shape": list(self.shape),
            "conversion": conversion(image_shape, self.shape),
            "steps": self.model.describe_steps() if isinstance(self.model, PixelModel) else [],
        }


def _network_name(network: Any) -> str:
    architecture = getattr(network, "kedge_architecture", None)
    if isinstance(architecture, Mapping) and "name" in architecture:
        return str(architecture["name"])
    return getattr(network, "__name__", type(network).__name__)


def _reference_words(model: AnchoredModel, references: Any) -> int | str:
    if isinstance(references, str):
        return references
    if isinstance(references, Tensor):
        return len(references)
    return len(model.references) if references is None else int(references)


def gather_subjects(
    models: Any, data: Any, references: Any, batch_size: int, say: Callable[[str], None]
) -> list[Subject]:
    """One subject for each of `models` (a dict of name to model, or one model), tried on a few images of `data`.

    Raises ValueError when a model cannot be evaluated on the data, in words that say why.
    """
    if not isinstance(models, Mapping):
        models = {"model": models}
    if not models:
        raise ValueError("there is no model to evaluate: models is empty")
    return [_subject(str(name), model, data, references, batch_size, say) for name, model in models.items()]


def _subject(name: str, model: Any, data: Any, references: Any, batch_size: int, say: Callable[[str], None]) -> Subject:
    if not callable(model):
        raise TypeError(f"model {name!r} is a {type(model).__name__}, which cannot be called with images")
    shape: tuple[int, ...] = tuple(data.image_shape)
    if isinstance(model, PixelModel):
        if model.task != "classification":
            raise ValueError(f"model {name!r} was made for {model.task}; evaluate measures classifiers")
        if len(model.input_shape) != 3:
            raise ValueError(f"model {name!r} takes vectors of shape {list(model.input_shape)}, not images")
        shape = model.input_shape
        _check_classes(name, model, data)
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    first = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    return _tried(Subject(name, model, first.device, first.dtype, shape, references), data, batch_size, say)


def _tried(subject: Subject, data: Any, batch_size: int, say: Callable[[str], None]) -> Subject:
    """The subject with what a few images show of it. Raises ValueError where its answers cannot be measured."""
    few = data.first(PROBE)
    shown = convert(to_unit(few.to(subject.device)), subject.shape).to(subject.dtype)
    if isinstance(subject.model, nn.Module):
        wanted = {"features": True, "masked": isinstance(subject.model, AnchoredModel)}
    else:
        wanted = {}
    try:
        outputs = outputs_of(subject.model, shown, subject.references, **wanted)
    except (ValueError, TypeError) as error:
        raise type(error)(f"model {subject.name!r}: {error}") from error
    except Exception as error:
        raise ValueError(
            f"model {subject.name!r} failed on {len(few)} images of shape {list(shown.shape[1:])}: "
            f"{type(error).__name__}: {error}"
        ) from error
    check_width(subject.name, outputs.logits.shape[1], list(data.class_names))
    if words := faults(outputs.logits):
        raise ValueError(f"model {subject.name!r} gave {words}")
    warned = [PROBABILITIES] if looks_like_probabilities(outputs.logits * subject.temperature) else []
    given = {f.name for f in fields(Outputs) if getattr(outputs, f.name) is not None}
    head = None if outputs.head is None else (outputs.head[0].detach().cpu(), outputs.head[1].detach().cpu())
    alone = outputs_of(subject.model, shown[:1], subject.references).logits
    scale = float(outputs.logits[:1].float().abs().clamp(max=1e6).max()) + 1
    slack = 1e-3 if subject.dtype in (torch.float32, torch.float64) else 5e-2
    apart = float((alone.float() - outputs.logits[:1].float()).abs().nan_to_num().max()) > slack * scale
    started = time.perf_counter()
    again = outputs_of(subject.model, shown, subject.references).logits.float().cpu()  # once more, warm
    pace = (time.perf_counter() - started) / len(shown)
    random = float((again - outputs.logits.float().cpu()).abs().nan_to_num().max()) > slack * scale
    if random:
        warned.append(
            "asked twice about the same images it gives different logits, so it draws at random as it answers: its "
            "numbers differ from call to call, and attacks on it prove nothing"
        )
    elif apart:
        warned.append(
            "what it answers to an image depends on the images beside it (a batch of 1 gives other logits than one of "
            f"{len(few)}), so its numbers depend on the batch size"
        )
    for words in warned:
        say(f"careful, {subject.name}: {words}")
    found = model_digest(subject.model, subject.references, outputs.logits.float().cpu(), batch_size if apart else None)
    return replace(subject, fields=frozenset(given), head=head, digest=found, pace=pace, warnings=tuple(warned))


def faults(logits: Tensor) -> str | None:
    """What is wrong with logits `[B, C]`, or None; minus infinity excludes a class and is no fault."""
    bad = (logits.isnan() | (logits == float("inf"))).any(dim=1) | (logits == float("-inf")).all(dim=1)
    if not bool(bad.any()):
        return None
    return (
        f"logits that are not finite for {int(bad.sum())} of {len(bad)} images: its weights may hold NaN, or it "
        "overflows in half precision"
    )


def _check_classes(name: str, model: PixelModel, data: Any) -> None:
    ours, theirs = model.class_names, list(data.class_names)
    if ours is not None and list(ours) != theirs:
        both = f"  model: {_listed(ours)}\n  data:  {_listed(theirs)}"
        if sorted(ours) == sorted(theirs):
            raise ValueError(
                f"model {name!r} and data {data.name!r} have the same classes in another order:\n{both}\n"
                "put the data in the model's order with data.only_classes(model.class_names)"
            )
        kept = set(ours) <= set(theirs)
        raise ValueError(
            f"model {name!r} and data {data.name!r} have different classes:\n{both}\n"
            + (
                "keep the model's with data.only_classes(model.class_names)"
                if kept
                else "evaluate on data with the model's classes; other data can only be its out-of-distribution set"
            )
        )
    check_width(name, model.num_outputs, theirs)


def check_width(name: str, width: int, class_names: list[str]) -> None:
    """Raise ValueError unless a model's output width is the number of classes."""
    if width != len(class_names):
        raise ValueError(
            f"model {name!r} returns {width} logits, but the data has {len(class_names)} classes: "
            + _listed(class_names)
        )


def _listed(names: list[str], most: int = 30) -> str:
    shown = ", ".join(str(n) for n in names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else f"{shown} ({len(names)})"
