"""Peak memory of `predict(references=K)` against one reference: what tensors hold at a time, counted by the allocator.

    python -m benchmarks.memory

Counted and not timed, so that it is the same in every run. The batch is 32 images, the budget of a pass; a smaller
batch shares passes of 32 rows. The bank itself is part of the model and not counted.
"""

import sys
from collections.abc import Sequence
from functools import partial

import timm
import torch

import kedge
import kedge.networks  # registers kedge_resnet18
from benchmarks.side_by_side import finish, options, parser, peak_bytes, row, spread, table

# (network, side of the images, classes, numbers of references)
CASES = [
    ("kedge_resnet18", 32, 10, (1, 10, 32, 100)),
    ("resnet18", 224, 10, (1, 10, 33)),
    ("vit_tiny_patch16_224", 224, 10, (1, 33)),
    ("resnet18", 96, 1000, (1, 10, 100)),
]
QUICK = [("test_resnet", 64, 10, (1, 10, 40))]


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print, write the JSON."""
    args = options(parser("memory", __doc__, rounds=1, quick=1), arguments)
    rows, megabytes = [], []
    for name, side, classes, counts in QUICK if args.quick else CASES:
        torch.manual_seed(0)
        images = torch.rand(32, 3, side, side, device=args.device).contiguous(memory_format=torch.channels_last)
        model = kedge.anchor(timm.create_model(name, num_classes=classes).eval(), references=images[:1].cpu())
        model.to(args.device, memory_format=torch.channels_last)
        model.references = torch.rand(max(counts), *images.shape[1:])
        peaks = [peak_bytes(partial(model.predict, images, references=k), args.device) for k in counts]
        worst = max(peaks) / peaks[0]
        what = f"{name}, {side} px, {classes} classes, batch 32, K up to {counts[-1]}"
        rows.append(row(f"peak memory of predict, {what}", "K = 1", spread([worst]), 1.3, counted=True))
        megabytes += [[what, k, peak / 1e6] for k, peak in zip(counts, peaks, strict=True)]
    return finish(args, rows, [table("Peak memory of predict", ["case", "K", "MB"], megabytes)])


if __name__ == "__main__":
    sys.exit(main())
