import json
from dataclasses import replace
from importlib import util

import pytest
import scipy.stats
import torch

import kedge
from kedge.attacks import PGD, AutoAttack
from kedge.data import TensorSet
from kedge.evaluation import Attacks, evaluate
from kedge.evaluation.attacked import attack_batch, predictor
from kedge.evaluation.inputs import to_unit

QUICK = {"shift": (), "resamples": 20, "examples": 2}


class Linear(torch.nn.Module):
    """Two classes told apart by the mean of an image: the best attack is known."""

    def __init__(self, sharpness: float = 50.0) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(sharpness))

    def forward(self, images):
        mean = images.flatten(1).mean(dim=1) - 0.5
        return self.sharpness * torch.stack([-mean, mean], dim=1)


@pytest.fixture
def greys() -> TensorSet:
    """Grey images, whose distance from the middle is how robust their answer is."""
    levels = torch.linspace(60, 196, 130).round().to(torch.uint8)
    images = levels[:, None, None, None].expand(-1, 1, 6, 6).contiguous()
    return TensorSet(images, (levels > 127).long(), ["dark", "light"], name="greys", split="test")


def test_accuracy_is_that_of_the_best_attack_with_an_exact_interval(greys):
    eps = 20 / 255
    attacks = Attacks({"PGD-10": PGD(eps, 10)}, images=130)
    results = evaluate(Linear(), greys, **QUICK, attacks=attacks)
    found = results["models"]["model"]["attacks"]
    # All pixels move by eps: right is what lies further than that from the middle.
    right = int(((greys.images[:, 0, 0, 0].double() / 255 - 0.5).abs() > eps).sum())
    assert found["PGD-10"]["accuracy"]["value"] == pytest.approx(right / 130)
    exact = scipy.stats.binomtest(right, 130).proportion_ci(method="exact")
    assert found["PGD-10"]["accuracy"]["low"] == pytest.approx(exact.low, abs=1e-9)
    assert found["PGD-10"]["accuracy"]["high"] == pytest.approx(exact.high, abs=1e-9)
    assert found["PGD-10"]["images"] == 130
    # A linear model is beaten in one step.
    assert found["PGD-10: one step"]["accuracy"] == found["PGD-10"]["accuracy"]
    assert all(check["ok"] for check in results["models"]["model"]["sanity"])
    assert {c["check"] for c in results["models"]["model"]["sanity"]} >= {"zero gradients", "large epsilon"}
    (strip,) = results["strips"]
    assert len(strip["images"]) == 8
    json.dumps(results, allow_nan=False)


def test_without_a_radius_it_is_clean_accuracy(greys):
    attacks = Attacks({"nothing": PGD(0.0, 3)}, images=50, cross_checks=False)
    model = evaluate(Linear(), greys, **QUICK, attacks=attacks, seed=4)["models"]["model"]
    assert model["attacks"]["nothing"]["accuracy"] == model["attacks"]["nothing"]["clean_accuracy"]
    assert model["attacks"]["nothing"]["images"] == 50
    assert model["sanity"] == []


def test_the_curve_falls_and_its_point_at_eps_is_the_attack(greys):
    eps = 20 / 255
    attacks = Attacks({"PGD": PGD(eps, 5)}, images=130, curve=[eps / 2, eps, 2 * eps], cross_checks=False)
    model = evaluate(Linear(), greys, **QUICK, attacks=attacks)["models"]["model"]
    points = model["attack_curve"]["points"]
    values = [p["accuracy"]["value"] for p in points]
    assert [p["eps"] for p in points] == [0, eps / 2, eps, 2 * eps]
    assert values == sorted(values, reverse=True)
    assert values[2] == model["attacks"]["PGD"]["accuracy"]["value"]


def test_attacks_are_kept_and_go_on(greys, tmp_path):
    attacks = Attacks({"PGD": PGD(0.1, 3)}, images=130, cross_checks=False)
    first = evaluate(Linear(), greys, **QUICK, attacks=attacks, parts=tmp_path)
    assert first["parts_found"] == 0
    second = evaluate(Linear(), greys, **QUICK, attacks=attacks, parts=tmp_path)
    assert second["parts_found"] == 5  # clean images, two chunks, and two of the first order
    third = evaluate(Linear(), greys, **QUICK, attacks=Attacks({"PGD": PGD(0.2, 3)}, 130, False), parts=tmp_path)
    assert third["parts_found"] == 3  # all but the attack
    name = "PGD"
    kept, made = (r["models"]["model"]["attacks"][name]["accuracy"] for r in (second, first))
    assert kept == made


def test_masked_gradients_are_found_out(greys):
    class Masked(Linear):
        def forward(self, images):
            # So steep that the loss is flat in float32 wherever the answer is right.
            return 1e4 * super().forward(images)

    attacks = Attacks({"PGD": PGD(20 / 255, 5, random_start=False)}, images=60)
    results = evaluate({"masked": Masked(), "open": Linear()}, greys, **QUICK, attacks=attacks)
    masked = results["models"]["masked"]
    assert not all(check["ok"] for check in masked["sanity"])
    assert (
        masked["attacks"]["PGD: from another model"]["accuracy"]["value"]
        < (masked["attacks"]["PGD"]["accuracy"]["value"])
    )
    assert all(check["ok"] for check in results["models"]["open"]["sanity"])
    robust = [r for r in results["comparisons"] if r["where"] == "PGD"]
    assert [r["test"] for r in robust] == ["McNemar exact"]


def test_anchored_models_are_attacked_through_their_bank_and_over_references(greys):
    example = greys.images[:3].float() / 255
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 6), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    model = kedge.anchor(net, example=example)
    model.references = example
    attacks = Attacks({"PGD": PGD(0.05, 3)}, images=40)
    found = evaluate(model, greys, **QUICK, attacks=attacks)["models"]["model"]["attacks"]
    assert found["PGD: over references"]["kind"] == "eot"
    one = evaluate(model, greys, **QUICK, attacks=attacks, references=1)["models"]["model"]["attacks"]
    assert "PGD: over references" not in one


def test_what_has_no_gradient_is_a_marked_cell(greys):
    def exported(images):
        return Linear()(images).detach()

    results = evaluate({"file": exported, "open": Linear()}, greys, **QUICK, attacks=Attacks({"PGD": PGD(0.05, 3)}, 40))
    (error,) = results["models"]["file"]["errors"]
    assert error["part"] == "attacks"
    assert "no gradient" in error["message"]
    assert "PGD" in results["models"]["open"]["attacks"]
    anchored = kedge.anchor(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 2)), example=(1, 6, 6))
    anchored.residuals = anchored.references
    for each in ("blt", "adaptive"):
        with pytest.raises(ValueError, match="no gradient"):
            evaluate(anchored, greys, **QUICK, references=each, attacks=Attacks({"PGD": PGD(0.05, 3)}, 40))


def test_bad_requests():
    with pytest.raises(ValueError, match="named is empty"):
        Attacks({})
    with pytest.raises(ValueError, match="images must be 1 or more, got 0"):
        Attacks({"a": PGD(0.1)}, images=0)


class Push:
    """An attack of a user: darker by eps. Its printed form does not tell one from another."""

    norm = "linf"

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def __repr__(self) -> str:
        return "Push"

    def __call__(self, model, images, targets):
        return (images - self.eps).clamp(min=0)


def test_attacks_and_sources_that_nothing_tells_apart_are_not_kept(greys, tmp_path):
    def value(eps: float) -> float:
        attacks = Attacks({"mine": Push(eps)}, 40)
        found = evaluate(Linear(), greys, **QUICK, attacks=attacks, parts=tmp_path)
        return found["models"]["model"]["attacks"]["mine"]["accuracy"]["value"]

    assert value(0.0) > value(0.2)

    def transferred(sharpness: float) -> float:
        models = {"f": lambda x: Linear(sharpness)(x), "target": Linear()}
        attacks = Attacks({"PGD": PGD(20 / 255, 3, random_start=False)}, 60)
        found = evaluate(models, greys, **QUICK, attacks=attacks, parts=tmp_path)["models"]["target"]["attacks"]
        return found["PGD: from another model"]["accuracy"]["value"]

    assert transferred(-50.0) > transferred(50.0)


def test_what_fails_in_one_attack_loses_nothing_else(greys):
    class Numpy(Linear):
        def forward(self, images):
            return super().forward(torch.from_numpy(images.numpy()))

    class Overflowing(Linear):
        def forward(self, images):
            far = images.flatten(1).std(dim=1) > 0.3  # only under a large epsilon
            return torch.where(far[:, None], torch.nan, super().forward(images))

    models = {"numpy": Numpy(), "half": Overflowing(), "open": Linear()}
    results = evaluate(models, greys, **QUICK, attacks=Attacks({"PGD": PGD(0.05, 3)}, 40))["models"]
    assert [e["part"] for e in results["numpy"]["errors"]] == ["attacks"]
    assert "RuntimeError" in results["numpy"]["errors"][0]["message"]
    assert "PGD" in results["open"]["attacks"]
    assert "PGD" in results["half"]["attacks"]


def test_requests_that_cannot_be_met_are_told_before_work(greys):
    with pytest.raises(ValueError, match="targeted=False"):
        Attacks({"led": PGD(0.1, targeted=True)})
    with pytest.raises(ValueError, match="has a colon"):
        Attacks({"a: b": PGD(0.1)})
    with pytest.raises(ValueError, match="there is none"):
        evaluate(Linear(), greys, **QUICK, attacks=Attacks({"e": PGD(0.1, over_references=2, keep="last")}))
    flat = Attacks({"none": PGD(0.0, 3, step_size=0.01)}, 20, cross_checks=False, curve=[0.1])
    assert evaluate(Linear(), greys, **QUICK, attacks=flat)["models"]["model"]["errors"] == []


def test_an_image_is_made_once_for_all_models_it_is_shown_to(greys, tmp_path, monkeypatch):
    """Of three models each is the source of images for the other two, and makes no image twice."""
    models = {name: Linear(sharpness) for name, sharpness in (("a", 30.0), ("b", 40.0), ("wrong", -50.0))}
    attack, made = PGD(20 / 255, 2), []

    def counted(self, model, images, targets, *, indices=None):
        if not self.early_stop and self.steps == attack.steps:  # the images that are shown to other models
            made.append((model, list(indices)))
        return call(self, model, images, targets, indices=indices)

    call = PGD.__call__
    monkeypatch.setattr(PGD, "__call__", counted)
    given = Attacks({"PGD": replace(attack, early_stop=True)}, images=130)
    results = evaluate(models, greys, **QUICK, attacks=given, parts=tmp_path)
    # Some image is right on "wrong" and others on "a" and "b": together all of them, each once.
    right = {"a": greys.labels.numpy() >= 0, "b": greys.labels.numpy() >= 0, "wrong": greys.labels.numpy() < 0}
    for name, model in models.items():
        others = sum(right[other].astype(int) for other in models if other != name) > 0
        indices = [i for m, rows in made if m.model is model for i in rows]
        assert sorted(indices) == sorted(set(indices))
        assert len(indices) == others.sum()
    for name, target in models.items():  # and judged as if it had been made for that model alone
        one = results["models"][name]["attacks"]["PGD: from another model"]
        images = to_unit(greys.images)
        alone = [
            attack_batch(predictor(target), attack, images, greys.labels, range(130), made_on=predictor(other))
            for other in models.values()
            if other is not target
        ]
        assert one["accuracy"]["value"] == pytest.approx(min(float(a.robust.float().mean()) for a in alone))
    made.clear()
    again = evaluate(models, greys, **QUICK, attacks=given, parts=tmp_path)
    assert not made
    for name in models:
        found = [r["models"][name]["attacks"]["PGD: from another model"] for r in (results, again)]
        assert found[0]["accuracy"] == found[1]["accuracy"]


class TenClasses(torch.nn.Module):
    """A linear model, whose accuracy under the best attack in linf is known: by the dual norm, class by class."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(10, 36, generator=torch.Generator().manual_seed(0))
        self.weight = torch.nn.Parameter(0.1 * weight)

    def forward(self, images):
        return (images - 0.5).flatten(1) @ self.weight.T

    def robust(self, images: torch.Tensor, labels: torch.Tensor, eps: float) -> torch.Tensor:
        """Right at every point within eps, of images that are further than eps from black and white."""
        logits = self(images).double()
        away = (self.weight[labels][:, None] - self.weight[None]).double()  # [B, 10, D]
        least = logits.gather(1, labels[:, None]) - logits - eps * away.abs().sum(2)
        return (least.scatter(1, labels[:, None], 1) > 0).all(1)


@pytest.fixture
def coloured() -> TensorSet:
    images = torch.randint(64, 192, (120, 1, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    labels = TenClasses()(images.float() / 255).argmax(1)
    return TensorSet(images, labels, [str(n) for n in range(10)], name="coloured", split="test")


def test_cross_entropy_that_misses_what_the_margin_finds_is_a_failed_check(coloured):
    eps = 3 / 255
    model = TenClasses()
    with torch.no_grad():
        exact = float(model.robust(coloured.images / 255, coloured.labels, eps).float().mean())
    ce = Attacks({"PGD": PGD(eps, 20, early_stop=True, loss="ce")})
    found = evaluate(model, coloured, **QUICK, attacks=ce)["models"]["model"]
    left = found["attacks"]["PGD"]["accuracy"]["value"]
    assert left > exact + 0.1
    failed = [c for c in found["sanity"] if not c["ok"]]
    assert [c["check"] for c in failed] == ["other attacks, same distance"]
    assert "margin loss" in failed[0]["detail"]


@pytest.mark.skipif(not util.find_spec("pyautoattack"), reason="needs pyautoattack")
def test_autoattack_alone_is_checked_too(greys, monkeypatch):
    class Drawing(Linear):
        def forward(self, images):
            return super().forward(images + 0.1 * torch.randn_like(images))

    torch.manual_seed(0)
    said: list[str] = []
    attacks = Attacks({"AutoAttack": AutoAttack(20 / 255)}, images=60)
    models = {"open": Linear(), "drawing": Drawing()}

    def checks(attack):  # what it would find takes half a minute
        monkeypatch.setattr(AutoAttack, "__call__", lambda self, *batch: attack(*batch))
        results = evaluate(models, greys, **QUICK, attacks=attacks, notice=said.append)["models"]
        assert all(list(results[name]["attacks"]) == ["AutoAttack"] for name in models)
        return {name: {c["check"]: c["ok"] for c in results[name]["sanity"]} for name in models}

    named = ["same images, same answers", "other attacks, same distance", "zero gradients", "large epsilon"]
    strong = checks(PGD(20 / 255, 10))
    assert strong["open"] == dict.fromkeys(named, True)
    assert not strong["drawing"]["same images, same answers"]
    assert any("drawing: asked twice" in words for words in said)
    assert not any("the images beside it" in words for words in said)
    lost = checks(lambda model, images, labels: images)  # one that finds nothing
    assert lost["open"] == {**strong["open"], "other attacks, same distance": False}
