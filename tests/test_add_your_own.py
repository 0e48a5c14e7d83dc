"""The files of the page on methods of one's own, dropped into their rooms and trained with from the command line."""

import json

import pytest
import torch
from torch import nn

from kedge import catalog, specs
from kedge.cli import main
from tests.dropping import from_docs

FILES = {
    ("objectives", "flooding"): ("class Flooding", ["--objective", "[{flooding: {level: 0.05}}, cross_entropy]"]),
    ("optim.rules", "centred"): ("class Centred", ["--optimizer", "[centred, {sgd: {lr: 0.05}}]"]),
    ("optim.schedules", "straight"): ("def straight", ["--schedule", "straight"]),
    ("samplers", "odd_and_even"): ("def odd_and_even", ["--sampler", "odd-and-even"]),
}
SMALL = ["--data", "digits", "--model", "kedge_resnet_small", "--arguments", '{"width": 4}', "--train_images", "80"]


@pytest.mark.parametrize(("room", "name"), FILES)
def test_a_run_trains_with_the_file_of_the_docs(room, name, drop, tmp_path, monkeypatch, capsys):
    line, flags = FILES[room, name]
    drop(room, name, from_docs("add-your-own.md", line))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert name.replace("_", "-") in "".join(capsys.readouterr().out.split())  # lines may end at a hyphen
    plain = ["--anchored", "false"] if room == "objectives" else []
    assert main(["train", *SMALL, *flags, *plain, "--epochs", "2", "--device", "cpu", "--name", "own"]) == 0
    facts = json.loads((tmp_path / "runs" / "own" / "run.json").read_text())
    assert "finished" in facts
    assert main(["train", "--resume", "runs/own"]) == 0


def test_flooding_turns_round_below_its_level(drop):
    drop("objectives", "flooding", from_docs("add-your-own.md", "class Flooding"))
    objective = specs.build("objectives", {"flooding": {"level": 100.0}}, specs.build("objectives", "cross_entropy"))
    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    expected = 200 - nn.functional.cross_entropy(network(images), labels)
    torch.testing.assert_close(objective(network, images, labels), expected)


def test_centred_gradients_have_no_mean(drop):
    drop("optim.rules", "centred", from_docs("add-your-own.md", "class Centred"))
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    rule = catalog.get("optim.rules", "centred")(torch.optim.SGD(layer.parameters(), lr=1.0))
    layer(torch.tensor([[1.0, 2.0, 6.0]])).sum().backward()
    rule.step()
    torch.testing.assert_close(before - layer.weight.detach(), torch.tensor([[-2.0, -1.0, 3.0]]).expand(2, 3))


def test_a_straight_line_falls_evenly(drop):
    drop("optim.schedules", "straight", from_docs("add-your-own.md", "def straight"))
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.4)
    schedule = catalog.get("optim.schedules", "straight")(optimizer, 4)
    rates = []
    for _ in range(4):
        rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_two_epochs_of_every_other_image_show_all(drop):
    drop("samplers", "odd_and_even", from_docs("add-your-own.md", "def odd_and_even"))
    sample = catalog.get("samplers", "odd_and_even")
    epochs = [sample(torch.zeros(9), epoch, 3) for epoch in (0, 1)]
    assert [len(each) for each in epochs] == [9, 9]
    assert sorted(set(torch.cat(epochs).tolist())) == list(range(9))
