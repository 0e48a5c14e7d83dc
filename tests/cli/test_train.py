import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from kedge.cli import COMMANDS, main, train
from kedge.training import Recipe, load_recipe
from tests.photo_folder import write_photos

TINY = ["--classes", "[0,1]", "--arguments.width", "4", "--batch_size", "64", "--references", "2", "--device", "cpu"]


@pytest.fixture
def no_report(monkeypatch):

    monkeypatch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)


def printed(capsys, *arguments):
    assert main(["train", "--print_config", *arguments]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def complaint(capsys, *arguments):
    status = main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    return status, captured.err


# The command as a whole


def test_help_imports_nothing_slow():
    code = (
        "import sys\nfrom kedge.cli import main\nassert main(['--help']) == 0\n"
        "slow = {'torch', 'lightning', 'timm', 'torchvision', 'datasets', 'matplotlib', 'numpy', 'jsonargparse'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for name in COMMANDS:
        assert name in done.stdout


def test_help_of_train_does_not_wait_for_torch():
    code = (
        "import sys\nfrom kedge.cli import main\n"
        "try: main(['train', '--help'])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'lightning', 'timm', 'torchvision', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for field in fields(Recipe):
        assert f"--{field.name}" in done.stdout


def test_the_first_line_does_not_wait_for_torch():
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom kedge.cli import main\n"
        "sys.exit(main(['train', '--data', 'photos']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1  # there is no torch to go on with
    assert done.stdout == "photos: looking through the images, once PyTorch is there (some seconds)\n"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "RANK": "1"}
    )
    assert other.stdout == ""


def test_no_command_shows_them(capsys):
    assert main([]) == 2
    assert "quickstart" in capsys.readouterr().out


def test_a_misspelled_command(capsys):
    assert complaint(capsys, "trian") == (
        2,
        "kedge: there is no command 'trian'; did you mean train? See kedge --help\n",
    )


def test_errors_for_people_have_no_traceback_unless_asked_for(capsys, monkeypatch):
    status, text = complaint(capsys, "train", "--resume", "nowhere/at-all")
    assert status == 1
    assert text == "kedge train: no run folder at nowhere/at-all\n"
    with pytest.raises(FileNotFoundError):
        main(["--debug", "train", "--resume", "nowhere/at-all"])
    monkeypatch.setenv("KEDGE_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["train", "--resume", "nowhere/at-all"])


@pytest.mark.parametrize("fault", ["int('x')", "{}['key']", "None.attribute"])
def test_faults_of_ours_say_where_and_how_to_see_more(capsys, monkeypatch, fault):
    # int() raises ValueError here, outside kedge: not a message written for people.
    monkeypatch.setattr(train, "run", lambda **options: eval(fault))
    assert main(["train"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("kedge train: not foreseen: ")
    assert "raised in <string>, line 1; --debug shows" in said
    assert "Traceback" not in said
    with pytest.raises((ValueError, KeyError, AttributeError)):
        main(["--debug", "train"])


def test_interrupted(capsys, monkeypatch):
    def run(**options):
        raise KeyboardInterrupt("interrupted after epoch 3; go on with --resume runs/x")

    monkeypatch.setattr(train, "run", run)
    assert main(["train"]) == 130
    assert "go on with --resume runs/x" in capsys.readouterr().err


# Recipes and flags


def test_every_field_is_a_flag(capsys):
    example = Recipe(
        name="n", image_size=9, classes=["a", "b"], ordered=["b", "a"], workers=1, arguments={"width": 3},
        pretrained=False, anchored=False, references=2, residuals=1,
        objective=[{"Mixup": {"alpha": 0.1}}, "CrossEntropy"], class_weights="balanced",
        optimizer="adamw", lr=1e-3, momentum=0.5, nesterov=False, weight_decay=0.0, clip=1.0, ema=0.9, warmup=1.0,
        schedule="multistep", milestones=[2.0], gamma=0.5, epochs=3, batch_size=8, precision="32", device="cpu",
        devices=2, nodes=2, label_noise=0.1, compile=True, seed=3, coverage=0.8, runs="r", data="d", val_fraction=0.2,
        augment="none", model="m", label_noise_kind="pair", label_noise_val=True,
        choose="mean", temperature=True, risk=0.05, split_seed=4, init_from="runs/a", start_factor=0.1, end_factor=0.2,
        ramp="exp", val_pgd_steps=3, eps="8/255", val_pgd_images=50, keep="last", average=0.5,
        train_images=50, snapshots=2, crop=0.3, weights="w.pt", head="probe", head_lr=2.0, batch_norm="frozen",
        layer_decay=0.9, unfreeze=0.5, sync=False, shard=True, folds=2,
        sampler="class-balanced", negatives="without", split_by="folder:2",
        cache="decoded", cache_gb=3.5, familiar=0.9, gate={"min_accuracy": 0.5},
    )  # fmt: skip
    flags = []
    for field in fields(Recipe):
        if field.name == "selection":  # not beside label_noise and folds
            assert printed(capsys, "--selection", "chosen.json")["selection"] == "chosen.json"
            continue
        value = getattr(example, field.name)
        assert value != field.default, f"{field.name} is not tried"
        flags += [f"--{field.name}", value if isinstance(value, str) else yaml.safe_dump(value).strip("\n. ")]
    assert Recipe.from_dict(printed(capsys, *flags)) == example


def test_dashes_in_flags_are_underscores(capsys):
    made = printed(capsys, "--batch-size", "8", "--init-from=some-run", "--name", "a-b", "--val_fraction", "0.2")
    assert (made["batch_size"], made["init_from"], made["name"], made["val_fraction"]) == (8, "some-run", "a-b", 0.2)


def test_a_flag_overrides_a_recipe_also_with_its_default(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("{seed: 7, epochs: 3, anchored: false}")
    assert printed(capsys, "--config", str(path))["seed"] == 7
    merged = printed(capsys, "--seed", "0", "--config", str(path), "--anchored", "true")
    assert (merged["seed"], merged["epochs"], merged["anchored"]) == (0, 3, True)


def test_what_print_config_prints_is_a_recipe(capsys, tmp_path):
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(printed(capsys, "--config", "digits", "--lr", "1e-3")))
    assert printed(capsys, "--config", str(path)) == printed(capsys, "--config", "digits", "--lr", "1e-3")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--epocs", "3"], 2, "did you mean --epochs?"),
        (["--epoch", "3"], 2, "did you mean --epochs?"),
        (["--batchsize", "3"], 2, "did you mean --batch_size?"),
        (["--epochs", "ten"], 2, "--epochs cannot be 'ten': expected a whole number or null"),
        (["--epochs"], 2, "expected one argument"),
        (["photos"], 2, "unknown argument: photos"),
        (["--lr", "-1"], 1, "lr must be above 0, not -1"),
        (["--optimizer", "adamv"], 1, "did you mean adamw"),
        (["--config", "digitz"], 1, "did you mean digits"),
        (["--config", "digits", "--resume", "x"], 1, "leave out --config"),
        (["--data", "no-such-data"], 1, "no data called 'no-such-data'"),
        (["--model", "resnet81"], 1, "no network is named 'resnet81'"),
        (["--classes", "[0,zero]"], 1, "no class 'zero'"),
    ],
)
def test_what_is_wrong_is_said(capsys, tmp_path, arguments, status, words):
    found, text = complaint(capsys, "train", "--runs", str(tmp_path), *arguments)
    assert found == status
    assert words in text
    assert "Traceback" not in text
    assert not list(tmp_path.iterdir())


def test_a_misspelled_key_in_a_file(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epocs: 3")
    status, text = complaint(capsys, "train", "--config", str(path))
    assert status == 1
    assert "mine.yaml: no recipe key is named 'epocs'; did you mean epochs" in text


# Training


@pytest.mark.usefixtures("no_report")
def test_train_and_resume(capsys, tmp_path):
    arguments = ["train", *TINY, "--epochs", "1", "--runs", str(tmp_path), "--name", "one"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "epoch 1/1" in out
    # The lines of epochs ask one reference, the last line the bank: each says which.
    assert re.search(r"epoch 1/1 .*val accuracy [\d.]+ % \(one reference\)", out)
    assert "epochs are validated with the first reference of the bank alone" in out
    count = load_recipe(tmp_path / "one" / "recipe.yaml").references
    assert f"validation, mean over {count} references: accuracy" in out
    after = [line.split("   ")[0].split() for line in out.partition("next:\n")[2].splitlines()]
    assert [words[1] for words in after] == ["calibrate", "evaluate", "predict", "evaluate", "export"]
    assert all(words[0] == "kedge" and str(tmp_path / "one") in words for words in after)
    assert load_recipe(tmp_path / "one" / "recipe.yaml").classes == ["0", "1"]
    (tmp_path / "one" / "report.html").touch()  # of which the fixture makes none
    assert main(["train", "--resume", str(tmp_path / "one")]) == 0
    assert "nothing is left to do" in capsys.readouterr().out
    assert main(["train", "--resume", str(tmp_path / "one"), "--epochs", "2"]) == 1
    assert "epochs is 1 there, not 2" in capsys.readouterr().err
    assert main(arguments) == 1
    assert "is not overwritten" in capsys.readouterr().err


@pytest.mark.slow
def test_the_run_comes_with_its_page(tmp_path):
    """The installed command, everything as it ships."""
    command = [sys.executable, "-c", "import sys; from kedge.cli import main; sys.exit(main())", "train", *TINY]
    done = subprocess.run(
        [*command, "--epochs", "2", "--name", "x"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = tmp_path / "runs" / "x"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [
            "images.csv",
            "images.safetensors",
            "last.ckpt",
            "last.ckpt.sha256",
            "metrics.csv",
            "model",
            "recipe.yaml",
            "report.html",
            "run.json",
        ]
    )
    assert "</html>" in (folder / "report.html").read_text()


def test_what_is_not_read_of_the_files_is_said_before_the_first_epoch(capsys, tmp_path, no_report):
    from PIL import Image

    photos = write_photos(tmp_path / "photos", each=40)
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 100, 200)]
    frames[0].save(photos / "ant" / "moves.gif", save_all=True, append_images=frames[1:])
    asked = [
        "--data",
        str(photos),
        "--name",
        "mine",
        "--runs",
        str(tmp_path),
        "--epochs",
        "1",
        "--arguments.width",
        "4",
        "--folds",
        "0",
    ]
    assert main(["train", *asked, "--batch_size", "64", "--references", "2", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    line = f"1 animated or of several pages (the first image is read), such as {photos / 'ant' / 'moves.gif'}"
    assert line in said.splitlines()
    assert said.index(line) < said.index("epoch 1/1")
