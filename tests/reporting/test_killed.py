"""Results, table and page of an evaluation: results.json, by which a folder counts as taken, comes last."""

from kedge.cli.results_folder import free_folder, write
from tests.killing import afterwards, killed, places, tree, watched


def test_an_evaluation_that_was_killed_is_written_into_the_same_folder(one, tmp_path):
    with watched(tmp_path / "whole") as events:
        write(one, tmp_path / "whole")
    for at in places(events):
        out = tmp_path / f"killed-{at}"
        with killed(out, at):
            write(one, out)
        with afterwards():
            if not (out / "results.json").is_file():
                assert free_folder(out, "results.json") == out
                write(one, out)
            else:
                write(one, free_folder(out, "results.json"))
        assert tree(out)[-len(tree(tmp_path / "whole")) :] == tree(tmp_path / "whole")
