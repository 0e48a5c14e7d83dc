import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as tv

from kedge.evaluation.inputs import Views


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5))


IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_ten_views_are_torchvisions_ten_crop_of_the_padded_image(net):
    views = list(Views(net, 10, reach=2).views(IMAGES))
    padded = tv.pad(IMAGES, [2], padding_mode="reflect")
    theirs = [crop.flatten() for crop in tv.ten_crop(padded, [16, 16])]
    assert len(views) == len(theirs) == 10
    left = theirs
    for view in views:
        same = [i for i, crop in enumerate(left) if torch.equal(crop, view.flatten())]
        assert same
        left = [crop for i, crop in enumerate(left) if i != same[0]]
    assert torch.equal(views[0], IMAGES)
    assert torch.equal(views[1], IMAGES.flip(3))


def test_logits_are_the_mean_over_views(net):
    for count in (1, 2, 7, 10):
        model = Views(net, count)
        expected = sum(net(view) for view in model.views(IMAGES)) / count
        assert torch.allclose(model(IMAGES), expected, atol=1e-6)
    assert torch.equal(Views(net, 1)(IMAGES), net(IMAGES))
    small = Views(net, 10, reach=0)
    assert torch.allclose(small(IMAGES), Views(net, 2)(IMAGES), atol=1e-6)


def test_what_cannot_be_is_refused(net):
    for count in (0, 11):
        with pytest.raises(ValueError, match="1 to 10"):
            Views(net, count)
    with pytest.raises(ValueError, match="reach"):
        Views(net, 2, -1)
