"""A training step of an anchored model with reference masking (α 0.25), in plain training steps of the same network.

    python -m benchmarks.train_step

A step is the objective, backward and the optimizer (SGD with momentum), on a batch that is there already. The plain
step is timed twice, as two models that differ in nothing: how far their ratio is from 1 is what this machine makes of
noise. Beside it the other form of the first layer, two copies of it, f_d(x) + (f_r(r) - f_d(r)), which serves affine
layers other than a plain convolution. On a GPU the step runs in bf16.
"""

import copy
import sys
from collections.abc import Callable, Sequence

import timm
import torch
from torch import Tensor, nn

import kedge
import kedge.networks  # registers kedge_resnet18
from benchmarks.side_by_side import finish, in_turn, options, parser, ratio, row, table
from kedge.layout import channels_last
from kedge.objectives import Anchored, CrossEntropy, Objective

# (network, side of the images, batch on a CPU, batch on a GPU)
CASES = [("kedge_resnet18", 32, 64, 512), ("resnet18", 224, 16, 128), ("vit_tiny_patch16_224", 224, 16, 128)]
QUICK = [("test_resnet", 64, 4, 4), ("test_vit", 160, 4, 4)]


def step(
    model: nn.Module, objective: Objective, images: Tensor, labels: Tensor, bf16: bool | None = None
) -> Callable[[], None]:
    """One whole step, each time it is called; in bf16 on a GPU, or as `bf16` says."""
    half = images.is_cuda if bf16 is None else bf16
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    channels_last(model.train().to(images.device), always=True)

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = objective(model, images, labels)
        loss.backward()
        optimizer.step()

    return once


def two_copies(model: kedge.AnchoredModel) -> kedge.AnchoredModel:
    """The same model with the other form of the first layer."""
    made = copy.deepcopy(model)
    stem = made.stem
    stem.widened = False
    stem.reference.bias = copy.deepcopy(stem.residual.bias)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    args = options(parser("train_step", __doc__, rounds=25, quick=2), arguments)
    rows, milliseconds = [], []
    for name, side, on_cpu, on_gpu in QUICK if args.quick else CASES:
        torch.manual_seed(0)
        batch = on_gpu if args.device.type == "cuda" else on_cpu
        images = torch.rand(batch, 3, side, side, device=args.device).contiguous(memory_format=torch.channels_last)
        labels = torch.randint(10, (batch,), device=args.device)
        network = timm.create_model(name, num_classes=10)
        anchored = kedge.anchor(network, references=images[:4].cpu())
        plain = kedge.plain(network, example=images.shape[1:])
        masking = Anchored(CrossEntropy(), alpha=0.25)
        calls = {
            "plain": step(copy.deepcopy(plain), CrossEntropy(), images, labels),
            "plain, again": step(plain, CrossEntropy(), images, labels),
            "two copies": step(two_copies(anchored), masking, images, labels),
            "anchored": step(anchored, masking, images, labels),
        }
        times = in_turn(calls, args.rounds, args.device)
        what = f"{name}, {side} px, batch {batch}"
        rows += [
            row(f"anchored step, {what}", "plain step", ratio(times, "anchored", "plain"), 1.03),
            row(f"the same, first layer as two copies, {what}", "plain step", ratio(times, "two copies", "plain")),
            row(f"noise: a second plain step, {what}", "plain step", ratio(times, "plain, again", "plain")),
        ]
        milliseconds.append([what, *(1000 * sorted(values)[len(values) // 2] for values in times.values())])
    return finish(args, rows, [table("Milliseconds of a step, medians", ["case", *calls], milliseconds)])


if __name__ == "__main__":
    sys.exit(main())
