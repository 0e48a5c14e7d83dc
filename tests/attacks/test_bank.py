import pytest
import torch
from torch import nn

from kedge.attacks import PGD, Bank, distance


@pytest.mark.parametrize("references", [None, 1, 3, "tensor"])
@pytest.mark.parametrize("max_rows", [None, 1, 5, 24, 1000])
def test_bank_is_predict_with_gradients(anchored, batch, references, max_rows):
    images, _ = batch
    given = torch.rand(4, 3, 8, 8) if references == "tensor" else references
    bank = Bank(anchored, given, max_rows=max_rows)
    truth = anchored.predict(images, given).logits
    leaf = images.clone().requires_grad_()
    logits = bank(leaf)
    torch.testing.assert_close(logits, truth, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(bank(images), truth, atol=1e-6, rtol=1e-5)
    weights = torch.randn(5)
    (found,) = torch.autograd.grad((logits @ weights).sum(), leaf)
    # The gradient of a mean is the mean of the gradients.
    used = anchored.references[:given] if not isinstance(given, torch.Tensor) else given
    each = []
    for reference in used:
        again = images.clone().requires_grad_()
        each.append(torch.autograd.grad((anchored(again, references=reference[None]) @ weights).sum(), again)[0])
    torch.testing.assert_close(found, torch.stack(each).mean(0), atol=1e-6, rtol=1e-4)


def test_temperature_is_part_of_what_is_attacked(anchored, batch):
    images, _ = batch
    before = Bank(anchored)(images).detach()
    anchored.set_temperature(2.5)
    for references in (None, 2):
        truth = anchored.predict(images, references).logits
        torch.testing.assert_close(Bank(anchored, references)(images).detach(), truth, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(Bank(anchored)(images).detach() * 2.5, before)


def test_activations_are_bounded(anchored, batch):
    images, _ = batch
    rows = []
    anchored.network.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    Bank(anchored, max_rows=24)(images.requires_grad_()).sum().backward()
    assert max(rows) <= 24
    rows.clear()
    Bank(anchored, max_rows=5)(images).sum().backward()
    assert max(rows) <= 5


def test_attacking_the_bank_beats_attacking_one_reference(anchored, batch):
    images, _ = batch
    bank = Bank(anchored)
    labels = anchored.predict(images).label
    attack = PGD(0.06, 20, loss="margin", keep="last")

    def margin(adversarial):
        logits = anchored.predict(adversarial).logits
        own = logits.gather(1, labels[:, None])[:, 0]
        return float((own - logits.scatter(1, labels[:, None], -1e9).amax(1)).mean())

    assert margin(attack(bank, images, labels)) < margin(attack(anchored, images, labels)) < margin(images)


def test_expectation_over_references(anchored, batch):
    images, labels = batch
    bank = Bank(anchored)
    attack = PGD(0.05, 6, over_references=3)
    found = attack(bank, images, labels)
    assert float(distance(found, images).max()) <= 0.05 + 1e-6
    assert torch.equal(found, attack(anchored, images, labels))
    before, after = (nn.functional.cross_entropy(bank(x), labels).detach() for x in (images, found))
    assert float(after) > float(before)
    # An image's references do not depend on its batch.
    parts = [attack(bank, images[i : i + 5], labels[i : i + 5], indices=range(i, min(i + 5, 12))) for i in (0, 5, 10)]
    torch.testing.assert_close(torch.cat(parts), found, atol=1e-5, rtol=0)
    # With a bank of one reference there is nothing to average.
    single = Bank(anchored, 1)
    one = PGD(0.05, 4, over_references=2, random_start=False)(single, images, labels)
    torch.testing.assert_close(one, PGD(0.05, 4, random_start=False)(single, images, labels), atol=1e-5, rtol=0)


def test_the_first_step_of_expectation_is_the_mean_gradient_of_its_draws(anchored, batch):
    images, labels = batch
    drawn = []
    bank = Bank(anchored)
    original = bank.single
    bank.single = lambda x, index: drawn.append(index) or original(x, index)
    attack = PGD(0.02, 1, 0.02, random_start=False, over_references=4, keep="last")
    found = attack(bank, images, labels)
    assert len(drawn) == 4
    assert all(0 <= int(i) < 7 for index in drawn for i in index)
    total = torch.zeros_like(images)
    for index in drawn:
        leaf = images.clone().requires_grad_()
        losses = nn.functional.cross_entropy(anchored(leaf, references=anchored.references[index]), labels)
        total += torch.autograd.grad(losses, leaf)[0]
    torch.testing.assert_close(found, (images + 0.02 * total.sign()).clamp(0, 1))


def test_modes_of_an_anchored_model(anchored, batch):
    images, labels = batch
    anchored.train()
    bank = Bank(anchored)
    anchored.network.norm.eval()
    modes = [m.training for m in bank.modules()]
    PGD(0.03, 2, over_references=1)(bank, images, labels)
    PGD(0.03, 2, early_stop=True)(bank, images, labels)
    assert [m.training for m in bank.modules()] == modes
    assert bank.training


def test_what_bank_refuses(anchored, net):
    with pytest.raises(TypeError, match="anchored"):
        Bank(net)
    with pytest.raises(ValueError, match="no gradient"):
        Bank(anchored, "blt")
    with pytest.raises(ValueError, match="holds 7"):
        Bank(anchored, 8)
    with pytest.raises(ValueError, match="max_rows"):
        Bank(anchored, max_rows=0)
