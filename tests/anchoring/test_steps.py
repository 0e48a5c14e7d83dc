import copy

import pytest
import torch
from torch import nn

import kedge
from kedge.postprocess import check_steps

from .conftest import SmallNet, disturb


@pytest.fixture(params=["anchored", "plain"])
def model(request):
    if request.param == "plain":
        return kedge.plain(SmallNet().eval(), example=(3, 12, 12), mean=0.4, std=0.2)
    made = disturb(kedge.anchor(SmallNet().eval(), example=(3, 12, 12), mean=0.4, std=0.2))
    made.references = torch.rand(4, 3, 12, 12)
    return made.eval()


@pytest.fixture
def images():
    return torch.rand(6, 3, 12, 12)


def test_logits_are_divided_in_eval_mode_and_are_the_old_ones_to_the_bit_without_the_step(model, images):
    before, predicted = model(images), model.predict(images)
    assert model.temperature is None
    model.set_temperature(1.7, images=50)
    assert torch.equal(model(images), before / 1.7)
    after = model.predict(images)
    assert torch.equal(after.logits, predicted.logits / 1.7)
    torch.testing.assert_close(after.probs, (predicted.logits / 1.7).softmax(1))
    assert torch.equal(after.confidence, after.probs.amax(1))
    assert torch.equal(after.label, predicted.label)
    assert model.describe_steps() == ["temperature 1.7"]
    assert "temperature 1.7" in repr(model)
    assert model.remove_step("temperature") == {"value": 1.7, "images": 50}
    assert torch.equal(model(images), before)
    assert torch.equal(model.predict(images).logits, predicted.logits)
    model.set_temperature(3)
    model.steps.pop("temperature")
    assert torch.equal(model(images), before)


def test_removing_a_step_brings_back_the_reject_rule_it_replaced(model):
    old, new = {"score": "confidence", "threshold": 0.9}, {"score": "confidence", "threshold": 0.7}
    model.reject = old
    model.set_temperature(2.0, reject_before=old)
    model.reject = new
    model.remove_step("temperature")
    assert model.reject == old
    with pytest.raises(KeyError, match="no step 'temperature'; it has no step"):
        model.remove_step("temperature")


def test_training_mode_does_not_see_it(model, images):
    model.train()
    references = {"references": images.flip(0)} if isinstance(model, kedge.AnchoredModel) else {}
    torch.manual_seed(1)
    before = model(images, **references)
    model.set_temperature(2.5)
    torch.testing.assert_close(model(images, **references), before)
    assert model.predict(images).logits.abs().max() < before.abs().max()
    assert model.training


def test_every_way_through_an_anchored_model_is_divided_once(images):
    model = disturb(kedge.anchor(SmallNet().eval(), example=(3, 12, 12)))
    model.references = torch.rand(4, 3, 12, 12)
    model.residuals = torch.rand(5, 3, 12, 12) - 0.5
    model.eval()
    mask = torch.tensor([True, False] * 3)
    ways = {
        "first": lambda: model(images),
        "no gradient": lambda: torch.no_grad()(model)(images),
        "one": lambda: torch.no_grad()(model)(images, references=model.references[1:2]),
        "each": lambda: model(images, references=images.flip(0)),
        "mask": lambda: model(images, references=model.references[:1], mask=mask),
        "slot": lambda: model(images, references=images.flip(0), slot=images),
        "bank": lambda: model.predict(images).logits,
        "rows": lambda: model.predict(images, max_rows=1).logits,
        "given": lambda: model.predict(images, references=torch.rand(2, 3, 12, 12).fill_(0.3)).logits,
        "blt": lambda: model.predict(images, references="blt").logits,
    }
    before = {name: way() for name, way in ways.items()}
    whole = model.predict(images, keep_per_reference=True)
    recalibrated = model.predict(images, recalibrate="exp").logits
    model.set_temperature(0.8)
    for name, way in ways.items():
        torch.testing.assert_close(way(), before[name] / 0.8, msg=name)
    again = model.predict(images, keep_per_reference=True)
    assert torch.equal(again.per_reference, whole.per_reference)
    assert torch.equal(again.uncertainty, whole.uncertainty)
    assert torch.equal(model.predict(images, recalibrate="exp").logits, recalibrated)


def test_the_bank_as_a_model_carries_it(images):
    from kedge.attacks import Bank

    model = disturb(kedge.anchor(SmallNet().eval(), example=(3, 12, 12)))
    model.references = torch.rand(4, 3, 12, 12)
    model.eval().set_temperature(1.4)
    torch.testing.assert_close(Bank(model)(images.requires_grad_()), model.predict(images.detach()).logits)


def test_copies_and_folding_carry_it(model, images):
    model.set_temperature(1.3)
    expected = model(images)
    folded = model.fold()
    torch.testing.assert_close(folded(images), expected, atol=1e-5, rtol=1e-5)
    twin = copy.deepcopy(model)
    twin.remove_step("temperature")
    assert model.temperature == 1.3
    torch.testing.assert_close(twin(images), expected * 1.3)
    torch.testing.assert_close(twin.fold()(images), expected * 1.3, atol=1e-5, rtol=1e-5)
    assert not isinstance(twin.fold(), type(folded)) or isinstance(folded, kedge.PlainModel)


def test_half_precision_stays_half(model, images):
    model.set_temperature(1.3)
    assert model.bfloat16()(images).dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), True, "2", None])
def test_what_is_no_temperature_is_refused(model, images, bad):
    before = model(images)
    with pytest.raises(ValueError, match="positive finite number"):
        model.set_temperature(bad)
    assert model.steps == {}
    assert torch.equal(model(images), before)


def test_other_steps_and_tasks_are_refused():
    with pytest.raises(
        ValueError, match="no step 'isotonic'; there are class_prior, prediction_sets, stable_max, temperature"
    ):
        check_steps({"isotonic": {"value": 1.0}})
    with pytest.raises(ValueError, match="must map names to records, got list"):
        check_steps([1.0])
    with pytest.raises(ValueError, match="got None"):
        check_steps({"temperature": 2.0})
    model = kedge.plain(nn.Linear(3, 2), example=(3,), task="regression")
    with pytest.raises(ValueError, match="for classification, and the task is regression"):
        model.set_temperature(2.0)


@pytest.mark.slow
def test_compiled_whole_and_again_after_a_change(model, images):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        before = compiled(images)
        model.set_temperature(1.9)
        torch.testing.assert_close(compiled(images), before / 1.9)
        model.remove_step("temperature")
        torch.testing.assert_close(compiled(images), before)
