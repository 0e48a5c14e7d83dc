"""Several models as one: the mean of their probabilities, and their disagreement as the uncertainty."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.prediction import Prediction, conclude, vetted
from kedge.anchoring.protocol import Prepared, network_name
from kedge.anchoring.stem import at_least_float32
from kedge.anchoring.twin import in_eval
from kedge.catalog import Info
from kedge.checks import check_images
from kedge.postprocess import SetRule, Stepped, coverage_of_members
from kedge.postprocess._set_rule import NAME

info = Info(
    "Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles",
    "Lakshminarayanan et al.",
    "NeurIPS",
    2017,
    "https://arxiv.org/abs/1612.01474",
    "derived",
)


class Ensemble(PixelModel):
    """The mean of the probabilities of several classifiers, which are a model together: predict, attack, fold, export.

    Each member answers as it does alone, with its own references and steps. The uncertainty is the members'
    disagreement, the mean over them of KL(p_m ‖ mean p) in nats, between 0 and log M: the mutual information of answer
    and member. `save` takes no ensemble: its members are saved one by one, and `mean(A,B,C)` names them together on the
    command line.

    Attributes:
        members: the models, not copied.
        steps: those after the mean, such as a temperature of the ensemble; empty at first, as is `reject`.
    """

    kind: ClassVar[str] = "ensemble"
    of_members: ClassVar[bool] = True

    def __init__(self, members: Sequence[PixelModel]) -> None:
        """Raises TypeError for a member that is no model of kedge, ValueError where they differ in what they answer."""
        members = list(members)
        if not members:
            raise ValueError("an ensemble needs members, got none")
        for each in members:
            if not isinstance(each, PixelModel):
                raise TypeError(
                    f"the members of an ensemble are models of kedge, got {type(each).__name__}: kedge.plain(network, "
                    "example=...) makes one of a bare network"
                )
        first = members[0]
        for each in members:
            if each.task != "classification":
                raise ValueError(f"an ensemble is of classifiers, and a member is for {each.task}")
            for what in ("num_outputs", "input_shape"):
                if getattr(each, what) != getattr(first, what):
                    raise ValueError(
                        f"the members of an ensemble differ in {what}: {getattr(first, what)} and {getattr(each, what)}"
                    )
        names = next((each.class_names for each in members if each.class_names is not None), None)
        for each in members:
            if each.class_names is not None and each.class_names != names:
                one, other = next((a, b) for a, b in zip(names or [], each.class_names, strict=True) if a != b)
                raise ValueError(
                    f"the members of an ensemble have other classes: {one!r} stands where one has {other!r}"
                )
        super().__init__(
            nn.ModuleList(members),
            mean=first.mean.new_zeros(1),  # each member normalises
            std=first.mean.new_ones(1),
            input_shape=first.input_shape,
            num_outputs=first.num_outputs,
        )
        self.class_names = None if names is None else list(names)
        self.ordered = any(each.ordered for each in members)
        self.training = any(each.training for each in members)

    @property
    def members(self) -> list[Any]:
        """The models."""
        return list(self.network.children())

    def network_logits(self, images: Tensor, references: Any = None) -> Tensor:
        """The logarithm of the mean probability `[B, C]`, with gradients, before the ensemble's own steps."""
        logits = [member.for_attack(_for(member, references))(images) for member in self.members]
        check_followed(logits, images)
        return _mean(torch.stack(logits))

    def forward(self, images: Tensor, references: Any = None) -> Tensor:
        """What `predict` computes as logits `[B, C]`, with gradients; `references` are those of anchored members."""
        return self._stepped(self.network_logits(images, references))

    @torch.no_grad()
    def predict(
        self, images: Tensor, references: Any = None, *, keep_per_reference: bool = False, check: bool = True
    ) -> Prediction:
        """Predict in eval mode without gradients; `references` and `check` as in `AnchoredModel.predict`.

        With `keep_per_reference` `per_reference` holds the logits of each member `[M, B, C]`, after its steps.
        """
        if check:
            check_images(images)
        with in_eval(self) as model:
            each = []
            for member in model.members:
                how = {"references": references} if _for(member, references) is not None else {}
                each.append(member.predict(images, check=False, **how).logits)
        logits = torch.stack(each)
        logits = logits.to(at_least_float32(logits))
        mean = _mean(logits)
        of_each = logits.log_softmax(-1)
        # p log p is 0 where p is.
        spread = (of_each.exp() * (of_each - mean).nan_to_num(0, 0, 0)).sum(-1).mean(0).clamp(min=0)
        each_member = logits if keep_per_reference else None
        prediction = conclude(
            mean, spread if len(logits) > 1 else None, self.task, steps=self.steps, per_reference=each_member
        )
        return vetted(prediction, self.steps) if check else prediction

    def answers_of_members(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Logits and uncertainty of `predict`, and the class that each member answers by itself, `[B, M]`."""
        prediction = self.predict(images, references, keep_per_reference=True, check=False)
        each = prediction.per_reference
        return prediction.logits, prediction.uncertainty, None if each is None or len(each) < 2 else each.argmax(-1).T

    def set_rule(self, coverage: float | None = None, references: Any = None) -> SetRule:
        """Its own prediction sets where it has some, else those that more than half of its members agree on.

        For a majority that covers c, whatever the members have in common, each needs prediction sets of (1 + c) / 2.
        Raises ValueError where one has none, or others.
        """
        if NAME in self.steps:
            return super().set_rule(coverage, references)
        of_each = None if coverage is None else coverage_of_members(coverage)
        rules = []
        for place, member in enumerate(self.members):
            try:
                rules.append(member.set_rule(of_each, _for(member, references)))
            except ValueError as error:
                for_all = "" if coverage is None else f" (for {coverage:g} of their majority, each needs {of_each:g})"
                raise ValueError(f"member {place} of the ensemble: {error}{for_all}") from None
        if len({rule.coverage for rule in rules}) > 1:
            words = " and ".join(f"{rule.coverage:g}" for rule in rules)
            raise ValueError(
                f"the members of the ensemble have prediction sets of {words}: they vote with one coverage"
            )
        promised = 2 * rules[0].coverage - 1 if coverage is None else coverage
        if promised <= 0:
            raise ValueError(f"a majority of members that cover {rules[0].coverage:g} promises nothing: set more")
        return SetRule([step for rule in rules for step in rule.steps], promised, of_members=True)

    def feature_layer(self, images: Tensor, references: Any = None) -> nn.Module | None:
        """None: the members have features of their own."""
        return None

    def for_attack(self, references: Any = None, prepare: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
        """The ensemble with gradients through all members and their references."""
        return Prepared(_Fixed(self, references), prepare)

    def check_foldable(self) -> None:
        """Raise ValueError where a member answers with several references, of which folding keeps one."""
        for place, member in enumerate(self.members):
            member.check_foldable()
            if member.count() > 1:
                raise ValueError(
                    f"member {place} of the ensemble predicts with {member.count()} references, and folding keeps one: "
                    "leave it one with model.references = model.references[:1], or fold the members one by one"
                )

    def fold(self, reference: int = 0) -> nn.Module:
        """The folded members and their mean as one network in eval mode: pixels in, logits after the steps out."""
        self.check_foldable()
        folded = _FoldedEnsemble([member.fold() for member in self.members])
        if not self.steps:
            return folded.eval()
        return Stepped(folded, self.steps).eval()

    def bare(self) -> nn.Module:
        """Raise ValueError: there are several."""
        raise ValueError("an ensemble has several networks: go on with one of its members")

    def state(self) -> dict[str, Any]:
        """Raise TypeError: the members are saved one by one."""
        raise TypeError(
            "an ensemble is not saved as one: save its members, kedge.save(ensemble.members[0], folder) and so on; "
            "mean(FOLDER,FOLDER) names them together on the command line, kedge.Ensemble in Python"
        )

    def describe(self, references: Any = None) -> dict[str, Any]:
        """As of any model; the network is that of the members."""
        networks = list(dict.fromkeys(network_name(member.network) for member in self.members))
        return {**super().describe(references), "network": f"mean of {len(self.members)}: {', '.join(networks)}"}


class _Fixed(nn.Module):
    """An ensemble with the references of its anchored members fixed."""

    def __init__(self, ensemble: Ensemble, references: Any) -> None:
        super().__init__()
        self.ensemble, self.references = ensemble, references
        self.num_outputs = ensemble.num_outputs
        self.training = ensemble.training

    def forward(self, images: Tensor) -> Tensor:
        return self.ensemble(images, self.references)


class _FoldedEnsemble(nn.Module):
    """Ordinary networks, and the logarithm of their mean probability."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        logits = [network(images) for network in self.networks]
        check_followed(logits, images)
        return _mean(torch.stack(logits))


def check_followed(logits: Sequence[Tensor], images: Tensor) -> None:
    """Raise ValueError where the logits of a member have no gradient with respect to images that want one.

    An attack would climb the others alone, and call the ensemble robust where it has not looked.
    """
    if torch.compiler.is_compiling() or not (torch.is_grad_enabled() and images.requires_grad):
        return
    for place, each in enumerate(logits):
        if not _follows(each, images):
            raise ValueError(
                f"the logits of member {place} of the ensemble carry no gradient with respect to the images (an "
                "exported or quantised model, or one that detaches its input), so that an attack would overlook it: "
                "leave it out, or make the images on models that have one and judge them on this one (transfer)"
            )


def _follows(outputs: Tensor, inputs: Tensor) -> bool:
    """Whether autograd has a way from `outputs` back to `inputs`: its graph is walked, nothing is computed.

    That outputs require a gradient does not say so: trainable weights are enough for that.
    """
    waiting, visited = [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in visited:
            continue
        if node is inputs.grad_fn or getattr(node, "variable", None) is inputs:
            return True
        visited.add(node)
        waiting += [earlier for earlier, _ in node.next_functions]
    return False


def _mean(logits: Tensor) -> Tensor:
    """The logarithm of the mean probability `[B, C]` of logits `[M, B, C]`."""
    logits = logits.to(at_least_float32(logits))
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def _for(member: PixelModel, references: Any) -> Any:
    """The references of a member: none of one that is not anchored."""
    return references if member.count() else None
