"""The panel of checks on what attacks did to a model: attacks held against each other and against stronger ones."""

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from kedge.attacks import as_attack
from kedge.evaluation.attacked import Attack, attack_summary
from kedge.evaluation.chunks import CHUNK, chunks, columns_of, first_chunk
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.inference_runner import Runner
from kedge.evaluation.sanity import LARGE, MANY_STEPS, OTHER_LOSS, gradient_sizes, sanity, sanity_attacks

if TYPE_CHECKING:
    from kedge.evaluation.attack_runner import Attacked


def panel(
    runner: Runner,
    subject: Subject,
    model: nn.Module,
    found: "Attacked",
    checked: tuple[str, Any],
    images: Any,
    places: Tensor,
) -> list[dict[str, Any]]:
    """The checks for gradients that mislead: attacks with each other on all images, with stronger ones on a few.

    `checked` is the PGD that the stronger ones are variants of: of those that were asked for, or else one more of them.
    """
    name, attack = checked
    few, where = first_chunk(images, places)
    whole = {n: attack_summary(c, *_of(found, n)) for n, c in found.columns.items()}
    stronger = {
        n: attack_summary({key: column[:CHUNK] for key, column in c.items()}, found.attacks[n][0])
        for n, c in found.columns.items()
        if n == name or _probed(found.attacks[n][0])
    }
    extra = sanity_attacks(attack, math.prod(images.image_shape))
    if name in found.columns:
        del extra["single step"]  # is among the others
    else:  # what more steps would find is no question to an attack without steps to choose
        extra = {MANY_STEPS: attack, **{key: extra[key] for key in (OTHER_LOSS[attack.loss], LARGE)}}
    for title, variant in extra.items():
        columns, _ = chunks(
            runner, subject, few, where, ["sanity", title, repr(variant)],
            columns_of(model, variant),
        )  # fmt: skip
        stronger[title] = attack_summary(columns, variant)
    sizes, _ = chunks(
        runner, subject, few, where, ["gradients", attack.loss],
        lambda x, y, w: {"sizes": gradient_sizes(model, [(x, y)], attack.loss)},
    )  # fmt: skip
    return sanity(whole) + sanity(stronger, sizes["sizes"])


def _probed(attack: Attack) -> bool:
    """Whether another attack than this one is what gradients are looked at by, so that it stands beside it."""
    probe = as_attack(attack).probe()
    return probe is not None and probe is not attack


def _of(found: "Attacked", name: str) -> tuple[Attack, float, bool]:
    attack, transfer = found.attacks[name]
    return attack, found.seconds[name], transfer
