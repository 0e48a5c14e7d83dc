"""What of two sets of images differs: numbers of images, of their files, the model's answers, the share beyond."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring.outputs import Outputs
from kedge.confidence import log_odds
from kedge.evaluation.drift_seen import Seen
from kedge.evaluation.image_statistics import STATISTICS
from kedge.metrics import auroc, auroc_interval
from kedge.metrics._two_samples import mean_rank_tests, share_difference_interval, share_tests
from kedge.scores import KNN, MSP, Entropy
from kedge.seeds import generator

Z = 1.959964  # of a 95 % interval
USUAL = 0.05  # share of the reference images themselves that lies beyond the limit


def numbers_changed(a: Seen, b: Seen, permutations: int, seed: int) -> list[dict[str, Any]]:
    """Each statistic of pixels, and what the model is like: both means, their difference, AUROC, p over all of them."""
    about = [(each.key, each.label, each.words) for each in STATISTICS] + [
        ("confidence", "confidence of the model", "log odds of the answer"),
        ("entropy", "entropy of the model", "of its probabilities, in nats"),
    ]
    columns = [torch.cat([seen.statistics, log_odds(seen.outputs.logits)[:, None].clamp(-30, 30),
                          -Entropy().score(seen.outputs)[:, None]], 1) for seen in (a, b)]  # fmt: skip
    return _changes(about, columns[0], columns[1], permutations, seed)


def _changes(
    about: Sequence[tuple[str, str, str]], first: Tensor, second: Tensor, permutations: int, seed: int
) -> list[dict[str, Any]]:
    p = mean_rank_tests(first, second, permutations, seed)
    entries = []
    for place, (key, label, words) in enumerate(about):
        one, other = first[:, place].double(), second[:, place].double()
        difference = float(other.mean() - one.mean())
        error = float((one.var() / len(one) + other.var() / len(other)).sqrt())
        low, high = auroc_interval(other, one)
        entries.append({
            "key": key, "label": label, "words": words, "reference": float(one.mean()), "new": float(other.mean()),
            "difference": {"value": difference, "low": difference - Z * error, "high": difference + Z * error},
            "higher": {"value": float(auroc(other, one)), "low": low, "high": high}, "p": float(p[place]),
        })  # fmt: skip
    return entries


def files_changed(first: Sequence[Any], second: Sequence[Any], permutations: int, seed: int) -> dict[str, Any]:
    """Size and JPEG quality of the files, where both sets have files, and the share of each format."""
    known = [[each for each in files if each is not None] for files in (first, second)]
    entries: list[dict[str, Any]] = []
    if min(map(len, known)) > 1:
        sizes = [torch.tensor([[float(h), float(w), w / h] for _, (h, w), _ in files]) for files in known]
        about = [("height", "height of the file", "pixels"), ("width", "width of the file", "pixels"),
                 ("aspect", "shape of the file", "width over height")]  # fmt: skip
        entries += _changes(about, sizes[0], sizes[1], permutations, seed)
        quality = [torch.tensor([[float(q)] for _, _, q in files if q is not None]) for files in known]
        if min(map(len, quality)) > 1:
            about = [("jpeg_quality", "JPEG quality of the file", "libjpeg's 1 to 100, of its JPEG files")]
            entries += _changes(about, quality[0], quality[1], permutations, seed)
    return {"numbers": entries, "formats": [_shares([kind for kind, _, _ in files]) for files in known]}


def _shares(kinds: Sequence[str]) -> dict[str, float]:
    return {kind: kinds.count(kind) / len(kinds) for kind in sorted({*kinds})}


def answers_changed(a: Seen, b: Seen, classes: Sequence[str], permutations: int, seed: int) -> dict[str, Any]:
    """How often each class is the answer: both shares, the difference with its interval, p; and p over all."""
    ours, theirs = (seen.outputs.logits.argmax(1) for seen in (a, b))
    overall, each = share_tests(ours, theirs, len(classes), permutations, seed)
    counts = [answers.bincount(minlength=len(classes)).tolist() for answers in (ours, theirs)]
    entries = []
    for place, name in enumerate(classes):
        first, second = counts[0][place], counts[1][place]
        low, high = share_difference_interval(first, len(a), second, len(b))
        value = second / len(b) - first / len(a)
        entries.append({"name": name, "reference": first / len(a), "new": second / len(b),
                        "difference": {"value": value, "low": low, "high": high}, "p": float(each[place])})  # fmt: skip
    return {"p": overall, "classes": entries}


def beyond(a: Seen, b: Seen, resamples: int, seed: int) -> dict[str, Any]:
    """The share of new images that are stranger to the model than 95 % of the reference images are, with its interval.

    By the distance to the nearest reference images in features (one half of them is the bank, the other sets the
    limit), without features by the confidence.
    """
    if a.outputs.features is None or b.outputs.features is None:
        title, own, away = MSP().title, MSP().score(a.outputs), MSP().score(b.outputs)
    else:
        order = torch.randperm(len(a), generator=generator(seed, "drift", "bank"))
        bank, rest = (a.at(part).outputs for part in order.tensor_split(2))
        score = KNN().fit(_of_features(bank), torch.zeros(len(bank), dtype=torch.long))
        title, own, away = score.title, score.score(_of_features(rest)), score.score(_of_features(b.outputs))
    own, away = own.double(), away.double()
    draws = generator(seed, "drift", "beyond")

    def drawn(scores: Tensor) -> Tensor:
        return scores[torch.randint(len(scores), (len(scores),), generator=draws)]

    again = torch.stack([_share_below(drawn(own), drawn(away)) for _ in range(resamples)])
    low, high = again.quantile(torch.tensor([0.025, 0.975], dtype=again.dtype)).tolist()
    return {"score": title, "usual": USUAL, "share": {"value": float(_share_below(own, away)), "low": low,
                                                          "high": high}}  # fmt: skip


def _of_features(outputs: Outputs) -> Outputs:
    return Outputs(outputs.logits, features=outputs.features)


def _share_below(own: Tensor, away: Tensor) -> Tensor:
    return (away < own.quantile(USUAL)).double().mean()
