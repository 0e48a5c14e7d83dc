"""With the best ridge more features and more images always help; without one, error peaks where they are equal."""

import numpy as np
from numpy.typing import NDArray

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, Curve, packed

info = Info(
    "More is Better in Modern Machine Learning: when Infinite Overparameterization is Optimal and Overfitting is "
    "Obligatory", "Simon et al.", "ICLR", 2024, "https://arxiv.org/abs/2311.14646", "abstract",
)  # fmt: skip

IMAGES, FEATURES = 600, 3000
BY_FEATURES = (50, 100, 200, 400, 600, 800, 1600, 4000)
BY_IMAGES = (50, 100, 200, 400, 800, 1200)
RIDGES = np.logspace(-6, 4, 41)
Floats = NDArray[np.float64]


class MoreIsBetter(Claim):
    """Digits by least squares on random ReLU features; the ridge is the best on the test images, as in the theory."""

    part = "measuring"
    variants = ("no ridge", "best ridge")
    criteria = (
        Criterion("every step of features helps", "smallest fall with features", "best ridge", None, "above", 0),
        Criterion("every step of images helps", "smallest fall with images", "best ridge", None, "above", 0),
        Criterion("without a ridge the risk peaks", "times the best ridge's risk, 600 features", "no ridge", None,
                  "above", 20),
        Criterion("the best fits its images closer than others", "largest training risk over test risk", "best ridge",
                  None, "below", 0.25),
    )  # fmt: skip
    curve = Curve("risk", "features", log_x=True, log_y=True)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Risks on the test images (squared errors summed over classes), of 600 images by the number of features."""
        fits = {count: risks(IMAGES, count, seed) for count in BY_FEATURES}
        if variant == "no ridge":
            return {
                **{f"risk, {count} features": plain for count, (plain, _, _) in fits.items()},
                "times the best ridge's risk, 600 features": fits[IMAGES][0] / fits[IMAGES][1],
            }
        more = {count: risks(count, FEATURES, seed) for count in BY_IMAGES}
        return {
            **{f"risk, {count} features": best for count, (_, best, _) in fits.items()},
            "smallest fall with features": float(-max(np.diff([best for _, best, _ in fits.values()]))),
            "smallest fall with images": float(-max(np.diff([best for _, best, _ in more.values()]))),
            "largest training risk over test risk": max(ratio for _, _, ratio in more.values()),
        }


def risks(images: int, features: int, seed: int) -> tuple[float, float, float]:
    """Without a ridge, with the best one, and the latter's training risk over its test risk."""
    train, labels = rows("train", seed)
    test, truth = rows("test", seed)
    train, labels = train[:images], labels[:images]
    weights = np.random.default_rng(seed).normal(size=(train.shape[1], features))
    seen, unseen = np.maximum(train @ weights, 0), np.maximum(test @ weights, 0)
    values, basis = np.linalg.eigh(seen @ seen.T / features)
    turned, across = basis.T @ labels, unseen @ seen.T @ basis / features
    solid = values > 1e-11 * values.max()
    plain = float(np.square(across[:, solid] @ (turned[solid] / values[solid, None]) - truth).sum(1).mean())
    tried = []
    for ridge in RIDGES * values.mean():
        fitted = turned / (np.maximum(values, 0) + ridge)[:, None]
        test_risk = float(np.square(across @ fitted - truth).sum(1).mean())
        tried.append((test_risk, float(np.square(ridge * fitted).sum(1).mean()) / test_risk))
    return plain, *min(tried)


def rows(split: str, seed: int) -> tuple[Floats, Floats]:
    """Images of a split as rows of norm about 1, in an order drawn by the seed, and labels as ones and zeros."""
    ((images, labels),) = packed("digits", split).batches(10_000)
    order = np.random.default_rng(seed).permutation(len(labels))
    flat = images.flatten(1).double().numpy()[order] / 255
    return flat / np.linalg.norm(flat, axis=1).mean(), np.eye(10)[labels.numpy()[order]]
