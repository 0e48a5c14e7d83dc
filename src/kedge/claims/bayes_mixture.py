"""A mixture of models drawn from a posterior predicts no worse than one of them, and no worse than plain training."""

import numpy as np
from numpy.typing import NDArray

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, packed

info = Info(
    "The Universality Lens: Why Even Highly Over-Parametrized Models Learn Well", "Feder, Urbanke and Fogel", "arXiv",
    2025, "https://arxiv.org/abs/2506.07661", "derived",
)  # fmt: skip

IMAGES, WRONG, HIDDEN = 300, 0.1, 32
STEPS, DRAWN, RATE = 6000, 20, 1e-3  # DRAWN weights, evenly from the second half of the steps
RUNS = 5
Floats = NDArray[np.float64]
Weights = list[Floats]


class BayesMixture(Claim):
    """300 digits with a tenth of wrong labels; Langevin samples with the prior N(0, 1), gradient descent, five runs.

    That a mixture is no worse than its members on average is Jensen's inequality, whatever they are; that it is no
    worse than plain training asks for samples of the posterior, and 6,000 steps may be too few for that.
    """

    part = "measuring"
    variants = ("gradient descent", "mixture of five runs", "Langevin sample", "mixture of Langevin samples")
    criteria = (
        Criterion("no worse than its members", "NLL", "mixture of Langevin samples", "Langevin sample", "below"),
        Criterion("no worse than one run", "NLL", "mixture of Langevin samples", "gradient descent", "below"),
        Criterion("runs in place of samples", "NLL", "mixture of five runs", "gradient descent", "below"),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """NLL and accuracy on the test images; of the variants of one model the mean over members."""
        images, labels = pixels("train", seed)
        images, labels = images[:IMAGES], labels[:IMAGES].copy()
        draws = np.random.default_rng(seed)
        wrong = draws.random(IMAGES) < WRONG
        labels[wrong] = (labels[wrong] + draws.integers(1, 10, wrong.sum())) % 10
        test, truth = pixels("test", seed)
        if "Langevin" in variant:
            members = langevin(images, labels, seed)
        else:
            members = [descent(images, labels, RUNS * seed + run) for run in range(RUNS)]
        each = np.stack([probabilities(weights, test) for weights in members])
        mixed = variant.startswith("mixture")
        shown = each.mean(0, keepdims=True) if mixed else each
        picked = shown[:, np.arange(len(truth)), truth]
        return {"NLL": float(-np.log(picked).mean()), "accuracy": 100 * float((shown.argmax(2) == truth).mean())}


def pixels(split: str, seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Images of a split as rows in [0, 1], in an order drawn by the seed, and their labels."""
    ((images, labels),) = packed("digits", split).batches(10_000)
    order = np.random.default_rng(seed).permutation(len(labels))
    return images.flatten(1).double().numpy()[order] / 255, labels.numpy()[order]


def langevin(images: Floats, labels: NDArray[np.int64], seed: int) -> list[Weights]:
    """w ← w − (h/2) ∇U + √h ξ with U the summed NLL and ½ ‖w‖²: weights along the second half of the path."""
    draws = np.random.default_rng((seed, 1))
    weights, path = start(draws), []
    for step in range(1, STEPS + 1):
        slope = [g + w for g, w in zip(gradient(weights, images, labels), weights, strict=True)]
        weights = [
            w - RATE / 2 * g + np.sqrt(RATE) * draws.normal(size=w.shape) for w, g in zip(weights, slope, strict=True)
        ]
        if step > STEPS // 2 and step % (STEPS // 2 // DRAWN) == 0:
            path.append(weights)
    return path


def descent(images: Floats, labels: NDArray[np.int64], seed: int) -> Weights:
    """1,000 steps of gradient descent on the mean NLL, with the decay that 300 images take from N(0, 1)."""
    weights = start(np.random.default_rng((seed, 2)))
    for _ in range(1000):
        slope = gradient(weights, images, labels)
        weights = [w - 0.5 * (g + w) / IMAGES for w, g in zip(weights, slope, strict=True)]
    return weights


def start(draws: np.random.Generator) -> Weights:
    """First weights of 64-32-10, with biases as a last row."""
    return [draws.normal(size=(65, HIDDEN)) / 8, draws.normal(size=(HIDDEN + 1, 10)) / np.sqrt(HIDDEN)]


def probabilities(weights: Weights, images: Floats) -> Floats:
    """`[N, 10]`."""
    return _forward(weights, images)[2]


def gradient(weights: Weights, images: Floats, labels: NDArray[np.int64]) -> Weights:
    """Of the summed NLL."""
    inputs, hidden, off = _forward(weights, images)
    off[np.arange(len(labels)), labels] -= 1
    back = (off @ weights[1][:-1].T) * (hidden[:, :-1] > 0)
    return [inputs.T @ back, hidden.T @ off]


def _forward(weights: Weights, images: Floats) -> tuple[Floats, Floats, Floats]:
    ones = np.ones((len(images), 1))
    inputs = np.hstack([images, ones])
    hidden = np.hstack([np.maximum(inputs @ weights[0], 0), ones])
    logits = hidden @ weights[1]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return inputs, hidden, shares / shares.sum(1, keepdims=True)
