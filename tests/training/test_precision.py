import pytest
import torch

from kedge.devices import cpu_has_bf16
from kedge.training import fit


@pytest.mark.parametrize(
    ("has", "fast"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": False}, False),
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
        ({}, True),  # a torch that cannot be asked: nothing is claimed
    ],
)
def test_processors(has, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert cpu_has_bf16() == fast


@pytest.mark.parametrize("precision", ["bf16", "32"])
@pytest.mark.parametrize("fast", [True, False])
def test_bf16_without_its_instructions_is_said_before_the_first_epoch(
    tiny, no_report, caplog, monkeypatch, fast, precision
):
    monkeypatch.setattr("kedge.training.prepare.cpu_has_bf16", lambda: fast)
    fit(tiny(precision=precision, device="cpu"), progress=False)
    said = [line for line in caplog.messages if "--precision 32" in line]
    assert len(said) == (precision == "bf16" and not fast)
