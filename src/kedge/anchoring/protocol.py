"""What callers ask of a model, whatever kind it is: outputs, a face for attacks, an ordinary network, a description.

Every model of kedge is a `Model`; a network or function from elsewhere becomes one where it enters, by `as_model`.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from kedge.anchoring.last_layer import affine, last_layer
from kedge.anchoring.outputs import Outputs, collecting, features_of
from kedge.anchoring.twin import in_eval
from kedge.checks import check_images
from kedge.postprocess import SetRule, apply, changes_labels, describe_steps, kind_of, set_rule


class Model(nn.Module):
    """A model as callers see it.

    Attributes:
        kind: "anchored", "plain", "ensemble" or "callable".
        network: the module or function inside.
        input_shape: `(C, H, W)` or `(D,)` that it takes; None where that is not known.
        num_outputs: how many logits it gives; None where that is not known.
        steps: what its logits go through after the network.
        reversible: whether an image can be the reference of others (`reversed_losses`).
        ordered: whether the classes are grades of one thing, from the lowest to the highest.
        unknown: the rule by which images are of no class (`kedge.unknown`), or None.
        prototypes: directions of features `[K, D]`, of length 1, that this rule may be by, or None.
        of_members: whether its uncertainty is the disagreement of members, not of references.
        adapts: whether it changes with the images that it answers (`kedge.test_time`).
        takes_photos: whether it is a file that prepares photos itself (`kedge.deploy.onnx_file.PhotoModel`).
        max_rows: the memory budget of calls that state none, see `AnchoredModel.predict`; not saved.
    """

    kind: ClassVar[str]
    of_members: ClassVar[bool] = False
    reversible: ClassVar[bool] = False
    adapts: ClassVar[bool] = False
    takes_photos: ClassVar[bool] = False
    max_rows: int | None = None
    network: Any
    input_shape: tuple[int, ...] | None = None
    num_outputs: int | None = None
    task: str = "classification"
    class_names: list[str] | None = None
    ordered: bool = False
    reject: dict[str, Any] | None = None
    unknown: dict[str, Any] | None = None
    prototypes: Tensor | None
    steps: dict[str, dict[str, Any]]

    def answers(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None]:
        """Logits `[B, C]` after the steps and the uncertainty `[B]` (None: it has none), without gradients."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget what it became by answering images; nothing for a model that does not change by it."""

    def stream(self) -> dict[str, Any] | None:
        """What happened since it was reset, for a record; None for a model that does not change by answering."""
        return None

    def answers_of_members(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `answers`, and what each of several members or references answers by itself, classes `[B, M]`, or None."""
        return *self.answers(images, references), None

    def count(self, references: Any = None) -> int:
        """How many references every image meets in one prediction; 0 for a model that has none."""
        return 0

    def feature_layer(self, images: Tensor, references: Any = None) -> nn.Module | None:
        """The layer whose inputs are the features (see `last_layer`), found with `images`; None without one."""
        return last_layer(self, images)

    def masked_logits(self, images: Tensor, references: Any = None) -> Tensor | None:
        """Logits `[B, C]` with the reference hidden, before the steps; None for a model that has none."""
        return None

    def reversed_losses(self, images: Tensor, anchors: Tensor, labels: Tensor) -> Tensor | None:
        """`[B, K]`: how badly K labelled images are classified with each image as their reference; None: has none."""
        return None

    @torch.no_grad()
    def outputs(
        self,
        images: Tensor,
        references: Any = None,
        *,
        features: bool = False,
        masked: bool = False,
        reverse: tuple[Tensor, Tensor] | None = None,
        members: bool = False,
        check: bool = True,
    ) -> Outputs:
        """What the model says of `images` `[B, C, H, W]` in [0, 1], in eval mode and only read; see `outputs_of`."""
        if check:
            check_images(images)
        layer = self.feature_layer(images, references) if features else None
        with collecting(layer) as passes:
            if members:
                logits, uncertainty, each = self.answers_of_members(images, references)
            else:
                logits, uncertainty, each = *self.answers(images, references), None
        outputs = Outputs(logits, uncertainty, steps=self.steps, of_members=self.of_members, members=each)
        if layer is not None:
            collected = features_of(layer, passes, self.count(references), len(images), self.max_rows)
            if collected is not None:
                outputs = dataclasses.replace(outputs, features=collected, head=affine(layer))
        more: dict[str, Any] = {"masked": self.masked_logits(images, references)} if masked else {}
        more |= {} if reverse is None else {"reverse": self.reversed_losses(images, *reverse)}
        return dataclasses.replace(outputs, **more)

    def for_attack(self, references: Any = None, prepare: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
        """What `answers` computes as a function with gradients and nothing random in it: what an attack must face.
        `prepare` is done to the images first, such as a change of size; differentiable.
        """
        return Prepared(self, prepare)

    def fold(self, reference: int = 0) -> nn.Module:
        """An independent ordinary network in eval mode: images in [0, 1] to logits after the steps."""
        raise NotImplementedError

    def check_foldable(self) -> None:
        """Raise ValueError, saying why, where `fold` is not possible."""

    def bare(self) -> nn.Module:
        """The network before its normalisation, not a copy. Raises ValueError where there is none."""
        raise ValueError(f"this takes a bare network or a plain model, and the model is of the kind {self.kind}")

    def decided(self, logits: Tensor) -> Tensor:
        """Logits before the steps `[..., C]` as far as steps can change which class is the largest."""
        return apply(self.steps, logits) if changes_labels(self.steps) else logits

    def steps_in_force(self) -> dict[str, dict[str, Any]]:
        """The steps that its answers went through, here or inside an exported file."""
        return self.steps

    def describe_steps(self) -> list[str]:
        """The steps in force, in words such as `temperature 1.32`."""
        return describe_steps(self.steps_in_force())

    def set_rule(self, coverage: float | None = None, references: Any = None) -> SetRule:
        """How its prediction sets are made, of this coverage if one is stated; see `kedge.postprocess.set_rule`."""
        return set_rule(self.steps_in_force(), self.count(references), references, coverage)

    def methods(self) -> list[type]:
        """The classes whose papers are cited for this model: its own and those of its steps."""
        return [type(self), *map(kind_of, self.steps_in_force())]

    def state(self) -> dict[str, Any]:
        """What a saved model says of its kind. Raises TypeError for one that cannot be saved."""
        return {"kind": self.kind, "first_layer": None}

    def describe(self, references: Any = None) -> dict[str, Any]:
        """What results say of the model: kind, network, parameters, references, steps."""
        count = self.count(references)
        return {
            "kind": self.kind,
            "network": network_name(self.network),
            "parameters": sum(p.numel() for p in self.parameters()) or None,
            "references": None if count == 0 else references if isinstance(references, str) else count,
            "steps": self.describe_steps(),
        }


class CallableModel(Model):
    """A network, or any function, from images `[B, C, H, W]` to logits `[B, C]`, of which nothing else is known."""

    kind: ClassVar[str] = "callable"

    def __init__(self, network: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.network, self.prototypes = network, None
        self.steps = {}
        self.training = getattr(network, "training", False)

    def forward(self, images: Tensor) -> Tensor:
        """What the callable returns."""
        return self.network(images)

    def answers(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None]:
        """Its logits. Raises ValueError when it returns something else."""
        return _logits_of(self.network, images), None

    def feature_layer(self, images: Tensor, references: Any = None) -> nn.Module | None:
        """The last layer of a network; None for a function."""
        return last_layer(self.network, images)

    def for_attack(self, references: Any = None, prepare: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
        """The callable, after `prepare`; only as random as it is itself."""
        return Prepared(self.network, prepare)

    def fold(self, reference: int = 0) -> nn.Module:
        """An independent copy in eval mode. Raises TypeError for a callable that is no module."""
        if not isinstance(self.network, nn.Module):
            raise TypeError(
                f"an ordinary network needs a torch module to look inside, not a {type(self.network).__name__}"
            )
        return independent(self.network).eval()

    def state(self) -> dict[str, Any]:
        """Raise TypeError: its normalisation and input are not known."""
        raise TypeError(
            f"kedge.save takes the models of kedge.anchor and kedge.plain, got {type(self.network).__name__}; "
            "for a bare network: kedge.save(kedge.plain(network, example=...), folder)"
        )


class Prepared(nn.Module):
    """A model after what is done to the images first."""

    def __init__(self, model: Callable[[Tensor], Tensor], prepare: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.model = model
        self.prepare = prepare

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return self.model(images if self.prepare is None else self.prepare(images))


def as_model(model: Any) -> Model:
    """The door for models from elsewhere: what is a `Model` as it is, any other network or function as one.

    Raises TypeError for what cannot be called.
    """
    if isinstance(model, Model):
        return model
    if not callable(model):
        raise TypeError(f"a model is a network or a function of images, not {type(model).__name__}")
    return CallableModel(model)


def network_name(network: Any) -> str:
    """What a network is called: its registered name, else that of its class or function."""
    architecture = getattr(network, "kedge_architecture", None)
    if isinstance(architecture, Mapping) and "name" in architecture:
        return str(architecture["name"])
    return getattr(network, "__name__", type(network).__name__)


def _logits_of(model: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    if isinstance(model, nn.Module):
        with in_eval(model) as quiet:
            logits = quiet(images)
    else:
        logits = model(images)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"a model must return logits [B, C] as a torch tensor, but it returned {type(logits).__name__}; "
            "wrap it in a function that returns a tensor of the logits alone"
        )
    if logits.ndim != 2 or len(logits) != len(images):
        raise ValueError(
            f"a model must return logits [B, C], but for {len(images)} images {type(model).__name__} returned a tensor "
            f"{list(logits.shape)}; wrap it in a function that returns the logits alone"
        )
    return logits


def independent(network: nn.Module) -> Any:
    """A deep copy of `network`. Raises ValueError, naming the layer, where an old-style normalisation forbids one.

    `torch.nn.utils.weight_norm` and `spectral_norm` keep the weight they compute as an attribute, which torch does not
    copy and which would not follow its parameters here; those of `torch.nn.utils.parametrizations` do.
    """
    for name, module in network.named_modules():
        for hook in module._forward_pre_hooks.values():
            old = {WeightNorm: "weight_norm", SpectralNorm: "spectral_norm"}.get(type(hook))
            if old is not None:
                raise ValueError(
                    f"layer {name!r} ({type(module).__name__}) has the old torch.nn.utils.{old}, with which a model "
                    f"cannot be copied: take it off with torch.nn.utils.remove_{old}(layer) and use "
                    f"torch.nn.utils.parametrizations.{old}(layer)"
                )
    return copy.deepcopy(network)
