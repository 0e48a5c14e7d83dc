"""Distillation of features: a layer of the model follows a layer of a trained one, through a learned projection."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.attacks._losses import evaluated
from kedge.catalog import Info
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper, check_same_images
from kedge.objectives._recording import recording
from kedge.objectives._views import bare, without_labels
from kedge.objectives._whole_batch import by_rows

info = Info(
    "FitNets: Hints for Thin Deep Nets", "Romero et al.", "ICLR", 2015, "https://arxiv.org/abs/1412.6550", "abstract"
)


class FeatureDistill(Wrapper):
    """inner(x, y) + w / 2 · mean (r(s) - t)², s and t what a layer of the model and one of the teacher put out.

    The projection r, a linear map of the channels (1 × 1 for feature maps), is trained along; feature maps of the
    teacher of another height and width are averaged to those of the model. Images whose target masking took away
    (`Anchored`) do not count. The paper trains the lower half of the network so before anything else; here both terms
    are minimised together. Source: Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv 1412.6550),
    equation 3, divided by the number of values.

    `prepare` makes the projection; in a loop of your own call it before the optimizer is made, and give the optimizer
    `objective.parameters()` too.

    Args:
        inner: the loss of the targets.
        teacher: the trained model; a copy is kept, frozen. In a recipe a run, a model folder or timm/NAME.
        layer: a layer of the model, as in `model.network.named_modules()`.
        teacher_layer: a layer of the teacher; None: of the same name.
        weight: w, 0 or more; 0 is the inner objective.
        seed: of the first values of the projection.

    Raises:
        ValueError: for a weight out of range, an inner objective that changes images; by `prepare` for layers that are
            not there or whose outputs are no features `[B, C]` or `[B, C, H, W]`.
        RuntimeError: when called before `prepare`.
    """

    in_repr = ("layer", "teacher_layer", "weight")

    def __init__(
        self,
        inner: Objective,
        teacher: nn.Module,
        layer: str,
        teacher_layer: str | None = None,
        weight: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        check_weight("weight", weight)
        check_same_images(inner, "FeatureDistill")
        self.teacher = Frozen(teacher)
        self.layer, self.teacher_layer = layer, layer if teacher_layer is None else teacher_layer
        self.weight = weight
        self.seed = seed
        self.projection: nn.Module | None = None

    @property
    def passes(self) -> float:
        """Those of the inner objective, and a forward pass of the teacher."""
        return super().passes + (1 / 3 if self.weight else 0)

    def prepare(self, model: nn.Module) -> None:
        """Make the projection, from the channels of the one layer to those of the other."""
        if self.weight == 0:
            return
        shape = getattr(bare(model), "input_shape", None)
        if shape is None:
            raise ValueError(f"{type(bare(model)).__name__} does not say what images it takes: set model.input_shape")
        images = torch.zeros(2, *shape, device=next(model.parameters()).device)
        with torch.no_grad(), evaluated(model), recording(model, [self.layer]) as features:
            model(images)
        own, other = features[self.layer], self._taught(images.to(next(self.teacher.model.parameters()).device))
        if own.ndim not in (2, 4) or own.ndim != other.ndim:
            raise ValueError(
                f"{self.layer} puts out {list(own.shape)} and {self.teacher_layer} of the teacher {list(other.shape)}: "
                "name two layers with features [B, C], or two with [B, C, H, W]"
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            count = own.shape[1], other.shape[1]
            self.projection = nn.Linear(*count) if own.ndim == 2 else nn.Conv2d(*count, 1)
        self.projection.to(images.device)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of the model."""
        if self.weight == 0:
            return self.inner(model, images, targets)
        if self.projection is None:
            raise RuntimeError("FeatureDistill has no projection yet: call objective.prepare(model) before training")
        with recording(model, [self.layer]) as features:
            loss = self.inner(model, images, targets)
        taught = by_rows(model, self._taught, images)
        own = self.projection(features[self.layer])
        if own.ndim == 4 and own.shape[2:] != taught.shape[2:]:
            taught = F.adaptive_avg_pool2d(taught, own.shape[2:])
        apart = (own.float() - taught.float()).square().flatten(1).mean(1)
        if (unlabelled := without_labels(model)) is not None:
            apart = apart.masked_fill(unlabelled, 0)
        self.logged["feature_distance"] = apart.detach().mean()
        return loss + self.weight / 2 * apart.mean()

    @torch.no_grad()
    def _taught(self, images: Tensor) -> Tensor:
        """What the teacher's layer puts out."""
        with recording(self.teacher.model, [self.teacher_layer]) as features:
            self.teacher(images)
        return features[self.teacher_layer]
