"""The pages of the documentation: how they begin, and that commands and programs run as they are written."""

import ast
import copy
import importlib
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kedge
from kedge import cli
from kedge.claims import claim
from kedge.cli.flags import options_of
from tests.hub_stand_in import TOKEN
from tests.photo_folder import write_photos

ROOT = Path(__file__).parents[1]
WRITTEN = ("methods", "measured", "_build")  # by a build, or parts of such pages
PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if not set(WRITTEN) & set(page.parts)]
RECORDS = ("changelog.md", "decisions/", "results/anchoring.md", "results/photos.md")
SMALL = ["--epochs", "1", "--workers", "0", "--device", "cpu"]
NETWORK = ["--model", "kedge_resnet_small", "--arguments.width", "4"]


def name(page):
    return page.relative_to(ROOT / "docs").as_posix() if page.is_relative_to(ROOT / "docs") else page.name


def blocks(page):
    """The programs and commands of a page in order: ("python", its text) or ("console", a command line)."""
    listed = []
    for kind, text in re.findall(r"```(python|console|yaml)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        if kind != "console":
            listed.append((kind, text))
        else:
            lines = (
                line.strip().removeprefix("$ ")
                for line in text.splitlines()
                if page.name == "README.md" or line.lstrip()[:2] == "$ "
            )
            listed += [(kind, line) for line in lines]
    return listed


def arguments(line):
    """The words behind `kedge` in a command line; None of a line that runs something else."""
    words = shlex.split(line, comments=True)
    words = words[: words.index(">")] if ">" in words else words  # what it prints goes to a file
    return words[words.index("kedge") + 1 :] if "kedge" in words else None


@pytest.mark.parametrize("page", [p for p in PAGES if not name(p).startswith(RECORDS)], ids=name)
def test_a_page_begins_with_three_lines_and_code(page):
    title, _, *rest = page.read_text(encoding="utf-8").split("\n")
    assert title.startswith("# ")
    assert all(rest[:3])
    assert rest[3] == ""
    assert re.fullmatch(r"```(python|console)", rest[4])


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=name)
def test_commands_have_the_flags_and_programs_the_names_that_a_page_uses(page):
    for kind, text in blocks(page):
        if kind == "console":
            words = arguments(text)
            if words and words[0] in cli.COMMANDS and words[1:] != ["--help"]:
                assert not isinstance(options_of(words[0], words[1:]), int), text
            for module in re.findall(r"python -m (benchmarks[.\w]+)", text):
                assert importlib.util.find_spec(module), text
        for node in ast.walk(ast.parse(text if kind == "python" else "")):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kedge"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, each.name) for each in node.names), ast.unparse(node)
            elif isinstance(node, ast.Attribute) and re.fullmatch(r"kedge(\.\w+)+", ast.unparse(node)):
                value = kedge
                for part in ast.unparse(node).split(".")[1:]:
                    value = getattr(value, part)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with what the pages speak of: photos of ten classes, others, new ones, and two runs."""
    folder = tmp_path_factory.mktemp("world")
    classes = tuple(str(digit) for digit in range(10))
    write_photos(folder / "photos" / "train", classes, each=12)
    write_photos(folder / "photos" / "test", classes, each=4, seed=1)
    write_photos(folder / "other-photos", ("ant", "bee"), each=30, seed=2)
    write_photos(folder / "further-photos", classes, each=3, seed=6)
    write_photos(folder / "newcomers", ("wasp", "fly"), each=12, seed=5)
    write_photos(folder / "new-photos", (".",), each=5, seed=3)
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(folder / "photo.jpg")
    write_photos(folder / "imagenet-r", ("n01443537", "n01484850", "n01494475"), each=2, seed=4)
    (folder / "textures").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(
        folder / "textures" / "frost1.png"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = ["train", "--data", "photos", *NETWORK, *SMALL]
        assert cli.main([*run, "--references", "3", "--name", "first"]) == 0
        assert cli.main([*run, "--anchored", "false", "--name", "plain"]) == 0
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A copy of the world to walk through a page in; gives copies of its runs other names."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def runs(**names):
        for other, run in names.items():
            shutil.copytree(tmp_path / "runs" / run, tmp_path / "runs" / other, dirs_exist_ok=True)
        return tmp_path

    return runs


def effects():
    """The measured effects that pages take from results, as they name them."""
    return [
        (name(page), re.sub(r"\s+", " ", text))
        for page in PAGES
        for text in re.findall(r"\{effect\}`([^`]+)`", page.read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("page", "text"), effects())
def test_an_effect_on_a_page_is_of_a_criterion_that_there_is_or_of_a_committed_result(page, text, monkeypatch):
    """So that no page speaks of what is measured no more; a build of the pages writes the number itself."""
    kind, *parts = [part.strip() for part in text.split("|")]
    if kind == "claims":
        each, words = parts
        assert words in [criterion.words for criterion in claim(each).criteria]
    if kind != "claims" or list((ROOT / "benchmarks" / "results").glob("claims-*")):
        pytest.importorskip("sphinx")
        monkeypatch.syspath_prepend(ROOT / "docs" / "_extensions")
        number = importlib.import_module("effects").effect(text)
        assert re.match(r"[+-]?\d+\.\d( \[[+-]?\d+\.\d, [+-]?\d+\.\d\])?, \d+ seed", number)


def values():
    """What programs of the pages are about: a trained model, images with labels, answers and scores."""
    torch.manual_seed(0)
    model, plain = kedge.load("runs/first"), kedge.load("runs/plain")
    train_set, test_set = (kedge.data.load("photos", part) for part in ("train", "test"))
    images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
    logits = torch.randn(40, 10)
    probs = logits.softmax(1)
    confidence, predicted = probs.max(1)
    correct = predicted == labels
    return {
        "kedge": kedge, "model": model, "network": kedge.networks.create("kedge_resnet_small", 10, 1, 8),
        "any_callable": plain, "before": plain, "after": copy.deepcopy(plain), "evaluate": lambda each: {"clean": 0.5},
        "start": plain.predict(images), "tuned": model.predict(images), "average": plain.predict(images),
        "images": images, "labels": labels, "indices": torch.arange(40), "loader": [(images, labels)] * 2,
        "train_set": train_set, "validation_set": test_set, "familiar": test_set,
        "others": kedge.data.load("other-photos", "train"),
        "batches_of_training_images": [x.float() / 255 for x, _ in train_set.batches(60)],
        "train_labels": train_set.labels, "classes": 10, "logits": logits, "probs": probs, "predicted": predicted,
        "confidence": confidence, "correct": correct, "other": (confidence, correct),
        "nll": -confidence.log(), "brier": (1 - confidence) ** 2, "inside": torch.randn(50) + 1,
        "outside": torch.randn(40), "a": torch.randn(30), "b": torch.randn(30),
    }  # fmt: skip


def walk(page, changes=None, skip=(), names=None):
    """Run a page from top to bottom: its commands in this process, its programs in one namespace."""
    names = values() if names is None else names
    for kind, text in blocks(ROOT / "docs" / page):
        for old, new in (changes or {}).items():
            text = text.replace(old, new)
        if any(word in text for word in skip):
            continue
        if kind == "yaml":
            Path("wider.yaml").write_text(text)  # what docs/reproduce.md calls it
        elif kind == "python":
            exec(compile(text, page, "exec"), names)
        words = arguments(text) if kind == "console" else None
        if words is None:
            continue
        if words[0] in ("train", "adapt"):
            free = words[0] == "train" and not {"--model", "--config", "--init_from", "--init-from"} & set(words)
            tuned = not {"--remember", "--add_classes", "--add-classes"} & set(words)
            words += [*SMALL, *NETWORK] if free else SMALL if words[0] == "train" else ["--epochs", "1"] * tuned
            words += ["--train_images", "300"] if words[0] == "train" and "digits" in words else []
        if words[0] == "evaluate":
            words += ["--device", "cpu", "--limit", "40", "--attack_images", "8"]
            words += [] if {"--shift", "--unlabelled"} & set(words) else ["--shift", "fog", "--severities", "3"]
        assert cli.main(words) == 0, text
    return names


@pytest.mark.slow
def test_the_tutorial_runs(here, tmp_path):
    pytest.importorskip("onnxscript")
    here()
    shutil.rmtree("photos")
    shutil.rmtree("runs")
    walk("train-your-own.md", names={})
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 1 + 359
    assert (tmp_path / "runs" / "mine" / "mine-photo.onnx").is_file()
    assert (tmp_path / "runs" / "mine" / "evaluation" / "report.html").is_file()


# By page: the runs that are there, what is cut short or lies elsewhere here, and lines that need another machine.
MINE, FIVE = {"mine": "first"}, "linear-probe,anchored-probe,finetune,lp-ft,wise-ft"
WALKS = {
    "anchoring.md": ({}, {"each=1, seed=0": "each=1, seed=0, steps=2"}, ()),
    "api.md": (MINE, {}, ()),
    "attacks.md": ({}, {}, ()),
    "calibration.md": (MINE, {"0.7,0.2,0.1": ",".join(["0.1"] * 10)}, ()),
    "calibration-errors.md": ({}, {}, ()),
    "gate.md": (
        MINE,
        {
            "--min-accuracy 0.9 --worst-class 0.7 --max-ece 0.03": "--min-accuracy 0 --worst-class 0 --max-ece 1",
            "0.8@risk0.02 --max-unknown-answered 0.1": "0.8@risk1 --max-unknown-answered 1",
        },
        (),
    ),
    "corruptions.md": ({}, {"path/to/textures": "textures"}, ()),
    "metrics.md": ({}, {}, ()),
    "published-sets.md": ({}, {"~/data/": "", "tiny_imagenet32_jpeg": "photos"}, ("kedge evaluate",)),
    "scores.md": ({}, {}, ("kedge adapt", "kedge evaluate")),
    "unknown.md": (MINE, {}, ()),
}
SLOW = {
    "cookbook/index.md": ({}, {"--name first": "--name again"}, ()),
    "cookbook/few-photos.md": ({}, {"--folds 3": "--folds 2"}, ("timm/", "--learning_curve")),
    "cookbook/rare-classes.md": (
        {},
        {
            "--name plain": "--name usual",
            "kedge evaluate plain": "kedge evaluate usual",
            "calibrate plain": "calibrate usual",
        },
        (),
    ),
    "cookbook/wrong-labels.md": ({}, {}, ()),
    "cookbook/another-camera.md": (
        MINE,
        {"relabelled": "photos", "compare photos/test new-photos": "compare photos/test photos/train"},
        (),
    ),
    "cookbook/attackers.md": (MINE, {}, ()),
    "cookbook/on-a-phone.md": (MINE, {"--int8": "--int8 --data photos"}, ()),
    "adapt.md": (
        MINE,
        {
            FIVE + " --shots 1,5 --draws 3": "linear-probe --shots 1 --draws 1",
            FIVE: "linear-probe,lp-ft",
            "gaussian_noise,fog --severities 3": "fog --severities 3 --limit 50",
            "search --out": "search --budget 2 --out",
            "--limit 200": "--limit 50",
            "epochs=5": "epochs=1",
            "photos-after-the-shift": "photos",
            "mine --data flowers": "plain --data photos",
        },
        (),
    ),
    "drift.md": (
        MINE,
        {
            " --epochs 10": "",
            "--name mine": "--name again",
            "@fog:3 --model mine": "@fog:3 --model again --severities 3",
        },
        (),
    ),
    # A cascade of two networks of a second saves nothing, which is exit status 3.
    "deploy.md": (
        {"litter": "first"},
        {
            "--int8": "--int8 --data photos",
            "trashnet160": "photos",
            'InferenceSession("litter': 'InferenceSession("runs/litter/litter',
            'with_photo_input("litter': 'with_photo_input("runs/litter/litter',
            "validation.uncropped": "validation_set.uncropped",
        },
        ("kedge cascade", "kedge predict both", "kedge evaluate both"),
    ),
    "demo.md": ({"litter": "first"}, {"demo runs/litter": "demo runs/litter --device cpu --port 0"}, ()),
    "files.md": ({}, {"/scratch/runs": "elsewhere"}, ()),
    "audit.md": ({"mine": "first"}, {}, ("timm/", "--learning_curve")),
    "interpolate.md": (
        {"tuned": "plain"},
        {"--epochs 20": "", "steps: 10": "steps: 2", "--sweep": "--sweep --limit 30"},
        ("runs/tuned",),
    ),
    "million.md": ({"litter": "first"}, {}, ("torchrun", "srun", "shards/", "rows.jsonl")),
    "outliers-and-teachers.md": (
        {"big": "plain", "old": "plain", "guide": "plain"},
        {
            "224, 3": "8, 1",
            "--data new-photos": "--data photos",
            "photos-without": "other-photos",
            "old-photos": "other-photos",
            "kedge_resnet18 --arguments '{heads: 2}'": "kedge_resnet_small --arguments '{width: 4, heads: 2}'",
        },
        ("select_head",),
    ),
    "photos.md": ({}, {"^(.+)_[0-9]+": r"([0-9])\.png"}, ("--weights",)),
    "reproduce.md": ({}, {"epochs: 10": "epochs: 1", "seeds: 3": "seeds: 1", "[0, 1, 2]": "[0]"}, ("--jobs",)),
    "robust.md": ({}, {"range(10)": "range(1)", "steps=10": "steps=2"}, ()),
    "share.md": ({**MINE, "litter": "first"}, {"trashnet160": "photos"}, ()),
    "test-time.md": (
        {"mine": "plain"},
        {"--adapt_at_test": "--no_brake --adapt_at_test", "validation_set": "train_set"},
        (),
    ),
    "training.md": (
        {"litter": "first"},
        {"low,medium,high": ",".join("0123456789")},
        ("--devices", "convnext", "dominoes", "--how forgetting", "kedge subgroups"),
    ),
    "trust.md": (
        {**MINE, "standard": "plain", "anchored": "first"}
        | {f"{group}-{seed}": "first" for group in ("old", "new") for seed in range(2)},
        {
            "^(cam[0-9]+)_": r"([0-9])\.png",
            "mnist,textures --near cifar100": "other-photos",
            "old-1,old-2": "old-1",
            "new-1,new-2": "new-1",
        },
        (),
    ),
    "prediction-sets.md": ({}, {"--epochs 10": "", "new-photos": "photos"}, ()),
    "unlabelled.md": ({}, {"--epochs 10": ""}, ()),
    "which-method.md": (
        {},
        {"--name first": "--name plainly", "--data new-photos": "--data photos"},
        ("tf_efficientnet",),
    ),
}


def ended(server, poll_interval=0.5):
    """In place of serving a page until Ctrl-C: Ctrl-C at once."""
    assert server.server_port
    raise KeyboardInterrupt


@pytest.mark.parametrize("page", [*WALKS, *(pytest.param(page, marks=pytest.mark.slow) for page in SLOW)])
def test_a_page_runs_as_it_is_written(page, here, hub, monkeypatch):
    runs, changes, skip = (WALKS | SLOW)[page]
    here(**runs)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("kedge.demo.Server.serve_forever", ended)
    walk(page, changes, skip)
    if page == "trust.md":
        walk("results.md")  # about the file that the first has written


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name)
def test_what_is_called_by_its_place_in_kedge_is_there_after_import_kedge(page):
    """As `kedge.layout.channels_last`, which only another import brought."""
    imports = r"(?m)^\s*(from|import) .*$|^.*auto(module|class|function)::.*$"
    text = re.sub(imports, "", page.read_text(encoding="utf-8"))
    for place in set(re.findall(r"(?<![\w/.-])kedge((?:\.[A-Za-z_]+)+)", text)) - {".json"}:
        first, *rest = place.split(".")[1:]
        assert first in kedge.__all__, place
        if (ROOT / "src" / "kedge" / first / "/".join(rest)).with_suffix(".py").is_file():
            continue  # the name of a module
        whole = getattr(kedge, first)
        for part in rest:
            whole = getattr(whole, part)
