"""What kedge costs, in what can be counted: rows through the network, bytes held, waits for the device."""

import copy
import json
import os

import pytest
import timm
import torch
from benchmarks.side_by_side import exponent, finish, lines, options, parser, peak_bytes, ratio, row, spread, table
from torch import nn

import kedge
from kedge.objectives import Anchored, CrossEntropy
from tests.anchoring.conftest import disturb
from tests.attacks.waits import Waits


@pytest.fixture(scope="module")
def both():
    """A plain and an anchored model of one network, with a bank of 40."""
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=5).eval()
    anchored = disturb(kedge.anchor(network, example=(3, 64, 64), mean=0.4, std=0.3), 0.05)
    anchored.references = torch.rand(40, 3, 64, 64)
    return kedge.plain(network, example=(3, 64, 64), mean=0.4, std=0.3).eval(), anchored.eval()


def rows_through(model: nn.Module, layer: nn.Module, call) -> list[int]:
    """The rows of each call of `layer` during `call`."""
    seen: list[int] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        call()
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize(("k", "batch"), [(1, 7), (3, 7), (10, 32), (10, 5), (33, 32), (40, 1)])
def test_references_share_the_first_layer_and_every_row_passes_the_network_once(both, k, batch):
    _, model = both
    images = torch.rand(batch, 3, 64, 64)
    model.predict(images, references=k)  # the terms of the references are made once
    body = rows_through(model, model.network.global_pool, lambda: model.predict(images, references=k))
    assert sum(body) == k * batch
    assert max(body) <= max(32, batch)
    first = rows_through(model, model.stem.residual, lambda: model.predict(images, references=k))
    if 3 * k <= max(32, batch):
        assert sum(first) == batch
    else:
        assert sum(first) <= k * batch / min(k, 5) * 1.5


def test_one_forward_pass_for_a_prediction_a_training_step_and_a_folded_model(both):
    plain, model = both
    images, labels = torch.rand(6, 3, 64, 64), torch.randint(5, (6,))
    trained, folded = copy.deepcopy(model).train(), model.fold()
    objective = Anchored(CrossEntropy(), alpha=0.25)
    for owner, call in (
        (model.network, lambda: model(images)),
        (trained.network, lambda: objective(trained, images, labels)),
        (plain.network, lambda: plain(images)),
        (folded, lambda: folded(images)),
    ):
        assert rows_through(owner, owner.get_submodule(model.first_layer), call) == [6]
        assert rows_through(owner, owner.global_pool, call) == [6]


def test_a_folded_model_has_no_more_operations_than_the_plain_one_and_its_normalisation(both):
    def operations(call) -> int:
        with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            call()
        return sum(
            e.count for e in seen.key_averages() if e.key in ("aten::add_", "aten::sub", "aten::div_", "aten::mul")
        )

    plain, model = both
    images = torch.rand(4, 3, 64, 64)
    folded = model.fold()
    of_mean = copy.deepcopy(model)
    of_mean.references = torch.full((1, 3, 64, 64), 0.4)
    constant = of_mean.fold()
    assert operations(lambda: folded(images)) == operations(lambda: plain(images)) - 1  # one map for two of pixels
    assert operations(lambda: constant(images)) == operations(lambda: plain(images)) - 1  # the mean alone


def test_the_memory_of_many_references_is_that_of_one(both):
    _, model = both
    images = torch.rand(32, 3, 64, 64)
    with torch.inference_mode():
        one, *many = (peak_bytes(lambda k=k: model.predict(images, references=k)) for k in (1, 10, 33, 40))
    assert max(many) <= 1.3 * one


def test_a_reference_costs_the_memory_of_its_map_and_no_more(both):
    plain, model = both
    images = torch.rand(32, 3, 64, 64)
    with torch.inference_mode():
        model(images)
        ours, theirs = (peak_bytes(lambda m=m: m(images)) for m in (model, plain))
        assert ours <= theirs + 4096
        folded = model.fold()
        assert peak_bytes(lambda: folded(images)) <= theirs


def test_no_wait_for_the_device_in_a_prediction_of_a_plain_or_folded_model(both):
    plain, model = both
    images, folded = torch.rand(6, 3, 64, 64), model.fold()
    for call in (lambda: folded(images), lambda: plain(images), lambda: plain.predict(images, check=False)):
        with Waits() as waits:
            call()
        assert waits.calls == []
    with Waits() as waits:
        plain.predict(images)
    assert waits.calls == ["tolist", "tolist"]  # a look at the images, one at the outputs


def test_the_arithmetic_of_a_result():
    times = {"a": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [1.0, 1.0, 1.0, 1.0, 1.0]}
    found = ratio(times, "a", "b")
    assert found == {"median": 3.0, "low": 2.0, "high": 4.0, "rounds": 5}
    assert ratio(times, "a", "b", 10)["median"] == pytest.approx(0.3)
    assert row("x", "y", found, 3.0)["met"] is True
    assert row("x", "y", found, 2.9)["met"] is False
    assert row("x", "y", found, 3.1, least=True) | {"ratio": 0} == {
        "what": "x", "against": "y", "target": "≥ 3.1", "met": False, "ratio": 0, "note": "",
    }  # fmt: skip
    assert row("x", "y", spread([9.0, 9.0]), 1.0)["met"] is None  # two rounds tell nothing
    assert row("x", "y", spread([1.2]), 1.3)["met"] is None
    assert row("x", "y", spread([1.2]), 1.3, counted=True)["met"] is True
    assert exponent([1, 10, 100], [2, 20, 200]) == pytest.approx(1)
    assert exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


def test_a_result_is_printed_with_its_machine(tmp_path, capsys):
    args = options(
        parser("memory", "What it does."), ["--out", str(tmp_path / "deep" / "result.json"), "--rounds", "7"]
    )
    shown = table("Sizes", ["case", "MB", "none"], [["small", 1.23456, None]], note="A remark.")
    assert finish(args, [row("x", "y", spread([1.0] * 7), 1.3)], [shown]) == 0
    record = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert (record["name"], record["rounds"], record["machine"]["cpus"]) == ("memory", 7, os.cpu_count())
    printed = capsys.readouterr().out
    assert printed.splitlines() == lines(record)
    assert "| x | y | ≤ 1.3 | 1 (1 to 1) | yes |" in printed
    assert "| small | 1.23 |  |" in printed
    assert torch.__version__ in printed
    assert options(parser("memory", ""), ["--quick"]).out is None
    assert options(parser("memory", ""), []).out.name == "memory.json"


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--device", "gpu"], "there is cpu"), (["--rounds", "0"], "1 or more"), (["--threads", "-1"], "1 or more")],
)
def test_a_wrong_command_line_is_refused_in_words(given, said, capsys):
    with pytest.raises(SystemExit):
        options(parser("memory", ""), given)
    assert said in capsys.readouterr().err
