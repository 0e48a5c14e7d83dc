"""AutoAttack, an ensemble without parameters to tune, the field's usual yardstick; needs the package pyautoattack."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.bank import Bank
from kedge.anchoring.protocol import as_model
from kedge.attacks._ball import project, rounded
from kedge.attacks._base import Attack
from kedge.attacks._losses import check_ball, check_batch, check_range, evaluated
from kedge.catalog import Info

info = Info(
    "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", "Croce & Hein",
    "ICML", 2020, "https://arxiv.org/abs/2003.01690", "code",
)  # fmt: skip
place = 3
words = {"autoattack": {}, "autoattack-rand": {"version": "rand"}}

VERSIONS = ("standard", "rand")


@dataclass(frozen=True)
class AutoAttack(Attack):
    """The attacks of AutoAttack one after another, each on the images that are still right: `(model, images, targets)`.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
    attacks", ICML 2020. Needs `pip install pyautoattack`. Slow: up to 5000 forward passes and hundreds of gradients
    an image; give it a subset. Its draws depend on the seed and on the batch, not on the image alone.

    Args:
        eps: the radius in pixel units of [0, 1].
        norm: "linf" or "l2".
        version: "standard": APGD on cross-entropy, targeted APGD, targeted FAB, Square; for models without randomness,
            such as an anchored model through its bank. "rand": APGD on two losses, each gradient a mean over 20 draws;
            an anchored model (or its `Bank`) then answers with a freshly drawn reference at each call.
            With fewer than four classes the attacks that need more are left out.
        seed: of every draw; torch's global generator is left as it was.

    Raises:
        ValueError: for values out of range.
        ImportError: when called without pyautoattack.
    """

    eps: float
    norm: str = "linf"
    version: str = "standard"
    seed: int = 0

    def __post_init__(self) -> None:
        check_ball(self.eps, self.norm)
        if self.version not in VERSIONS:
            raise ValueError(f"version must be one of {VERSIONS}, got {self.version!r}")

    @property
    def title(self) -> str:
        """With its version."""
        return f"AutoAttack ({self.version})"

    @property
    def name(self) -> str:
        """With its version, too."""
        return f"AutoAttack, {self.version}"

    @property
    def cost(self) -> float:
        """Much."""
        return 1500.0

    def require(self) -> None:
        """Raise ImportError, in words, without pyautoattack."""
        library()

    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
        """Adversarial images of the shape, dtype and memory format of `images` `[B, C, H, W]` in [0, 1].

        `targets` are class indices `[B]`, or probabilities `[B, C]` of which the largest counts. Where no attack found
        anything, the image comes back as it was.
        """
        check_batch(images, targets)
        AutoAttacker = library()
        if self.eps == 0 or len(images) == 0:
            return images.detach().clone()
        check_range(*torch.stack(torch.aminmax(images)).tolist())
        if self.version == "rand":
            bank = model if isinstance(model, Bank) else as_model(model).for_attack()
            model = _RandomReference(bank) if isinstance(bank, Bank) else model
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.inference_mode(False), evaluated(model), _frozen(model), _quiet(), torch.random.fork_rng(devices):
            torch.manual_seed(self.seed)
            images, targets = images.detach().clone(), targets.detach().clone()
            labels = targets.argmax(1) if targets.ndim == 2 else targets.long()
            # The library flattens with view, and counts in float32.
            clean = images.float().contiguous()

            def logits(x: Tensor) -> Tensor:
                return model(x.to(images.dtype)).float()

            with torch.no_grad():
                classes = logits(clean[:1]).shape[1]
            attacker = AutoAttacker(
                logits, eps=self.eps, norm={"linf": "Linf", "l2": "L2"}[self.norm], version=self.version,
                seed=self.seed, device=images.device,
            )  # fmt: skip
            attacker.verbose = False
            attacker.attacks_to_run = [a for a in attacker.attacks_to_run if classes >= _FEWEST.get(a, 2)]
            attacker.apgd_targeted.n_target_classes = attacker.fab.n_target_classes = min(9, classes - 1)
            adversarial, _ = attacker.run_standard_evaluation(clean, labels, batch_size=len(clean))
            adversarial = rounded(project(adversarial, clean, self.eps, self.norm), images)
            return torch.empty_like(images).copy_(adversarial)


# The losses of these compare with the second and third, or third and fourth, largest logit.
_FEWEST = {"apgd-dlr": 3, "apgd-t": 4}


class _RandomReference(nn.Module):
    """An anchored model that draws a reference of its bank for every image at every call."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]`, from torch's global generator."""
        index = torch.randint(len(self.bank.references), (len(images),), device=images.device)
        return self.bank.single(images, index)


def library() -> Any:
    """The class of pyautoattack. Raises ImportError, in words, without that package."""
    try:
        from pyautoattack import AutoAttack as attacker
    except ImportError as error:
        raise ImportError(
            "AutoAttack needs the package pyautoattack, which is not installed: pip install pyautoattack"
        ) from error
    return attacker


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Parameters without gradients: the library calls backward, which would add to them."""
    parameters = [p for p in model.parameters() if p.requires_grad] if isinstance(model, nn.Module) else []
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def _quiet() -> Iterator[None]:
    """No words from the library, and the tracing function (of a debugger, of coverage) that it removes put back."""
    logger, trace = logging.getLogger("auto-attack"), sys.gettrace()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        sys.settrace(trace)
