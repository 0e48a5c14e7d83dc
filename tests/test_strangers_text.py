"""JSON, YAML and tables of a stranger: read within bounds, refused in words that name the file, at once."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch

import kedge
from kedge.experiments import load_experiment
from kedge.json_text import parse_json, read_json
from kedge.regular import read_text
from kedge.reporting import read_results
from kedge.training.folder import RunFolder
from kedge.training.recipe import Recipe, load_recipe
from kedge.training.recorded import recorded
from kedge.yaml_text import parse_yaml

SECONDS = 20  # far more than any takes, far less than what hangs would

# Nine times nine times ... : a few hundred characters that stand for 9^12 entries.
LAUGHS = "a0: &a0 [x, x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
MERGED = "a0: &a0 {k: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], j{i}: 2}}\n" for i in range(1, 9)
)
YAML = {
    "laughs": (LAUGHS, "aliases repeat more than 10,000 entries"),
    "merged": (MERGED, "aliases repeat more than 10,000 entries"),
    "itself": ("a: &a [*a]", "line 1: an alias stands inside what it names"),
    "lists": ("a: " + "[" * 100_000, "nested deeper than 64"),
    "dashes": ("a:\n  " + "- " * 100_000, "nested deeper than 64"),
    "mappings": ("{a: " * 100_000, "nested deeper than 64"),
    "base 60": ("epochs: 1" + ":1" * 200_000, "digits is too large"),
    "digits": ("epochs: " + "1" * 5_000, "5000 digits is too large"),
    "twice": ("lr: 0.1\nlr: 0.01\n", "line 2: 'lr' is there twice"),
    "list": ("- a", "a list where a mapping"),
    "text": ("a", "a str where a mapping"),
    "binary": ("\x00\x01\x02", "is not YAML"),
    "object": ("a: !!python/object/apply:os.system [ls]", "kind !!python/object/apply:os.system"),
    "bytes": ("a: !!binary aGk=", "kind !!binary"),
    "no number": ("a: !!int x", "not of the kind"),
    "no boolean": ("a: !!bool x", "not of the kind"),
    "two": ("a: 1\n---\nb: 2", "is not YAML"),
    "listed key": ("? [a]\n: 1", "a key is a word"),
    "cut off": ("a: [1", "is not YAML"),
    "no anchor": ("a: *b", "is not YAML"),
    "half a character": ('a: "\\ud800"', "surrogates not allowed"),
    "large": ("#" * 1_000_001, "larger than 1,000,000"),
}
JSON = {
    "nested": ('{"a": ' + "[" * 100_000, "nested deeper than 64"),
    "nested and whole": ('{"a": ' + "[" * 70 + "]" * 70 + "}", "nested deeper than 64"),
    "twice": ('{"a": 1, "a": 2}', "'a' is there twice"),
    "not a number": ('{"a": NaN}', "NaN is no number"),
    "minus infinity": ('{"a": -Infinity}', "-Infinity is no number"),
    "infinite": ('{"a": 1e999}', "1e999 is too large"),
    "digits": ('{"a": ' + "1" * 5_000 + "}", "5000 digits is too large"),
    "list": ("[1]", "a list where a mapping"),
    "null": ("null", "nothing where a mapping"),
    "empty": ("", "it is empty"),
    "cut off": ('{"a": 1', "is not JSON"),
    "half a character": ('{"a": "\\uD800"}', "surrogates not allowed"),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_out_of_bounds(name):
    text, words = YAML[name]
    began = time.perf_counter()
    with pytest.raises(ValueError, match=words) as caught:
        parse_yaml(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml")
    assert len(str(caught.value)) < 1000
    assert time.perf_counter() - began < SECONDS


@pytest.mark.parametrize("name", JSON)
def test_json_out_of_bounds(name):
    text, words = JSON[name]
    with pytest.raises(ValueError, match=words) as caught:
        parse_json(text, "mine.json")
    assert str(caught.value).startswith("mine.json")


def test_what_is_within_bounds_is_what_the_libraries_read():
    import yaml

    text = Recipe(classes=["a", "1"], arguments={"width": 8}, name="2024-01-01").to_yaml()
    assert parse_yaml(text, "x") == yaml.safe_load(text)
    shared = "a: &a {k: [1, 2.5, null, yes]}\nb: *a\nc: {<<: *a, d: ~}\n"
    assert parse_yaml(shared, "x") == yaml.safe_load(shared)
    assert parse_yaml("", "x") == parse_yaml("# nothing\n", "x") == {}
    assert parse_yaml("name: 2024-01-01", "x") == {"name": "2024-01-01"}  # a name, where YAML has a date
    value = {"a": [1, -2.5, None, True, {"b": "€ 😀"}], "c": {}}
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json('{"a": NaN}', "x", nan=True)["a"] != parse_json('{"a": NaN}', "x", nan=True)["a"]


def test_files_that_are_no_text_or_no_files(tmp_path):
    path = tmp_path / "run.json"
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"run\.json is not text in UTF-8 \(byte 0 is 0x89\)"):
        read_json(path)
    path.write_bytes(b"{}" + b" " * 100)
    with pytest.raises(ValueError, match=r"run\.json is larger than 50 bytes"):
        read_json(path, 50)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="a named pipe, not a file"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")
    (tmp_path / "mark.txt").write_bytes(b"\xef\xbb\xbfa: 1")  # as some editors begin a file
    assert read_text(tmp_path / "mark.txt", 100) == "a: 1"


BAD = {"binary": b"\x89PNG\r\n\x00", "empty": b"", "list": b"[1]", "nested": b"[" * 100_000, "cut off": b'{"a": '}


@pytest.mark.parametrize("kind", BAD)
def test_every_file_of_a_run_that_is_damaged_is_named(tmp_path, kind):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("recipe.yaml", "run.json", "metrics.csv", "results.json", "config.json", "e.yaml"):
        (run / name).write_bytes(BAD[kind])
    folder = RunFolder(run)
    readers = {"run.json": folder.facts, "results.json": lambda: read_results(run / "results.json")}
    if kind != "empty":  # an empty recipe is that of all defaults
        readers |= {"recipe.yaml": lambda: recorded(run), "e.yaml": lambda: load_experiment(run / "e.yaml")}
        readers |= {"recipe.yaml ": lambda: load_recipe(run / "recipe.yaml")}
    for name, read in readers.items():
        with pytest.raises(ValueError, match=name.strip().replace(".", r"\.")):
            read()
    if kind in ("binary", "cut off"):
        (run / "metrics.csv").write_bytes(b"epoch,lr\n1,0.1\n" + BAD[kind])
        with pytest.raises(ValueError, match=r"metrics\.csv is not the table of a run's epochs"):
            folder.rows()


@pytest.mark.parametrize("text", ["epoch,lr\nx,0.1\n", "epoch,lr\n1,0.1,7\n", "lr\n0.1\n", f"epoch\n{'1' * 200_000}\n"])
def test_a_table_that_is_none(tmp_path, text):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.csv is not the table of a run's epochs"):
        RunFolder(tmp_path).rows()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("arguments: 7", r"recipe\.yaml: arguments is a mapping"),
        ("objective: 7", r"recipe\.yaml: objective is a list"),
        ("objective: [7]", r"recipe\.yaml: objective is a list of names"),
        ("seed: [1]", r"recipe\.yaml: seed is a whole number"),
    ],
)
def test_a_recipe_with_values_of_other_kinds_is_refused_by_whoever_looks_at_it(tmp_path, text, words):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        recorded(tmp_path)
    (tmp_path / "recipe.yaml").write_text("of_another_version: 3\nwarmup: 1e-3\n")
    assert recorded(tmp_path) == {"of_another_version": 3, "warmup": 0.001}
    assert recorded(tmp_path / "none") == recorded(None) == {}


def test_an_empty_recipe_is_not_one_of_all_defaults(tmp_path):
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(ValueError, match=r"recipe\.yaml is empty: it was cut off"):
        RunFolder(tmp_path).recipe()


@pytest.mark.parametrize("key", ["data", "cost", "given", "validation"])
def test_facts_of_other_kinds(tmp_path, key):
    (tmp_path / "run.json").write_text(json.dumps({"kedge": "0", key: [1]}))
    with pytest.raises(ValueError, match=rf"run\.json: {key} is a mapping, not '\[1\]'"):
        RunFolder(tmp_path).facts()


def test_a_record_of_images_that_does_not_add_up(tmp_path):
    import torch
    from safetensors.torch import save_file

    from kedge.training.record import FILE, ImageRecord

    keys, labels = torch.zeros(3, 16, dtype=torch.uint8), torch.zeros(2, dtype=torch.int32)
    tensors = {"trained": keys, "labels": labels, "held": keys, "held_labels": labels, "earlier": keys}
    about = {"keys_of": "x", "held_of": "x", "known": "yes"}
    save_file({name: value.clone() for name, value in tensors.items()}, tmp_path / FILE, about)
    with pytest.raises(ValueError, match="more keys than labels"):
        ImageRecord.read(tmp_path)


def test_one_place_reads_each_kind():
    """By the source: the libraries' own readers are called by nobody else."""
    import ast
    from pathlib import Path

    import kedge

    callers = {}
    for path in Path(kedge.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in (
                "json.load",
                "json.loads",
                "yaml.safe_load",
                "yaml.load",
                "csv.reader",
                "csv.DictReader",
                "pickle.load",
            ):
                callers.setdefault(called, set()).add(path.name)
    # Of what they wrote themselves, a moment ago, all but the first.
    assert callers == {
        "json.loads": {"json_text.py", "architectures.py", "digests.py", "reproduce.py"},
        "csv.DictReader": {"folder.py"},
    }


@pytest.mark.filterwarnings("ignore:Sequential has no name")
def test_weights_that_are_a_pipe_are_not_waited_for(tmp_path):
    make = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))"
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    kedge.save(kedge.plain(network, mean=[0.5], std=[0.5], example=(1, 2, 2)), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    os.mkfifo(tmp_path / "model.safetensors")
    load = f"kedge.load(sys.argv[1], model={make})"
    code = f"import sys, torch, kedge\ntry: {load}\nexcept (OSError, ValueError) as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, timeout=60)
    assert b"model.safetensors" in done.stdout
