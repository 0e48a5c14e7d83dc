"""The rooms of scores, attacks, corruptions and steps: what every file has, and that a method is one file."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kedge
from kedge import catalog, specs
from kedge.attacks import FGSM, PGD, Attack, AutoAttack, as_attack
from kedge.cli import parse
from kedge.cli.flags import call, parser_of
from kedge.cli.trained_on import training_attack
from kedge.data import TensorSet, corruptions
from kedge.deploy import card_text
from kedge.evaluation import Attacks
from kedge.evaluation import evaluate as evaluated
from kedge.reporting.page import page
from tests.dropping import from_docs

ROOMS = ("scores", "attacks", "data.corruptions", "postprocess", "test_time")
FILES = [(room, name) for room in ROOMS for name in catalog.names(room)]


LOUDEST = from_docs("scores.md", "class Loudest")
NUDGE = from_docs("attacks.md", "class Nudge")
NEGATIVE = from_docs("corruptions.md", "def negative")


@pytest.fixture
def shades() -> TensorSet:
    """Images of one grey, dark ones of class 0 and bright ones of class 1."""
    greys = torch.tensor([20, 60, 100, 120, 136, 150, 200, 250] * 4, dtype=torch.uint8)
    pixels = greys.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).clone()
    return TensorSet(pixels, (greys > 128).long(), ["dark", "bright"], name="shades", split="test")


class Bright(nn.Module):
    """Calls bright what is brighter than half."""

    num_outputs = 2

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(8.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        away = self.gain * (images.mean((1, 2, 3)) - 0.5)
        return torch.stack([-away, away], 1)


@pytest.mark.parametrize(("room", "name"), FILES)
def test_every_file_says_what_it_is_and_where_it_comes_from(room, name):
    method = catalog.get(room, name)
    assert method.__name__.lower() == name.replace("_", "") or method.__name__ == name
    info = catalog.info(room, name)
    assert info is not None
    assert info.title
    assert info.cite.endswith(str(info.year))
    assert info.url.startswith("https://")
    assert catalog.summary(room, name).endswith(".")
    assert inspect.getdoc(method)
    (paper,) = catalog.citations([method])
    assert (paper["cite"], paper["url"]) == (info.cite, info.url)


def test_scores_are_called_like_their_files():
    for name, score in kedge.scores.SCORES.items():
        assert score.name == name
        assert score.__module__ == f"kedge.scores.{name}"


def test_corruptions_have_five_levels_for_each_size():
    for name in catalog.names("data.corruptions"):
        one = corruptions.corruption(name)
        assert [len(levels) for levels in (one.imagenet, one.cifar, one.tiny)] == [5, 5, 5]
        assert catalog.stated("data.corruptions", name, "groups")


def test_the_published_order_of_corruptions():
    assert corruptions.NAMES == (
        "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur",
        "snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
        "speckle_noise", "gaussian_blur", "spatter", "saturate",
    )  # fmt: skip
    assert list(corruptions.GROUPS) == ["corruptions", "noise", "blur", "weather", "digital", "extra", "cbar"]
    assert list(corruptions.CORRUPTIONS) == list(corruptions.NAMES)


def test_corrupted_images_are_those_of_the_first_version():
    """Weighted means of the images that the version before the corruptions had files of their own made."""
    stored = json.loads((Path(__file__).parent / "fixtures" / "corrupted_means.json").read_text())
    for size, expected in stored.items():
        channels, height, width = map(int, size.split("x"))
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(2, channels, height, width, generator=generator)
        weights = torch.rand(channels, height, width, generator=generator)
        for key, mean in expected.items():
            name, severity = key.split()
            made = corruptions.corrupt(images, name, int(severity), torch.tensor([7, 8]), seed=3)
            assert float((made * weights).double().mean()) == pytest.approx(mean, abs=2e-5), (size, key)


def test_the_help_lists_the_rooms_without_torch():
    code = (
        "import sys\nfrom kedge.cli.flags import parser_of\n"
        "print({a.dest: a.help for a in parser_of('evaluate')._actions})\nassert 'torch' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    texts = eval(printed)
    assert all(name in texts["scores"] for name in catalog.names("scores"))
    assert all(word in texts["attack"] for word in ("pgd", "pgd-margin", "fgsm", "autoattack", "autoattack-rand"))
    assert all(f"{group} ({len(names)})" in texts["shift"] for group, names in corruptions.GROUPS.items())
    assert "(knn, mahalanobis, vim, prototypes, reverse_anchoring)" in texts["train"]


def test_words_of_attacks_are_built_as_before():
    how = {"norm": "l2", "steps": 4, "seed": 5, "most": 1000}
    attacks = parse.choose_attacks(list(parse.attack_words()), 0.5, None, **how)
    step = {"step_size": 2.5 * 0.5 / 4, "norm": "l2", "early_stop": True, "seed": 5}
    assert attacks.named == {
        "PGD-4": PGD(0.5, 4, **step),
        "PGD-4, margin loss": PGD(0.5, 4, loss="margin", **step),
        "FGSM": FGSM(0.5, "l2", seed=5),
        "AutoAttack, standard": AutoAttack(0.5, "l2", seed=5),
        "AutoAttack, rand": AutoAttack(0.5, "l2", "rand", 5),
    }


def test_what_an_attack_says_of_itself():
    pgd = PGD(8 / 255, 10, 2 / 255, loss="margin", restarts=2, early_stop=True, seed=3)
    assert pgd.single_step() == FGSM(8 / 255, loss="margin", seed=3)
    assert pgd.at(4 / 255) == dataclasses.replace(pgd, eps=4 / 255, step_size=2 / 255 / (8 / 255) * (4 / 255))
    assert FGSM(8 / 255, variant="rs").at(4 / 255) == FGSM(4 / 255, variant="rs")
    assert pgd.validation(5, 9) == PGD(8 / 255, 5, early_stop=True, seed=9)
    assert list(pgd.cross_checks(0)) == list(pgd.cross_checks(1)) == ["one step"]
    assert pgd.cross_checks(3)["over references"].over_references == 1
    assert pgd.probe() is pgd
    margin = PGD(0.5, 20, 2.5 * 0.5 / 20, "l2", early_stop=True, loss="margin", seed=4)
    assert AutoAttack(0.5, "l2", seed=4).probe() == margin
    own = as_attack(lambda model, images, targets: images)
    assert (own.settings, own.probe(), own.cross_checks(3), own.scales) == (None, None, {}, False)


def test_a_score_is_a_file(drop, shades):
    drop("scores", "loudest", LOUDEST)
    assert list(kedge.scores.SCORES)[-1] == "loudest"
    assert "loudest" in next(a.help for a in parser_of("evaluate")._actions if a.dest == "scores")
    with pytest.raises(
        ValueError, match=r"'loudst'.*vim, prototypes, reverse_anchoring, loudest.*did you mean loudest"
    ):
        parse.choose_scores(["loudst"])
    (score,) = parse.choose_scores(["loudest"])
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected = np.sort(logits)[:, -1] - np.sort(logits)[:, -2]
    outputs = kedge.scores.Outputs(torch.from_numpy(logits))
    np.testing.assert_allclose(score.score(outputs), expected, rtol=1e-6)
    assert specs.build("scores", {"loudest": {"power": 2.0}}).score(outputs) == pytest.approx(expected**2)

    far = TensorSet(torch.full((20, 1, 8, 8), 128, dtype=torch.uint8), torch.zeros(20).long(), ["grey"], name="grey")
    results = evaluated(Bright(), shades, shift=(), ood={"grey": far}, resamples=0, examples=0)
    (model,) = results["models"].values()
    assert list(results["settings"]["scores"])[-1] == "loudest"
    assert (
        model["ood"]["grey"]["scores"]["loudest"]["auroc"]["value"] == 1.0
    )  # nothing is nearer to half than the greys
    assert {"what": "How far the first two logits are apart", "cite": "Doe et al., JMLR 1999",
            "url": "https://example.org/gaps"} in results["citations"]  # fmt: skip
    html = page(results)
    assert "gap of logits" in html
    assert "https://example.org/gaps" in html


def test_an_attack_is_a_file(drop, shades, tmp_path):
    drop("attacks", "nudge", NUDGE)
    assert "nudge or nudge-down (All pixels brighter)" in next(
        a.help for a in parser_of("evaluate")._actions if a.dest == "attack"
    )
    with pytest.raises(ValueError, match=r"'nugde'.*did you mean nudge"):
        parse.check_words(["nugde"], [1])
    how = {"norm": "linf", "steps": 4, "seed": 0, "most": 1000}
    parse.check_words(["nudge", "nudge-down"], [1])
    attacks = parse.choose_attacks(["nudge", "nudge-down"], 12 / 255, shades, **how)
    results = evaluated(Bright(), shades, shift=(), attacks=attacks, resamples=0, parts=tmp_path / "parts")
    (model,) = results["models"].values()
    assert model["attacks"]["nudge up"]["accuracy"]["value"] == 7 / 8  # 120 of 255 is bright when 12 more
    assert model["attacks"]["nudge down"]["accuracy"]["value"] == 7 / 8  # 136 is dark when 12 less
    assert model["attacks"]["nudge up"]["kind"] == "nudge"
    checks = {check["check"]: check["ok"] for check in model["sanity"]}  # by a PGD in the same ball
    assert checks["large epsilon"]
    assert not checks["other attacks, same distance"]  # which moves both kinds of images
    assert "https://example.org/light" in {paper["url"] for paper in results["citations"]}
    assert "nudge up" in page(results)
    again = evaluated(Bright(), shades, shift=(), attacks=attacks, resamples=0, parts=tmp_path / "parts")
    assert again["parts_found"] > 0

    # In training: built from a recipe, in another radius, growing, and with its ball for the validation images.
    objective = [{"Adversarial": {"attack": {"nudge": {"sign": -1}}}}, "CrossEntropy"]
    attack = training_attack({"objective": objective, "eps": "16/255"})
    loss = kedge.objectives.Adversarial(kedge.objectives.CrossEntropy(), attack, ramp=0.5)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 2
    kedge.objectives.set_progress(loss, 0.25)
    darker = (images - 8 / 255).clamp(0, 1)
    expected = nn.functional.cross_entropy(Bright()(darker), labels)
    torch.testing.assert_close(loss(Bright(), images, labels), expected)
    assert attack.validation(3, 0) == PGD(16 / 255, 3, early_stop=True, seed=0)
    card = card_text.papers({"objective": [{"Adversarial": {"attack": {"nudge": {"eps": 0.1}}}}]}, None)
    assert "[Roe, Optica 2001](https://example.org/light)" in card


def test_a_corruption_is_a_file(drop, shades):
    drop("data.corruptions", "negative", NEGATIVE)
    assert corruptions.GROUPS["darkroom"] == ("negative",)
    assert len(corruptions.NAMES) == 19
    assert "darkroom (1)" in next(a.help for a in parser_of("evaluate")._actions if a.dest == "shift")
    with pytest.raises(ValueError, match="did you mean negative"):
        corruptions.check("negativ")
    assert corruptions.expand(["darkroom", "fog"]) == ["negative", "fog"]
    images = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(corruptions.corrupt(images, "negative", 2), 0.8 * images + 0.2 * (1 - images))
    results = evaluated(Bright(), shades, shift="darkroom", severities=(5,), resamples=0)
    (model,) = results["models"].values()
    assert model["shift"]["mean"]["accuracy"]["value"] == 0
    assert "https://example.org/negatives" in {paper["url"] for paper in results["citations"]}
    assert "negative" in page(results)


def test_all_three_by_the_command(drop, shades, tmp_path, capsys):
    drop("scores", "loudest", LOUDEST)
    drop("attacks", "nudge", NUDGE)
    drop("data.corruptions", "negative", NEGATIVE)
    model = kedge.plain(
        kedge.networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8}), example=(1, 8, 8)
    )
    model.class_names = [str(digit) for digit in range(10)]
    kedge.save(model, tmp_path / "model")
    (tmp_path / "photos").mkdir()
    for i in range(6):
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    words = [
        str(tmp_path / "model"), "--data", "digits", "--shift", "darkroom", "--severities", "3", "--ood",
        str(tmp_path / "photos"), "--scores", "loudest", "--attack", "nudge", "--limit", "40", "--out",
        str(tmp_path / "out"),
    ]  # fmt: skip
    assert call("evaluate", words) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["corruptions"] == ["negative"]
    assert results["settings"]["scores"] == ["loudest"]
    assert results["settings"]["attacks"] == ["nudge up"]
    html = (tmp_path / "out" / "report.html").read_text()
    for words in ("gap of logits", "nudge up", "negative", "Doe et al., JMLR 1999", "Roe, Optica 2001"):
        assert words in html


def test_citations_of_an_evaluation_are_those_of_what_was_measured(shades):
    results = evaluated(
        Bright(), shades, shift=("fog", "contrast", "ripple"), severities=(1,), scores=[kedge.scores.MSP()],
        attacks=Attacks({"own": Still()}), resamples=0,
    )  # fmt: skip
    papers = {paper["url"].rpartition("/")[2]: paper["what"] for paper in results["citations"]}
    assert papers["1903.12261"].startswith("Clouds")
    assert "2102.11273" in papers
    assert "1610.02136" not in papers  # nothing was told apart
    assert "1706.06083" not in papers  # an attack of one's own
    assert {frozenset(paper) for paper in results["citations"]} == {frozenset({"what", "cite", "url"})}
    every = evaluated(Bright(), shades, shift=None, severities=(1,), resamples=0)["citations"]
    assert {"what": "19 corruptions", "cite": "Hendrycks & Dietterich, ICLR 2019",
            "url": "https://arxiv.org/abs/1903.12261"} in every  # fmt: skip


class Still:
    """An attack of one's own that does nothing."""

    eps, norm = 0.1, "linf"

    def __call__(self, model: object, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return images


def test_an_attack_needs_no_more_than_a_ball_and_a_call():
    @dataclasses.dataclass(frozen=True)
    class Least(Attack):
        eps: float
        norm: str = "linf"

        def __call__(self, model, images, targets):
            return images

    attack = Least(0.1)
    assert attack.record() == {
        "title": "Least", "norm": "linf", "eps": 0.1, "steps": None, "restarts": None, "kind": "least",
    }  # fmt: skip
    assert attack.at(0.2) == Least(0.2)
    assert attack.training() is attack
    assert attack.settings.endswith("Least(eps=0.1, norm='linf')")
    assert Attacks({"x": attack}).first() is None
    assert Attacks({"x": attack}).to_check()[1] == PGD(0.1, 20, early_stop=True, loss="margin")


@dataclasses.dataclass(frozen=True)
class Climb(Attack):
    """Two steps of half the radius along the sign of the gradient; it draws nothing."""

    eps: float
    norm: str = "linf"

    @property
    def follows_gradient(self) -> bool:
        return True

    def __call__(self, model, images, targets):
        adversarial = images.clone()
        for _ in range(2):
            leaf = adversarial.detach().requires_grad_()
            with torch.enable_grad():
                loss = nn.functional.cross_entropy(model(leaf), targets)
            adversarial = (leaf + self.eps / 2 * torch.autograd.grad(loss, leaf)[0].sign()).clamp(0, 1).detach()
        return adversarial


def test_another_attack_along_the_gradient_has_a_curve_transfer_and_checks(shades):
    eps = 12 / 255
    attacks = Attacks({"climb": Climb(eps)}, curve=[eps / 4, eps])
    results = evaluated({"a": Bright(), "b": Bright()}, shades, shift=(), attacks=attacks, resamples=0)
    for model in results["models"].values():
        assert not model["errors"]
        assert model["attacks"]["climb"]["accuracy"]["value"] == 6 / 8  # 120 and 136 of 255 are moved across 127.5
        assert model["attacks"]["climb: from another model"]["accuracy"]["value"] == 6 / 8
        assert [point["accuracy"]["value"] for point in model["attack_curve"]["points"]] == [1, 1, 6 / 8]
        assert {"large epsilon", "other attacks, same distance"} <= {check["check"] for check in model["sanity"]}
        assert all(check["ok"] for check in model["sanity"])
