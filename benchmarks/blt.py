"""The best-reference search ("blt") against prediction with one reference: 500 references and 500 residuals.

    python -m benchmarks.blt

Time does not depend on what is in the images, the bank or the residuals, so all are drawn at random. "Image by image"
is the formula typed in: for one image after the other, all x - r, their distances to all residuals, the least. It is
timed on few images and scaled.
"""

import sys
from collections.abc import Callable, Sequence

import timm
import torch
from torch import Tensor

import kedge
import kedge.networks  # registers kedge_resnet18
from benchmarks.side_by_side import finish, in_turn, options, parser, ratio, row, spread, table

# (network, side of the images, batch on a CPU, batch on a GPU, target, share of the rounds)
CASES = [
    ("kedge_resnet18", 32, 128, 512, 1.15, 1.0),
    ("kedge_resnet18", 32, 1, 1, None, 1.0),
    ("resnet18", 224, 32, 128, None, 0.4),
]
QUICK = [("test_resnet", 32, 8, 8, None, 1.0), ("test_resnet", 64, 1, 1, None, 1.0)]
COUNT, TYPED_IN = 500, 2


def image_by_image(images: Tensor, references: Tensor, residuals: Tensor, std: Tensor) -> Tensor:
    """The index of the best reference for each image, by the formula."""
    r, d = (references / std).flatten(1), (residuals / std).flatten(1)
    best = [torch.cdist(x - r, d).amin(1).argmin() for x in (images / std).flatten(1)]
    return torch.stack(best)


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    args = options(parser("blt", __doc__, rounds=21, quick=2), arguments)
    count = 40 if args.quick else COUNT
    rows, milliseconds = [], []
    for name, side, on_cpu, on_gpu, target, share in QUICK if args.quick else CASES:
        torch.manual_seed(0)
        batch = on_gpu if args.device.type == "cuda" else on_cpu
        images = torch.rand(batch, 3, side, side, device=args.device)
        network = timm.create_model(name, num_classes=10).eval()
        model = kedge.anchor(network, references=images[:1].cpu(), mean=0.5, std=0.25).to(args.device)
        model.references = torch.rand(count, 3, side, side)
        model.residuals = torch.rand(count, 3, side, side) - torch.rand(count, 3, side, side)
        few = images[:TYPED_IN]
        typed = image_by_image(few, model.references, model.residuals, model.std)
        best = model.predict(few, references="blt").logits
        error = best - model(few, model.references[typed])
        assert error.abs().max() < 1e-3 * best.abs().max().clamp(min=1), error.abs().max()
        calls: dict[str, Callable[[], object]] = {
            "one": lambda m=model, x=images: m.predict(x, references=1),
            "blt": lambda m=model, x=images: m.predict(x, references="blt"),
        }
        typed_in: dict[str, Callable[[], object]] = {
            "one": calls["one"],
            "loop": lambda m=model, x=few: image_by_image(x, m.references, m.residuals, m.std),
        }
        times = in_turn(calls, max(2, round(args.rounds * share)), args.device)
        slow = in_turn(typed_in, max(2, args.rounds // 7), args.device, warm=1)
        scale = batch / len(few)
        alone = spread([1 + scale * a / b for a, b in zip(slow["loop"], slow["one"], strict=True)])
        what = f"{name}, {side} px, batch {batch}, {count} references and residuals"
        against = "predict with one reference"
        rows += [
            row(f"best-reference search and prediction, {what}", against, ratio(times, "blt", "one"), target),
            row(f"the same, image by image, {what}", against, alone, note=f"timed on {len(few)}"),
        ]
        middle = {key: sorted(v)[len(v) // 2] for key, v in (slow | times).items()}
        milliseconds.append(
            [what, *(1000 * t / batch for t in (middle["one"], middle["blt"], middle["one"] + scale * middle["loop"]))]
        )
    head = ["case", "one reference", "best reference", "best reference, image by image"]
    return finish(args, rows, [table("Milliseconds of an image, medians", head, milliseconds)])


if __name__ == "__main__":
    sys.exit(main())
