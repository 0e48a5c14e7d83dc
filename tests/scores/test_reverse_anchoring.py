"""Reverse anchoring against passes by hand; what has no references is left out or refused."""

import pytest
import torch
from torch import nn

import kedge
from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.evaluation.sets import labelled_few
from kedge.scores import MSP, ReverseAnchoring, outputs_of, usual


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4))
    model = kedge.anchor(network, example=(3, 8, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.references = torch.rand(3, 3, 8, 8)
    return model


def pixels(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch", [1, 5, 40])
def test_is_how_labelled_images_are_read_with_the_image_as_reference(model, batch):
    images, anchors, labels = pixels(batch, 1), pixels(7, 2), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    losses = outputs_of(model, images, reverse=(anchors, labels)).reverse
    assert losses.shape == (batch, 7)
    model.eval()
    for i in range(min(batch, 5)):
        for k in range(7):
            with torch.no_grad():
                logits = model.network_logits(anchors[k : k + 1], images[i : i + 1])
            assert float(losses[i, k]) == pytest.approx(
                float(nn.functional.cross_entropy(logits, labels[k : k + 1])), abs=1e-4
            )
    mean, worst = (ReverseAnchoring(over, (anchors, labels))(model, images) for over in ("mean", "worst"))
    torch.testing.assert_close(mean, -losses.mean(1))
    torch.testing.assert_close(worst, -losses.amax(1))
    assert bool((worst <= mean).all())


def test_does_not_depend_on_the_batch_the_steps_or_the_mode(model):
    images, anchors = pixels(9, 3), (pixels(4, 4), torch.arange(4))
    whole = outputs_of(model, images, reverse=anchors).reverse
    torch.testing.assert_close(whole[3:5], outputs_of(model, images[3:5], reverse=anchors).reverse)
    model.steps = {"temperature": {"value": 3.0}}
    model.train()
    torch.testing.assert_close(whole, outputs_of(model, images, reverse=anchors).reverse)
    assert model.training


def test_right_after_conversion_every_reference_is_as_good():
    network = nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4))
    model = kedge.anchor(network, example=(3, 8, 8))
    losses = outputs_of(model, pixels(6, 5), reverse=(pixels(4, 6), torch.arange(4))).reverse
    torch.testing.assert_close(losses, losses[:1].expand(6, 4), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_asked_is_refused(model):
    images = pixels(2, 7)
    for anchors in ((pixels(0, 1), torch.zeros(0, dtype=torch.long)), (pixels(3, 1), torch.zeros(2, dtype=torch.long))):
        with pytest.raises(ValueError, match="labelled images are needed"):
            outputs_of(model, images, reverse=anchors)
    with pytest.raises(ValueError, match="classes from 0 to 3"):
        outputs_of(model, images, reverse=(pixels(2, 1), torch.tensor([0, 4])))
    with pytest.raises(ValueError, match="mean or worst"):
        ReverseAnchoring("most")
    with pytest.raises(ValueError, match="labelled training images"):
        ReverseAnchoring()(model, images)
    plain = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), example=(3, 8, 8))
    with pytest.raises(ValueError, match="anchored model"):
        ReverseAnchoring(anchors=(pixels(2, 1), torch.arange(2)))(plain, images)
    assert "reverse_anchoring" not in {score.name for score in usual()}


def test_the_labelled_images_are_of_every_class_before_any_is_twice():
    labels = torch.tensor([0] * 50 + [1] * 8 + [2] * 2)
    train = TensorSet((pixels(60, 8) * 255).byte(), labels, ["a", "b", "c"], "t", "train")
    images, chosen = labelled_few(train, 7, 0)
    assert torch.bincount(chosen).tolist() == [3, 2, 2]
    assert images.shape == (7, 3, 8, 8)
    assert torch.equal(chosen, labelled_few(train, 7, 0)[1])
    assert len(labelled_few(train, 100, 0)[1]) == 60


def sets():
    names = ["a", "b", "c", "d"]
    made = [
        TensorSet((pixels(n, seed) * 255).byte(), torch.arange(n) % 4, names, name, split)
        for n, seed, name, split in ((40, 10, "ours", "test"), (60, 11, "ours", "train"))
    ]
    return *made, TensorSet((pixels(30, 12) * 255).byte(), torch.zeros(30, dtype=torch.long), ["x"], "others")


def test_an_evaluation_asks_for_it_by_name(model, tmp_path):
    test, train, others = sets()
    plain = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), example=(3, 8, 8))
    how = {"shift": (), "ood": others, "train": train, "resamples": 0, "examples": 0, "parts": tmp_path}
    scores = [MSP(), ReverseAnchoring()]
    results = evaluate({"anchored": model, "plain": plain}, test, scores=scores, **how)
    own, other = results["models"]["anchored"], results["models"]["plain"]
    assert own["scores"]["reverse_anchoring"]["fitted_on"] == 16
    anchors, labels = labelled_few(train, 16, 0)
    inside, outside = (
        ReverseAnchoring(anchors=(anchors / 255, labels))(model, images.images / 255) for images in (test, others)
    )
    expected = kedge.metrics.auroc(inside, outside)
    assert own["ood"]["others"]["scores"]["reverse_anchoring"]["auroc"]["value"] == pytest.approx(
        float(expected), abs=0.01
    )
    assert other["skipped_scores"]["reverse_anchoring"] == LACKS
    again = evaluate({"anchored": model}, test, scores=scores, **how)
    assert again["parts_found"] == 3
    without = evaluate({"anchored": model}, test, scores=scores, **{**how, "train": None})["models"]["anchored"]
    assert "training images" in without["skipped_scores"]["reverse_anchoring"]


LACKS = "no image can be the reference of others: the model is not anchored"
