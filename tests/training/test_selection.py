"""A run on selected images that is broken off goes on with the same ones."""

import torch

from kedge import data
from kedge.selection import Selection
from kedge.training import fit


def test_a_resumed_run_has_the_same_images(tiny, break_off, tmp_path):
    images = data.load("digits", "train").only_classes(tiny().classes).subset(range(100))
    chosen = Selection.of(images, torch.rand(100).double(), torch.arange(0, 100, 2), {"how": "el2n"})
    chosen.write(tmp_path / "selection.json")
    recipe = {"epochs": 2, "train_images": None, "batch_size": 16, "selection": str(tmp_path / "selection.json")}
    break_off(tiny(**recipe))
    resumed = fit(resume=tiny().runs + "/run", progress=False, report=False)
    whole = fit(tiny(name="whole", **recipe), progress=False, report=False)
    states = [torch.load(r.folder / "last.ckpt", weights_only=True)["state_dict"] for r in (resumed, whole)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
