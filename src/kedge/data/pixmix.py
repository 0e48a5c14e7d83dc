"""PixMix on whole batches of small images, with mixing pictures that are made here."""

import torch
from torch import Tensor

from kedge.data.policies import OPERATIONS, transform
from kedge.seeds import generator

# Of AugMix: the largest magnitude on its scale of 10. Side stands for the side of the image.
_AUGMIX = {
    "autocontrast": 0.0,
    "equalize": 0.0,
    "posterize": 4.0,
    "rotate": 30.0,
    "solarize": 1.0,
    "shear_x": 0.3,
    "shear_y": 0.3,
    "translate_x": 1 / 3,
    "translate_y": 1 / 3,
}
_SEVERITY = 3  # of 10


def pixmix(
    images: Tensor, pictures: Tensor, draws: torch.Generator | None, rounds: int = 4, beta: float = 3.0
) -> Tensor:
    """PixMix: mix each image up to `rounds` times with its picture, or with an augmented copy of itself.

    Hendrycks et al., "PixMix: Dreamlike Pictures Comprehensively Improve Safety Measures", CVPR 2022. It starts from
    the image or, half of the time, from an augmented copy (one of nine operations of AugMix, at up to 3 of 10). In each
    of 0 to `rounds` rounds the partner p is the picture or such a copy, weights a and b are drawn, and the result is
    clipped to [0, 1]: a x + b p on the scale of [-1, 1], or x^a p^b on that of [0, 2]. Half of the time a ~
    Beta(beta, 1) and b ~ Beta(1, beta), else a ~ 1 + Beta(1, beta) and b ~ -Beta(1, beta).

    Args:
        images: uint8 `[B, C, H, W]` with 1 or 3 channels.
        pictures: uint8 `[B, C, H, W]`, one for each image.
        draws: on the images' device; None draws from torch's global generator.
        rounds: the paper's k.
        beta: how weak the mixing is.

    Returns:
        A new tensor, uint8, in channels_last memory format.
    """
    count, device = len(images), images.device

    def coins() -> Tensor:
        return torch.rand(count, generator=draws, device=device) < 0.5

    def weak() -> Tensor:  # Beta(1, beta), by the inverse of its distribution function; 1 - it is Beta(beta, 1)
        return 1 - torch.rand(count, generator=draws, device=device) ** (1 / beta)

    images = images.contiguous(memory_format=torch.channels_last)
    copied = coins()
    mixed = torch.where(copied[:, None, None, None], _augmented(images, copied, draws), images).float() / 255
    counts = torch.randint(rounds + 1, (count,), generator=draws, device=device)
    for done in range(rounds):
        active, copied, additive, flat = counts > done, coins(), coins(), coins()
        first, second = weak(), weak()
        a = torch.where(flat, 1 - first, 1 + first)[:, None, None, None]
        b = torch.where(flat, second, -second)[:, None, None, None]
        partner = torch.where(copied[:, None, None, None], _augmented(images, copied & active, draws), pictures)
        partner = partner.float() / 255
        for kind in (True, False):
            rows = (active & (additive == kind)).nonzero()[:, 0]
            mix = _added if kind else _multiplied
            mixed[rows] = mix(mixed[rows], partner[rows], a[rows], b[rows]).clamp_(0, 1)
    levels = mixed.mul_(255).round_().to(torch.uint8)
    return levels.contiguous(memory_format=torch.channels_last)


def mixing_pictures(count: int, channels: int, height: int, width: int, seed: int) -> Tensor:
    """Make pictures to mix with, uint8 `[count, channels, H, W]`: half dead leaves, half noise of many scales.

    A substitute: the paper mixes with fractals and with pictures that maximise a network's features, thousands of each,
    which are a download. What it asks of them is structure without the look of any class. Dead leaves (Lee, Mumford
    and Huang, 2001): discs of random colours that hide each other, their radii r distributed as r^-3. Noise: Fourier
    coefficients of random phase that fall off as 1/f^p, p from 0.5 to 2.5, the channels mixed at random. Baradad et
    al., "Learning to See by Looking at Noise", 2021, train networks on pictures of both kinds.
    """
    draws = generator(seed, "mixing pictures")
    leaves = count // 2
    pictures = torch.cat(
        [
            _dead_leaves(leaves, channels, height, width, draws),
            _noise(count - leaves, channels, height, width, draws),
        ]
    )
    return pictures.mul_(255).round_().to(torch.uint8)


def _augmented(images: Tensor, which: Tensor, draws: torch.Generator | None) -> Tensor:
    """Copies of the images, of which those in `which` `[B]` went through one operation of AugMix."""
    count, device = len(images), images.device
    names = tuple(_AUGMIX)
    drawn = torch.randint(len(names), (count,), generator=draws, device=device)
    level = 0.1 + (_SEVERITY - 0.1) * torch.rand(count, generator=draws, device=device)
    turned = torch.rand(count, generator=draws, device=device) < 0.5
    kinds = torch.tensor([OPERATIONS.index(name) for name in names], device=device)[drawn]
    side = {"translate_x": images.shape[3], "translate_y": images.shape[2]}
    largest = torch.tensor([_AUGMIX[name] * side.get(name, 1) for name in names], device=device)[drawn]
    magnitudes = largest * level / 10
    # AugMix counts these two down: bits from 4, the threshold of inversion from above all levels.
    magnitudes = torch.where(kinds == OPERATIONS.index("posterize"), 4 - magnitudes.trunc(), magnitudes)
    solarized = kinds == OPERATIONS.index("solarize")
    magnitudes = torch.where(solarized, 1 - magnitudes, torch.where(turned & (kinds < 5), -magnitudes, magnitudes))
    return transform(images, torch.where(which, kinds, OPERATIONS.index("identity")), magnitudes)


def _added(x: Tensor, p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (a * (2 * x - 1) + b * (2 * p - 1) + 1) / 2


def _multiplied(x: Tensor, p: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # Black to a negative power would be infinite; a grey level of 0 is taken as a tiny one.
    return (2 * x) ** a * (2 * p).clamp(min=1e-37) ** b / 2


def _dead_leaves(count: int, channels: int, height: int, width: int, draws: torch.Generator) -> Tensor:
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    leaves = torch.rand((count, channels, 1, 1), generator=draws).expand(-1, -1, height, width).clone()
    side = min(height, width)
    low, high = max(1.0, side / 32), side / 2
    for _ in range(300):  # later discs lie in front
        u = torch.rand((count, 1, 1), generator=draws)
        radius = (low**-2 - u * (low**-2 - high**-2)) ** -0.5  # by the inverse of the distribution function of r^-3
        down = height * torch.rand((count, 1, 1), generator=draws)
        right = width * torch.rand((count, 1, 1), generator=draws)
        inside = ((y - down) ** 2 + (x - right) ** 2 < radius**2)[:, None]
        leaves = torch.where(inside, torch.rand((count, channels, 1, 1), generator=draws), leaves)
    return leaves


def _noise(count: int, channels: int, height: int, width: int, draws: torch.Generator) -> Tensor:
    frequency = (torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2).sqrt()
    frequency[0, 0] = frequency.flatten()[1:].min()
    power = 0.5 + 2 * torch.rand((count, 1, 1, 1), generator=draws)
    spectrum = torch.fft.rfft2(torch.randn((count, channels, height, width), generator=draws))
    noise = torch.fft.irfft2(spectrum / frequency**power, s=(height, width))
    mixer = torch.randn((count, channels, channels), generator=draws)
    noise = torch.einsum("ncd,ndhw->nchw", mixer, noise)
    low, high = noise.amin((2, 3), keepdim=True), noise.amax((2, 3), keepdim=True)
    return (noise - low) / (high - low).clamp(min=1e-12)
