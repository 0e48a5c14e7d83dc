"""Inference of an anchored model in plain forward passes of the same network: one reference, folded, ten references.

    python -m benchmarks.inference

Everything starts from images in [0, 1], the plain network behind its normalisation included, in eval mode and without
gradients. "Concatenate and repeat" is what the formula says when it is typed in: K copies of the batch, K references
repeated, [r, x - r] through a first layer of twice the channels, all K B rows in one pass.
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

# (network, side of the images, batch on a CPU, batch on a GPU)
CASES = [("kedge_resnet18", 32, 128, 512), ("resnet18", 224, 32, 128), ("vit_tiny_patch16_224", 224, 32, 128)]
QUICK = [("test_resnet", 64, 4, 4), ("test_vit", 160, 4, 4)]
K = 10
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def disturbed(model: kedge.AnchoredModel) -> kedge.AnchoredModel:
    """The two halves of the first layer made different, as training makes them."""
    weight = model.stem.reference.weight
    weight.data += 0.1 * weight.data.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return model


def typed_in(model: kedge.AnchoredModel) -> Callable[[Tensor, Tensor], Tensor]:
    """(images, references) -> logits `[K, B, C]`, by concatenating and repeating."""
    stem = model.stem
    layer = nn.Conv2d(
        6, stem.residual.out_channels, stem.residual.kernel_size, stem.residual.stride, stem.residual.padding,
        bias=stem.residual.bias is not None,
    )  # fmt: skip
    layer.weight.data = torch.cat([stem.reference.weight, stem.residual.weight], 1).detach()
    if layer.bias is not None:
        layer.bias.data = stem.residual.bias.detach()
    network = copy.deepcopy(model.network)
    parent, _, child = model.first_layer.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)
    network.eval().to(model.mean.device, memory_format=torch.channels_last)

    def logits(images: Tensor, references: Tensor) -> Tensor:
        x, r = ((t - model.mean) / model.std for t in (images, references))
        x, r = x.repeat(len(references), 1, 1, 1), r.repeat_interleave(len(images), 0)
        return network(torch.cat([r, x - r], 1)).unflatten(0, (len(references), -1))

    return logits


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    args = options(parser("inference", __doc__, rounds=31, quick=2), arguments)
    rows, milliseconds = [], []
    for name, side, on_cpu, on_gpu in QUICK if args.quick else CASES:
        torch.manual_seed(0)
        batch = on_gpu if args.device.type == "cuda" else on_cpu
        images = torch.rand(batch, 3, side, side, device=args.device).contiguous(memory_format=torch.channels_last)
        network = timm.create_model(name, num_classes=10).eval()
        plain = kedge.plain(network, example=images.shape[1:], mean=MEAN, std=STD)
        anchored = disturbed(kedge.anchor(network, references=images[:1].cpu(), mean=MEAN, std=STD))
        anchored.references = torch.rand(K, *images.shape[1:])
        of_mean = copy.deepcopy(anchored)
        of_mean.references = torch.tensor(MEAN).view(1, 3, 1, 1).expand(1, *images.shape[1:])
        folded, of_mean = anchored.fold(), of_mean.fold()
        models = [plain, twin := copy.deepcopy(plain), anchored, folded, of_mean]
        for model in models:
            model.eval().to(args.device, memory_format=torch.channels_last)
        typed = typed_in(anchored)
        error = (
            typed(images[:2], anchored.references) - anchored.predict(images[:2], keep_per_reference=True).per_reference
        )
        assert error.abs().max() < 1e-2, error.abs().max()
        calls: dict[str, Callable[[], object]] = {
            "plain": lambda m=plain, x=images: m(x),
            "plain, again": lambda m=twin, x=images: m(x),
            "anchored": lambda m=anchored, x=images: m(x),
            "folded": lambda m=folded, x=images: m(x),
            "folded, mean": lambda m=of_mean, x=images: m(x),
        }
        many: dict[str, Callable[[], object]] = {
            "10 plain": lambda m=plain, x=images: [m(x) for _ in range(K)],
            "predict": lambda m=anchored, x=images: m.predict(x, references=K),
            "repeat": lambda m=anchored, f=typed, x=images: f(x, m.references).mean(0),
        }
        once = in_turn(calls, args.rounds, args.device)
        ten = in_turn(many, max(2, args.rounds // 4), args.device, warm=1)
        what = f"{name}, {side} px, batch {batch}"
        rows += [
            row(
                f"anchored forward, one stored reference, {what}",
                "plain forward",
                ratio(once, "anchored", "plain"),
                1.02,
            ),
            row(f"folded, any reference, {what}", "plain forward", ratio(once, "folded", "plain"), 1.02),
            row(
                f"folded, mean colour as reference, {what}",
                "plain forward",
                ratio(once, "folded, mean", "plain"),
                1.005,
            ),
            row(f"noise: a second plain forward, {what}", "plain forward", ratio(once, "plain, again", "plain")),
            row(f"predict with {K} references, {what}", f"{K} plain forwards", ratio(ten, "predict", "10 plain"), 1.0),
            row(
                f"predict with {K} references, {what}", "concatenate and repeat", ratio(ten, "predict", "repeat"), 0.95
            ),
        ]
        milliseconds.append([what, *(1000 * sorted(v)[len(v) // 2] for v in (once | ten).values())])
    return finish(args, rows, [table("Milliseconds, medians", ["case", *calls, *many], milliseconds)])


if __name__ == "__main__":
    sys.exit(main())
