import pytest
import torch
from torch import nn

from kedge.weights import interpolate_models, reestimate_batch_norm, wise_ft_curve


def test_of_two_lines_every_point_is_known():
    a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.constant_(a.weight, 1.0)
    nn.init.constant_(b.weight, 3.0)
    rows = wise_ft_curve(a, b, [0, 0.25, 1], lambda model: {"slope": model(torch.ones(1, 1)).item()})
    assert rows == [{"alpha": 0.0, "slope": 1.0}, {"alpha": 0.25, "slope": 1.5}, {"alpha": 1.0, "slope": 3.0}]


def test_the_ends_keep_their_statistics_and_the_rest_gets_new_ones(anchoreds):
    a, b = anchoreds
    batches = list(torch.rand(3, 16, 1, 8, 8))
    images = torch.rand(5, 1, 8, 8)
    seen = []

    def look(model):
        assert not model.training
        seen.append(model.predict(images).logits)
        return {"clean": float(seen[-1].mean())}

    wise_ft_curve(a, b, [0, 0.5, 1], look, batches, seed=3)
    middle = interpolate_models(a, b, 0.5)
    unlike = middle.predict(images).logits
    reestimate_batch_norm(middle, batches, 3)
    assert torch.equal(seen[0], a.predict(images, references=b.references).logits)
    assert torch.equal(seen[1], middle.predict(images).logits)
    assert not torch.allclose(seen[1], unlike)
    assert torch.equal(seen[2], b.predict(images).logits)


def test_the_statistics_between_are_of_images_under_attack(plains):
    batches = [(torch.rand(16, 1, 8, 8), torch.arange(16) % 5)]
    images, seen = torch.rand(5, 1, 8, 8), []

    def darker(model, pixels, labels):
        return pixels * (labels / 5).view(-1, 1, 1, 1)

    def look(model):
        seen.append(model(images))
        return {}

    wise_ft_curve(*plains, [0, 0.5, 1], look, batches, attack=darker)
    middle = interpolate_models(*plains, 0.5)
    torch.optim.swa_utils.update_bn([darker(None, *batches[0])], middle)
    torch.testing.assert_close(seen[1], middle.eval()(images))
    assert torch.equal(seen[2], plains[1](images))


def test_statistics_that_are_the_same_at_both_ends_are_kept_between(plains):
    """Frozen while one became the other, as in fine-tuning published weights: nothing here is estimated anew."""
    a, b = plains
    frozen = {name: value for name, value in a.state_dict().items() if "running_" in name or "tracked" in name}
    b.load_state_dict({**b.state_dict(), **frozen})
    read, seen = iter(torch.rand(3, 16, 1, 8, 8)), []
    wise_ft_curve(a, b, [0.3, 0.6], lambda model: seen.append(model.state_dict()) or {}, read)
    assert len(list(read)) == 3
    for state in seen:
        assert all(torch.equal(state[name], value) for name, value in frozen.items())


def test_bad_input_is_said_before_anything_is_evaluated(plains):
    def never(model):
        raise AssertionError("evaluated")

    with pytest.raises(ValueError, match="alphas is empty"):
        wise_ft_curve(*plains, [], never)
    with pytest.raises(ValueError, match="alpha must be between 0"):
        wise_ft_curve(*plains, [0.5, 1.5], never)
    with pytest.raises(ValueError, match="can be read only once"):
        wise_ft_curve(*plains, [0.3, 0.6], never, iter([torch.rand(4, 1, 8, 8)]))
    with pytest.raises(ValueError, match='a value called "alpha"'):
        wise_ft_curve(*plains, [0.5], lambda model: {"alpha": 1.0})
