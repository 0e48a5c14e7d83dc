"""A linear probe: scikit-learn's logistic regression on the features of the network as it was published."""

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.photos.by_loop import _normalisation, centre_crop
from benchmarks.photos.worker import batches, create_network, seed_all

SHARES = {"crop": 0.875, "whole": 1.0}


def train(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Fit on features of the evaluation view; the strength by cross-validation over the training photos."""
    import warnings

    import numpy as np
    import torch
    from safetensors.torch import save_file
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    seed_all(args.seed)
    images, labels = centre_crop(args.photos / "train", args.size, SHARES[variant])
    features = _features(args.network, args.weights)
    with torch.inference_mode():
        x = torch.cat([features(part) for part in batches(images)]).double().numpy()
    y = labels.numpy()
    folds = max(2, min(5, int(np.bincount(y).min())))
    split = StratifiedKFold(folds, shuffle=True, random_state=args.seed)
    # chosen by the likelihood, which is scikit-learn's default from 1.11 on, and finer than accuracy on few photos
    head = LogisticRegressionCV(Cs=10, cv=split, scoring="neg_log_loss", max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        fitted = make_pipeline(StandardScaler(), head).fit(x, y)
    scale = fitted[0]
    weight, bias = head.coef_ / scale.scale_, head.intercept_ - head.coef_ @ (scale.mean_ / scale.scale_)
    if len(weight) == 1:  # two classes: one log odds
        weight, bias = np.stack([0 * weight[0], weight[0]]), np.array([0.0, bias[0]])
    tensors = {"weight": torch.tensor(weight).float().contiguous(), "bias": torch.tensor(bias).float()}
    save_file(tensors, args.out / "model.safetensors")
    view = "centre crop of 0.875" if variant == "crop" else "centre crop of the whole shorter side"
    return {
        "recipe": f"StandardScaler, LogisticRegressionCV(Cs=10, scoring=neg_log_loss), {folds} folds; {view}",
        "epochs": 0,
    }


def view(variant: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """The view that the features were made of."""
    return centre_crop(args.photos / "test", args.size, SHARES[variant])


def load(variant: str, args: argparse.Namespace) -> Callable[[Any], Any]:
    """Logits of the probe."""
    from safetensors.torch import load_file

    features, head = _features(args.network, args.weights), load_file(args.model / "model.safetensors")
    return lambda images: features(images) @ head["weight"].T + head["bias"]


def _features(name: str, weights: Any) -> Callable[[Any], Any]:
    import torch

    torch.manual_seed(0)  # without a file of weights the features are random, and must be the same ones again
    network = create_network(name, weights, 0).to(memory_format=torch.channels_last).eval()
    mean, std = _normalisation(network)
    return lambda images: network((images.float() / 255 - mean) / std)
