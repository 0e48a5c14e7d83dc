"""Distillation with a learned share: a small network says for each image how much of the teacher's answer helps."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_weight, soft_targets
from kedge.objectives._beside import mean_over, present
from kedge.objectives._divergence import divergences
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper, check_same_images
from kedge.objectives._views import Recorded, bare, num_outputs, viewed_as, without_labels
from kedge.objectives.distill import _has_losses

info = Info(
    "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation", "Hu et al.", "ICLR", 2024,
    "https://arxiv.org/abs/2312.15112", "code",
)  # fmt: skip
HIDDEN = 32, 16  # of the network that says the share
EXAMPLE = "'[{TGeoKD: {teacher: RUN}}, CrossEntropy]' --extra '{meta: FOLDER}'"


class TGeoKD(Wrapper):
    """mean_i (1 - a_i) inner_i(x, y) + a_i T² KL(softmax(t / T) ‖ softmax(s / T)), a_i by a network trained along.

    t are the teacher's logits, s the model's; a_i = σ(MLP(state_i)), the state 9 C numbers: the probabilities S of the
    model, T of the teacher, the label G as one of C, the teacher's mean answer T̄ to its class, and entry by entry the
    squares (S - T̄)², (S - G)², (S - T)², (T - G)², (T̄ - G)². The model minimises this loss with a fixed; the MLP
    (9 C, 32, 16, 1, leaky ReLU) minimises the cross-entropy of the model, after a step of this loss, on images that
    are neither trained on nor validated by: the stream `meta`, labelled, as many as the images of the step. With
    θ' = θ - ξ ∇_θ loss(θ, a) that has the gradient
    ∂CE(θ') / ∂a_i = -(ξ / B) ⟨∇CE(θ'), ∇_θ (T² KL_i - inner_i)⟩, which is exact: a_i goes up where what the teacher
    says of image i moves the weights more towards the labels of the other images than its own label does.

    Source: Hu et al., ICLR 2024, arXiv 2312.15112: state (of seven), MLP, loss and both aims are theirs. In the
    authors' code the share is computed without a gradient and its aim does not contain it, and the cross-entropy is
    taken of probabilities; neither is followed. Our reading: the look-ahead is one step of plain gradient descent at
    the rate ξ, whatever optimizer trains; both networks have that optimizer; T̄ is the mean over the images that the
    objective has seen until now, where theirs is of the whole set.

    Inside of `Anchored` student and look-ahead have the references of the step, and where masking takes an image's
    target away the teacher's answer is the uniform distribution too. Batch norm keeps the statistics of the training
    images. `prepare` makes the MLP; in a loop of your own call it before the optimizer is made, and give the optimizer
    `objective.parameters()` too. A step costs three to five times one of `Distill`.

    Args:
        inner: the loss of the true targets, with one for each image, such as CrossEntropy.
        teacher: the model to learn from, with the same classes; a copy is kept, frozen. In a recipe a run, a model
            folder or timm/NAME.
        temperature: T, above 0.
        look_ahead: ξ, 0 or more, as a rule the learning rate; 0: the share stays as it was drawn.
        seed: of the first weights of the MLP.

    Raises:
        ValueError: for values out of range, an inner objective that changes images or has no loss for each; when
            training starts, for a teacher of other classes or another image size, several processes, a compiled model;
            when called, for `meta` images of another shape or number, or labels that do not fit them.
        RuntimeError: when called before `prepare`, or without `meta` images and their labels.
    """

    reads_logits = True
    streams = ("meta",)
    labelled_streams = ("meta",)
    one_process = True
    classifies = True
    in_repr = ("temperature", "look_ahead")

    def __init__(
        self, inner: Objective, teacher: nn.Module, temperature: float = 4.0, look_ahead: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__(inner)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature is a number above 0, got {temperature}")
        check_weight("look_ahead", look_ahead)
        check_same_images(inner, "TGeoKD")
        if not _has_losses(inner):
            raise ValueError(
                f"TGeoKD has a share for each image, and {type(inner).__name__} has one loss for all: put CrossEntropy "
                "inside"
            )
        self.teacher = Frozen(teacher)
        self.temperature, self.look_ahead, self.seed = temperature, look_ahead, seed
        self.share_of: Any = None  # the MLP, once the classes are known
        self.register_buffer("answers", None)
        self.register_buffer("seen", None)

    @property
    def passes(self) -> float:
        """Those of the inner objective, one of the teacher, and the look-ahead: its step, its images, its gradient."""
        return super().passes + 1 / 3 + 3

    def prepare(self, model: nn.Module) -> None:
        """See that the teacher is one for the model, and make the MLP and the teacher's mean answers."""
        self.teacher.check(model)
        classes, like = num_outputs(model), next(model.parameters())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            wide, narrow = HIDDEN
            self.share_of = nn.Sequential(
                nn.Linear(9 * classes, wide), nn.LeakyReLU(), nn.Linear(wide, narrow), nn.LeakyReLU(),
                nn.Linear(narrow, 1),
            )  # fmt: skip
        self.share_of.to(like.device)
        self.answers = torch.zeros(classes, classes, device=like.device)
        self.seen = torch.zeros(classes, device=like.device)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of the model; its gradient to the MLP is that of the other aim."""
        if self.share_of is None:
            raise RuntimeError("TGeoKD has no network for the share yet: call objective.prepare(model) before training")
        meta, labels = self.stream("meta", images), self.stream("meta_labels")
        if labels.shape != (len(images),) or labels.is_floating_point():
            raise ValueError(f"TGeoKD: meta_labels are class indices [{len(images)}], got {list(labels.shape)}")
        student = Recorded(model)
        losses = self.inner.losses(student, images, targets)
        taught = self.teacher.beside(model, images)
        if taught.shape != student.logits.shape:
            raise ValueError(f"the teacher gives {list(taught.shape)} logits, the model {list(student.logits.shape)}")
        if (unlabelled := without_labels(model)) is not None:
            taught = taught.masked_fill(unlabelled[:, None], 0)
        distilled = divergences(taught, student.logits, self.temperature)
        share = self.share(student.logits, taught, targets, present(model, images))
        fixed = share.detach()
        self.logged["teacher_share"] = fixed.mean()
        loss = ((1 - fixed) * losses + fixed * distilled).mean()
        if self.look_ahead == 0 or not torch.is_grad_enabled():
            return loss
        slope = slopes(model, losses, distilled, fixed, self.look_ahead, meta, labels, present(model, images))
        other = (share * slope).sum()
        return loss + other - other.detach()  # the value of the loss, and the gradient of the other aim

    def share(self, logits: Tensor, taught: Tensor, targets: Tensor, counts: Tensor) -> Tensor:
        """a `[B]` of logits `[B, C]` of model and teacher, in float32 or wider, with a gradient to the MLP alone.

        The teacher's answers to images that count (`[B]`, 1 or 0) become part of its mean answers.
        """
        wide = self.answers.dtype
        own, other = logits.detach().to(wide).softmax(1), taught.to(wide).softmax(1)
        truth = soft_targets(targets, logits.shape[1]).to(wide)
        with torch.no_grad():
            weighed = truth * counts.to(wide)[:, None]
            self.answers += weighed.T @ other
            self.seen += weighed.sum(0)
            usual = truth @ (self.answers / self.seen.clamp_min(torch.finfo(wide).tiny)[:, None])
        pairs = (own - usual, own - truth, own - other, other - truth, usual - truth)
        state = torch.cat([own, other, truth, usual, *(pair.square() for pair in pairs)], 1)
        said: Tensor = self.share_of(state)[:, 0]
        return said.to(wide).sigmoid()


def slopes(
    model: nn.Module,
    losses: Tensor,
    distilled: Tensor,
    share: Tensor,
    look_ahead: float,
    meta: Tensor,
    labels: Tensor,
    counts: Tensor,
) -> Tensor:
    """∂CE(θ') / ∂a `[B]`, θ' = θ - ξ ∇_θ mean((1 - a) losses + a distilled), of the loss on `meta` images.

    Args:
        model: the model or a view of it; its parameters θ that are trained, and its buffers, stay as they are.
        losses, distilled: `[B]`, with their graphs.
        share: a `[B]`, without a graph.
        look_ahead: ξ.
        meta, labels: images `[B, C, H, W]` and their classes `[B]`.
        counts: how much each of these counts `[B]`.
    """
    view = viewed_as(model, bare(model))  # with the references of the step, without what others keep of their calls
    there = {name: value for name, value in view.named_parameters() if value.requires_grad}
    leaf = share.detach().requires_grad_()
    mixed = ((1 - leaf) * losses + leaf * distilled).mean()
    steps = torch.autograd.grad(mixed, list(there.values()), create_graph=True, allow_unused=True)
    moved = {
        name: (value.detach() - look_ahead * step.detach()).requires_grad_()
        for (name, value), step in zip(there.items(), steps, strict=True)
        if step is not None
    }
    buffers = {name: value.detach().clone() for name, value in view.named_buffers()}  # statistics move in the copies
    with unwatched(view):
        logits = functional_call(view, {**buffers, **moved}, (meta,))
    wide = torch.promote_types(logits.dtype, torch.float32)
    aim = mean_over(counts, F.cross_entropy(logits.to(wide), labels, reduction="none"))
    towards = torch.autograd.grad(aim, list(moved.values()), allow_unused=True)
    taken = [step for step in steps if step is not None]
    along = [(step * each).sum() for step, each in zip(taken, towards, strict=True) if each is not None]
    (slope,) = torch.autograd.grad(torch.stack(along).sum(), leaf, retain_graph=True)
    return -look_ahead * slope


@contextmanager
def unwatched(model: nn.Module) -> Iterator[None]:
    """Within, no hook sees what layers put out: an objective outside records those of the step."""
    watched = [each for each in model.modules() if each._forward_hooks]
    hooks = [each._forward_hooks for each in watched]
    for each in watched:
        each._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for each, own in zip(watched, hooks, strict=True):
            each._forward_hooks = own
