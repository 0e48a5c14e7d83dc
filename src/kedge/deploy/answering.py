"""What a file that takes photos says of one: label, probabilities, and whether the label is to be given at all."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.prototypes import reads_features
from kedge.confidence import log_odds
from kedge.rejection import by_confidence, is_unknown_rule, least_log_odds
from kedge.unknown import score_of, words

REJECT, OOD = "reject_threshold", "unknown_threshold"


class Answering(nn.Module):
    """Logits of one photo, `[1, C]`, to its answer: a dictionary of what `outputs` names, each `[1]` or `[1, C]`.

    Where the rule for unknown images goes by prototypes, `familiar` is true, and how familiar the photo is, `[1]`,
    comes beside the logits.

    `place` `[1]` is that of the answer in `answers`. The rule for unknown images comes first: an image that is unlike
    those of training has no label to be sure of. NaN meets no threshold.

    Args:
        card: what `kedge.deploy.card` says of the model.

    Raises:
        ValueError: for a regression, and for what is no rule for unknown images.
    """

    def __init__(self, card: Mapping[str, Any]) -> None:
        super().__init__()
        if card["task"] != "classification":
            raise ValueError(f"a file that takes photos answers with classes, and this is a {card['task']} model")
        names = card["class_names"] or [str(i) for i in range(card["num_outputs"])]
        own = words(card["class_names"])
        self.answers: list[str] = [*names, own[1], own[0]]
        rule, unknown = by_confidence(card.get("reject")), card.get("unknown")
        self.thresholds = {REJECT: -torch.inf if rule is None else least_log_odds(rule)}
        self.score: str | None = None
        self.familiar = reads_features(unknown)
        if unknown is not None:
            if not is_unknown_rule(unknown):
                raise ValueError(f"the rule for unknown images is none that kedge knows: {unknown!r:.200}")
            self.score, self.thresholds[OOD] = unknown["score"], float(unknown["threshold"])

    @property
    def outputs(self) -> list[str]:
        """The names of what `forward` gives, in its order."""
        named = ["place", "label", "confidence", "probabilities", "log_odds"]
        return named if self.score is None else [*named, "score"]

    def defaults(self) -> dict[str, Tensor]:
        """The thresholds of the rules by the names of their inputs, `[1]` float32; no rule is met by all but NaN."""
        return {name: torch.tensor([value]).clamp(-3e38, 3e38) for name, value in self.thresholds.items()}

    def forward(self, logits: Tensor, *more: Tensor) -> dict[str, Tensor]:
        """After the logits how familiar the photo is, where `familiar`, and the thresholds in the order of `defaults`.

        All are `[1]`: that of the log odds of the confidence and, with a rule for unknown images, that of its score.
        """
        familiarity, thresholds = (more[0], more[1:]) if self.familiar else (None, more)
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
        place = torch.where(odds >= thresholds[0], label, unsure)
        if self.score is not None:
            # A copy: what comes in would else go out as it is, which exporters refuse.
            said["score"] = score_of(self.score, logits).float() if familiarity is None else familiarity.clone()
            place = torch.where(said["score"] >= thresholds[1], place, unsure + 1)
        return {name: {**said, "place": place}[name] for name in self.outputs}
