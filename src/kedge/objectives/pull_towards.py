"""A pull towards the weights that training starts from: L2-SP, a Fisher prior, FedProx and FedSpeed."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kedge.catalog import Info
from kedge.checks import unlike_classes
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._fisher import diagonal_fisher
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper
from kedge.objectives._views import bare

info = Info(
    "Explicit Inductive Bias for Transfer Learning with Convolutional Networks", "Li et al.", "ICML", 2018,
    "https://arxiv.org/abs/1802.01483", "abstract",
)  # fmt: skip

IMPORTANCE = ("uniform", "fisher", "empirical-fisher")


class PullTowards(Wrapper):
    """inner(x, y) + λ/2 Σ_i h_i (w_i - a_i)² - ⟨g, w⟩, w the weights and a those of the start model.

    One term, several methods by their settings:

    - h = 1 is L2-SP (Li et al., arXiv 1802.01483): weight decay towards the start model instead of towards zero. It is
      the local step of FedProx too (arXiv 1812.06127), where a are the weights that a server sent, and ridge
      personalisation of a global model (RTFA, arXiv 2108.07313).
    - `importance="fisher"` is a diagonal prior learnt on source images: h_i = F_i / mean F, with
      F_i = mean over these of (∂ log p(ŷ | x) / ∂w_i)², ŷ drawn from the start model's answer. Weights that decide much
      are held, others go free: elastic weight consolidation (Kirkpatrick et al., arXiv 1612.00796), and the diagonal
      of the learnt prior of arXiv 2307.07753, whose Kronecker sums and bounds are not here. Divided by its mean, λ is
      that of L2-SP: a constant F is L2-SP. "empirical-fisher" takes the labels of the source images for ŷ.
    - `linear`, g, is what FedSpeed adds (arXiv 2302.10429): a client's dual variable.

    Weights that the rule of the step decays are decayed towards zero besides: weight_decay 0 leaves the pull alone.
    Batch-norm statistics are no weights and stay out, as do weights that are not trained, and a last layer that is new
    has nowhere to be pulled to. `logged["distance"]` is the length of w - a.

    Args:
        inner: the loss.
        start_model: the model that is pulled towards, a copy is kept, frozen. In a recipe by default the one that the
            run starts from.
        strength: λ, 0 or more; 0 is the inner objective.
        importance: h, "uniform", "fisher" or "empirical-fisher".
        source: for the Fisher information, images of what the start model knows, a set of (image, label). In a recipe
            the name of a data set.
        count: at most so many of these, drawn by the seed.
        new_head: the last layer, by its name in the network, where it is new for the images; a run from published
            weights, and `kedge adapt`, know it.
        linear: g, one number for each pulled weight, as of `torch.nn.utils.parameters_to_vector`; None: 0.
        seed: of the source images and of ŷ.

    Raises:
        ValueError: without a start model, as in a run from new weights; for values out of range, a Fisher importance
            without source images and source images without one; when training starts, for a start model of other
            layers, for source images that it cannot take or that say nothing, and for an empirical Fisher for source
            images of other classes.
    """

    in_repr = ("strength", "importance")
    reads_weights = True
    _held: Tensor | None
    _linear: Tensor | None

    def __init__(
        self,
        inner: Objective,
        start_model: nn.Module | None = None,
        strength: float = 0.1,
        importance: str = "uniform",
        source: Dataset | None = None,
        count: int = 500,
        new_head: str | None = None,
        linear: Tensor | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        check_weight("strength", strength)
        if importance not in IMPORTANCE:
            raise ValueError(f"importance is one of {', '.join(IMPORTANCE)}, not {importance!r}")
        if importance != "uniform" and source is None:
            raise ValueError(
                f"importance {importance} is measured on images of what the start model knows: say source, such as "
                f"{{PullTowards: {{importance: {importance}, source: FOLDER}}}}"
            )
        if importance == "uniform" and source is not None:
            raise ValueError("source is for importance fisher or empirical-fisher, and importance is uniform")
        if source is not None and len(source) == 0:  # type: ignore[arg-type]
            raise ValueError("source holds no images, and importance is measured on them")
        if count < 1:
            raise ValueError(f"count is a number of images, 1 or more, got {count}")
        if start_model is None:
            raise ValueError(
                "PullTowards pulls towards a trained model, and this starts from new weights: say init_from, or "
                "{PullTowards: {start_model: RUN}}"
            )
        self.start = Frozen(start_model, "start model")
        self.strength, self.importance = strength, importance
        self.source, self.count, self.seed = source, count, seed
        self.new_head = new_head
        self._names: list[str] | None = None
        self.register_buffer("_held", None, persistent=False)
        self.register_buffer("_linear", None if linear is None else linear.detach().clone(), persistent=False)

    def prepare(self, model: nn.Module) -> None:
        """See which weights are pulled and that the start model has them, and measure their importance."""
        if self.strength == 0 and self._linear is None:
            return
        anchors = dict(self.start.model.named_parameters())
        pulled = self._pulled(model)
        for name, weight in pulled.items():
            if name not in anchors or anchors[name].shape != weight.shape:
                there = list(anchors[name].shape) if name in anchors else "missing"
                raise ValueError(
                    f"the start model has other layers: {name} is {list(weight.shape)} in the model and {there} in the "
                    "start model. Name one of the same network; if this is the last layer, new for these images, say "
                    "new_head, its name in the network"
                )
        count = sum(weight.numel() for weight in pulled.values())
        if self._linear is not None and self._linear.shape != (count,):
            raise ValueError(f"linear is one number for each of {count} weights, got {list(self._linear.shape)}")
        self._names = list(pulled)
        device = next(iter(pulled.values())).device
        self.to(device)
        if self.source is not None:
            empirical = self.importance == "empirical-fisher"
            if empirical:
                self._check_labels(self.source)
            each = diagonal_fisher(self.start.model, self.source, self._names, self.count, self.seed, empirical)
            fisher = torch.cat([values.flatten() for values in each])
            if not (torch.isfinite(fisher).all() and fisher.mean() > 0):
                raise ValueError(
                    "the Fisher information of the source images is 0 or not finite: the start model is so sure of all "
                    "of them that they say nothing of its weights. Take other images, or importance uniform"
                )
            self._held = fisher / fisher.mean()

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss and the pull."""
        loss: Tensor = self.inner(model, images, targets)
        if self.strength == 0 and self._linear is None:
            return loss
        if self._names is None:
            self.prepare(model)
        return loss + self.pull(model)

    def pull(self, model: nn.Module) -> Tensor:
        """q(w), a scalar with gradients; after `prepare`."""
        assert self._names is not None
        weights, anchors = dict(bare(model).named_parameters()), dict(self.start.model.named_parameters())
        pairs = [(weights[name], anchors[name]) for name in self._names]
        sizes = [weight.numel() for weight, _ in pairs]
        wide = torch.promote_types(pairs[0][0].dtype, torch.float32)
        squares = [(weight - anchor).to(wide).square().flatten() for weight, anchor in pairs]
        self.logged["distance"] = torch.stack([each.detach().sum() for each in squares]).sum().sqrt()
        if self._held is not None:
            squares = [h * each for h, each in zip(self._held.split(sizes), squares, strict=True)]
        pull = self.strength / 2 * torch.stack([each.sum() for each in squares]).sum()
        if self._linear is not None:
            parts = zip(self._linear.split(sizes), pairs, strict=True)
            pull = pull - torch.stack([(g * weight.flatten()).sum() for g, (weight, _) in parts]).sum()
        return pull

    def _check_labels(self, source: Dataset) -> None:
        own, theirs = (getattr(each, "class_names", None) for each in (self.start.model, source))
        if own and theirs and (unlike := unlike_classes(theirs, own, ("the source", "the start model"))) is not None:
            raise ValueError(
                f"importance empirical-fisher reads the labels of the source images, whose classes are not those of "
                f"the start model: {unlike}. Importance fisher needs no labels"
            )

    def _pulled(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The trained weights outside of a new head, by their names in the model."""
        core = bare(model)
        weights = {name: weight for name, weight in core.named_parameters() if weight.requires_grad}
        if self.new_head is not None:
            inside = tuple(f"{prefix}{self.new_head}." for prefix in ("", "network."))
            left = {name: weight for name, weight in weights.items() if not name.startswith(inside)}
            if len(left) == len(weights):
                raise ValueError(f"new_head {self.new_head!r}: the network has no such layer with weights that train")
            weights = left
        if not weights:
            raise ValueError("no weights are left to pull: all that is trained is the new head")
        return weights
