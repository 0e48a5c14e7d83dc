"""An adaptation that is killed at any moment at which it gives a file its name is made by the same command."""

import torch

from kedge.adaptation import adapt
from kedge.procedures._folder import finished
from tests.killing import afterwards, killed, places, tree, watched


def test_a_probe_that_was_killed_is_there_whole_or_not_at_all(body, digits, tmp_path):
    def probe(out):
        return adapt(body, *digits[:2], how="linear-probe", out=out, strength=1.0)

    with watched(tmp_path / "whole") as events:
        whole = probe(tmp_path / "whole")
    for at in places(events):
        out = tmp_path / f"killed-{at}"
        with killed(out, at):
            probe(out)
        assert not (out / "linear-probe").exists() or finished(out / "linear-probe")
        with afterwards():
            again = probe(out)
        expected = whole.model.state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in again.model.state_dict().items())
        assert tree(out) == tree(tmp_path / "whole"), at


def test_what_an_earlier_version_left_half_made_is_made(body, digits, tmp_path):
    (tmp_path / "linear-probe" / "model").mkdir(parents=True)
    (tmp_path / "linear-probe" / "run.json").write_text("{}")
    adapt(body, *digits[:2], how="linear-probe", out=tmp_path, strength=1.0)
    assert finished(tmp_path / "linear-probe")
