"""Random numbers by counter: draw j of image i is a hash of (key_i, j), so neither the batch nor the device's
generator has a part in it. A corruption that needs several kinds of draws takes each from a stream of its own."""

import math

import torch

from kedge.seeds import GAMMA, hashed

_BITS = 24  # what float32 holds exactly
_FEW = 10.0  # Poisson rates below which counting up is used
_MOST = 40  # no count of a rate below _FEW lies above: probability 1e-12
_SIEVED = (10, 20)  # counts after which only the draws above are looked at further


def stream(keys: torch.Tensor, number: int) -> torch.Tensor:
    """Return keys long [B] for the independent draws number `number`, 0 or above, of the same images."""
    return hashed(hashed(keys) + number)


def uniform(keys: torch.Tensor, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> torch.Tensor:
    """Return uniform draws in [low, high), float32 [B, *shape], one key long [B] each."""
    draws = _uniform(_bits(keys, math.prod(shape)), 40).reshape(len(keys), *shape)
    return draws if (low, high) == (0.0, 1.0) else draws.mul_(high - low).add_(low)


def integers(keys: torch.Tensor, shape: tuple[int, ...], low: int, high: int) -> torch.Tensor:
    """Return integers of {low, ..., high - 1} at equal chances (up to 1e-9), long [B, *shape]."""
    bits = (_bits(keys, math.prod(shape)) >> 32).bitwise_and_((1 << 32) - 1)
    return bits.remainder_(high - low).add_(low).reshape(len(keys), *shape)


def normal(keys: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return standard normal draws, float32 [B, *shape], one key long [B] each; none lies beyond 5.8.

    The transform is Box & Muller's (1958).
    """
    count = math.prod(shape)
    bits = _bits(keys, -(-count // 2))
    # u in (0, 1], so that its logarithm is finite
    radius = _uniform(bits, 40).add_(2.0**-_BITS).log_().mul_(-2).sqrt_()
    angle = _uniform(bits, 16).mul_(2 * math.pi)
    pairs = torch.stack((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=1)
    return pairs.flatten(1)[:, :count].reshape(len(keys), *shape)


def poisson(keys: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Return Poisson counts, float32 like `rates` [B, ...], which are 0 or above.

    From a rate of 10 on a normal draw is bent into a Poisson one by the expansion of Giles (2016, "Algorithm 955:
    approximation of the inverse Poisson cumulative distribution function", eq. for Q_N2): the probability of any
    count is off by less than 4e-5. Below, the cumulative distribution is summed until it passes a uniform draw.
    """
    flat = rates.flatten(1)
    is_few = flat < _FEW
    if bool(is_few.all()):
        return _counted(flat.flatten(), uniform(stream(keys, 1), (flat.shape[1],)).flatten()).reshape(rates.shape)
    w = normal(stream(keys, 0), (flat.shape[1],))
    root = flat.clamp(min=_FEW).sqrt()
    square = w * w
    counts = flat + root * w + (square / 6 + 1 / 3) - w * (square / 72 + 1 / 36) / root
    counts += ((square / 270 + 7 / 810) * square - 8 / 405) / (root * root)
    counts = counts.floor_().clamp_(min=0)

    image, place = is_few.nonzero(as_tuple=True)
    few = flat[image, place]
    draw = _uniform(hashed(stream(keys, 1)[image] + place * GAMMA), 40)
    counts[image, place] = _counted(few, draw)
    return counts.reshape(rates.shape)


def _counted(rates: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """Return Poisson counts of rates below `_FEW`, both float32 [N]: how many cumulative probabilities are passed."""
    totals = torch.zeros_like(rates)
    term = (-rates).exp()
    below, count, active = term.clone(), totals, None
    for k in range(1, _MOST):
        count += draw >= below
        if k in _SIEVED:  # those that are done are left behind
            if active is not None:
                totals[active] = count
            going = (draw >= below).nonzero()[:, 0]
            if len(going) == 0:
                return totals
            active = going if active is None else active[going]
            rates, draw, term, below, count = (v[going] for v in (rates, draw, term, below, count))
        term = term.mul_(rates).mul_(1 / k)
        below += term
    if active is not None:
        totals[active] = count
    return totals


def _bits(keys: torch.Tensor, count: int) -> torch.Tensor:
    return hashed(keys[:, None] + torch.arange(count, device=keys.device) * GAMMA)


def _uniform(bits: torch.Tensor, shift: int) -> torch.Tensor:
    return (bits >> shift).bitwise_and_((1 << _BITS) - 1).float().mul_(2.0**-_BITS)
