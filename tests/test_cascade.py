"""A cascade: who answers which image, the rule, the folder, and the command."""

import json
import re
from statistics import NormalDist

import pytest
import torch
from torch import nn

import kedge
from kedge.cascade import Cascade, load_cascade, save_cascade
from kedge.cascade_rule import choose_rule, images_for_loss, surely_below
from kedge.cli import main, predict
from kedge.cli.resolve_model import find
from kedge.data.paths import Paths
from kedge.networks import create
from kedge.rejection import rule_at

DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.rand(40, 1, 8, 8, generator=DRAWS)


def plain(seed, classes=3, size=8, width=4):
    torch.manual_seed(seed)
    network = create("kedge_resnet_small", classes, 1, size, arguments={"width": width})
    with torch.no_grad():
        network.fc.weight.mul_(20)
    model = kedge.plain(network, example=(1, size, size)).eval()
    model.class_names = [f"class {i}" for i in range(classes)]
    return model


def anchored(count=3):
    return kedge.anchor(plain(2).network, references=IMAGES[:count]).eval()


def cascade(threshold=0.6, large=None, small=None):
    return Cascade(small or plain(0), large or plain(1), rule_at(threshold))


def test_each_image_is_answered_by_whom_the_rule_says():
    model = cascade()
    first, second = (each.predict(IMAGES) for each in (model.small, model.large))
    sure = first.confidence >= 0.6
    assert 0 < int(sure.sum()) < 40
    prediction = model.predict(IMAGES)
    torch.testing.assert_close(prediction.logits, torch.where(sure[:, None], first.logits, second.logits))
    assert torch.equal(prediction.label, torch.where(sure, first.label, second.label))
    assert torch.equal(model.passed_on(IMAGES), ~sure)
    assert prediction.uncertainty is None
    for threshold, alone in ((0.0, model.small), (1.0, model.large)):
        torch.testing.assert_close(cascade(threshold).predict(IMAGES).logits, alone.predict(IMAGES).logits)


def test_the_large_model_sees_only_what_is_passed_on():
    model, seen = cascade(), []
    model.large.network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    model.predict(IMAGES)
    assert seen in ([], [int(model.passed_on(IMAGES).sum())])  # the hook is of a twin that only reads
    everything = model(IMAGES)
    torch.testing.assert_close(everything.detach(), model.predict(IMAGES).logits, rtol=1e-4, atol=1e-4)
    images = IMAGES.clone().requires_grad_()
    model(images).sum().backward()
    assert bool((images.grad.flatten(1).abs().sum(1) > 0).all())


def test_one_of_them_may_be_anchored_with_all_its_references():
    large = anchored()
    large.class_names = plain(0).class_names
    model = cascade(large=large)
    rest = model.passed_on(IMAGES)
    torch.testing.assert_close(model.predict(IMAGES).logits[rest], large.predict(IMAGES[rest]).logits)


def brute(odds, small, large, max_loss, max_risk):
    """The smallest share passed on over all thresholds, by trying each."""
    best = None
    for threshold in odds.unique():
        kept = odds >= threshold
        right = torch.where(kept, small, large)
        loss = float(large.double().mean() - right.double().mean())
        risk = float((~small[kept]).double().mean())
        if (max_loss is None or loss <= max_loss + 1e-9) and (max_risk is None or risk <= max_risk + 1e-9):
            passed = float((~kept).double().mean())
            best = passed if best is None else min(best, passed)
    return best


@pytest.mark.parametrize(("max_loss", "max_risk"), [(0.0, None), (0.02, None), (None, 0.1), (0.05, 0.2)])
def test_the_rule_passes_on_as_few_as_can_be(max_loss, max_risk):
    draws = torch.Generator().manual_seed(3)
    odds = torch.randn(300, generator=draws).round(decimals=1)  # with ties
    small = torch.rand(300, generator=draws) < odds.sigmoid() * 0.6 + 0.4
    large = torch.rand(300, generator=draws) < 0.85
    choice = choose_rule(odds, small, large, max_loss, max_risk)
    assert choice.passed == pytest.approx(brute(odds, small, large, max_loss, max_risk))
    kept = odds >= choice.rule["log_odds"]
    assert choice.accuracy == pytest.approx(float(torch.where(kept, small, large).double().mean()))
    assert choice.risk == pytest.approx(float((~small[kept]).double().mean()))
    assert (choice.small, choice.large) == pytest.approx((float(small.double().mean()), float(large.double().mean())))


def test_what_no_rule_can_keep_is_said():
    odds, wrong, right = torch.arange(10.0), torch.zeros(10).bool(), torch.ones(10).bool()
    with pytest.raises(ValueError, match="no confidence of the small model keeps at most 5 % wrong on these 10 images"):
        choose_rule(odds, wrong, right, max_risk=0.05)
    with pytest.raises(ValueError, match="say what may be lost"):
        choose_rule(odds, wrong, right)
    with pytest.raises(ValueError, match="max_loss is a share of images, at least 0 and below 1, not 2"):
        choose_rule(odds, wrong, right, max_loss=2)
    with pytest.raises(ValueError, match="no images"):
        choose_rule(odds[:0], wrong[:0], right[:0], max_loss=0)
    assert choose_rule(odds, right, right, max_loss=0.0).passed == 0


def surely(lost, gained, count, most, certainty):
    """Tango's test by what it says: the likelihood of a loss of exactly `most`, its largest found by search."""
    q = torch.linspace(1e-9, (1 - most) / 2, 400_001, dtype=torch.float64)
    rest = count - lost - gained
    p = gained * q.log() + lost * (q + most).log() + rest * (1 - 2 * q - most).clamp(min=1e-300).log()
    best = float(q[p.argmax()])
    z = (lost - gained - count * most) / (count * (2 * best + most * (1 - most))) ** 0.5
    return z <= -NormalDist().inv_cdf(certainty)


@pytest.mark.parametrize(("lost", "gained", "count", "most"), [
    (1, 0, 1000, 0.005), (2, 0, 1000, 0.005), (12, 9, 1000, 0.02), (20, 4, 1000, 0.02), (0, 0, 600, 0.005),
    (0, 0, 500, 0.005), (30, 60, 2000, 0.001), (40, 45, 2000, 0.01),
])  # fmt: skip
def test_the_test_of_a_loss_is_that_of_its_likelihood(lost, gained, count, most):
    one, other = (torch.tensor([float(each)]).double() for each in (lost, gained))
    assert bool(surely_below(one, other, count, most, 0.95)) == surely(lost, gained, count, most, 0.95)
    if most == 0.005 and not lost + gained:  # what no image of these lost can show
        assert surely(lost, gained, count, most, 0.95) == (count >= images_for_loss(most, 0.95))


def drawn(seed, count, slope=1.5, large=0.9):
    """Log odds, whether the small model is right with a probability that rises with them, and the large one."""
    draws = torch.Generator().manual_seed(seed)
    odds = slope * torch.randn(count, generator=draws).double() + 1.5
    small = torch.rand(count, generator=draws) < odds.sigmoid()
    return odds, small, torch.rand(count, generator=draws) < torch.where(small, large + 0.07, large - 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("promise", [{"max_loss": 0.02}, {"max_risk": 0.15}, {"max_loss": 0.02, "max_risk": 0.15}])
def test_a_certain_promise_holds_as_often_as_it_says(promise):
    """Over 100 choices, of a truth that 50,000 further draws show."""
    odds, small, large = drawn(1, 50_000)
    broken = {None: 0, 0.9: 0}
    for seed in range(100):
        for certainty in broken:
            rule = choose_rule(*drawn(10 + seed, 800), **promise, certainty=certainty).rule
            stands = odds >= rule["log_odds"]
            lost = float((large[stands].double() - small[stands].double()).sum() / len(odds))
            wrong = float((~small[stands]).double().mean())
            broken[certainty] += lost > promise.get("max_loss", 1) or wrong > promise.get("max_risk", 1)
    assert broken[0.9] <= 18  # of 100, a tenth but for chance
    assert broken[None] > 25  # as it must be: chosen at the edge of what these images allow


def test_a_certain_promise_needs_images():
    odds, small, large = drawn(0, 100)
    with pytest.raises(ValueError, match=r"100 images cannot show.* 0.5 points.* takes 539 or more"):
        choose_rule(odds, small, large, max_loss=0.005, certainty=0.95)
    with pytest.raises(ValueError, match="certainty is between 0 and 1, not 95"):
        choose_rule(odds, small, large, max_loss=0.005, certainty=95)


def test_two_models_that_do_not_belong_together():
    with pytest.raises(ValueError, match="other classes"):
        cascade(large=plain(1, classes=4))
    with pytest.raises(ValueError, match="both see the same image, train them at one size"):
        cascade(large=plain(1, size=12))
    with pytest.raises(TypeError, match="the large model of a cascade is a model of kedge, got Linear"):
        cascade(large=nn.Linear(2, 2))
    with pytest.raises(ValueError, match="a confidence from 0 to 1"):
        Cascade(plain(0), plain(1), {"threshold": 7})
    for refused in (cascade().fold, cascade().bare):
        with pytest.raises(ValueError, match="cascade"):
            refused()
    with pytest.raises(TypeError, match="save_cascade"):
        kedge.save(cascade(), "nowhere")


def test_it_is_written_and_read(tmp_path):
    model = cascade()
    loaded = load_cascade(save_cascade(model, tmp_path / "both", {"accuracy": 0.9}))
    assert torch.equal(loaded.predict(IMAGES).logits, model.predict(IMAGES).logits)
    assert loaded.class_names == model.class_names
    stated = json.loads((tmp_path / "both" / "cascade.json").read_text())
    assert stated["rule"] == rule_at(0.6)
    assert stated["measured"] == {"accuracy": 0.9}
    (tmp_path / "both" / "cascade.json").write_text(json.dumps({**stated, "large": "../../elsewhere"}))
    with pytest.raises(ValueError, match=r"large is large or large.onnx, not '../../elsewhere'"):
        load_cascade(tmp_path / "both")
    (tmp_path / "both" / "cascade.json").write_text(json.dumps({**stated, "rule": {"threshold": -1}}))
    with pytest.raises(ValueError, match="rule is a threshold"):
        load_cascade(tmp_path / "both")
    with pytest.raises(FileNotFoundError, match=r"holds no cascade.json"):
        load_cascade(tmp_path)


def test_rules_of_its_models_that_it_has_not_are_said(tmp_path):
    model = cascade()
    assert model.left_out == ""
    save_cascade(model, tmp_path / "both")
    assert "left_out" not in json.loads((tmp_path / "both" / "cascade.json").read_text())
    model.small.unknown, model.large.reject = {"score": "energy", "threshold": 0.5}, rule_at(0.3)
    words = "rules that are left out: the small model's for unknown; the large model's for unsure. Each is of"
    assert model.left_out.startswith(words)
    loaded = load_cascade(save_cascade(model, tmp_path / "both"))
    assert json.loads((tmp_path / "both" / "cascade.json").read_text())["left_out"] == model.left_out == loaded.left_out
    assert (loaded.unknown, loaded.reject) == (None, None)


def test_another_model_of_the_two_is_another_call(tmp_path):
    """Answers of an interrupted kedge predict are gone on with where rule and models are the same."""
    folder = save_cascade(cascade(), tmp_path / "both")
    before = predict._call(find(str(folder)), Paths.of(["a.jpg"]))["model"]
    save_cascade(cascade(), folder)
    assert predict._call(find(str(folder)), Paths.of(["a.jpg"]))["model"] == before
    kedge.save(plain(5), folder / "large")
    assert predict._call(find(str(folder)), Paths.of(["a.jpg"]))["model"] != before


@pytest.mark.slow
def test_as_two_exported_files_and_a_rule(tmp_path):
    pytest.importorskip("onnxruntime")
    model = cascade()
    loaded = load_cascade(save_cascade(model, tmp_path / "both", onnx=True))
    assert {path.name for path in (tmp_path / "both").iterdir()} >= {"small.onnx", "large.onnx", "cascade.json"}
    torch.testing.assert_close(loaded.predict(IMAGES).logits, model.predict(IMAGES).logits, rtol=1e-3, atol=1e-3)
    large = anchored()
    large.class_names = plain(0).class_names
    with pytest.raises(ValueError, match="the large model answers with 3 references, and an exported file has one"):
        save_cascade(cascade(large=large), tmp_path / "no", onnx=True)
    assert not (tmp_path / "no").exists()


@pytest.mark.slow
def test_an_exported_file_is_copied(tmp_path):
    pytest.importorskip("onnxruntime")
    from kedge.deploy import export, load_onnx

    model = cascade()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        export(model.small, tmp_path / name / "fast.onnx")
    small = load_onnx(tmp_path / "one" / "fast.onnx")
    mixed = cascade(small=small)
    loaded = load_cascade(save_cascade(mixed, tmp_path / "both"))
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"small.onnx", "large", "cascade.json"}
    torch.testing.assert_close(loaded.predict(IMAGES).logits, model.predict(IMAGES).logits, rtol=1e-3, atol=1e-3)
    save_cascade(loaded, tmp_path / "both")  # onto itself
    assert load_cascade(tmp_path / "both").rule == model.rule
    exported = load_cascade(save_cascade(mixed, tmp_path / "files", onnx=True))
    torch.testing.assert_close(exported.predict(IMAGES).logits, model.predict(IMAGES).logits, rtol=1e-3, atol=1e-3)
    for name in ("one", "other"):
        (tmp_path / name / "fast.onnx.data").write_bytes(b"weights")
    with pytest.raises(ValueError, match="the small model, has its weights in a file of their own"):
        save_cascade(cascade(small=small, large=load_onnx(tmp_path / "other" / "fast.onnx")), tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of ten classes, the large one anchored."""
    folder = tmp_path_factory.mktemp("models")
    small, wide = plain(0, classes=10), plain(1, classes=10)
    large = kedge.anchor(wide.network, references=IMAGES[:4]).eval()
    for model in (small, large):
        model.class_names = [str(i) for i in range(10)]
    return str(kedge.save(small, folder / "small")), str(kedge.save(large, folder / "large"))


def test_the_command(models, tmp_path, capsys):
    small, large = models
    out = str(tmp_path / "both")
    how = ["--data", "digits", "--split", "train", "--max_loss", "0.5"]
    assert main(["cascade", small, large, "--out", out, *how, "--format", "json"]) in (0, 3)
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["models"]) == {"small alone", "large alone", "cascade"}
    assert 0 <= printed["models"]["cascade"]["passed"] <= 1
    assert printed["chosen_on"] + printed["measured_on"] == 1259
    model = load_cascade(out)
    assert model.large.count() == 4
    assert main(["predict", out, "nothing.png"]) == 1
    assert "No such file" in (said := capsys.readouterr().err) or "nothing.png" in said
    assert main(["evaluate", out, "--data", "digits", "--shift", "none", "--out", str(tmp_path / "page")]) == 0
    assert "accuracy" in capsys.readouterr().out
    strict = kedge.load(large)
    strict.unknown = {"score": "energy", "threshold": 0.5}
    kedge.save(strict, large)
    assert main(["cascade", large, large, "--out", out, *how]) in (0, 3)
    assert load_cascade(out).small.count() == 0
    said = capsys.readouterr()
    assert "passed on" in said.out
    assert "careful: rules that are left out: the small model's for unknown; the large model's for unknown" in said.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--data", "digits", "--split", "test"], "not fitted on test images"),
        (["--data", "digits", "--split", "train", "--max_loss", "-1"], "max_loss is a share of images"),
        ([], "held out|name|data"),
    ],
)
def test_mistakes_of_the_command(models, tmp_path, capsys, flags, words):
    assert main(["cascade", *models, "--out", str(tmp_path / "no"), *flags]) == 1
    assert re.search(words, capsys.readouterr().err)
    assert not (tmp_path / "no").exists()


def test_it_has_no_prediction_sets_and_says_what_to_do(models, tmp_path, capsys):
    """No command sets a threshold for a cascade: to name one would send in circles."""
    with pytest.raises(ValueError, match=r"a cascade has no prediction sets.*ask one of its two models"):
        cascade().set_rule(0.9)
    save_cascade(cascade(), tmp_path / "both")
    assert main(["calibrate", str(tmp_path / "both"), "--coverage", "0.9"]) == 1
    assert "calibrate its two models, and choose the rule anew" in capsys.readouterr().err


def test_what_cannot_be_exported_is_said_before_images_are_read(tmp_path, capsys):
    """Choosing the rule costs a pass of both models over all images."""
    small, large = str(tmp_path / "small"), str(tmp_path / "large")
    kedge.save(plain(0), small)
    model = anchored()
    model.class_names = plain(0).class_names
    kedge.save(model, large)
    out = str(tmp_path / "out")
    assert main(["cascade", small, large, "--out", out, "--to", "onnx", "--data", "nowhere"]) == 1
    assert "the large model answers with 3 references" in capsys.readouterr().err
