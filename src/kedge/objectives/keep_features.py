"""Features of a trained model that stay as they were on further, unlabelled images while it learns other ones."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring.last_layer import inputs_of, last_layer
from kedge.attacks._losses import evaluated
from kedge.catalog import Info
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper
from kedge.objectives._recording import recording
from kedge.objectives._views import bare, viewed_as, with_references
from kedge.objectives._whole_batch import by_rows

info = Info(
    "Anchor-based Robust Finetuning of Vision-Language Models", "Han et al.", "CVPR", 2024,
    "https://arxiv.org/abs/2404.06244", "abstract",
)  # fmt: skip


class KeepFeatures(Wrapper):
    """inner(x, y) + λ mean (1 - cos(f(a), f₀(a))) over auxiliary images a, f₀ the features of the model as it was.

    The auxiliary images need no labels; they are to be like what the model must not forget. They come from the stream
    `auxiliary`, in a recipe `extra: {auxiliary: FOLDER}`, as many in a step as images, in a pass of their own, which
    moves the statistics of batch norm where these are not frozen. With anchored models f and f₀ see an auxiliary image
    with the reference and the mask of the training image in its place.

    What carries over of the paper, which fine-tunes a model of images *and texts*: it anchors that to captions and to
    pairs of image and text of the kind it was trained on. It shares a word, and nothing else, with anchored training.
    Without texts the term on further images is left, which is our reading: feature distillation, and feature
    replay without the old labels.

    Args:
        inner: the loss of the training images.
        start_model: the model whose features stay; a copy is kept, frozen. In a recipe by default the one that the run
            starts from.
        layer: a layer, as in `model.network.named_modules()`, whose output the features are; None: what the last layer
            reads.
        weight: λ, 0 or more; 0 is the inner objective, and no auxiliary image is asked for.

    Raises:
        ValueError: without a start model, as in a run from new weights; for a weight out of range; when training
            starts, for a start model of other images or features, and without a last linear layer where no layer is
            named; when called, for auxiliary images of another shape or number than the images.
        RuntimeError: when called before `prepare`, or without auxiliary images.

    Source: Han et al., "Anchor-based Robust Finetuning of Vision-Language Models", CVPR 2024, arXiv 2404.06244
        (abstract); the term is that of Li & Hoiem, "Learning without Forgetting", with features for answers.
    """

    streams = ("auxiliary",)
    changes_images = True  # beside its images the model sees auxiliary ones
    in_repr = ("layer", "weight")

    def __init__(
        self,
        inner: Objective,
        start_model: nn.Module | None = None,
        layer: str | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__(inner)
        check_weight("weight", weight)
        if start_model is None:
            raise ValueError(
                "KeepFeatures keeps those of a trained model, and this starts from new weights: say init_from, or "
                "{KeepFeatures: {start_model: RUN}}"
            )
        self.start = Frozen(start_model, "start model")
        self.layer = layer
        self.weight = weight
        self._names: tuple[str, str] | None = None

    @property
    def passes(self) -> float:
        """Those of the inner objective, one for the auxiliary images, and a forward pass of the start model."""
        return super().passes + (4 / 3 if self.weight else 0)

    def prepare(self, model: nn.Module) -> None:
        """Look for the layer in both models, and see that its features are as wide."""
        if self.weight == 0:
            return
        core, start = bare(model), self.start.model
        shape = getattr(core, "input_shape", None)
        if shape is None:
            raise ValueError(f"{type(core).__name__} does not say what images it takes: set model.input_shape")
        images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
        mine, other = (images.to(next(each.parameters())) for each in (core, start))
        if self.layer is None:
            self._names = _last(core, mine, "model"), _last(start, other, "start model")
        else:
            self._names = self.layer, self.layer
        with torch.no_grad(), evaluated(core):
            own = self._features(core, mine, self._names[0])
            theirs = self._features(start, other, self._names[1])
        if own.shape != theirs.shape:
            raise ValueError(
                f"the model has {own.shape[1]} features and the start model {theirs.shape[1]}: name a start model of "
                "the same network, or another layer"
            )

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss, and how far the features have moved, which is logged as `features_moved`."""
        if self.weight == 0:
            return self.inner(model, images, targets)
        if self._names is None:
            raise RuntimeError("KeepFeatures has no layer yet: call objective.prepare(model) before training")
        auxiliary = self.stream("auxiliary", images)
        loss = self.inner(model, images, targets)
        view = with_references(model, images)
        own = self._features(view, auxiliary, self._names[0])
        with torch.no_grad():
            before = self._before(view, auxiliary, self._names[1])
        moved = 1 - F.cosine_similarity(own.float(), before.float(), dim=1).mean()
        self.logged["features_moved"] = moved.detach()
        return loss + self.weight * moved

    def _before(self, view: nn.Module, images: Tensor, name: str) -> Tensor:
        """The features of the start model: of an anchored one with the references of the step."""
        start = self.start.model
        if hasattr(start, "draw_references"):
            return self._features(viewed_as(view, start), images, name)
        return by_rows(view, lambda rows: self._features(start, rows, name), images)

    def _features(self, model: nn.Module, images: Tensor, name: str) -> Tensor:
        """Features `[B, D]` of a model or a view of it."""
        whole = self.layer is None
        with recording(model, [name], inputs=whole) as features:
            model(images)
        values = features[name]
        return inputs_of(bare(model).get_submodule(name), values) if whole else values.flatten(1)


def _last(model: nn.Module, images: Tensor, role: str) -> str:
    """The name of the last layer. Raises ValueError where there is none."""
    layer = last_layer(model, images)
    for name, module in model.named_modules():
        if module is layer:
            return name
    raise ValueError(f"the {role} has no linear last layer whose inputs its features are: say layer, the name of one")
