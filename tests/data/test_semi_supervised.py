"""Labels of a model, joined sets and quarter turns."""

import copy

import pytest
import torch

import kedge
from kedge import networks
from kedge.adaptation import find_head, with_head
from kedge.data import DataError, TensorSet, joined, pseudo_labelled, rotated
from kedge.training import fit


@pytest.fixture(scope="module")
def digits():
    return kedge.data.load("digits", "train").only_classes("147").subset(range(60))


@pytest.fixture(scope="module")
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 4})
        network(torch.rand(64, 1, 8, 8))
    plain = kedge.plain(network, mean=0.3, std=0.5, example=(1, 8, 8)).train()
    plain.class_names = ["1", "4", "7"]
    return plain


def test_labels_are_the_answers_of_the_model_in_eval_mode(model, digits):
    before, mode = digits.labels.clone(), model.training
    labelled = pseudo_labelled(model, digits, batch_size=7)
    with torch.no_grad():
        answers = copy.deepcopy(model).eval()(digits.images / 255).argmax(1)
    assert torch.equal(labelled.labels, answers)
    assert torch.equal(digits.labels, before)
    assert (labelled.images is digits.images, model.training) == (True, mode)
    assert labelled.name == "digits (labels of a model)"
    # What the images were called before is not looked at.
    other = digits.relabelled(torch.zeros_like(before))
    other.class_names = ["unlabelled"]
    assert torch.equal(pseudo_labelled(model, other).labels, answers)


def test_an_anchored_model_answers_with_its_bank(model, digits):
    anchored = kedge.anchor(copy.deepcopy(model)).eval()
    anchored.class_names, anchored.references = ["1", "4", "7"], digits.images[:3] / 255
    assert torch.equal(pseudo_labelled(anchored, digits).labels, anchored.predict(digits.images / 255).label)


def test_joined_sets_are_both_in_order(digits):
    first, second = digits.subset(range(20)), digits.subset(range(20, 60))
    both = joined(first, second)
    assert torch.equal(both.images, digits.images)
    assert torch.equal(both.labels, digits.labels)
    assert both.keys() == digits.keys()
    assert both.mirror is digits.mirror
    assert joined(digits, digits.subset([])).fingerprint() == digits.fingerprint()


def test_turns(digits):
    turned = rotated(digits)
    assert len(turned) == 240
    assert turned.labels[:5].tolist() == [0, 1, 2, 3, 0]
    assert turned.mirror is False
    by_hand = digits.images[2, 0].T.flip(0)  # a quarter turn to the left
    assert torch.equal(turned.images[9, 0], by_hand)
    for turns in range(4):
        back = turned.images[turned.labels == turns].rot90(4 - turns, (2, 3))
        assert torch.equal(back, digits.images)


def test_images_that_look_the_same_when_turned_are_at_chance():
    ring = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
    ring[:, :, 2:6, 2:6] = torch.arange(8, dtype=torch.uint8)[:, None, None, None] * 20
    turned = rotated(TensorSet(ring, torch.zeros(8).long(), ["ring"]))
    groups = turned.images.view(8, 4, -1)
    assert (groups == groups[:, :1]).all()  # whatever a network answers, it is right about one in four


def test_the_body_stays_when_its_head_is_replaced_and_trains_on(digits, tmp_path):
    turned, how = rotated(digits), {"progress": False, "report": False}
    recipe = {"model": "kedge_resnet_small", "arguments": {"width": 4}, "anchored": False, "epochs": 1, "device": "cpu",
              "objective": ["CrossEntropy"], "batch_size": 40, "workers": 0, "keep": "last"}  # fmt: skip
    first = {**recipe, "runs": str(tmp_path), "name": "turns"}
    learnt = fit(first, sets=(turned.subset(range(200)), turned.subset(range(200, 240))), **how).model
    start = with_head(learnt, find_head(learnt), digits.class_names)
    before, after = learnt.network.state_dict(), start.network.state_dict()
    body = [name for name in before if not name.startswith("fc.")]
    assert all(torch.equal(before[name], after[name]) for name in body)
    second = {key: value for key, value in recipe.items() if key not in ("model", "arguments")}
    second |= {"runs": str(tmp_path), "name": "classes"}
    result = fit(second, sets=(digits.subset(range(50)), digits.subset(range(50, 60))), start=start, **how)
    assert result.model.class_names == ["1", "4", "7"]


def test_what_cannot_be_is_refused_in_words(model, digits):
    nameless = copy.deepcopy(model)
    nameless.class_names = None
    wide = TensorSet(torch.zeros(3, 1, 8, 6, dtype=torch.uint8), torch.zeros(3).long(), ["1", "4", "7"])
    named = digits.relabelled(digits.labels)
    named.class_names = ["4", "1", "7"]
    in_files = copy.copy(digits)
    in_files.__class__ = kedge.data.ImageSet
    mistakes = [
        (lambda: pseudo_labelled(nameless, digits), ValueError, "what its classes are called"),
        (lambda: pseudo_labelled(torch.nn.Linear(2, 2), digits), ValueError, "a classifier of kedge"),
        (lambda: pseudo_labelled(model, wide), ValueError, "the model takes images of 1x8x8"),
        (lambda: pseudo_labelled(model, digits.subset([])), ValueError, "no images to label"),
        (lambda: pseudo_labelled(model, digits.images), TypeError, "must be an image set"),
        (lambda: joined(digits, named), ValueError, "they are in another order"),
        (lambda: joined(digits, wide), ValueError, "those of custom 1x8x6"),
        (lambda: joined(digits, in_files), DataError, "is not in memory"),
        (lambda: rotated(wide), ValueError, "only square images"),
        (lambda: rotated(in_files), DataError, "is not in memory"),
    ]
    for mistake, kind, words in mistakes:
        with pytest.raises(kind, match=words):
            mistake()
