"""What becomes of own and of foreign images by both rules of a model, beside its answers one by one."""

import pytest
import torch

import kedge
from kedge import evaluation, reporting, unknown
from kedge.gate import verdicts
from kedge.rejection import rule_at


@pytest.fixture(scope="module")
def sets():
    digits = kedge.data.load("digits", "test")
    own, others = (digits.only_classes([str(c) for c in part]) for part in (range(5), range(5, 10)))
    return own, others


def trained(sets):
    torch.manual_seed(0)
    own, _ = sets
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)), example=(1, 8, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(own.images / 255), own.labels).backward()
        optimizer.step()
    model.class_names = own.class_names
    model.reject = rule_at(0.5)
    return model.eval()


@pytest.mark.parametrize("score", unknown.OF_LOGITS)
def test_shares_are_those_of_the_answers_one_by_one(sets, score):
    model, (own, others) = trained(sets), sets
    scores = unknown.score_of(score, model.predict(own.images / 255).logits)
    model.unknown = {"score": score, "threshold": float(scores.quantile(0.2))}
    results = evaluation.evaluate({"m": model}, own, shift=(), ood={"others": others}, resamples=0)
    entry = results["models"]["m"]["refusal"]
    for images, shares in ((own, entry["clean"]), (others, entry["ood"]["others"])):
        answers = unknown.answers(model, model.predict(images.images / 255))
        for word in ("unknown", "unsure"):
            if word in shares:
                assert shares[word]["value"] == pytest.approx(answers.count(word) / len(images))
        labels = [own.class_names[label] for label in images.labels] if images is own else []
        named = [a for a in answers if a not in ("unknown", "unsure")]
        assert shares["answered"]["value"] == pytest.approx(len(named) / len(images))
        assert shares["answered"]["low"] < shares["answered"]["value"] < shares["answered"]["high"]
        if labels:
            right = sum(a == b for a, b in zip(answers, labels, strict=True)) / len(named)
            assert shares["accuracy"]["value"] == pytest.approx(right)
    (judged,) = verdicts(results, {"max_unknown_answered": 0.5})
    assert judged.value == pytest.approx(entry["ood"]["others"]["answered"]["value"])
    assert "others" in reporting.table(results)
    page = reporting.page.page(results)
    assert "are unknown" in page


def test_without_a_rule_there_is_nothing_to_say(sets):
    own, others = sets
    results = evaluation.evaluate({"m": trained(sets)}, own, shift=(), ood={"others": others}, resamples=0)
    assert results["models"]["m"]["refusal"] is None
