"""fastai's vision_learner and fine_tune as its documentation writes them, on the network and weights of a file."""

import argparse
import copy
from collections.abc import Callable
from typing import Any

from benchmarks.photos.worker import cpu_seconds, epochs_within, files_of, seed_all

RECIPES = {
    "four": "fine_tune(4), Resize(128), aug_transforms()",
    "time": "fine_tune, Resize(128), aug_transforms()",
    "squish": "fine_tune, Resize(128, squish), aug_transforms()",
    "presized": "fine_tune, Resize(256) and aug_transforms(size=128, min_scale=0.75), the book's presizing",
    "frozen": "fine_tune, Resize(128), aug_transforms(), train_bn=False and batch norm of the body in eval mode by a "
    "callback of one's own",
}


def train(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train on all the photos: one frozen epoch, then four, or as many as --epochs or the budget says."""
    import torch
    from fastai.vision.all import set_seed

    seed_all(args.seed)
    set_seed(args.seed)
    learn = _learner(variant, args, len(files_of(args.photos / "train")[0]))
    epochs = 4
    if variant != "four":
        steps, trial = len(learn.dls.train), copy.deepcopy(learn.model).train()
        for parameter in trial.parameters():
            parameter.requires_grad_(True)

        def step() -> None:
            images, labels = next(iter(learn.dls.train))
            learn.loss_func(trial(images), labels).backward()

        epochs = args.epochs - 1 if args.epochs else epochs_within(args.budget, steps * cpu_seconds(step), least=4)
        set_seed(args.seed + 1)
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(epochs)
    torch.save(learn.model.state_dict(), args.out / "model.pt")
    (args.out / "classes.txt").write_text(str(len(learn.dls.vocab)))
    return {"recipe": f"{RECIPES[variant]}; 1 + {epochs} epochs, batches of {learn.dls.bs}", "epochs": 1 + epochs}


def view(variant: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """The test photos after fastai's own item and batch transforms of validation, before it normalises them."""
    import torch
    from fastai.vision.all import Normalize

    files, labels, _ = files_of(args.photos / "test")
    test = _learner(variant, args, 8).dls.test_dl(files, bs=64, num_workers=0)
    test.after_batch.fs = type(test.after_batch.fs)(f for f in test.after_batch.fs if not isinstance(f, Normalize))
    images = torch.cat([torch.as_tensor(batch[0]).as_subclass(torch.Tensor) for batch in test])
    return (images * 255).round().clamp(0, 255).to(torch.uint8), torch.tensor(labels)


def load(variant: str, args: argparse.Namespace) -> Callable[[Any], Any]:
    """Logits of the trained network."""
    import torch
    from fastai.vision.learner import create_timm_model

    classes = int((args.model / "classes.txt").read_text())
    network, described = create_timm_model(args.network, classes, pretrained=False)
    network.load_state_dict(torch.load(args.model / "model.pt", weights_only=True))
    network = network.to(memory_format=torch.channels_last).eval()
    mean, std = (torch.tensor(described[key]).view(3, 1, 1) for key in ("mean", "std"))
    return lambda images: network((images.float() / 255 - mean) / std)


def _learner(variant: str, args: argparse.Namespace, count: int) -> Any:
    from fastai.vision.all import (
        Callback,
        CategoryBlock,
        DataBlock,
        ImageBlock,
        Normalize,
        Resize,
        ResizeMethod,
        TrainEvalCallback,
        aug_transforms,
        get_image_files,
        nn,
        parent_label,
        vision_learner,
    )

    class FrozenStatistics(Callback):
        run_after = TrainEvalCallback

        def before_train(self) -> None:
            for module in self.model[0].modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()

    item = Resize(args.size, ResizeMethod.Squish) if variant == "squish" else Resize(args.size)
    batch = aug_transforms()
    if variant == "presized":
        item, batch = Resize(2 * args.size), aug_transforms(size=args.size, min_scale=0.75)
    size = min(64 if variant == "four" else 32, max(8, count // 5))
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label, item_tfms=item, batch_tfms=batch,
        splitter=lambda items: (list(range(len(items))), []),
    )  # fmt: skip
    loaders = block.dataloaders(args.photos / "train", bs=size, num_workers=0, path=args.out.parent)
    weights = {} if args.weights is None else {"pretrained_cfg_overlay": {"file": str(args.weights)}}
    learn = vision_learner(
        loaders, args.network, pretrained=args.weights is not None, train_bn=variant != "frozen",
        cbs=[FrozenStatistics()] if variant == "frozen" else None, **weights,
    )  # fmt: skip
    if args.weights is None:  # fastai normalises only where the weights are published ones
        loaders.add_tfms([Normalize.from_stats(*(learn.model[0].model.default_cfg[k] for k in ("mean", "std")))],
                         "after_batch")  # fmt: skip
    return learn
