"""The detectors of pytorch-ood as scores of kedge."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.last_layer import last_layer
from kedge.anchoring.protocol import as_model
from kedge.catalog import Info
from kedge.checks import check_images
from kedge.scores._base import Outputs, Score, outputs_of
from kedge.scores._splitting import Chain, Cut, Features, named_layers, stages
from kedge.scores.vim import principal_dimension

info = Info(
    "PyTorch-OOD: A Library for Out-of-Distribution Detection based on PyTorch", "Kirchheim, Filax & Ortmeier",
    "CVPR Workshops", 2022, "https://pytorch-ood.readthedocs.io", "code",
)  # fmt: skip

# What no classifier can give; a detector runs with it as a setting.
EXTRA = {
    "text_embeddings": "the text embeddings of a vision-language model",
    "weights": "the class weights that training with the VOS loss learns",
}
# Those that read the free energy of logits, which is 0 for every image where a network gives log probabilities.
ENERGIES = ("EnergyBased", "RankFeat")
# Rows handed to a detector at a time: some hold [rows, classes, features].
ROWS = 256
# What pytorch-ood calls what a detector reads, in its fit_... and predict_... .
METHODS = {"logits": "logits", "features": "features", "maps": "feature_maps"}


class PytorchOOD(Score):
    """A detector of pytorch-ood (0.4) by its name, its sign turned: higher = more in-distribution.

    Kirchheim, Filax & Ortmeier, "PyTorch-OOD: A Library for Out-of-Distribution Detection based on PyTorch", CVPR
    Workshops 2022. Needs `pip install 'pytorch-ood<0.5'`.

    Detectors of logits and of features read the shared `Outputs`: `fit(outputs, labels)`, `score(outputs)`. Those
    that shape activations (ASH, ReAct, SCALE, VRA) get the pooled features, as in OpenOOD. Detectors that read images
    (`reads == "images"`: ODIN, MahalanobisODIN, GradNorm, GradUncertainty, NACUE, MCD, Gram, MultiMahalanobis,
    RankFeat) are fitted with `fit_model(model, batches)` and called with (model, images). They run on a copy of the
    model as an ordinary network, pixels in [0, 1] in, so that step sizes such as ODIN's `eps` are in pixel units; an
    anchored model is folded with one reference of its bank, which is what its `forward` uses in eval mode.

    Args:
        detector: the class name in `pytorch_ood.detector`, e.g. "ODIN".
        layers: names of the layers that Gram, MultiMahalanobis, NACUE and RankFeat (the last one) read; None for the
            last layer at each size of the feature maps.
        reference: which reference of the bank of an anchored model images are folded with.
        seed: of the draws of MCD and Gram.
        settings: for the detector, e.g. `eps=0.002`. Defaults are its own, but for DICE `p=0.9`, ViM the authors'
            dimension, and GradNorm and GradUncertainty the weight of the last layer alone, as published.

    Raises:
        ImportError: without pytorch-ood.
        ValueError: for an unknown detector, or one that needs what a classifier does not have.
    """

    def __init__(
        self, detector: str, layers: Sequence[str] | None = None, reference: int = 0, seed: int = 0, **settings: Any
    ) -> None:
        self._kind = _detector_class(detector)
        self._parameters = inspect.signature(self._kind.__init__).parameters
        self.layers, self.reference, self.seed, self.settings = layers, reference, seed, settings
        for missing in EXTRA.keys() & self._parameters.keys() - settings.keys():
            raise ValueError(f"pytorch-ood's {detector} needs {missing}=, {EXTRA[missing]}: pass it if you have it")
        for name in settings:
            if name not in self._parameters and not self._takes_any():
                known = ", ".join(p for p in self._parameters if p != "self")
                raise ValueError(f"pytorch-ood's {detector} has no setting {name!r}; it has {known}")
        self.reads = _reads(self._kind)
        self.name = f"pytorch_ood_{detector.lower()}"  # type: ignore[misc]
        self.title = f"{detector} (pytorch-ood)"  # type: ignore[misc]
        self.fits = self._kind.requires_fit  # type: ignore[misc]
        logits = ("unnormalised",) if detector in ENERGIES else ()
        self.needs = {"logits": logits, "images": ("images",)}.get(self.reads, ("features", "head"))  # type: ignore[misc]
        self._detector: Any = None
        self._network: nn.Module | None = None

    def fit(self, outputs: Outputs, labels: Tensor) -> "PytorchOOD":
        """Fit to outputs on training images and their class indices `[N]`; nothing to do for some detectors.

        Raises ValueError for a detector that reads images, and where pytorch-ood cannot fit these outputs.
        """
        if not self.fits:
            return self
        read = self._readable(outputs)
        detector = self._build(outputs)
        fit = getattr(detector, f"fit_{METHODS[self.reads]}")
        self._detector = self._fitted_with(detector, lambda: fit(read, labels.to(read.device)))
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`. Raises ValueError for a detector that reads images, RuntimeError before a `fit` that it needs."""
        read = self._readable(outputs)
        detector = self._fitted(self._detector) if self.fits else self._build(outputs)
        predict = getattr(detector, f"predict_{METHODS[self.reads]}")
        with torch.no_grad():
            return self._turned([predict(part) for part in read.split(ROWS)], outputs.logits)

    def fit_model(self, model: Callable[[Tensor], Any], batches: Iterable[tuple[Tensor, Tensor]]) -> "PytorchOOD":
        """Fit to training images: `batches` is a DataLoader or a list of (images in [0, 1], class indices).

        Works for every detector; those that read images keep a copy of the model, which they then score.
        """
        if self.reads != "images":
            if self.fits:
                features = "features" in self.needs
                parts, labels = zip(*[(outputs_of(model, x, features=features), y) for x, y in batches], strict=True)
                self.fit(Outputs.cat(parts), torch.cat(labels))
            return self
        first = next(iter(batches))[0]
        detector = self._build_on(model, first)
        if self._kind.__name__ == "MahalanobisODIN":
            encoder = detector._base.encoder
            with torch.no_grad():
                parts, labels = zip(*[(encoder(x), y) for x, y in batches], strict=True)
            z, y = torch.cat(parts), torch.cat(labels)
            self._fitted_with(detector, lambda: detector.fit_features(z, y.to(z.device)))
        elif self.fits:
            detector.to(_device_of(model, first))
            with self._seeded():
                self._fitted_with(detector, lambda: detector.fit(batches))
        self._detector = detector
        return self

    def __call__(self, model: Callable[[Tensor], Any], images: Tensor, references: Any = None) -> Tensor:
        """`[B]` scores of `images` `[B, C, H, W]` in [0, 1].

        A detector that reads images and was fitted scores them by the model it was fitted to, whatever `model` is.
        """
        if len(images) == 0:
            return images.new_zeros(0, dtype=torch.float32)
        if self.reads != "images":
            return self.score(outputs_of(model, images, references, features="features" in self.needs))
        check_images(images)
        detector = self._fitted(self._detector) if self.fits else self._build_on(model, images)
        with torch.enable_grad(), self._seeded():
            scores = self._turned([detector.predict(part) for part in images.split(ROWS)], images)
        if self._kind.__name__ == "MCD" and detector.mode == "var" and not bool(scores.any()):
            raise ValueError("pytorch-ood's MCD saw no difference between its passes: the network has no dropout")
        return scores

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            yield

    def _takes_any(self) -> bool:
        return any(p.kind == p.VAR_KEYWORD for p in self._parameters.values())

    def _readable(self, outputs: Outputs) -> Tensor:
        if self.reads == "images":
            raise ValueError(
                f"{self.title} reads images, not outputs: use fit_model(model, batches) and call it with images"
            )
        if self.reads == "logits":
            if self._kind.__name__ in ENERGIES:
                self._check_unnormalised(outputs.of_members)
            return outputs.logits.float()
        features: Tensor = self._take(outputs, "features").float()
        return features[:, :, None, None] if self.reads == "maps" else features

    def _build(self, outputs: Outputs) -> Any:
        """The detector for features or logits: whatever would run the model is None."""
        pieces: dict[str, Any] = dict.fromkeys(("model", "encoder", "backbone"))
        if "head" in self.needs:
            weight, bias = (part.float() for part in self._take(outputs, "head"))
            linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device).requires_grad_(False)
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
            head: Any = nn.Sequential(nn.Flatten(), linear) if self.reads == "maps" else linear
            pieces |= {"head": head, "w": weight, "b": bias, "d": principal_dimension(weight.shape[1])}
        return self._make(pieces)

    def _build_on(self, model: Callable[[Tensor], Any], images: Tensor) -> Any:
        """The detector that runs a copy of the model."""
        network = self._network = ordinary(model, self.reference)
        name = self._kind.__name__
        if name in ENERGIES:
            self._check_unnormalised(as_model(model).of_members)
        pieces: dict[str, Any] = {"model": network}
        if "encoder" in self._parameters:
            pieces["encoder"] = Features(network, images)
        if name in ("Gram", "MultiMahalanobis", "NACUE", "RankFeat"):
            layers = stages(network, images) if self.layers is None else named_layers(network, self.layers)
            chain, cut = Chain(network, layers), Cut(network, layers[-1])
            pieces |= {"layers": layers, "feature_layers": chain.steps, "backbone": cut.backbone}
            pieces["head"] = cut.head if name == "RankFeat" else chain.head
            pieces["model"] = chain.steps if name == "MultiMahalanobis" else network
        if "num_classes" in self._parameters:
            with torch.no_grad():
                pieces["num_classes"] = network(images[:1]).shape[1]
        if "param_filter" in self._parameters and (layer := last_layer(network, images)) is not None:
            own = {f"{n}.weight" for n, m in network.named_modules() if m is layer}
            pieces["param_filter"] = own.__contains__
        return self._make(pieces)

    def _make(self, pieces: dict[str, Any]) -> Any:
        pieces = {**{"p": 0.9}, **pieces} if self._kind.__name__ == "DICE" else pieces
        chosen = {name: value for name, value in pieces.items() if name in self._parameters}
        return self._kind(**{**chosen, **self.settings})

    def _fitted_with(self, detector: Any, fit: Callable[[], Any]) -> Any:
        try:
            fit()
        except (AssertionError, ValueError, RuntimeError, IndexError) as error:
            words = str(error) or "it found the training data unfit (is every class 0 to C - 1 there?)"
            raise ValueError(f"pytorch-ood's {self._kind.__name__} could not be fitted: {words}") from error
        return detector

    def _turned(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        whole = torch.cat([part.detach() for part in parts]) if parts else like.new_zeros(0)
        return -whole.float().to(like.device)


def detectors() -> list[str]:
    """The names that `PytorchOOD` takes: every detector of the installed pytorch-ood. Raises ImportError without it."""
    module = _module()
    return sorted(name for name in module.__all__ if inspect.isclass(getattr(module, name)))


def ordinary(model: Callable[[Tensor], Any], reference: int = 0) -> nn.Module:
    """A copy of `model` as an ordinary network in eval mode: pixels in, logits out.

    An anchored model is folded with one reference of its bank. Raises TypeError for a callable that is no module.
    """
    network = as_model(model).fold(reference)
    # Gradients with respect to activations need something that asks for them.
    return network.requires_grad_(True)


def _module() -> Any:
    try:
        import pytorch_ood.detector
    except ImportError as error:
        raise ImportError(
            f"the detectors of pytorch-ood need it: pip install 'pytorch-ood<0.5' (import failed with: {error})"
        ) from error
    return pytorch_ood.detector


def _detector_class(name: str) -> Any:
    known = detectors()
    if name not in known:
        raise ValueError(f"pytorch-ood has no detector {name!r}; it has {', '.join(known)}")
    return getattr(_module(), name)


def _reads(kind: Any) -> str:
    from pytorch_ood.api import FeatureMapsDetector, FeaturesDetector, LogitsDetector

    if kind.__name__ == "RankFeat":
        return "images"  # of pooled features, which have rank one, it leaves nothing
    bases = {"logits": LogitsDetector, "features": FeaturesDetector, "maps": FeatureMapsDetector}
    return next((name for name, base in bases.items() if issubclass(kind, base)), "images")


def _device_of(model: Any, images: Tensor) -> torch.device:
    return next((p.device for p in model.parameters()), images.device)
