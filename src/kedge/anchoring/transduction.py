"""Bilinear transduction: for each input, the reference whose residual looks most like one seen in training.

The distance of input x, reference r and residual δ (units of the network's input: pixels divided by std) is
||x - r - δ||² = ||x||² - 2 x·r - 2 x·δ + ||r + δ||²: two matrix products with x, and a table of pairs that does not
depend on x (ANCHORING, section 2).
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring.references import resized
from kedge.anchoring.stem import at_least_float32

# Sums of the search held at a time: on a CPU what stays in its cache (1 MB in float32), elsewhere 64 MB.
HELD_CPU, HELD = 2**18, 2**24
# Values of a bank that are resized or made float32 at a time (32 MB in float32).
PREPARED = 2**23
# Random directions along which a bank is compared with what it was.
PROBES = 4


class BestReferences:
    """The search, and what it keeps of a bank and its residuals: the table of pairs `[K, M]`, nothing else.

    On a CPU the table serves until the values it came from change, however they are changed: every reference and
    residual is compared with what it was along four random directions, in one pass over them. An edit that this does
    not see is so small that it is lost in the rounding of the table, or at right angles to all four (a chance of 1e-15
    for a change of 0.1 in one pixel). On other devices comparing would wait for the device, and computing the table
    again is the quicker way to be right.

    Beside the bank, the residuals and the batch a search holds no more than the products B * (K + M), the table
    K * M (1 MB for 500 of each), the sums of a block (1 MB on a CPU, 64 MB elsewhere) and, while the table is made or
    where a bank has another size or precision than the input, parts of 32 MB: at 224 px, where 500 references are
    300 MB and 500 residuals as much, less than 100 MB in all.
    """

    def __init__(self) -> None:
        self._cached: tuple[Any, list[Tensor], tuple[Tensor, Tensor]] | None = None

    def __call__(self, images: Tensor, references: Tensor, residuals: Tensor, std: Tensor | float = 1.0) -> Tensor:
        """For each input the index `[B]` of argmin over r of min over δ of ||(x - r - δ) / std||²; of equals any.

        Args:
            images: inputs `[B, C, H, W]` (or `[B, D]`).
            references: `[K, C, H, W]`, in the same units, resized to the inputs where their size differs.
            residuals: `[M, C, H, W]`, differences x - r of training pairs, likewise.
            std: what distances are measured in, `[1, C, 1, 1]` (or anything that broadcasts against the inputs).
        """
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            size = images.shape[2:]
            std = torch.as_tensor(std, dtype=at_least_float32(images), device=images.device)
            weight = std.square().reciprocal()
            centre, table = self._pairs(references, residuals, weight, size)
            # Centred, the products are small and their rounding too; it adds the same to all references.
            x = ((images.to(weight.dtype) - centre) * weight).flatten(1) * -2
            if not size:
                # Vectors may lie far from zero; images do not, and centring a bank of them would take a copy.
                references = references - centre
            return _nearest(_products(x, references, size), _products(x, residuals, size), table)

    def _pairs(
        self, references: Tensor, residuals: Tensor, weight: Tensor, size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The mean of the references and ||(r - mean + δ) / std||² `[K, M]`."""
        if references.device.type != "cpu" or torch.compiler.is_compiling():
            return _table(references, residuals, weight, size)
        key = (tuple(size), references.shape, residuals.shape, references.dtype, residuals.dtype, weight.dtype)
        probes = [_probed(references), _probed(residuals), weight]
        cached = self._cached
        if cached is None or cached[0] != key or not all(map(torch.equal, cached[1], probes)):
            cached = self._cached = (key, probes, _table(references, residuals, weight, size))
        return cached[2]

    def __getstate__(self) -> dict[str, None]:
        return {"_cached": None}


def _probed(bank: Tensor) -> Tensor:
    """Each image of the bank `[K, ...]` along random directions that are the same in each call: `[PROBES, K]`."""
    draw = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, bank[0].numel(), generator=draw, dtype=at_least_float32(bank))
    return _products(probes, bank, bank.shape[2:])


def _nearest(to_references: Tensor, to_residuals: Tensor, table: Tensor) -> Tensor:
    """argmin over k of min over m of to_references `[B, K]` + to_residuals `[B, M]` + table `[K, M]`: `[B]`."""
    at_a_time = HELD_CPU if table.device.type == "cpu" else HELD
    rows = max(1, at_a_time // table.shape[1])
    images = max(1, at_a_time // table[:rows].numel())
    smallest = [
        torch.cat([(some + part[:, None]).amin(2) for part in to_residuals.split(images)]) for some in table.split(rows)
    ]
    return (to_references + torch.cat(smallest, 1)).argmin(1)


def _table(references: Tensor, residuals: Tensor, weight: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    count = sum(part.sum(0, keepdim=True) for part in _prepared(references, size))
    assert isinstance(count, Tensor)
    centre = count / len(references)
    lengths = torch.cat([(d.square() * weight).flatten(1).sum(1) for d in _prepared(residuals, size)])
    rows = []
    for r in _prepared(references, size):
        centred = r - centre
        weighted = (centred * weight).flatten(1)
        squares = (weighted * centred.flatten(1)).sum(1, keepdim=True)
        rows.append(_products(2 * weighted, residuals, size).add_(squares).add_(lengths))
    return centre, torch.cat(rows)


def _products(x: Tensor, bank: Tensor, size: Sequence[int]) -> Tensor:
    """`[B, K]` products of `x` `[B, D]` with the images of the bank `[K, ...]` at `size`."""
    if tuple(bank.shape[2:]) == tuple(size) and bank.dtype == x.dtype and bank.is_contiguous():
        return x @ bank.flatten(1).T
    return torch.cat([x @ part.flatten(1).T for part in _prepared(bank, size)], 1)


def _prepared(bank: Tensor, size: Sequence[int]) -> Iterator[Tensor]:
    """The bank a part at a time, each of `size` and in float32 or better."""
    for part in bank.split(max(1, PREPARED // (bank.shape[1] * math.prod(size)))):
        yield resized(part, size).to(at_least_float32(part))
