import pytest

from kedge import catalog
from kedge.cli import main
from kedge.cli.methods import ROOMS


def said(capsys, *arguments):
    status = main(["methods", *arguments])
    out, err = capsys.readouterr()
    return status, out + err


def test_it_lists_the_rooms_and_how_many_methods_they_have(capsys):
    status, text = said(capsys)
    assert status == 0
    for room in ROOMS:
        assert f"{room} " in text
    assert f" {len(catalog.names('scores'))} " in text


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_has_a_line_for_each_method(room, capsys):
    status, text = said(capsys, room)
    assert status == 0
    assert [line.split()[0] for line in text.splitlines()] == list(catalog.names(room))


@pytest.mark.parametrize("words", [("rules", "SAM"), ("optim.rules", "sam")])
def test_a_method_has_its_paper_and_its_defaults(words, capsys):
    status, text = said(capsys, *words)
    assert status == 0
    assert "Foret et al., ICLR 2021" in text
    assert "rho: 0.05" in text


@pytest.mark.parametrize(("words", "help_"), [(("score",), "scores"), (("scores", "enrgy"), "energy")])
def test_a_name_that_is_none_is_answered_with_the_nearest(words, help_, capsys):
    status, text = said(capsys, *words)
    assert status == 1
    assert help_ in text
    assert "Traceback" not in text
