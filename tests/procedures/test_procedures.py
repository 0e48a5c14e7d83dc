"""The room of procedures: a file dropped into it is a way to adapt; two phases against scikit-learn's balanced head."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import kedge
from kedge import catalog
from kedge.adaptation import HOWS, ProbeData, adapt, fit_probe
from kedge.cli import main
from kedge.probing.features import features
from kedge.procedures._base import procedure, ways
from kedge.training import fitting
from tests.dropping import from_docs

QUICK = {"epochs": 2, "device": "cpu", "batch_size": 16}
HALF_AS_SURE = from_docs("adapt.md", "HalfAsSure")


def uneven(images):
    """Of the three digits 20, 12 and 4 images."""
    rows = [(images.labels == label).nonzero()[:count, 0] for label, count in enumerate((20, 12, 4))]
    return images.subset(torch.cat(rows))


def test_a_file_in_the_room_is_a_way_of_the_command(drop, body, tmp_path, monkeypatch, capsys):
    drop("procedures", "half_as_sure", HALF_AS_SURE)
    monkeypatch.chdir(tmp_path)
    kedge.save(body, tmp_path / "old")
    with pytest.raises(SystemExit, match="0"):
        main(["adapt", "--help"])
    assert "half-as-sure    The linear probe, its answers half as sure." in capsys.readouterr().out
    command = ["adapt", "old", "--data", "digits", "--how", "half_as_sure", "--device", "cpu", "--strength", "1"]
    assert main(command) == 0
    folder = tmp_path / "runs" / "old-on-digits" / "all-0"
    assert "| half-as-sure | all | 1 |" in capsys.readouterr().out
    images = torch.rand(5, 1, 8, 8)
    whole, half = (kedge.load(folder / name).predict(images).logits for name in ("linear-probe", "half-as-sure"))
    torch.testing.assert_close(half, whole / 2)
    assert json.loads((folder / "half-as-sure" / "run.json").read_text())["adaptation"]["factor"] == 0.5
    # Its stage is a run folder of its own, and neither is made again.
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*/run.json")}
    assert {path.parent.name for path in stamps} == {"linear-probe", "half-as-sure"}
    assert main(command) == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert main([*command[:-1], "2"]) == 1
    assert "strength is 1.0 there, 2.0 here" in capsys.readouterr().err


def test_the_room_lists_itself_and_says_where_each_comes_from():
    assert set(HOWS) >= {"linear-probe", "anchored-probe", "finetune", "lp-ft", "wise-ft", "two-phase"}
    assert ways("wise-ft") == ("linear-probe", "lp-ft", "wise-ft")
    for name in catalog.names("procedures"):
        about = catalog.info("procedures", name)
        assert about is not None
        assert about.year >= 2002
        assert about.url.startswith("https://")
        assert catalog.summary("procedures", name)
        assert catalog.resolve("procedures", name.replace("_", "-")) == name
        assert catalog.get("procedures", name).run.__doc__
        assert procedure(name).decided_by


@pytest.mark.parametrize("strength", [0.1, 1e-3])
def test_a_balanced_head_is_that_of_scikit_learn(strength):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    x = torch.randn(60, 5, generator=generator) + labels[:, None] * torch.tensor([1.0, 0, -1, 0, 0.5])
    probe = fit_probe(ProbeData(x[None], labels, 3, balanced=True), strength=strength)
    scaled = ((x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()).double().numpy()
    # Weights N / (C n_c) sum to N, so that C = 1 / (λ N) as without them.
    other = LogisticRegression(C=1 / (strength * 60), class_weight="balanced", tol=1e-10, max_iter=10000)
    ours = (x @ probe.weight.T + probe.bias).softmax(1)
    np.testing.assert_allclose(ours, other.fit(scaled, labels.numpy()).predict_proba(scaled), atol=2e-4)


def test_the_strength_of_a_balanced_head_is_chosen_by_classes():
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0] * 30 + [1] * 10 + [2] * 5)
    x = torch.randn(45, 4, generator=generator) + labels[:, None] * torch.tensor([0.5, 0, -0.5, 0])
    probe = fit_probe(ProbeData(x[None], labels, 3, balanced=True), (x, labels))
    fixed = fit_probe(ProbeData(x[None], labels, 3, balanced=True), strength=probe.strength)
    wrong = -(x @ fixed.weight.T + fixed.bias).log_softmax(1)[torch.arange(45), labels]
    of_classes = [float(wrong[labels == label].mean()) for label in range(3)]
    assert probe.nll[probe.strength] == pytest.approx(sum(of_classes) / 3, abs=2e-3)


@pytest.mark.parametrize("kind", ["body", "anchored"])
def test_two_phases_keep_the_body_and_balance_the_head(kind, digits, tmp_path, request):
    model, (train, val, _) = request.getfixturevalue(kind), digits
    train = uneven(train)
    two = adapt(model, train, val, how="two_phase", out=tmp_path, strength=1e-3, **QUICK)
    assert (two.how, two.folder) == ("two-phase", tmp_path / "two-phase")
    tuned = kedge.load(tmp_path / "finetune")
    assert not torch.equal(two.model.network.fc.weight, tuned.network.fc.weight)
    frozen = {k: v for k, v in tuned.state_dict().items() if ".fc." not in k}
    assert all(torch.equal(two.model.state_dict()[key], value) for key, value in frozen.items())
    x = features(tuned, "fc", train, others=True)
    scale = (x - x.mean(0)).square().mean().sqrt()
    scaled = ((x - x.mean(0)) / scale).double().numpy()
    other = LogisticRegression(C=1 / (1e-3 * len(train)), class_weight="balanced", tol=1e-10, max_iter=10000)
    ours = (x @ two.model.network.fc.weight.T + two.model.network.fc.bias).softmax(1).detach()
    np.testing.assert_allclose(ours, other.fit(scaled, train.labels.numpy()).predict_proba(scaled), atol=1e-3)
    # Named otherwise it is the same, and made already.
    again = adapt(model, train, val, how="TwoPhase", out=tmp_path, strength=1e-3, **QUICK)
    assert torch.equal(again.model.network.fc.weight, two.model.network.fc.weight)


def test_the_first_phase_goes_on_where_it_was_broken_off(body, digits, tmp_path, monkeypatch):
    train, val = uneven(digits[0]), digits[1]
    asked = {**QUICK, "epochs": 3, "how": "two-phase", "strength": 0.1}
    whole = adapt(body, train, val, out=tmp_path / "whole", **asked)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            adapt(body, train, val, out=tmp_path / "cut", **asked)
    assert (tmp_path / "cut" / "finetune" / "last.ckpt").is_file()
    on = adapt(body, train, val, out=tmp_path / "cut", **asked)
    assert all(torch.equal(value, whole.model.state_dict()[key]) for key, value in on.model.state_dict().items())
