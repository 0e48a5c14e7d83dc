import math

import pytest
import torch

import kedge
from kedge import networks
from kedge.deploy.photos import folded, photos_in, with_mean_reference


def make(name="kedge_resnet_small", channels=3, side=8, k=3, **arguments):
    torch.manual_seed(0)
    network = networks.create(name, 4, channels, side, arguments=arguments)
    model = kedge.anchor(network, mean=0.4, std=0.3, example=(channels, side, side))
    with torch.no_grad():
        for weight in model.stem.reference.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    model.references = torch.rand(k, channels, side, side)
    return model.eval()


def test_photos_are_counted_by_what_is_in_the_model():
    model = make()
    assert photos_in(model) == 3
    model.references = torch.cat([torch.full((2, 3, 8, 8), 0.5), torch.rand(1, 3, 8, 8)])
    assert photos_in(model) == 1
    model.residuals = torch.randn(5, 3, 8, 8)
    assert photos_in(model) == 6
    assert photos_in(model, means_of=100) == 5  # a residual shows a photo whatever the bank is
    model.residuals = None
    assert photos_in(model, means_of=99) == 1
    assert photos_in(model, means_of=100) == 0
    assert photos_in(kedge.plain(networks.create("kedge_resnet_small", 4), example=(3, 8, 8))) == 0
    fresh = kedge.anchor(networks.create("kedge_resnet_small", 4), mean=[0.5, 0.4, 0.3], example=(3, 8, 8))
    assert photos_in(fresh) == 0  # one image of the mean colour


def test_a_folded_photo_counts_and_a_folded_colour_does_not():
    model = make()
    assert photos_in(folded(model)) == 1
    model.references = torch.full((1, 3, 8, 8), 0.7)
    assert photos_in(folded(model)) == 0


class Patches(torch.nn.Module):
    """A patch embedding of 16 pixels, as a ViT has, and a head."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 8, 16, 16)
        self.head = torch.nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.embed(x).flatten(2).mean(2))


@pytest.mark.parametrize("side", [16, 32, 48, 64])
def test_a_photo_folded_into_a_few_patches_counts(side):
    model = kedge.anchor(Patches(), mean=0.4, std=0.3, example=(3, side, side))
    with torch.no_grad():
        model.stem.reference.weight.mul_(0.5)
    model.references = torch.zeros(1, 3, side, side)
    model.references[:, :, :3, :3] = torch.rand(1, 3, 3, 3)  # something in a corner
    assert photos_in(model) == photos_in(folded(model)) == 1


def test_a_folded_vector_cannot_be_told_from_the_bias_and_counts():
    network = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    model = kedge.anchor(network, example=(5,))
    model.references = torch.rand(4, 5)
    assert photos_in(folded(model)) == 1


@pytest.mark.parametrize(
    ("name", "side", "arguments"),
    [("kedge_resnet_small", 8, {"width": 8}), ("test_vit", 160, {}), ("test_convnext", 64, {})],
)
def test_a_folded_model_is_saved_and_gives_the_predictions_of_its_reference(name, side, arguments, tmp_path):
    model = make(name, side=side, **arguments)
    model.class_names, model.reject = list("abcd"), {"threshold": 0.5}
    model.set_temperature(1.5)
    made = folded(model, 1)
    images = torch.rand(5, 3, side, side)
    expected = model.predict(images, references=model.references[1:2])
    assert torch.allclose(made.predict(images).logits, expected.logits, atol=1e-4)
    loaded = kedge.load(kedge.save(made, tmp_path / "folded"))
    assert torch.equal(loaded(images), made(images))
    assert torch.equal(loaded(images[:1]), made(images[:1]))
    assert (loaded.class_names, loaded.reject, loaded.temperature) == (list("abcd"), {"threshold": 0.5}, 1.5)
    loaded.remove_step("temperature")
    assert torch.allclose(loaded(images), 1.5 * made(images), atol=1e-5)
    state = loaded.state_dict()
    assert not any(tensor.shape == model.references.shape for tensor in state.values())


def test_a_tampered_description_of_a_folded_layer_is_refused():
    from kedge.architectures import describe, rebuild

    made = describe(folded(make()))
    assert made["folded"]["layer"] == "stem"
    rebuild(made)
    for change in (
        {"layer": "nothing"},
        {"layer": ""},
        {"layer": "stages"},
        {"shapes": {"map": [2**20, 2**20]}},
        {"shapes": {"map": [-1]}},
        {"shapes": {"weight": [1]}},
        {"plain": 1},
        {"code": "x"},
    ):
        with pytest.raises(ValueError, match=r"folded|fold|layer"):
            rebuild({**made, "folded": {**made["folded"], **change}})


def test_who_knows_the_anchored_weights_gets_the_photo_out_of_the_map():
    """Why a folded photo is counted: least squares, written out, finds it."""
    model = make(width=16)
    stem, shape = model.stem, (3, 8, 8)
    map_ = folded(model).network.stem.map
    black = stem.residual((torch.zeros(1, *shape) - model.mean) / model.std)
    basis = torch.eye(math.prod(shape)).reshape(-1, *shape)
    columns = (stem.reference(basis) - torch.nn.functional.conv2d(basis, stem.residual.weight, padding=1)).flatten(1).T
    solved = torch.linalg.lstsq(columns, (map_ - black).flatten()[:, None]).solution.reshape(shape)
    assert torch.allclose(solved * 0.3 + 0.4, model.references[0], atol=1e-3)


def test_the_mean_takes_the_place_of_the_bank():
    model = make(k=4)
    model.residuals = torch.randn(2, 3, 8, 8)
    made = with_mean_reference(model)
    assert torch.allclose(made.references[0], model.references.mean(0))
    assert made.references.shape == (1, 3, 8, 8)
    assert made.residuals is None
    assert len(model.references) == 4
    image = torch.rand(3, 8, 8)
    assert torch.equal(with_mean_reference(model, image).references[0], image)
    model.prepare_bank(1, 3)  # as references were in training, so is the mean
    assert [with_mean_reference(model, each).bank_prepared for each in (None, image)] == [(1, 3), (1, 3)]
    assert torch.allclose(with_mean_reference(model, image).references[0, :, 4, 4], image[:, 3:6, 3:6].mean((1, 2)))
    with pytest.raises(ValueError, match="single photo, and its mean is that photo"):
        with_mean_reference(make(k=1))
