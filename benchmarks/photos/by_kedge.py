"""kedge as it comes: `kedge train` with no setting but the photos, the network, its weights and the image size."""

import argparse
from collections.abc import Callable
from typing import Any

FLAGS: dict[str, list[str]] = {"default": [], "plain": ["--anchored", "false"], "anchored": ["--anchored", "true"]}


def command(variant: str, args: Any) -> list[str]:
    """The arguments of kedge; the run is RUNS/run."""
    weights = [] if args.weights is None else ["--weights", str(args.weights)]
    return [
        "train", "--data", str(args.photos), "--model", args.network, *weights, "--image_size", str(args.size),
        "--seed", str(args.seed), "--runs", str(args.out), "--name", "run", *FLAGS[variant],
    ]  # fmt: skip


def train(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train through the command line, and say what it resolved."""
    import json

    from kedge.cli import main
    from kedge.training.recipe import load_recipe

    if status := main(command(variant, args)):
        raise SystemExit(status)
    recipe = load_recipe(args.out / "run" / "recipe.yaml")
    facts = json.loads((args.out / "run" / "run.json").read_text())
    places = ("name", "data", "runs", "weights", "seed", "split_seed")
    settings = {key: value for key, value in vars(recipe).items() if key not in places}
    way = "anchored" if recipe.anchored else "not anchored"
    return {
        "recipe": f"kedge train, {way}; {facts['data']['val']} of the photos held out",
        "epochs": recipe.epochs,
        "settings": settings,
        "start": facts.get("start"),
    }


def view(variant: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """The test photos as kedge shows them to a model of this size."""
    from kedge import data

    return next(iter((photos := data.load(args.photos, "test", args.size)).batches(len(photos))))


def load(variant: str, args: argparse.Namespace) -> Callable[[Any], Any]:
    """Logits with one reference, which costs what one pass of any other network costs."""
    import torch

    import kedge

    model = kedge.load(args.model / "run").to(memory_format=torch.channels_last).eval()
    return lambda images: model(images.float() / 255)


def load_as_shipped(variant: str, args: argparse.Namespace) -> Callable[[Any], Any] | None:
    """Logits of the mean over the whole bank, as `kedge predict` answers: as many passes as there are references."""
    import kedge

    model = kedge.load(args.model / "run").eval()
    if not isinstance(model, kedge.AnchoredModel):
        return None
    return lambda images: model.predict(images.float() / 255).logits
