import http.client
import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement

import kedge
from kedge import cli, networks
from kedge.deploy import space
from kedge.hub import HubError
from tests.cli.test_demo import png
from tests.hub_stand_in import TOKEN


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with everything that must stay at home."""
    torch.manual_seed(0)
    model = kedge.anchor(networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    model.references = torch.rand(12, 1, 8, 8)
    model.class_names = ["a", "b", "c"]
    model.reject = {"threshold": 0.2, "coverage": 0.9}
    folder = tmp_path / "secret-project" / "runs" / "mine"
    kedge.save(model.eval(), folder / "model")
    data = tmp_path / "secret-project" / "photos"
    (folder / "recipe.yaml").write_text(f"name: mine\ndata: {data}\nanchored: true\nseed: 3\n")
    (folder / "run.json").write_text(json.dumps({"command": [str(folder)], "data": {"train": 90, "val": 10}}))
    (folder / "last.ckpt").write_bytes(b"pickle")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_folder_is_a_space_of_the_hub(run, tmp_path, capsys):
    assert cli.main(["push", str(run), "ada/litter", "--space", "--license", "mit", "--out", "to-send"]) == 0
    out = capsys.readouterr().out
    assert "nothing was sent: Dockerfile" in out
    assert "careful: 12 of the images in it may be photos" in out
    assert "see it: python to-send/app.py" in out
    folder = tmp_path / "to-send"
    assert {path.name for path in folder.iterdir()} == {
        "app.py", "Dockerfile", "requirements.txt", "README.md", "model", "kedge",
    }  # fmt: skip
    assert {path.name for path in (folder / "model").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "docker"
    assert header["app_port"] == 7860
    assert header["title"] == "litter"
    assert header["license"] == "mit"
    assert len(header["short_description"]) <= 60  # more is refused by the hub
    assert {header["colorFrom"], header["colorTo"]} <= {
        "red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray",
    }  # fmt: skip
    source = Path(kedge.__file__).parent
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {path.relative_to(folder / "kedge") for path in (folder / "kedge").rglob("*") if path.is_file()} == files
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"secret-project" not in content, path
            assert str(tmp_path).encode() not in content, path


def test_requirements_name_what_the_page_stands_on_and_no_package_called_kedge(monkeypatch):
    """The index has a package of that name, which is another."""
    stated = ["torch>=2.11", "captum>=0.9; extra == 'demo'", 'onnx>=1.20; extra == "export"', "pillow>=11.0"]
    monkeypatch.setattr(space, "requires", lambda name: stated)
    assert space.requirements() == ["torch>=2.11", "captum>=0.9", "pillow>=11.0"]
    monkeypatch.undo()
    needed = {Requirement(line).name for line in space.requirements()}
    assert {"torch", "torchvision", "safetensors", "pillow"} <= needed
    assert not {"kedge", "pytest", "onnx"} & needed

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(space, "requires", missing)
    with pytest.raises(ValueError, match="it is not installed"):
        space.requirements()


@pytest.mark.slow
def test_the_app_runs_as_written(run, tmp_path):
    """With what is installed here in place of requirements.txt, from the folder alone, without a network."""
    cli.main(["push", str(run), "ada/litter", "--space", "--out", "to-send"])
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "HF_TOKEN")}
    environment |= {"PORT": "0", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path / "to-send", env=environment, stderr=subprocess.PIPE, text=True
    ) as app:
        try:
            line = app.stderr.readline()
            port = int(re.fullmatch(r"litter: http://0\.0\.0\.0:(\d+)\n", line)[1])
            image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(5)).mul(255).byte()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {"Content-Type": "application/octet-stream", "Host": "ada-litter.hf.space"}
            headers["Origin"] = "https://ada-litter.hf.space"
            connection.request("POST", "/answer", png(image), headers)
            reply = connection.getresponse()
            said = json.loads(reply.read())
            assert reply.status == 200
            assert (
                "frame-ancestors https://huggingface.co https://*.hf.space" in reply.headers["Content-Security-Policy"]
            )
            connection.request("GET", "/about")
            about = json.loads(connection.getresponse().read())
        finally:
            app.terminate()
    model = kedge.load(run / "model")
    prediction = model.predict(image[None] / 255)
    assert said["label"] == model.class_names[int(prediction.label)]
    assert said["confidence"] == pytest.approx(float(prediction.confidence), rel=1e-5)
    assert not about["pictures"]  # what is in the bank is not shown, though it is in the files
    assert about["similar"] is None


def test_it_is_sent_in_one_commit_and_again(hub, run, capsys):
    assert cli.main(["push", str(run), "ada/litter", "--space"]) == 1
    assert "not pushed: the bank holds 12 photos" in capsys.readouterr().err
    assert hub.asked == []
    assert cli.main(["push", str(run), "ada/litter", "--space", "--with-photos", "--private"]) == 0
    printed = capsys.readouterr().out
    assert printed.strip().endswith("/spaces/ada/litter")
    assert "kedge predict" not in printed
    sent = hub.files("spaces/ada/litter")
    assert {"app.py", "Dockerfile", "README.md", "model/config.json", "kedge/demo/page/page.js"} <= set(sent)
    assert b"app_port" in sent["README.md"]  # in place of what the hub puts into a new Space
    assert hub.sdk == {"spaces/ada/litter": "docker"}
    assert "spaces/ada/litter" in hub.private
    assert len(hub.repos["spaces/ada/litter"]) == 2
    assert "ada/litter" not in hub.repos
    hub.commit("spaces/ada/litter", {"kedge/of_before.py": b"", "README.md": b"# mine", "data.txt": b"x"})
    with pytest.warns(UserWarning, match="README.md that kedge did not write"):
        cli.main(["push", str(run), "ada/litter", "--space", "--with-photos", "--private"])
    again = hub.files("spaces/ada/litter")
    assert "kedge/of_before.py" not in again
    assert again["README.md"] == b"# mine"
    assert again["data.txt"] == b"x"


def test_a_public_space_is_not_taken_for_a_private_one(hub, run):
    hub.put("spaces/ada/litter", README__md=b"# mine")
    model = kedge.load(run / "model")
    space.write_space(model, run.parent / "out", "ada/litter")
    with pytest.raises(HubError, match="is there already and is public"):
        space.upload_space(run.parent / "out", "ada/litter", private=True)


@pytest.mark.filterwarnings("ignore:Sequential has no name")
def test_what_a_space_cannot_show_is_refused(tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2))
    model = kedge.plain(network, mean=0.0, std=1.0, example=(3, 2, 2), task="regression")
    with pytest.raises(ValueError, match="this is a regression model"):
        space.write_space(model, tmp_path / "a", "ada/litter")
    model = kedge.plain(network, mean=0.0, std=1.0, example=(3, 2, 2))
    with pytest.raises(ValueError, match="a Sequential of your own code, which a Space does not have"):
        space.write_space(model, tmp_path / "b", "ada/litter")
