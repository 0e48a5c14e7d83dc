"""The promise of adversarial fine-tuning at a size that runs anywhere: from not robust to robust in ten epochs."""

import pytest
import torch

import kedge.data
from kedge.attacks import PGD
from kedge.training import Recipe, fit


def accuracies(model):
    images, labels = next(kedge.data.load("digits", "test").batches(1000))
    pixels = images.float() / 255
    attacked = PGD(0.15, steps=20)(model.eval(), pixels, labels)
    with torch.no_grad():
        return [100 * float((model(x).argmax(1) == labels).float().mean()) for x in (pixels, attacked)]


@pytest.mark.slow
def test_ten_epochs_make_a_clean_network_robust(tmp_path, no_report):
    common = {"data": "digits", "augment": "none", "batch_size": 32, "runs": str(tmp_path), "device": "cpu"}
    start = {"model": "kedge_resnet_small", "arguments": {"width": 8}, "anchored": False, "lr": 0.05, "epochs": 20}
    clean = fit(Recipe(**common, **start, name="clean"), progress=False)
    before = accuracies(clean.model)
    attack = {"PGD": {"eps": 0.15, "steps": 7}}
    recipe = Recipe(
        **common, name="robust", init_from=str(clean.folder), epochs=10, lr=0.2, schedule="slow-start-fast-decay",
        objective=[{"Adversarial": {"attack": attack}}, "CrossEntropy"],
    )  # fmt: skip
    after = accuracies(fit(recipe, progress=False).model)
    assert before[0] >= 98
    assert before[1] < 40
    assert after[0] >= 98
    assert after[1] >= 72
