"""The notebooks run from top to bottom, in a kernel of their own and an empty folder."""

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel, of the dev extra")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel, of the dev extra")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel, of the dev extra")

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_three_of_them_and_none_holds_outputs():
    assert len(NOTEBOOKS) == 3
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


def run(name, folder, **parameters):
    """What the cells of a notebook print, after its parameters were replaced."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(folder)}}).execute()
    return "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output
    )


@pytest.mark.slow
def test_a_first_model_on_photos(tmp_path):
    from tests.test_real_weights import NAME, lite0

    text = run("first_model_on_photos", tmp_path, NETWORK={"model": NAME, "weights": str(lite0(tmp_path))})
    assert "'flower': 50, 'temple': 50" in text
    assert "logits differ by" in text
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "first.pt2").is_file()


@pytest.mark.slow
def test_how_far_to_trust_it(tmp_path):
    text = run("how_far_to_trust_it", tmp_path)
    assert "8s and 9s: " in text
    assert "in truth: " in text


@pytest.mark.slow
def test_your_own_loop(tmp_path):
    text = run("your_own_loop", tmp_path)
    assert "loaded: True" in text
    differences = [float(line.split(":")[1]) for line in text.splitlines() if line.startswith("after ")]
    assert len(differences) == 2
    assert max(differences) < 1e-4
