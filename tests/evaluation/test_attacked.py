import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import kedge
from kedge.attacks import FGSM, PGD, Bank, as_attack, distance
from kedge.binomial import exact_interval
from kedge.evaluation.attacked import (
    accuracy_against_epsilon,
    attack_batch,
    attack_summary,
    attacked,
    broken_at,
    epsilon_curve,
    predictor,
)
from kedge.evaluation.sanity import gradient_sizes, same_answers, sanity, sanity_attacks


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    images = (torch.tensor(found.images) * 255 / 16).round().to(torch.uint8)[:, None]
    return images, torch.tensor(found.target)


def _train(digits, seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    images, labels = digits[0][:1200] / 255, digits[1][:1200]
    for _ in range(8):
        for some in torch.randperm(1200).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[some]), labels[some]).backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def trained(digits):
    return _train(digits)


@pytest.fixture
def test_images(digits):
    return digits[0][1200:1400], digits[1][1200:1400]


def batches(test_images, size=64):
    return list(zip(*(part.split(size) for part in test_images), strict=True))


def whole(results):
    columns = [r.columns() for r in results]
    return {name: torch.cat([c[name] for c in columns]) for name in columns[0]}


# Accuracy under attack


def test_exact_interval_against_scipy():
    from scipy.stats import binomtest

    for correct, total in [(0, 1), (1, 1), (1, 2), (37, 50), (0, 200), (200, 200), (999, 1000), (24_998, 50_000)]:
        for level in (0.5, 0.95, 0.999):
            found = exact_interval(correct, total, level)
            truth = binomtest(correct, total).proportion_ci(level, "exact")
            assert found == pytest.approx((truth.low, truth.high), abs=1e-10)
    for wrong in [(3, 2), (-1, 4), (0, 0)]:
        with pytest.raises(ValueError, match="correct must be"):
            exact_interval(*wrong)
    with pytest.raises(ValueError, match="level"):
        exact_interval(1, 2, 1.0)


def test_epsilon_zero_is_clean_accuracy(trained, test_images):
    found = attack_summary(whole(attacked(predictor(trained), PGD(0), batches(test_images))), PGD(0))
    with torch.no_grad():
        clean = float((trained(test_images[0] / 255).argmax(1) == test_images[1]).float().mean())
    assert found["accuracy"] == found["clean_accuracy"]
    assert found["accuracy"]["value"] == pytest.approx(clean)
    assert found["largest_distance"] == 0


def test_numbers_are_those_of_the_attacked_images(trained, test_images):
    attack = PGD(0.06, 10, seed=4)
    columns = whole(attacked(predictor(trained), attack, batches(test_images)))
    images = test_images[0] / 255
    adversarial = attack(trained, images, test_images[1])
    with torch.no_grad():
        clean, after = (trained(x).argmax(1) == test_images[1] for x in (images, adversarial))
    assert torch.equal(columns["correct"], clean)
    assert torch.equal(columns["robust"], clean & after)
    right = columns["correct"]
    torch.testing.assert_close(columns["distance"][right], distance(adversarial, images)[right])
    assert bool((columns["distance"][~right] == 0).all())
    found = attack_summary(columns, attack, seconds=2.0)
    assert found["images"] == 200
    accuracy = found["accuracy"]
    assert accuracy["value"] == pytest.approx(float((clean & after).float().mean()))
    assert (accuracy["low"], accuracy["high"]) == exact_interval(int((clean & after).sum()), 200)
    assert {"title": "PGD-10", "kind": "pgd", "eps": 0.06, "steps": 10}.items() <= found.items()


def test_batches_are_independent_and_a_prefix_can_be_skipped(trained, test_images):
    model, attack = predictor(trained), PGD(0.06, 5)
    all_at_once = whole(attacked(model, attack, batches(test_images, 200)))
    results = list(attacked(model, attack, batches(test_images, 64)))
    assert torch.equal(whole(results)["robust"], all_at_once["robust"])
    rest = list(attacked(model, attack, batches(test_images, 64), skip=2))
    assert len(rest) == len(results) - 2
    for a, b in zip(rest, results[2:], strict=True):
        assert torch.equal(a.images, b.images)
    pairs = batches(test_images, 64)
    assert torch.equal(attack_batch(model, attack, *pairs[1], indices=range(64, 128)).images, results[1].images)


def test_the_predictor_is_what_evaluate_measures():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)
    )
    model = kedge.anchor(network, example=(3, 12, 12))
    with torch.no_grad():
        for parameter in model.stem.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    model.references = torch.rand(5, 3, 12, 12)
    model.eval()
    grey = torch.rand(4, 1, 9, 10)
    from kedge.evaluation.inputs import convert

    for references in (None, 2, torch.rand(3, 3, 12, 12)):
        asked = predictor(model, references, shape=model.input_shape, dtype=torch.float32)
        assert isinstance(asked, Bank)
        truth = model.predict(convert(grey, model.input_shape), references).logits
        leaf = grey.clone().requires_grad_()
        torch.testing.assert_close(asked(leaf), truth, atol=1e-6, rtol=1e-5)
        (gradient,) = torch.autograd.grad(asked(leaf).sum(), leaf)
        assert gradient.shape == grey.shape
    labels = truth.argmax(1)
    for attack in (PGD(0.05, 3, over_references=2), PGD(0.05, 3)):
        result = attack_batch(asked, attack, grey, labels)
        assert result.images.shape == grey.shape
        assert float(result.distance.max()) <= 0.05 + 1e-6
    plain = kedge.plain(network, example=(3, 12, 12)).eval()
    torch.testing.assert_close(predictor(plain, shape=(3, 12, 12))(grey), plain(convert(grey, (3, 12, 12))))


def test_modes_are_left_as_they_were(trained, test_images):
    trained.train()
    trained[3].eval()
    modes = [m.training for m in trained.modules()]
    model = predictor(trained)
    list(attacked(model, PGD(0.05, 2), batches(test_images)))
    gradient_sizes(model, batches(test_images))
    assert [m.training for m in trained.modules()] == modes


def test_what_a_foreign_attack_returns_is_checked(trained, test_images):
    images, labels = batches(test_images)[0]
    model = predictor(trained)

    def foreign(result, eps=0.1, norm="linf"):
        def attack(model, images, targets):
            return result(images)

        attack.eps, attack.norm = eps, norm
        return attack

    found = attack_batch(model, foreign(lambda x: (x + 0.05).clamp(0, 1)), images, labels)
    assert float(found.distance.max()) == pytest.approx(0.05)
    with pytest.raises(ValueError, match=r"says eps=0.1 \(linf\), but an image is 0.2 away"):
        attack_batch(model, foreign(lambda x: (x + 0.2).clamp(0, 1)), images, labels)
    with pytest.raises(ValueError, match="away"):
        attack_batch(model, foreign(lambda x: (x + 0.05).clamp(0, 1), norm="l2"), images, labels)
    with pytest.raises(ValueError, match="outside"):
        attack_batch(model, foreign(lambda x: x + 0.05), images, labels)
    with pytest.raises(ValueError, match="outside"):
        attack_batch(model, foreign(lambda x: x * float("nan")), images, labels)
    with pytest.raises(ValueError, match="returned images"):
        attack_batch(model, foreign(lambda x: x[:2]), images, labels)
    with pytest.raises(ValueError, match="does not say its eps"):
        attack_batch(model, lambda model, images, targets: images, images, labels)


def test_transfer_is_weaker_than_white_box(trained, digits, test_images):
    other = _train(digits, seed=1)
    attack = PGD(0.08, 20)
    white, transfer = (
        attack_summary(
            whole(attacked(predictor(trained), attack, batches(test_images), made_on=m)), attack, None, bool(m)
        )
        for m in (None, predictor(other))
    )
    assert white["accuracy"]["value"] < transfer["accuracy"]["value"] < transfer["clean_accuracy"]["value"]
    assert (white["kind"], transfer["kind"]) == ("pgd", "transfer")
    checks = sanity({"white": white, "transfer": transfer})
    assert [c["ok"] for c in checks] == [True]
    white["accuracy"], transfer["accuracy"] = transfer["accuracy"], white["accuracy"]
    (check,) = sanity({"white": white, "transfer": transfer})
    assert not check["ok"]
    assert check["check"] == "transfer against white box"


def test_records():
    assert as_attack(FGSM(0.1)).record()["kind"] == "single-step"
    record = as_attack(PGD(0.1, 7, over_references=3, restarts=2)).record()
    assert record["title"] == "PGD-7, expectation over references, 2 restarts"
    assert record["kind"] == "eot"
    assert as_attack(lambda model, images, targets: images).record()["eps"] is None


# Accuracy against epsilon


def test_accuracy_against_epsilon(trained, test_images):
    model, grid = predictor(trained), [0, 0.01, 0.04, 0.1, 0.3]
    made = []

    def factory(eps):
        attack = PGD(eps, 10)

        def counted(model, images, targets, indices=None):
            made.append((eps, len(images)))
            return attack(model, images, targets, indices=indices)

        counted.eps, counted.norm = attack.eps, attack.norm
        return counted

    parts = list(accuracy_against_epsilon(model, factory, grid, batches(test_images)))
    broken = torch.cat(parts)
    curve = epsilon_curve(broken, grid, "linf")
    values = [point["accuracy"]["value"] for point in curve["points"]]
    assert [point["eps"] for point in curve["points"]] == grid
    assert values == sorted(values, reverse=True)
    clean = float((trained(test_images[0] / 255).argmax(1) == test_images[1]).float().mean())
    assert values[0] == pytest.approx(clean)
    assert values[-1] < 0.05 < values[1]
    # What fell at a smaller eps is not attacked again.
    counts = [sum(n for eps, n in made if eps == e) for e in grid[1:]]
    assert counts == [round(v * 200) for v in values[:-1]]
    # Every point is at or below the accuracy of the attack alone.
    for point in curve["points"][1:]:
        alone = attack_summary(whole(attacked(model, PGD(point["eps"], 10), batches(test_images))), PGD(0.1))
        assert point["accuracy"]["value"] <= alone["accuracy"]["value"]
    skipped = list(accuracy_against_epsilon(model, factory, grid, batches(test_images), skip=1))
    assert all(torch.equal(a, b) for a, b in zip(skipped, parts[1:], strict=True))


@pytest.mark.parametrize("grid", [[], [0], [0.1, 0.05], [0.1, 0.1], [-0.1, 0.1]])
def test_grids_that_do_not_rise(trained, test_images, grid):
    with pytest.raises(ValueError, match="rising order"):
        broken_at(predictor(trained), PGD, grid, *batches(test_images)[0])


# Signs of gradients that mislead


class Quantised(nn.Module):
    """Logits rounded to whole numbers, with a gradient that has nothing to do with them."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        logits = self.network(x)
        return (logits.detach() * 4).round() / 4 + 0 * logits


class Sharp(nn.Module):
    """The same decisions with logits ten thousand times as large: cross-entropy saturates."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) * 1e4


def panel(network, test_images, attack):
    model = predictor(network)
    images = test_images[0][:100], test_images[1][:100]
    entries = {
        name: attack_summary(whole(attacked(model, one, batches(images, 100))), one)
        for name, one in {"asked": attack, **sanity_attacks(attack, 64)}.items()
    }
    return {c["check"]: c for c in sanity(entries, gradient_sizes(model, batches(images, 100), attack.loss))}, entries


SAME = "other attacks, same distance"
NAMES = {"single step against many", "zero gradients", "large epsilon", "more steps", "random start", SAME}


def test_an_honest_model_passes_every_check(trained, test_images):
    for attack in (PGD(0.05, 20), PGD(0.4, 20, norm="l2")):
        checks, entries = panel(trained, test_images, attack)
        assert set(checks) == NAMES
        assert all(c["ok"] for c in checks.values()), checks
        assert entries["large epsilon"]["accuracy"]["value"] == 0
        assert "%" in checks["more steps"]["detail"]


@pytest.mark.parametrize("masked", [Quantised, Sharp])
def test_masked_gradients_are_noticed(trained, test_images, masked):
    checks, entries = panel(masked(trained), test_images, PGD(0.1, 20))
    honest = panel(trained, test_images, PGD(0.1, 20))[1]
    # The decisions are the same, so the true accuracy under attack is no higher than this.
    assert entries["asked"]["accuracy"]["value"] > honest["asked"]["accuracy"]["value"] + 0.3
    assert not checks["zero gradients"]["ok"]
    assert not checks["large epsilon"]["ok"]


def test_margin_sees_through_a_sharp_model(trained, test_images):
    honest, sharp = (panel(m, test_images, PGD(0.1, 20, loss="margin")) for m in (trained, Sharp(trained)))
    assert all(c["ok"] for c in sharp[0].values())
    assert sharp[1]["asked"]["accuracy"]["value"] == pytest.approx(honest[1]["asked"]["accuracy"]["value"], abs=0.02)


def test_single_step_above_many_and_steps_that_help_the_model():
    def entry(kind, accuracy, steps=20, **more):
        estimate = {"value": accuracy}
        common = {"norm": "linf", "eps": 0.03, "images": 1000, "loss": "ce", "random_start": True}
        return {"title": f"{kind}-{steps}", "kind": kind, "steps": steps, "accuracy": estimate, **common, **more}

    def ok(**entries):
        checks = sanity(entries)
        return {c["check"]: all(o["ok"] for o in checks if o["check"] == c["check"]) for c in checks}

    assert ok(a=entry("pgd", 0.5), b=entry("single-step", 0.4, 1)) == {"single step against many": False}
    assert ok(a=entry("pgd", 0.5), b=entry("single-step", 0.495, 1)) == {"single step against many": True}
    assert ok(a=entry("pgd", 0.5), b=entry("pgd", 0.55, 100)) == {"more steps": False}
    assert ok(a=entry("pgd", 0.5), b=entry("pgd", 0.3, 100)) == {"more steps": False}
    assert ok(a=entry("pgd", 0.5), b=entry("pgd", 0.48, 100)) == {"more steps": True}
    assert ok(a=entry("pgd", 0.2), b=entry("pgd", 0.5, random_start=False)) == {"random start": False}
    margin, auto = entry("pgd", 0.4, loss="margin"), entry("autoattack", 0.44, None, loss=None)
    assert ok(a=entry("pgd", 0.5), **{"margin loss": margin}) == {SAME: False}
    assert ok(a=entry("pgd", 0.44), **{"margin loss": margin}) == {SAME: True}
    assert ok(a=auto, **{"margin loss": margin}) == {SAME: False}  # an ensemble is not to be beaten at all
    assert ok(a=entry("pgd", 0.5), b=auto) == {SAME: False}
    # What was only added to compare with is not blamed.
    assert ok(a=auto, **{"cross-entropy": entry("pgd", 0.9)}) == {SAME: True}
    # Another radius is another question.
    assert ok(a=auto, **{"margin loss": {**margin, "eps": 0.1}}) == {}
    assert ok(a=entry("pgd", 0.5), b=entry("single-step", 0.4, 1, eps=0.1)) == {}
    assert sanity({}) == []


def test_gradients_are_not_asked_of_a_model_that_is_broken_anyway():
    columns = {"correct": torch.ones(100), "robust": torch.zeros(100), "distance": torch.zeros(100)}
    found = sanity({"PGD": attack_summary(columns, PGD(8 / 255, 20))}, torch.zeros(100))
    assert [c["ok"] for c in found if c["check"] == "zero gradients"] == [True]
    held = {**columns, "robust": torch.ones(100)}
    found = sanity({"PGD": attack_summary(held, PGD(8 / 255, 20))}, torch.zeros(100))
    assert [c["ok"] for c in found if c["check"] == "zero gradients"] == [False]


def test_a_model_that_draws_as_it_answers_is_noticed(trained, test_images):
    class Drawing(nn.Module):
        def forward(self, x):
            return trained(x + 0.1 * torch.randn_like(x))

    for model, ok in ((trained, True), (Drawing(), False)):
        found = same_answers(predictor(model), test_images[0])
        assert (found["check"], found["ok"]) == ("same images, same answers", ok)
    assert "draws at random" in found["detail"]
