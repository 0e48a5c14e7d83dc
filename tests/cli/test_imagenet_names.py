"""Folders of images of ImageNet's classes, called as people call them, beside a published network's thousand."""

from types import SimpleNamespace

import pytest
import torch

import kedge.data as kd
from kedge.cli.load_data import with_classes
from kedge.data.label_spaces import among_imagenet, imagenet

MODEL = {"timm": SimpleNamespace(class_names=list(imagenet()))}


def images(names):
    return kd.TensorSet(torch.zeros(2 * len(names), 3, 8, 8, dtype=torch.uint8),
                        torch.arange(len(names)).repeat_interleave(2), names, "photos")  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ["n02123045", "n03063599", "n07920052"],
        ["tabby", "coffee mug", "espresso"],
        ["Tabby_cat", "coffee-mug", "espresso"],
        ["tabby, tabby cat", "coffee mug", "n07920052"],
    ],
    ids=["identifiers", "English", "as folders are called", "all words"],
)
def test_classes_are_found_by_any_of_their_names(names, capsys):
    """The places are ImageNet's own: 281 a tabby, 504 a mug, 967 an espresso."""
    own = with_classes(images(names), MODEL)
    assert own.labels.tolist() == [281, 281, 504, 504, 967, 967]
    assert own.class_names == list(imagenet())
    assert "answers of the other 997 are wrong ones here" in capsys.readouterr().err


def test_all_thousand_by_their_identifiers_in_another_order():
    shuffled = [imagenet()[i] for i in torch.randperm(1000, generator=torch.Generator().manual_seed(0)).tolist()]
    own = with_classes(images(shuffled), MODEL)
    assert own.class_names == list(imagenet())
    assert [own.class_names[label] for label in own.labels[:4]] == [shuffled[0], shuffled[0], shuffled[1], shuffled[1]]


def test_a_name_of_two_classes_is_refused_and_other_classes_are_left_as_they_are():
    """A crane is a bird (134) and a machine (517)."""
    assert among_imagenet(["crane", "tabby"]) == ({"tabby": 281}, ["crane"])
    with pytest.raises(ValueError, match=r"2 of its classes(?s:.*)1 may mean none or several of them: crane\. Call"):
        with_classes(images(["crane", "tabby", "espresso"]), MODEL)
    others = images(["rust", "scratch", "sound"])
    assert with_classes(others, MODEL) is others
    ten = SimpleNamespace(class_names=["tabby", "espresso"])
    assert with_classes(others, {"own": ten}) is others
