"""The models under evaluation: what each is, and whether it fits the data."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring.outputs import Outputs
from kedge.anchoring.protocol import Model, as_model
from kedge.checks import PROBABILITIES, looks_like_probabilities
from kedge.data.folders import about_nameless
from kedge.evaluation.cache import digest, model_digest, tensor_digest
from kedge.evaluation.inputs import conversion, convert, to_unit
from kedge.postprocess import SetRule
from kedge.rejection import met_by_others

PROBE = 8  # images that every model is tried on before anything is measured
OF_MEMBERS = (
    "its members have prediction sets, by whose majority kedge predict --sets answers: how often that holds the true "
    "class is not measured here"
)


@dataclass(frozen=True)
class Subject:
    """One model under evaluation, with where it runs and what it takes.

    Attributes:
        fields: what of `Outputs` it can give (`Outputs.present`).
        head: weight and bias of its last layer, or None.
        digest: what stands for it where parts of an evaluation are stored; None: nothing can.
        pace: seconds for an image, as a few images say.
        warnings: what a few images say against its numbers, for the results.
        anchors: labelled training images `[K, C, H, W]` as the model takes them, and labels `[K]`; None without those.
        anchors_digest: what stands for them.
        set_rule: of its prediction sets; None without a threshold of its own for answers with these references.
    """

    name: str
    model: Model
    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, ...]
    references: Any = None
    fields: frozenset[str] = frozenset({"logits"})
    head: tuple[Tensor, Tensor] | None = None
    digest: str | None = None
    pace: float = 0.0
    warnings: tuple[str, ...] = ()
    anchors: tuple[Tensor, Tensor] | None = None
    anchors_digest: str | None = None
    set_rule: SetRule | None = None

    def with_anchors(self, images: Tensor, labels: Tensor) -> "Subject":
        """The same with labelled images `[K, C, H, W]`, uint8 or in [0, 1], of any convertible shape."""
        fitted = convert(to_unit(images.to(self.device)), self.shape).to(self.dtype)
        stands_for = digest(tensor_digest(images), labels.tolist())
        return replace(self, anchors=(fitted, labels.to(self.device)), anchors_digest=stands_for)

    def outputs(
        self,
        images: Tensor,
        features: bool = False,
        masked: bool = False,
        reverse: bool = False,
        members: bool = False,
    ) -> Outputs:
        """What the model says about float images `[B, C, H, W]` in [0, 1] of any convertible shape, on its device."""
        return self.model.outputs(
            convert(images, self.shape).to(self.dtype),
            self.references,
            features=features and bool({"features", "familiarity"} & self.fields),
            masked=masked and "masked" in self.fields,
            reverse=self.anchors if reverse and "reverse" in self.fields else None,
            members=members,
            check=False,  # `to_unit` did
        )

    def key(self, *what: Any) -> str | None:
        """What results of this model under the conditions `what` are stored under; None: they are not."""
        return None if self.digest is None else digest(self.digest, *what)

    def description(self, image_shape: tuple[int, ...]) -> dict[str, Any]:
        """What the results say of the model."""
        return {
            **self.model.describe(self.references),
            "device": str(self.device),
            "input_shape": list(self.shape),
            "conversion": conversion(image_shape, self.shape),
        }


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
    model = as_model(model)
    shape: tuple[int, ...] = tuple(data.image_shape)
    if model.input_shape is not None:
        if model.task != "classification":
            raise ValueError(f"model {name!r} was made for {model.task}; evaluate measures classifiers")
        if len(model.input_shape) != 3:
            raise ValueError(f"model {name!r} takes vectors of shape {list(model.input_shape)}, not images")
        shape = model.input_shape
        _check_classes(name, model, data)
    tensors = [*model.parameters(), *model.buffers()]
    first = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
    return _tried(Subject(name, model, first.device, first.dtype, shape, references), data, batch_size, say)


def _tried(subject: Subject, data: Any, batch_size: int, say: Callable[[str], None]) -> Subject:
    """The subject with what a few images show of it. Raises ValueError where its answers cannot be measured."""
    few = data.first(PROBE)
    images = convert(to_unit(few.to(subject.device)), subject.shape).to(subject.dtype)
    try:
        outputs = subject.model.outputs(images, subject.references, features=True, masked=True)
    except (ValueError, TypeError) as error:
        raise type(error)(f"model {subject.name!r}: {error}") from error
    except Exception as error:
        raise ValueError(
            f"model {subject.name!r} failed on {len(few)} images of shape {list(images.shape[1:])}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if (width := outputs.logits.shape[1]) != len(data.class_names):
        raise ValueError(
            f"model {subject.name!r} returns {width} logits, but the data has {len(data.class_names)} classes: "
            + _listed(list(data.class_names))
        )
    if words := faults(outputs.logits):
        raise ValueError(f"model {subject.name!r} gave {words}")
    warned = [PROBABILITIES] if looks_like_probabilities(outputs.network_logits()) else []
    if subject.model.class_names is None and (words := about_nameless(data.class_names)) is not None:
        warned.append(words)
    head = None if outputs.head is None else (outputs.head[0].detach().cpu(), outputs.head[1].detach().cpu())
    adapts = subject.model.adapts  # to the images beside an image: nothing to warn of, and nothing to store
    alone = outputs.logits[:1] if adapts else subject.model.outputs(images[:1], subject.references).logits
    scale = float(outputs.logits[:1].float().abs().clamp(max=1e6).max()) + 1
    slack = 1e-3 if subject.dtype in (torch.float32, torch.float64) else 5e-2
    apart = float((alone.float() - outputs.logits[:1].float()).abs().nan_to_num().max()) > slack * scale
    started = time.perf_counter()
    again = subject.model.outputs(images, subject.references).logits.float().cpu()  # once more, warm
    pace = (time.perf_counter() - started) / len(images)
    subject.model.reset()
    random = not adapts and float((again - outputs.logits.float().cpu()).abs().nan_to_num().max()) > slack * scale
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
    rule, why = _set_rule(subject)
    warned += [why] if why else []
    if words := met_by_others(subject.model, subject.references):
        warned.append(words)
    for words in warned:
        say(f"careful, {subject.name}: {words}")
    said = [outputs.logits, *([] if outputs.familiarity is None else [outputs.familiarity[:, None]])]
    probe = torch.cat(said, dim=1).float().cpu()
    stands_for = (
        None if adapts else model_digest(subject.model, subject.references, probe, batch_size if apart else None)
    )
    fields = outputs.present() | ({"reverse"} if subject.model.reversible else set())
    return replace(subject, fields=fields, head=head, digest=stands_for, pace=pace, warnings=tuple(warned),
                   set_rule=rule)  # fmt: skip


def _set_rule(subject: Subject) -> tuple[SetRule | None, str]:
    """The rule of its prediction sets, or why there is none though it has some."""
    if "prediction_sets" not in subject.model.steps_in_force():
        members = getattr(subject.model, "members", ()) if subject.model.of_members else ()
        voted = members and all("prediction_sets" in each.steps for each in members)
        return None, OF_MEMBERS if voted else ""
    try:
        return subject.model.set_rule(None, subject.references), ""
    except ValueError as error:
        return None, str(error)


def named_groups(groups: Mapping[str, Sequence[str]] | None, names: Sequence[str]) -> dict[str, list[str]]:
    """The groups of models that are seeds of one method. Raises ValueError for unknown models and for one in two."""
    members_of = {str(group): list(members) for group, members in (groups or {}).items()}
    grouped: set[str] = set()
    for group, members in members_of.items():
        if not members:
            raise ValueError(f"the group {group!r} has no models")
        for name in members:
            if name not in names:
                raise ValueError(f"the group {group!r} names {name!r}, but the models are {', '.join(names)}")
            if name in grouped:
                raise ValueError(f"the model {name!r} is in two groups")
            grouped.add(name)
    return members_of


def faults(logits: Tensor) -> str | None:
    """What is wrong with logits `[B, C]`, or None; minus infinity excludes a class and is no fault."""
    bad = (logits.isnan() | (logits == float("inf"))).any(dim=1) | (logits == float("-inf")).all(dim=1)
    if not bool(bad.any()):
        return None
    return (
        f"logits that are not finite for {int(bad.sum())} of {len(bad)} images: its weights may hold NaN, or it "
        "overflows in half precision"
    )


def _check_classes(name: str, model: Model, data: Any) -> None:
    ours, theirs = model.class_names, list(data.class_names)
    if ours is not None and list(ours) != theirs:
        both = f"  model: {_listed(ours)}\n  data:  {_listed(theirs)}"
        if sorted(ours) == sorted(theirs):
            raise ValueError(
                f"model {name!r} and data {data.name!r} have the same classes in another order:\n{both}\n"
                "put the data in the model's order with data.only_classes(model.class_names)"
            )
        raise ValueError(
            f"model {name!r} and data {data.name!r} have different classes:\n{both}\n"
            + (
                "keep the model's with data.only_classes(model.class_names)"
                if set(ours) <= set(theirs)
                else "evaluate on data with the model's classes; other data can only be its out-of-distribution set"
            )
        )


def _listed(names: list[str], most: int = 30) -> str:
    text = ", ".join(str(n) for n in names[:most])
    return f"{text}, ... ({len(names)} in all)" if len(names) > most else f"{text} ({len(names)})"
