"""What a file that takes photos says of one: label, probabilities, and whether the label is to be given at all."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kedge import catalog
from kedge.confidence import log_odds
from kedge.rejection import by_confidence, least_log_odds
from kedge.scores import Outputs

UNSURE, UNKNOWN = "unsure", "unknown"
REJECT, OOD = "reject_threshold", "unknown_threshold"


class Answering(nn.Module):
    """Logits of one photo, `[1, C]`, to its answer: a dictionary of what `outputs` names, each `[1]` or `[1, C]`.

    `place` `[1]` is that of the answer in `answers`. The rule for unknown images comes first: an image that is unlike
    those of training has no label to be sure of. NaN meets no threshold.

    Args:
        card: what `kedge.deploy.card` says of the model.

    Raises:
        ValueError: for a regression, and for a rule whose score reads more of the network than its logits.
    """

    def __init__(self, card: Mapping[str, Any]) -> None:
        super().__init__()
        if card["task"] != "classification":
            raise ValueError(f"a file that takes photos answers with classes, and this is a {card['task']} model")
        names = card["class_names"] or [str(i) for i in range(card["num_outputs"])]
        self.answers: list[str] = [*names, UNSURE, UNKNOWN]
        self.steps: dict[str, Any] = card.get("steps") or {}
        rule, unknown = by_confidence(card.get("reject")), card.get("unknown")
        self.thresholds = {REJECT: -torch.inf if rule is None else least_log_odds(rule)}
        self.score = None
        if unknown is not None:
            self.score = catalog.get("scores", unknown["score"])()
            if not set(self.score.needs) <= {"unnormalised"}:
                raise ValueError(
                    f"the rule for unknown images goes by the score {unknown['score']}, which reads "
                    f"{' and '.join(self.score.needs)} of the network, and a file that takes photos has its logits "
                    "alone: choose a score of logits, or export without --input photo"
                )
            self.thresholds[OOD] = float(unknown["threshold"])

    @property
    def outputs(self) -> list[str]:
        """The names of what `forward` gives, in its order."""
        named = ["place", "label", "confidence", "probabilities", "log_odds"]
        return named if self.score is None else [*named, "score"]

    def defaults(self) -> dict[str, Tensor]:
        """The thresholds of the rules by the names of their inputs, `[1]` float32; no rule is met by all but NaN."""
        return {name: torch.tensor([value]).clamp(-3e38, 3e38) for name, value in self.thresholds.items()}

    def forward(
        self, logits: Tensor, reject_threshold: Tensor, unknown_threshold: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Both thresholds `[1]`, that of the log odds of the confidence and that of the score."""
        probabilities = logits.softmax(1)
        confidence, label = probabilities.max(1)
        odds = log_odds(logits)
        unsure = torch.full_like(label, len(self.answers) - 2)
        said = {
            "label": label,
            "confidence": confidence,
            "probabilities": probabilities,
            "log_odds": odds,
        }
        place = torch.where(odds >= reject_threshold, label, unsure)
        if self.score is not None:
            assert unknown_threshold is not None
            said["score"] = self.score.score(Outputs(logits, steps=self.steps)).float()
            place = torch.where(said["score"] >= unknown_threshold, place, unsure + 1)
        return {name: {**said, "place": place}[name] for name in self.outputs}
