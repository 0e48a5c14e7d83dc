"""Two networks whose features have little in common, by a critic, adapt faster to a shift than two independent ones."""

from kedge.claims import Criterion
from kedge.claims.conditional_tc import TWO
from kedge.claims.conditional_tc import ConditionalTC as Exact
from kedge.objectives.critic_tc import info as info


class CriticTC(Exact):
    """As the claim conditional_tc, with the critic's price of the features in place of the exact one of the answers.

    The critic of λ 0 only looks on. "conditional TC" is the exact one of the answers to test images.
    """

    methods = ("objectives.critic_tc",)
    variants = ("λ 0", "λ 1", "λ 3")  # type: ignore[assignment]
    seeds = 3
    criteria = (  # type: ignore[assignment]
        Criterion("answers have less in common", "conditional TC", "λ 1", "λ 0", "below"),
        Criterion("they adapt better for it", "adapted accuracy", "λ 1", "λ 0", "above", 2),
        Criterion("and at a higher price", "adapted accuracy", "λ 3", "λ 0", "above", 2),
    )
    changes = {f"λ {weight}": {**TWO, "objective": [{"CriticTC": {"weight": weight}}]} for weight in (0, 1, 3)}
