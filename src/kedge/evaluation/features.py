"""What layers hold before and after a training: how alike, of how many dimensions, and how much a probe reads there."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.twin import evaluating
from kedge.binomial import accuracy_interval
from kedge.data import shared_images
from kedge.evaluation.inputs import convert, to_unit
from kedge.evaluation.sets import check_images
from kedge.objectives._cka import cka, gram
from kedge.probing.probe import STRENGTHS, ProbeData, fit_probe

__all__ = ["centred_alignment", "effective_rank", "feature_report", "features_of", "layers_of"]

FEWEST = 40  # images to compare features on
FEW_LAYERS, MANY_LAYERS = 6, 12
PARTS = 10  # of the images, each left out in turn for the interval of CKA


def effective_rank(features: Tensor) -> float:
    """Of how many dimensions features `[N, D]` are: exp of the entropy of their singular values' shares.

    Of features about their mean; 1 to min(N - 1, D), and 0 where they are constant.

    Raises:
        ValueError: for features that are not finite or not `[N, D]`.

    Source: Roy and Vetterli, "The effective rank", EUSIPCO 2007.
    """
    if features.ndim != 2 or not bool(features.isfinite().all()):
        raise ValueError(f"features are finite and [N, D], got {list(features.shape)}")
    x = features.double()
    values = torch.linalg.svdvals(x - x.mean(0))
    if float(values.sum()) <= 1e-9 * max(1.0, float(x.abs().max())) * math.sqrt(x.numel()):
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def centred_alignment(features: Tensor, others: Tensor) -> tuple[float, float, float]:
    """Debiased CKA of features `[N, D]` and `[N, E]` of the same images, in [-1, 1], with its 95 % interval.

    1: equal but for a rotation and a scale; about 0: independent, whatever the dimensions. The interval leaves out a
    tenth of the images in turn (the jackknife of ten groups, in the order of the images).

    Raises:
        ValueError: for fewer than 40 images, or of one not as many as of the other.

    Source: Kornblith et al., ICML 2019 (arXiv 1905.00414), with the unbiased HSIC of Song et al., JMLR 2012.
    """
    if len(features) != len(others) or len(features) < FEWEST:
        raise ValueError(f"CKA takes features of {FEWEST} images or more, the same, got {len(features)}, {len(others)}")
    one, other = gram(features.double()), gram(others.double())
    value = float(cka(one, other))
    places = torch.arange(len(features))
    left = [places % PARTS != part for part in range(PARTS)]
    values = torch.tensor([float(cka(one[keep][:, keep], other[keep][:, keep])) for keep in left]).double()
    error = math.sqrt((PARTS - 1) / PARTS * float((values - values.mean()).square().sum()))
    margin = 2.262 * error  # Student's t with nine degrees of freedom
    return value, max(-1.0, value - margin), min(1.0, value + margin)


def layers_of(model: Any, name: str, image: Tensor) -> list[str]:
    """The layers of a model that are worth looking at, at most twelve, in the order in which they work.

    The parts of the network that have weights and put out one tensor; of a network of fewer than six parts also what
    its sequences are made of.

    Raises:
        ValueError: for what has no layers: an exported file, a function, an ensemble.
    """
    network = _network(model, name)
    front = _weighty(dict(network.named_children()))
    while len(front) < FEW_LAYERS:
        nested = {k: m for k, m in front.items() if isinstance(m, nn.Sequential | nn.ModuleList)}
        if not nested:
            break
        parts = {k: {f"{k}.{c}": part for c, part in m.named_children()} for k, m in nested.items()}
        front = _weighty({key: module for k, m in front.items() for key, module in parts.get(k, {k: m}).items()})
    weighty = list(front)
    order = [key for key in _recorded(model, weighty, image[None]) if key in weighty]
    step = max(1.0, (len(order) - 1) / (MANY_LAYERS - 1))
    return [order[round(i * step)] for i in range(min(len(order), MANY_LAYERS))]


@torch.no_grad()
def features_of(model: Any, layers: Sequence[str], images: Any, batch_size: int = 128) -> dict[str, Tensor]:
    """What layers put out for a set of images, `[N, D]` by name on the CPU: the mean over places or tokens.

    Of an anchored model the mean over its bank, one pass for each reference.
    """
    columns: dict[str, list[Tensor]] = {name: [] for name in layers}
    for batch, _ in images.batches(batch_size):
        for name, value in _recorded(model, layers, to_unit(batch)).items():
            columns[name].append(value)
    return {name: torch.cat(parts) for name, parts in columns.items()}


def feature_report(
    before: Any,
    after: Any,
    train: Any,
    test: Any,
    layers: Sequence[str] | None = None,
    batch_size: int = 128,
    outliers: int = 10,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """How the features of a network changed, layer by layer, as `json.dumps` takes it.

    Args:
        before, after: kedge models of the same network, of any numbers of outputs.
        train: labelled images that linear probes are fitted on; their classes need not be the models'.
        test: others, that probes are judged on, and CKA and rank measured.
        layers: names of layers of the network; None: those that `layers_of` finds in both.
        batch_size: images at a time.
        outliers: how many images to name that are furthest from their class in the last layer but the logits.
        say: called with a sentence before what takes long.

    Returns:
        `layers`: for each its `name`, `cka` (value, low, high), and for `before` and `after` `dimensions`,
        `effective_rank`, its `most` (of so many images and dimensions) and `probe` (accuracy: value, low, high);
        `images`, `train_images`, `classes`, and `outliers` of either model.

    Raises:
        ValueError: for models without layers or none in common, fewer than 40 images, a class without training images,
            training images among the test images, features that are not finite.

    Source: the measures of SUFO (Hsu et al., ICLR 2024, arXiv 2305.17588).
    """
    for images, use in ((train, "fit"), (test, "judge")):
        check_images(images)
        if len(images) < FEWEST:
            raise ValueError(
                f"{images.name} ({images.split}): {len(images)} images to {use} probes, and it takes {FEWEST} or more"
            )
    if list(train.class_names) != list(test.class_names):
        raise ValueError(f"{train.name} and {test.name} have other classes: probes are judged on those they learnt")
    lacking = [test.class_names[c] for c in test.labels.unique().tolist() if not bool((train.labels == c).any())]
    if lacking:
        raise ValueError(f"no training image of {', '.join(lacking[:5])}: a probe cannot learn what it never saw")
    if shared := len(test) if test is train else shared_images(train, test):
        raise ValueError(f"{shared} test images are training images: a probe would be judged on what it was fitted on")
    models = {"before": before, "after": after}
    image = to_unit(test[0][0][None])[0]
    names = list(layers) if layers else _common(models, image)
    tell = say or (lambda words: None)
    measured: dict[str, dict[str, dict[str, Any]]] = {}
    held: dict[str, dict[str, Tensor]] = {}
    far: dict[str, list[dict[str, Any]]] = {}
    for which, model in models.items():
        tell(f"features of {len(names)} layers {which}, {len(train) + len(test)} images")
        known = features_of(model, names, train, batch_size)
        held[which] = features_of(model, names, test, batch_size)
        measured[which] = {
            name: {
                "dimensions": held[which][name].shape[1],
                "effective_rank": effective_rank(held[which][name]),
                "most": min(len(test) - 1, held[which][name].shape[1]),
                "probe": _probe(known[name], train.labels, held[which][name], test.labels, len(train.class_names)),
            }
            for name in names
        }
        last = names[-2] if len(names) > 1 else names[-1]
        far[which] = _furthest(held[which][last], test, outliers)
    rows = []
    for name in names:
        value, low, high = centred_alignment(held["before"][name], held["after"][name])
        own = {which: measured[which][name] for which in models}
        rows.append({"name": name, "cka": {"value": value, "low": low, "high": high}, **own})
    return {"layers": rows, "images": len(test), "train_images": len(train), "classes": len(test.class_names),
            "outliers": far}  # fmt: skip


def _weighty(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Those with weights beyond the vectors of a normalisation."""
    return {name: m for name, m in modules.items() if any(p.ndim > 1 for p in m.parameters())}


def _network(model: Any, name: str) -> nn.Module:
    """The network of a model; ValueError, in words, for what has no layers to look at."""
    network = getattr(model, "network", None) if isinstance(model, PixelModel) else None
    several = getattr(model, "members", None)
    if several or not isinstance(network, nn.Module) or not _weighty({"": network}):
        raise ValueError(
            f"the model {name} has no layers to look at ({type(model).__name__}): give a run, a model folder or "
            "timm/NAME, not an exported file, a function or several models"
        )
    return network


def _common(models: Mapping[str, Any], image: Tensor) -> list[str]:
    each = {which: layers_of(model, which, image) for which, model in models.items()}
    names = [name for name in each["after"] if name in each["before"]]
    if not names:
        lists = "; ".join(f"{which}: {', '.join(own)}" for which, own in each.items())
        raise ValueError(f"the models have no layer in common ({lists}): compare two trainings of one network")
    return names


@torch.no_grad()
def _recorded(model: Any, layers: Sequence[str], pixels: Tensor) -> dict[str, Tensor]:
    """What layers put out for images in [0, 1], `[B, D]`, in the order in which they worked."""
    network = _network(model, "given")
    named = dict(network.named_modules())
    if unknown := [name for name in layers if name not in named]:
        listed = ", ".join([name for name in named if name][:30])
        raise ValueError(f"the network has no layer {unknown[0]!r}; it has {listed}")
    pixels = convert(pixels, model.input_shape).to(model.mean.device)
    sums: dict[str, Tensor] = {}
    now: dict[str, Tensor] = {}  # of this pass; of a layer that works twice the last
    by_channel = getattr(network, "output_fmt", "NCHW") != "NHWC"

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, read: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point() and len(output) == len(pixels):
                now[name] = _pooled(output, by_channel).float().cpu()

        return keep

    passes: list[Tensor | None] = list(model.references.split(1)) if model.count() else [None]
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        for name in layers:
            stack.enter_context(named[name].register_forward_hook(hook(name)))
        for reference in passes:
            now.clear()
            model(pixels) if reference is None else model(pixels, references=reference)
            sums = {name: value + sums.get(name, 0) for name, value in now.items()}
    return {name: value / len(passes) for name, value in sums.items()}


def _pooled(output: Tensor, by_channel: bool) -> Tensor:
    """`[B, D]`: the mean over places `[B, D, H, W]` or `[B, H, W, D]`, or over tokens `[B, T, D]`."""
    if output.ndim == 4:
        return output.mean((2, 3) if by_channel else (1, 2))
    return output.mean(1) if output.ndim == 3 else output.flatten(1)


def _probe(known: Tensor, labels: Tensor, held: Tensor, truth: Tensor, classes: int) -> dict[str, float]:
    """Accuracy on test images of a linear probe, its strength chosen on every fifth training image."""
    judged = torch.arange(len(known)) % 5 == 4
    chosen = fit_probe(ProbeData(known[~judged][None], labels[~judged], classes), (known[judged], labels[judged]))
    probe = fit_probe(ProbeData(known[None], labels, classes), strength=min(chosen.strength, max(STRENGTHS)))
    assert probe.bias is not None
    right = int(((held @ probe.weight.T + probe.bias).argmax(1) == truth).sum())
    low, high = accuracy_interval(right, len(truth))
    return {"value": right / len(truth), "low": low, "high": high}


def _furthest(features: Tensor, images: Any, count: int) -> list[dict[str, Any]]:
    """The images furthest from the mean of their class, in root mean square distances of their class."""
    distance = torch.zeros(len(features), dtype=torch.float64)
    for c in images.labels.unique().tolist():
        own = images.labels == c
        away = (features[own] - features[own].mean(0)).double().norm(dim=1)
        distance[own] = away / away.square().mean().sqrt().clamp(min=1e-12)
    order = distance.argsort(descending=True, stable=True)[:count].tolist()
    paths = images.paths
    return [
        {
            "image": i if paths is None else "/".join(paths[i].split("/")[-2:]),
            "label": images.class_names[int(images.labels[i])],
            "distance": float(distance[i]),
        }
        for i in order
    ]
