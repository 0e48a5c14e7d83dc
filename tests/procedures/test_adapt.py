"""Ways to a new task: what is trained, what is not, and where each begins and ends."""

import copy
import json
import shutil

import pytest
import torch
from torch import nn

import kedge
from kedge import data
from kedge.adaptation import Settings, adapt, draw_shots, find_head, with_head
from kedge.anchoring import anchor
from kedge.probing.features import features
from kedge.procedures import lp_ft
from kedge.training import fitting
from kedge.training.calibration import predict_logits

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(9))
QUICK = {"epochs": 2, "device": "cpu", "batch_size": 16}


def frozen_part(model):
    """All tensors of the network but the head's, its batch-norm statistics among them."""
    return {k: v for k, v in model.network.state_dict().items() if not k.startswith("fc.")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("how", ["linear-probe", "anchored-probe"])
def test_a_probe_changes_nothing_but_the_head(anchored, digits, how, tmp_path):
    before = {k: v.clone() for k, v in anchored.state_dict().items()}
    made = adapt(anchored, *digits[:2], how=how, out=tmp_path, **QUICK)
    assert same(frozen_part(made.model), frozen_part(anchored))
    assert same(anchored.state_dict(), before)
    assert made.model.class_names == ["1", "4", "7"]
    assert made.model.num_outputs == 3
    # The bank is of the new images: as many as there were.
    assert len(made.model.references) == 3
    pixels = digits[0].images.float() / 255
    assert all(any(torch.equal(r, x) for x in pixels) for r in made.model.references)
    assert made.model.reject["coverage"] == 0.95


def test_an_anchored_probe_without_masking_and_with_one_reference_is_the_plain_one(body, digits):
    """A converted plain model computes the same for every reference, so the two are one problem."""
    plain = adapt(body, *digits[:2], how="linear-probe", strength=0.01, **QUICK)
    drawn = adapt(body, *digits[:2], how="anchored-probe", alpha=0.0, drawn=1, strength=0.01, **QUICK)
    assert drawn.record["converted"]
    torch.testing.assert_close(drawn.model.network.fc.weight, plain.model.network.fc.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(drawn.model.predict(IMAGES).logits, plain.model(IMAGES), rtol=1e-3, atol=1e-4)


def test_masking_makes_a_probe_even_where_the_reference_is_hidden(anchored, digits):
    pixels = digits[0].images.float() / 255
    hidden = torch.ones(len(pixels), dtype=torch.bool)
    entropy = {}
    for alpha in (0.0, 0.4):
        made = adapt(anchored, *digits[:2], how="anchored-probe", alpha=alpha, strength=1e-3, **QUICK).model
        with torch.no_grad():
            probs = made(pixels, references=pixels.roll(1, 0), mask=hidden).softmax(1)
        entropy[alpha] = float(-(probs * probs.log()).sum(1).mean())
    assert entropy[0.4] > entropy[0.0]


@pytest.mark.parametrize("kind", ["body", "anchored"])
def test_lp_ft_starts_from_the_probe_and_wise_ft_lies_between(kind, digits, tmp_path, request):
    model, (train, val, _) = request.getfixturevalue(kind), digits
    made = {how: adapt(model, train, val, how=how, out=tmp_path, **QUICK) for how in ("linear-probe", "lp-ft")}
    probe, tuned = (each.model for each in made.values())
    start = kedge.load(tmp_path / "lp-ft" / "start")
    torch.testing.assert_close(start(IMAGES), probe(IMAGES), rtol=1e-5, atol=1e-5)
    assert not same(frozen_part(tuned), frozen_part(model))
    for share, end in ((0.0, probe), (1.0, tuned)):
        out = tmp_path / f"at-{share}"
        out.mkdir()
        shutil.copy(tmp_path / "adapted.json", out)
        for each in made.values():  # the ends that are there already are taken
            (out / each.how).symlink_to(each.folder)
        found = adapt(model, train, val, how="wise-ft", out=out, share=share, **QUICK).model
        assert same(found.network.state_dict(), end.network.state_dict())
        torch.testing.assert_close(found(IMAGES), end(IMAGES))
    half = adapt(model, train, val, how="wise-ft", out=tmp_path, **QUICK).model
    middle = (probe.network.fc.weight + tuned.network.fc.weight) / 2
    torch.testing.assert_close(half.network.fc.weight, middle)
    chosen = adapt(model, train, val, how="wise-ft", out=tmp_path / "at-0.0", share=0.0, **QUICK)
    assert chosen.record["share"] == 0.0
    assert json.loads((tmp_path / "lp-ft" / "run.json").read_text())["adaptation"]["lr"] == pytest.approx(
        0.1 * 0.02 * 32 / 128
    )


@pytest.mark.parametrize("few", [False, True])
def test_lp_ft_with_label_smoothing_starts_from_logits_of_its_size(few, anchored, digits, tmp_path):
    """No answer changes, and no other size has a smaller smoothed loss on images that the head was not fitted on."""
    (train, val, _), objective = digits, [{"Anchored": {"alpha": 0.0}}, {"CrossEntropy": {"label_smoothing": 0.2}}]
    given = {"objective": objective, "out": tmp_path, "strength": 1e-4, **QUICK}
    adapted = adapt(anchored, train, None if few else val, how="lp-ft", **given)
    start = kedge.load(tmp_path / "lp-ft" / "start").eval()
    probe = kedge.load(tmp_path / "linear-probe" / "model")
    size = adapted.record["temperature"]
    assert size > 1.2  # hardly regularised
    torch.testing.assert_close(start.network.fc.weight * size, probe.network.fc.weight)
    torch.testing.assert_close(start.network.fc.bias * size, probe.network.fc.bias)
    if not few:
        logits = start.predict(val.images.float() / 255).logits
        loss = [float(nn.functional.cross_entropy(logits * k, val.labels, label_smoothing=0.2)) for k in (0.9, 1, 1.1)]
        assert loss[1] < min(loss[0], loss[2])


def test_a_handful_of_validation_images_does_not_set_the_size_of_the_logits(anchored, digits, tmp_path):
    """Two that the probe gets wrong would make its head a hundredth; no validation images at all set it by folds."""
    train, val, _ = digits
    objective = [{"Anchored": {"alpha": 0.0}}, {"CrossEntropy": {"label_smoothing": 0.2}}]
    given = {"objective": objective, "strength": 1e-3, **QUICK}
    of_class = train.labels.bincount().argmax()
    wrong = val.subset((val.labels != of_class).nonzero()[:2, 0]).relabelled(torch.full((2,), int(of_class)))
    sizes = [adapt(anchored, train, images, how="lp-ft", **given).record["temperature"] for images in (wrong, None)]
    assert sizes[0] == sizes[1] < 10


def test_a_handful_of_validation_images_does_not_set_the_strength_of_the_probe(body, digits, tmp_path):
    train, val, _ = digits
    for way in ("linear-probe", "anchored-probe"):
        few, none = (adapt(body, train, images, how=way, **QUICK).record for images in (val.subset(range(6)), None))
        assert (few["strength"], few["chosen"]) == (none["strength"], none["chosen"])
        assert "cross-validation" in few["chosen"]
    # Folds of images that the body was trained on would all be right, and of a single image of a class there are none.
    assert "6 validation" in adapt(body, train, val.subset(range(6)), how="two-phase", **QUICK).record["chosen"]
    alone = torch.cat([(train.labels == label).nonzero()[:count, 0] for label, count in enumerate((9, 9, 1))])
    assert "6 validation" in adapt(body, train.subset(alone), val.subset(range(6)), **QUICK).record["chosen"]


def test_wise_ft_hands_over_no_average_below_the_probe(body, digits, monkeypatch, caplog):
    """Fine-tuning turned all answers round: nine tenths of that are worse than the probe, four tenths are not."""
    train, val, _ = digits

    def turned(context, start, factor):
        model = copy.deepcopy(start)
        for parameter in model.network.fc.parameters():
            parameter.data.neg_()
        return model

    monkeypatch.setattr(lp_ft, "tune", turned)
    smoothing = {**QUICK, "objective": [{"CrossEntropy": {"label_smoothing": 0.2}}], "strength": 1e-4}
    low = adapt(body, train, val, how="wise-ft", share=0.9, **smoothing)
    start, there = (row["accuracy"] for row in low.record["curve"])
    assert there < start
    assert low.record["share"] == 0.0
    assert caplog.text.count("handed over is the probe") == 1
    logits = low.model.predict(val.images / 255).logits
    assert float((logits.argmax(1) == val.labels).float().mean()) == pytest.approx(start)
    # Its logits have the size that lp-ft began with, so that neither head outweighs the other.
    assert low.record["temperature"] > 1.2
    probe = adapt(body, train, val, how="linear-probe", **smoothing).model.predict(val.images / 255).logits
    torch.testing.assert_close(logits * low.record["temperature"], probe, rtol=1e-4, atol=1e-4)
    assert adapt(body, train, val, how="wise-ft", share=0.4, **smoothing).record["share"] == 0.4
    few = adapt(body, train, val.subset(range(20)), how="wise-ft", share=0.9, **smoothing).record
    assert (few["share"], "curve" in few) == (0.9, False)  # twenty are too few to take back by what was set


def test_the_share_is_chosen_on_validation_images(body, digits, tmp_path):
    made = adapt(body, *digits[:2], how="wise-ft", share="val", out=tmp_path, **QUICK)
    curve = {row["share"]: row["accuracy"] for row in made.record["curve"]}
    assert len(curve) == 11
    assert curve[made.record["share"]] == max(curve.values())
    with pytest.raises(ValueError, match=r"none here .*: give a number"):
        adapt(body, digits[0], how="wise-ft", share="val", out=tmp_path / "few", **QUICK)
    assert not (tmp_path / "few").exists()  # before anything is trained


def test_a_folder_is_not_handed_back_for_something_else(body, digits, tmp_path):
    train, val, _ = digits
    given = {"how": "linear-probe", "out": tmp_path, **QUICK}
    first = adapt(body, train, val, source="one", data="digits", **given).model
    # Names identify nothing, and neither do settings that the probe does not use.
    again = adapt(body, train, val, source="two", share="val", lr=1.0, **{**given, "epochs": 7}).model
    assert same(first.state_dict(), again.state_dict())
    other = copy.deepcopy(body)
    with torch.no_grad():
        other.network.fc.bias.add_(1)
    for model, images, more, said in (
        (other, train, {}, "weights of the model differ"),
        (body, train.subset(range(50)), {}, "training images differ"),
        (body, train, {"strength": 0.5}, "strength is left open there, 0.5 here"),
        (body, train, {"how": "lp-ft", "seed": 3}, "linear-probe was made otherwise .seed is 0 there, 3 here"),
    ):
        with pytest.raises(ValueError, match=f"{said}.*another folder"):
            adapt(model, images, val, **{**given, **more})
    assert not (tmp_path / "lp-ft").exists()
    (tmp_path / "adapted.json").unlink()
    with pytest.raises(ValueError, match="does not say what it was adapted from"):
        adapt(body, train, val, **given)


def test_finetune_is_a_run_that_the_commands_take(body, digits, tmp_path):
    made = adapt(body, *digits[:2], how="finetune", out=tmp_path, data="digits", source="mine", **QUICK)
    again = kedge.load(made.folder)
    torch.testing.assert_close(again(IMAGES), made.model(IMAGES))
    from kedge.cli.resolve_model import find

    recipe = find(str(made.folder)).recipe()
    assert (recipe["data"], recipe["model"], recipe["init_from"]) == ("digits", "kedge_resnet_small", "mine")
    assert not same(frozen_part(made.model), frozen_part(body))


def test_without_validation_images_nothing_is_chosen_by_them(body, digits, tmp_path):
    few = draw_shots(digits[0], 2, seed=1)
    for how in ("linear-probe", "finetune"):
        made = adapt(body, few, how=how, out=tmp_path, **QUICK)
        assert made.model.reject is None
        assert kedge.load(made.folder).reject is None
        facts = json.loads((made.folder / "run.json").read_text())
        assert (facts["validation"], facts["data"]["val"]) == ({}, 0)


def test_training_images_that_stand_in_take_no_training_back(body, digits, tmp_path, caplog):
    """The probe is right on all that it was fitted on: held against that, what training gives is hardly ever kept."""
    few = draw_shots(digits[0], 3, seed=1)
    made = adapt(body, few, how="lp-ft", out=tmp_path, epochs=2, lr=3.0)
    probe = kedge.load(tmp_path / "linear-probe")
    assert float((predict_logits(probe, few)[0].argmax(1) == few.labels).double().mean()) == 1
    assert float((predict_logits(made.model, few)[0].argmax(1) == few.labels).double().mean()) < 1
    assert "start" not in json.loads((made.folder / "run.json").read_text())
    assert "validation images" not in caplog.text
    trained = torch.load(made.folder / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in made.model.state_dict().items())


def test_the_same_seed_gives_the_same_models(anchored, digits):
    for how in ("anchored-probe", "lp-ft"):
        one, two = (adapt(anchored, *digits[:2], how=how, seed=4, **QUICK).model for _ in range(2))
        assert same(one.state_dict(), two.state_dict())


def test_a_run_that_was_killed_goes_on(body, digits, tmp_path, monkeypatch):
    whole = adapt(body, *digits[:2], how="finetune", out=tmp_path / "whole", **{**QUICK, "epochs": 3})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            adapt(body, *digits[:2], how="finetune", out=tmp_path / "cut", **{**QUICK, "epochs": 3})
    assert (tmp_path / "cut" / "finetune" / "last.ckpt").is_file()
    on = adapt(body, *digits[:2], how="finetune", out=tmp_path / "cut", **{**QUICK, "epochs": 3})
    assert same(on.model.state_dict(), whole.model.state_dict())


def test_any_module_is_taken(digits, tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 6))
    with pytest.warns(UserWarning, match="has no name in timm"):
        made = adapt(module, *digits[:2], how="lp-ft", out=tmp_path, **QUICK)
    assert made.record["head"] == "4"
    assert made.model(IMAGES).shape == (5, 3)
    # Found again, with the network handed over.
    assert torch.equal(adapt(module, *digits[:2], how="lp-ft", out=tmp_path, **QUICK).model(IMAGES), made.model(IMAGES))


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 6), nn.Linear(64, 6)

    def forward(self, x):
        return (self.one(x.flatten(1)) + self.two(x.flatten(1))) / 2


def test_heads_are_found_and_named(body):
    assert find_head(body) == "fc"
    assert find_head(anchor(body)) == "fc"
    two = kedge.plain(TwoHeads(), example=(1, 8, 8))
    with pytest.raises(ValueError, match=r"tried two, one.*Name one with head: one, two"):
        find_head(two)
    with pytest.warns(UserWarning, match="something follows it"):
        assert find_head(two, "one") == "one"
    with pytest.raises(ValueError, match="no such linear layer"):
        find_head(body, "classifier")
    with pytest.raises(ValueError, match="is not the last layer"):
        with_head(two, "one", ["a", "b", "c"])


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "torchvision/mobilenet_v3_small"])
def test_a_model_with_a_new_head_is_saved_and_loaded_by_name(name, tmp_path):
    from kedge import networks

    torch.manual_seed(0)
    size = 64 if "/" in name else 32
    network = networks.create(name, 9, 3, size)
    with torch.no_grad():
        for parameter in network.parameters():  # some start with a head of zeros
            if parameter.ndim > 1:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    model = kedge.plain(network, example=(3, size, size)).eval()
    made = with_head(model, find_head(model), ["a", "b"], seed=1)
    images = torch.rand(2, 3, size, size)
    assert made(images).shape == (2, 2)
    torch.testing.assert_close(kedge.load(kedge.save(made, tmp_path / "m"))(images), made(images))


def test_shots_are_counted_drawn_and_nested(digits):
    train = digits[0]
    five, one = (draw_shots(train, k, seed=3, draw=1) for k in (5, 1))
    assert torch.bincount(five.labels).tolist() == [5, 5, 5]
    assert set(one.keys()) <= set(five.keys())
    assert draw_shots(train, 5, seed=3, draw=1).keys() == five.keys()
    assert draw_shots(train, 5, seed=3, draw=2).keys() != five.keys()
    assert draw_shots(train, None) is train
    with pytest.raises(ValueError, match=r"100 shots: class .* images to draw from"):
        draw_shots(train, 100)
    with pytest.raises(ValueError, match="1 or more"):
        draw_shots(train, 0)


def test_what_cannot_be_is_said_first(body, digits, tmp_path):
    train, val, _ = digits
    with pytest.raises(ValueError, match="did you mean anchored_probe"):
        adapt(body, train, val, how="anchor-probe")
    with pytest.raises(ValueError, match="has one class"):
        adapt(body, train.only_classes(["1"]))
    with pytest.raises(ValueError, match="validation images"):
        adapt(body, train, val.only_classes(["1", "4"]))
    with pytest.raises(ValueError, match="no training images of class 7"):
        adapt(body, train.subset(train.labels < 2))
    with pytest.raises(ValueError, match=r"takes images of 1x8x8 .*image_size=8, channels=1"):
        adapt(body, data.load("digits", "train", image_size=12))
    for wrong in ({"alpha": 1.0}, {"share": 1.5}, {"share": "best"}, {"drawn": 0}, {"strength": 0.0}, {"lr": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Settings(**wrong).check()


def test_the_features_of_a_body_do_not_depend_on_its_mode(body, digits):
    torch.testing.assert_close(features(body.train(), "fc", digits[0]), features(body.eval(), "fc", digits[0]))
