import re
from pathlib import Path

import pytest
import torch

import kedge

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/own-loop.md"])
def test_the_loop_on_the_page_runs_as_written(page, tmp_path, monkeypatch):
    (code, *_) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert "pretrained=True" in code
    # no download in a test, and timm's smallest network
    code = code.replace("pretrained=True", "pretrained=False").replace('"resnet18"', '"test_resnet"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    torch.manual_seed(0)
    images, labels = torch.rand(12, 3, 160, 160), torch.arange(12) % 10

    class TrainSet(list):
        class_names = [f"class {i}" for i in range(10)]

    names = {
        "loader": [(images, labels)],
        "train_set": TrainSet(zip((images * 255).byte(), labels.tolist(), strict=True)),
        "optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
    }
    exec(compile(code, page, "exec"), names)
    assert len(names["model"].references) == 10
    assert names["prediction"].uncertainty.shape == (12,)
    folded = names["model"].fold() if "plain" not in names else names["plain"]
    with torch.no_grad():
        assert torch.allclose(folded(images), names["model"](images), atol=1e-4)
    assert kedge.load("my-model").num_outputs == 10
