"""A file that is exported is there whole or not at all, with its own weights."""

import torch
from torch import nn

import kedge
from kedge.deploy import export, exporting
from tests.killing import afterwards, killed, places, tree, watched


def test_an_export_that_was_killed_never_leaves_a_file_with_the_weights_of_another(tmp_path, monkeypatch):
    model = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), mean=0.5, std=0.5, example=(3, 2, 2)).eval()

    def write(folded, shape, card, path):  # as torch writes large ONNX files, as two
        path.write_text(version)
        path.with_name(f"{path.name}.data").write_text(version)

    monkeypatch.setattr(exporting, "_write_torch", write)
    monkeypatch.setattr(exporting, "_run_torch", lambda path: model)
    images = torch.rand(2, 3, 2, 2)
    version = "new"
    with watched(tmp_path / "whole") as events:
        export(model, tmp_path / "whole" / "net.pt2", "torch", images)
    for at in places(events, ("os.rename", "os.remove")):
        file = tmp_path / f"killed-{at}" / "net.pt2"
        version = "old"
        export(model, file, "torch", images)
        version = "new"
        with killed(file.parent, at):
            export(model, file, "torch", images)
        weights = file.with_name("net.pt2.data").read_text()
        assert not file.exists() or file.read_text() == weights, at
        with afterwards():
            export(model, file, "torch", images)
        assert tree(file.parent) == ["net.pt2", "net.pt2.data"]
