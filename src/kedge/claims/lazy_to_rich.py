"""The lazier a network learns, the later after its training images it gets right what it has not seen."""

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.claims import Claim, Criterion
from kedge.seeds import generator

info = Info(
    "Grokking as the Transition from Lazy to Rich Training Dynamics", "Kumar et al.", "ICLR", 2024,
    "https://arxiv.org/abs/2310.06110", "abstract",
)  # fmt: skip

SIZE, UNITS, COUNT, TEST = 60, 200, 400, 1000
RATE, STEPS, LOOK, LEARNT = 3.0, 12_000, 10, 10.0  # of the mean over units; percent of the variance
SETTINGS = {"α 0.25": (0.25, 0.25), "α 1": (1.0, 0.25), "α 4": (4.0, 0.25), "linear": (1.0, 0.0)}  # α and ε


class LazyToRich(Claim):
    """Targets ½ (β·x)² of 60 numbers x, 400 examples; a network α (g(w) − g(w₀)), g the mean of φ(w_i·x) of 200 units.

    φ(h) = h + ½ ε h², ε = 0.25; gradient descent on the squared error at a rate in proportion to 1/α². A large α is
    lazy: weights hardly move, and the first kernel fits the examples before features are learnt. Looked at every 10
    steps: "learnt" is the step at which the training error falls below 10 % of the variance of the targets, "grokked"
    the one at which the test error does, 12,000 where it never does; "delay" their ratio. The control is linear in its
    weights and in x, ε = 0.
    """

    part = "measuring"
    variants = tuple(SETTINGS)
    criteria = (
        Criterion("lazier, later", "delay", "α 1", "α 0.25"),
        Criterion("and lazier yet", "delay", "α 4", "α 1"),
        Criterion("all learn their examples", "learnt", "α 4", None, "below", 12_000),
        Criterion("without features nothing generalises", "least test error", "linear", None, "above", 50),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Steps until examples and test are right, and the least errors, in percent of the variance."""
        alpha, bend = SETTINGS[variant]
        beta = torch.randn(SIZE, generator=generator(seed, "beta"))
        beta *= SIZE**0.5 / beta.norm()
        inputs, others = (
            torch.randn(count, SIZE, generator=generator(seed, what)) / SIZE**0.5
            for what, count in (("train", COUNT), ("test", TEST))
        )
        targets, truth = ((each @ beta).square() / 2 for each in (inputs, others))
        first = torch.randn(UNITS, SIZE, generator=generator(seed, "weights"))
        weights, before, before_others = first.clone(), _mean(first, inputs, bend), _mean(first, others, bend)
        learnt = grokked = STEPS
        least, least_test = float("inf"), float("inf")
        for step in range(STEPS + 1):
            hidden = inputs @ weights.T
            off = alpha * ((hidden + bend / 2 * hidden.square()).mean(1) - before) - targets
            if step % LOOK == 0:
                error = 100 * float(off.square().mean() / truth.var())
                missed = alpha * (_mean(weights, others, bend) - before_others) - truth
                test_error = 100 * float(missed.square().mean() / truth.var())
                least, least_test = min(least, error), min(least_test, test_error)
                learnt = min(learnt, step) if error < LEARNT else learnt
                grokked = min(grokked, step) if test_error < LEARNT else grokked
                if max(learnt, grokked) < STEPS:
                    break
            weights -= RATE / alpha * ((off[:, None] * (1 + bend * hidden)).T @ inputs) / COUNT
        return {
            "learnt": float(learnt),
            "grokked": float(grokked),
            "delay": grokked / max(learnt, 1),
            "least training error": least,
            "least test error": least_test,
        }


def _mean(weights: Tensor, inputs: Tensor, bend: float) -> Tensor:
    """g of each input `[N]`."""
    hidden = inputs @ weights.T
    return (hidden + bend / 2 * hidden.square()).mean(1)
