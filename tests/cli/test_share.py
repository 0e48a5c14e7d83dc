import io
import re
import sys

import pytest
import torch

import kedge
from kedge.cli.resolve_model import find
from kedge.hub import HubError
from tests.hub_stand_in import TOKEN


@pytest.fixture
def account(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_card(command, run_folder):
    readme = run_folder / "model" / "README.md"
    code, out, _ = command("card", run_folder)
    assert code == 0
    assert f"card: {readme}" in out
    assert f"kedge evaluate {run_folder}" in out
    assert "no licence" in out
    _, out, _ = command("card", run_folder, "--license", "mit", "--repo", "ada/digits")
    assert "no licence" not in out
    assert 'from_pretrained("ada/digits")' in readme.read_text()
    command("card", run_folder)  # what was stated once stays
    assert "license: mit" in readme.read_text()
    readme.write_text("# mine")
    with pytest.raises(FileExistsError, match="not replaced: name another file with --out"):
        command("card", run_folder)
    command("card", run_folder, "--out", run_folder / "card.md")
    assert readme.read_text() == "# mine"
    assert "Trained on digits" in (run_folder / "card.md").read_text()
    kedge.load(run_folder)  # a README does not disturb the model


def test_without_a_terminal_photos_need_a_word(account, command, run_folder):
    with pytest.raises(ValueError, match=r"not pushed: the bank holds 4 photos.*--mean-reference.*--with-photos"):
        command("push", run_folder, "ada/digits")
    assert account.asked == []
    code, out, _ = command("push", run_folder, "ada/digits", "--with_photos", "--private")
    assert code == 0
    assert "/ada/digits/commit/" in out
    assert "kedge predict hf-hub:ada/digits IMAGES" in out
    assert set(account.files("ada/digits")) == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    assert "ada/digits" in account.private


@pytest.mark.parametrize(("answer", "sent"), [("yes\n", True), ("y\n", False), ("\n", False), ("", False)])
def test_on_a_terminal_it_asks(account, command, run_folder, monkeypatch, answer, sent):
    asked = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", asked)
    if sent:
        command("push", run_folder, "ada/digits")
    else:
        with pytest.raises(ValueError, match="not pushed"):
            command("push", run_folder, "ada/digits")
    assert "4 photos" in asked.getvalue()
    assert "--mean-reference" in asked.getvalue()
    assert ("ada/digits" in account.repos) == sent


def test_without_photos_nothing_is_asked(account, command, run_folder, photos):
    code, _, err = command("push", run_folder, "ada/plain", "--folded", "--mean_reference")
    assert code == 0
    assert re.search(r"the reference is the mean of [\d,]+ training images", err)
    assert re.search(
        r"On \d+ validation images [\d.]+ % are right instead of [\d.]+ %, and [\d.]+ % of the answers", err
    )
    made = kedge.from_pretrained("ada/plain")
    assert isinstance(made, kedge.PlainModel)
    train = kedge.data.load("digits", "train").images.float() / 255
    assert made.reject["coverage"] == 0.9
    card = account.files("ada/plain")["README.md"].decode()
    assert "The bank was replaced by one mean image" in card
    assert "validation images" in card
    code, _, _ = command("push", run_folder, "ada/mean", "--mean_reference")
    assert code == 0
    (reference,) = kedge.from_pretrained("ada/mean").references
    assert torch.allclose(reference, train.mean(0), atol=0.02)
    code, out, _ = command("predict", "hf-hub:ada/mean", photos / "d0.png")
    assert code == 0
    assert "d0.png" in out


def test_only_writing_the_files(account, command, run_folder, tmp_path):
    out = tmp_path / "to-send"
    code, printed, _ = command("push", run_folder, "ada/digits", "--out", out)
    assert code == 0
    assert "nothing was sent" in printed
    assert "careful: 4 of the images" in printed
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert account.asked == []
    with pytest.raises(FileExistsError, match="not empty"):
        command("push", run_folder, "ada/digits", "--out", out)


def test_wrong_calls(hub, command, run_folder, monkeypatch):
    with pytest.raises(ValueError, match="say one of them"):
        command("push", run_folder, "ada/digits", "--mean_reference", "--with_photos")
    with pytest.raises(ValueError, match="has no owner"):
        command("push", run_folder, "digits", "--with_photos")
    with pytest.raises(HubError, match="needs an account"):
        command("push", run_folder, "ada/digits", "--with_photos")


def test_a_name_of_the_hub_is_a_model(account, command, run_folder, photos, tmp_path):
    command("push", run_folder, "ada/digits", "--with_photos")
    source = find("hf-hub:ada/digits@main")
    assert (source.name, source.run, source.on_hub) == ("digits", None, True)
    with pytest.raises(ValueError, match="its copy here is not written to: name a folder with --out"):
        command("calibrate", "hf-hub:ada/digits", "--data", "digits")
    with pytest.raises(ValueError, match="name a file to write with --out"):
        command("card", "hf-hub:ada/digits")
    with pytest.raises(HubError, match="no repository ada/none"):
        find("hf-hub:ada/none")
    with pytest.raises(ValueError, match="has no owner"):
        find("hf-hub:digits")
    code, _, _ = command(
        "evaluate",
        "new=hf-hub:ada/digits",
        "--data",
        "digits",
        "--limit",
        20,
        "--shift",
        "none",
        "--out",
        tmp_path / "e",
    )
    assert code == 0


def test_the_card_after_unlabelled_images_is_that_of_the_test_images(command, run_folder, photos):
    for broken in ("broken.jpg", "empty.png"):
        (photos / broken).unlink()
    for more in (["--unlabelled", photos], []):
        command("evaluate", run_folder, "--limit", 20, "--shift", "none", *more)
        _, out, _ = command("card", run_folder)
        assert ("the table is of validation images" in out) == bool(more)
    command("evaluate", run_folder, "--limit", 20, "--unlabelled", photos)
    _, out, _ = command("card", run_folder)
    assert "of validation images" not in out
    text = (run_folder / "model" / "README.md").read_text()
    assert "On digits (test): 20 of" in text
    assert "photos" not in text.partition("## Evaluation")[2].partition("## Limits")[0]
