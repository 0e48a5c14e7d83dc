import copy

import pytest
import timm
import torch
from torch import nn

import kedge
from kedge.attacks import PGD
from kedge.weights import interpolate_models, reestimate_batch_norm


def test_one_batch_gives_the_mean_and_unbiased_variance_of_the_data(normed):
    images = torch.rand(10, 2, 2, 2, dtype=torch.float64)
    normed.double()[0].momentum = 0.3
    normed[0].running_mean.fill_(99)
    assert reestimate_batch_norm(normed, [images]) == 1
    torch.testing.assert_close(normed[0].running_mean, images.mean((0, 2, 3)))
    torch.testing.assert_close(normed[0].running_var, images.var((0, 2, 3)))
    assert int(normed[0].num_batches_tracked) == 1
    assert normed[0].momentum == 0.3


def test_batches_count_the_same_as_in_torch(normed):
    batches = [torch.rand(n, 2, 2, 2) for n in (8, 8, 3)]
    other = copy.deepcopy(normed)
    torch.optim.swa_utils.update_bn(batches, other)
    normed[0].running_var.fill_(7)
    assert reestimate_batch_norm(normed, batches) == 3
    for name, value in normed.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])
    by_hand = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(normed[0].running_mean, by_hand)


def test_tuples_and_bytes(normed):
    levels = torch.randint(0, 256, (6, 2, 2, 2), dtype=torch.uint8)
    other = copy.deepcopy(normed)
    reestimate_batch_norm(normed, [(levels, torch.zeros(6))])
    reestimate_batch_norm(other, [levels.float() / 255])
    assert torch.equal(normed[0].running_mean, other[0].running_mean)


def test_the_modes_come_back(normed):
    normed.eval()
    normed[2].train()
    reestimate_batch_norm(normed, [torch.rand(4, 2, 2, 2)])
    assert [module.training for module in normed.modules()] == [False, False, False, True]


def test_nothing_is_read_without_batch_norm():
    def never():
        raise AssertionError("read")
        yield

    vit = timm.create_model("test_vit", num_classes=2)
    before = copy.deepcopy(vit.state_dict())
    assert reestimate_batch_norm(vit, never()) == 0
    assert all(torch.equal(before[name], value) for name, value in vit.state_dict().items())
    untracked = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    assert reestimate_batch_norm(untracked, never()) == 0


def test_an_error_leaves_everything_as_it_was(normed):
    normed.eval()
    reestimate_batch_norm(normed, [torch.rand(4, 2, 2, 2)])
    before = copy.deepcopy(normed.state_dict())
    with pytest.raises(RuntimeError):
        reestimate_batch_norm(normed, [torch.rand(4, 2, 2, 2), torch.rand(4, 5, 2, 2)])
    with pytest.raises(ValueError, match="there was no batch of images"):
        reestimate_batch_norm(normed, iter(()))
    assert all(torch.equal(before[name], value) for name, value in normed.state_dict().items())
    assert not normed.training
    assert normed[0].momentum == 0.1


def test_an_anchored_model_draws_references_by_the_seed_alone(anchoreds):
    a, b = anchoreds
    batches = list(torch.rand(4, 16, 1, 8, 8))
    found = []
    for draws, seed in ((1, 0), (2, 0), (1, 5)):
        model = interpolate_models(a, b, 0.5)
        torch.manual_seed(draws)
        state = torch.get_rng_state()
        assert reestimate_batch_norm(model, batches, seed) == 4
        assert torch.equal(torch.get_rng_state(), state)
        assert not model.training
        # The variance: every image is a reference once, so the mean of a first layer says nothing of who got which.
        found.append(next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_var)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_a_layer_sees_afterwards_is_normalised(resnets):
    """Interpolated statistics do not fit interpolated weights; estimated ones do."""
    model = kedge.plain(interpolate_models(*resnets, 0.5), example=(1, 8, 8))
    batches = [torch.rand(64, 1, 8, 8) for _ in range(3)]
    reestimate_batch_norm(model, batches)
    seen = []
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    handle = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.eval()
    for batch in batches:
        model(batch)
    handle.remove()
    torch.testing.assert_close(norm.running_mean, torch.cat(seen).mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


# Images under attack


def brighter(model, images, labels):
    return images + 0.1 * labels.view(-1, 1, 1, 1)


def test_what_passes_is_what_the_attack_makes_of_the_images(normed):
    normed.double()
    levels, labels = torch.randint(0, 256, (10, 2, 2, 2), dtype=torch.uint8), torch.arange(10)
    assert reestimate_batch_norm(normed, [(levels, labels)], attack=lambda m, x, y: brighter(m, x.double(), y)) == 1
    shifted = levels.double() / 255 + 0.1 * torch.arange(10).view(10, 1, 1, 1)
    torch.testing.assert_close(normed[0].running_mean, shifted.mean((0, 2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normed[0].running_var, shifted.var((0, 2, 3)), rtol=1e-6, atol=1e-6)


def test_what_is_attacked_is_the_model_as_it_was(normed):
    normed[0].running_mean.fill_(3)
    normed.train()
    before, seen = copy.deepcopy(normed.state_dict()), []

    def look(model, images, labels):
        assert torch.is_grad_enabled()
        assert model is not normed
        assert not any(module.training for module in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())
        seen.append(copy.deepcopy(model.state_dict()))
        return images

    batches = [(torch.rand(4, 2, 2, 2), torch.zeros(4, dtype=torch.long)) for _ in range(2)]
    assert reestimate_batch_norm(normed, batches, attack=look) == 2
    for each in seen:
        assert all(torch.equal(each[name], value) for name, value in before.items())
    assert len(seen) == 2
    assert all(weight.requires_grad and weight.grad is None for weight in normed.parameters())
    assert normed.training


def test_a_gradient_attack_and_its_draws_come_from_the_seed(resnets):
    batches = [(torch.rand(16, 1, 8, 8), torch.arange(16) % 5) for _ in range(3)]
    found = {}
    for name, draws, seed, attack in (
        ("clean", 0, 0, None),
        ("one", 1, 0, PGD(0.2, 2).training()),
        ("same", 2, 0, PGD(0.2, 2).training()),
        ("other", 1, 5, PGD(0.2, 2).training()),
    ):
        model = interpolate_models(*resnets, 0.5)
        torch.manual_seed(draws)
        state = torch.get_rng_state()
        reestimate_batch_norm(model, batches, seed, attack)
        assert torch.equal(torch.get_rng_state(), state)
        found[name] = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)).running_var
    assert torch.equal(found["one"], found["same"])
    assert not torch.equal(found["one"], found["other"])
    assert not torch.allclose(found["one"], found["clean"], rtol=0.02)
    # An attack without draws, by hand: the images of the untouched model, then torch's own estimate.
    attack, model = PGD(0.2, 2, random_start=False), interpolate_models(*resnets, 0.5).eval()
    made = [attack(model, images, labels) for images, labels in batches]
    reestimate_batch_norm(model, batches, attack=attack)
    other = interpolate_models(*resnets, 0.5)
    torch.optim.swa_utils.update_bn(made, other)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])


def test_an_anchored_model_is_attacked_with_the_references_of_the_pass(anchoreds):
    """As in training, where references are images of the batch before the attack, and the attack knows them."""
    model = interpolate_models(*anchoreds, 0.5)
    images, labels = torch.rand(16, 1, 8, 8), torch.arange(16) % 5
    faced, passed = [], []

    def attack(view, pixels, targets):
        inside = next(m for m in view.modules() if isinstance(m, kedge.AnchoredModel))
        handle = inside.register_forward_pre_hook(lambda m, args, given: faced.append(given), with_kwargs=True)
        view(pixels)
        handle.remove()
        return (pixels + 0.3).clamp(0, 1)

    handle = model.register_forward_pre_hook(lambda m, args, given: passed.append((args, given)), with_kwargs=True)
    reestimate_batch_norm(model, [(images, labels)], attack=attack)
    handle.remove()
    ((shown,), given), references = passed[-1], faced[0]["references"]  # the copy has the hook, too
    assert torch.equal(shown, (images + 0.3).clamp(0, 1))
    assert torch.equal(given["references"], references)
    places = (references.flatten(1)[:, None] == images.flatten(1)).all(2).int().argmax(1)
    assert sorted(places.tolist()) == list(range(16))
    assert not bool((places == torch.arange(16)).any())


@pytest.mark.parametrize("batch", [torch.rand(4, 2, 2, 2), (torch.rand(4, 2, 2, 2),)])
def test_an_attack_needs_labels(normed, batch):
    before = copy.deepcopy(normed.state_dict())
    with pytest.raises(ValueError, match=r"an attack needs labels: give batches \(images, labels\)"):
        reestimate_batch_norm(normed, [batch], attack=brighter)
    assert all(torch.equal(before[name], value) for name, value in normed.state_dict().items())
