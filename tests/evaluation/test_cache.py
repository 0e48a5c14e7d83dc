import json

import pytest
import torch

import kedge
from kedge.evaluation import evaluate
from kedge.evaluation.cache import Parts, digest, model_digest, tensor_digest

QUICK = {"shift": ["gaussian_noise", "contrast"], "severities": (1, 5), "batch_size": 32, "resamples": 20}


class Counted(torch.nn.Module):
    """A linear classifier that counts the images it was shown, on the class: what an instance holds tells it apart."""

    images = 0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(192, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.images += len(x)
        return self.layer(x.flatten(1))

    def extra_repr(self) -> str:
        return ""


def plain_of(results: dict) -> str:
    """The results without what differs from call to call."""
    results = json.loads(json.dumps(results))
    for key in ("created", "seconds", "peak_memory_mb", "parts_found"):
        results.pop(key)
    for model in results["models"].values():
        model.pop("timing")
    return json.dumps(results)


def test_a_second_call_runs_nothing_again_and_says_the_same(data, noise, tmp_path):
    model = Counted()
    first = evaluate(model, data, **QUICK, ood=noise, parts=tmp_path)
    assert first["parts_found"] == 0
    shown = model.images
    second = evaluate(model, data, **QUICK, ood=noise, parts=tmp_path)
    assert model.images - shown < 20  # the few that a model is tried on
    assert second["parts_found"] == 6
    assert plain_of(first) == plain_of(second)
    assert plain_of(evaluate(model, data, **QUICK, ood=noise)) == plain_of(first)


def test_an_interrupted_call_goes_on_where_it_stopped(data, noise, tmp_path):
    model = Counted()
    expected = evaluate(model, data, **QUICK, ood=noise)

    def stop(done: int, total: int) -> None:
        if done > 90 * 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, data, **QUICK, ood=noise, parts=tmp_path, progress=stop)
    kept = len(list(tmp_path.iterdir()))
    assert 0 < kept < 6
    before = model.images
    results = evaluate(model, data, **QUICK, ood=noise, parts=tmp_path)
    assert results["parts_found"] == kept
    assert model.images - before < 90 * 5
    assert plain_of(results) == plain_of(expected)


def test_what_depends_on_something_else_is_measured_anew(data, tmp_path):
    model = Counted()
    found = lambda **changes: evaluate(model, data, **{**QUICK, **changes}, parts=tmp_path)["parts_found"]  # noqa: E731
    assert found() == 0
    assert found(seed=1) == 1  # clean images have no seed
    assert found(limit=50) == 0
    assert found(shift=["contrast"]) == 3
    assert found(batch_size=10) == 5
    with torch.no_grad():
        model.layer.bias[0] += 0.5
    assert found() == 0


def test_a_setting_that_is_no_weight_tells_models_apart(data):
    class Gated(Counted):
        """Differs from another one only on images that a few do not show."""

        def __init__(self, gate: float) -> None:
            super().__init__()
            self.gate = gate

    probe = torch.zeros(4, 6)
    assert model_digest(Gated(0.5), None, probe) != model_digest(Gated(0.6), None, probe)
    assert model_digest(Gated(0.5), None, probe) == model_digest(Gated(0.5), None, probe)
    assert model_digest(Gated(0.5), None, probe) != model_digest(Gated(0.5), None, probe + 1)


def test_a_model_whose_answers_depend_on_the_batch_is_told_and_kept_by_batch_size(data, tmp_path):
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(3, track_running_stats=False), Counted())
    said: list[str] = []
    quick = {"shift": (), "resamples": 0, "parts": tmp_path, "notice": said.append}
    found = [evaluate(model, data, batch_size=size, **quick)["parts_found"] for size in (30, 90, 30)]
    assert found == [0, 0, 1]
    assert "depends on the images beside it" in said[0]


def test_references_tell_anchored_models_apart(data, tmp_path):
    example = data.images[:4].float() / 255
    model = kedge.anchor(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8), torch.nn.Flatten()), example=example)
    model.references = example
    with torch.no_grad():
        model.stem.reference.weight.mul_(0.5)
    results = [evaluate(model, data, shift=(), references=k, parts=tmp_path, resamples=0) for k in (1, 4, 1)]
    assert [r["parts_found"] for r in results] == [0, 0, 1]
    assert results[0]["models"]["model"]["clean"]["nll"] == results[2]["models"]["model"]["clean"]["nll"]


def test_a_broken_file_is_made_again(data, tmp_path):
    model = Counted()
    first = evaluate(model, data, **QUICK, parts=tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:40])
    again = evaluate(model, data, **QUICK, parts=tmp_path)
    assert again["parts_found"] == 0
    assert plain_of(again) == plain_of(first)
    assert evaluate(model, data, **QUICK, parts=tmp_path)["parts_found"] == 5


def test_a_function_is_not_kept(data, tmp_path):
    results = evaluate(lambda x: x.flatten(1)[:, :6], data, shift=(), parts=tmp_path, resamples=0)
    assert results["parts_found"] == 0
    assert list(tmp_path.iterdir()) == []


def test_digests_see_type_shape_and_value():
    zeros = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float16), torch.zeros(0), torch.ones(4)]
    assert len({tensor_digest(t) for t in zeros}) == 5
    assert digest(1, "a") != digest("1a")
    assert Parts(None).get("x") is None
