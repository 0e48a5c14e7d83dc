"""The first layer of an anchored network, forward and backward, in several forms, beside the plain layer.

    python -m benchmarks.stem

x is a batch of images, r the same batch in another order, W_d and W_r the weights of residual and reference. "Widened"
is what kedge does: one convolution with the weight [W_d | W_r - W_d] on [x | r], made side by side and normalised in
place; "apart" normalises both on their own and then concatenates, as kedge did before. "Gathered" applies W_r - W_d to
each image once and adds the outputs in the order of the references. "Groups of four" is another loss: four images
share a reference, so that a quarter of the reference terms is computed; the terms still have to be added to all
outputs. Normalising is part of every form. Times are of processors, on one thread: the machine may be busy.
"""

import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.side_by_side import Times, finish, options, parser, ratio, row, spread, table

# (what it is of, side of the images, kernel, padding, channels)
CASES = [
    ("EfficientNet-Lite0 at 224 px", 224, 3, 1, 32),
    ("EfficientNet-Lite0 at 96 px", 96, 3, 1, 32),
    ("ResNet-18 at 224 px", 224, 7, 3, 64),
    ("ResNet-18 at 96 px", 96, 7, 3, 64),
]
BATCH, GROUP = 16, 4


def forms(side: int, kernel: int, padding: int, channels: int) -> dict[str, Callable[[], Tensor]]:
    """The layer's outputs, each time one is called, for the same images and weights."""
    images = torch.rand(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
    partner = torch.arange(BATCH).roll(1)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    twice = [torch.cat([each, each], 1) for each in (mean, std)]
    w_d, w_r = (
        torch.randn(channels, 3, kernel, kernel).contiguous(memory_format=torch.channels_last).requires_grad_()
        for _ in "dr"
    )

    def layer(inputs: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(inputs, weight, None, 2, padding)

    def normalised(pixels: Tensor) -> Tensor:
        return (pixels - mean).div_(std)

    def widened() -> Tensor:
        both = torch.cat([images, images[partner]], 1).sub_(twice[0]).div_(twice[1])
        return layer(both, torch.cat([w_d, w_r - w_d], 1))

    def apart() -> Tensor:
        both = torch.cat([normalised(images), normalised(images[partner])], 1)
        return layer(both, torch.cat([w_d, w_r - w_d], 1))

    def gathered() -> Tensor:
        x = normalised(images)
        return layer(x, w_d).add_(layer(x, w_r - w_d).roll(1, 0))

    def grouped() -> Tensor:
        x = normalised(images)
        terms = layer(x[: BATCH // GROUP], w_r - w_d)
        outputs = layer(x, w_d)
        return outputs.unflatten(0, (GROUP, -1)).add_(terms).flatten(0, 1)

    return {
        "plain": lambda: layer(normalised(images), w_d),
        "plain, again": lambda: layer(normalised(images), w_d),
        "widened": widened,
        "widened, normalised apart": apart,
        "gathered": gathered,
        "groups of four": grouped,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    args = options(parser("stem", __doc__, rounds=15, quick=2), arguments)
    if args.device.type != "cpu":
        print("benchmarks.stem reads the time of the processor: it runs with --device cpu")
        return 0
    torch.set_num_threads(args.threads or 1)
    rows, lines = [], []
    for what, side, kernel, padding, channels in CASES[1:2] if args.quick else CASES:
        torch.manual_seed(0)
        calls = forms(side, kernel, padding, channels)
        assert torch.allclose(calls["gathered"](), calls["widened"](), atol=1e-3)
        assert torch.equal(calls["widened, normalised apart"](), calls["widened"]())
        gradient = torch.randn_like(calls["plain"]())
        times: Times = {name: [] for name in calls}
        for turn in range(args.rounds + 1):  # the first is left out
            for name in [*calls][turn % len(calls) :] + [*calls][: turn % len(calls)]:
                began = time.process_time()
                calls[name]().backward(gradient)
                times[name].append(time.process_time() - began)
        times = {name: values[1:] for name, values in times.items()}
        rows += [
            row(f"{name}, first layer of {what}", "the plain first layer", ratio(times, name, "plain"))
            for name in [*calls][1:]
        ]
        lines.append([what, *(1000 * spread(values)["median"] for values in times.values())])
    title = f"Milliseconds of a processor, forward and backward, {BATCH} images"
    return finish(args, rows, [table(title, ["", *calls], lines)])


if __name__ == "__main__":
    sys.exit(main())
