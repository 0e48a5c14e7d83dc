"""A full disk, for real where a small one can be mounted, else by a limit on the size of files and by errors alone."""

import errno
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

import kedge
from kedge.cli import main
from kedge.deploy import export
from kedge.files import whole, write_text
from kedge.full_disk import FullDisk, about_full_disk, check_space, in_bytes, is_full_disk, naming
from kedge.training import Recipe
from kedge.training.cost import least_room

ROOM = 400_000


@pytest.fixture
def small(tmp_path):
    """A disk of 400 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def limited():
    """No file may grow beyond 20 kB, as by `ulimit -f`."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def network(width=32):
    torch.manual_seed(0)
    return kedge.plain(
        kedge.networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": width}), example=(1, 8, 8)
    )


def nested():
    try:
        try:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "here")
        except OSError as error:
            raise KeyError("a library's own") from error
    except KeyError:
        try:
            raise RuntimeError("and another's")
        except RuntimeError as error:
            return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:783] PytorchStreamWriter failed: No space left on device"),
        nested(),
        ExceptionGroup("several", [ValueError("x"), OSError(errno.ENOSPC, "full")]),
    ],
)  # fmt: skip
def test_it_is_told_whatever_the_error_is(error):
    assert is_full_disk(error)
    assert "What was written before is intact; free some space" in about_full_disk(error)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOENT, "no"), ValueError("full of errors 280"), RuntimeError("os error 281")]
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_full_disk(error)
    assert about_full_disk(error) is None


def test_every_writer_says_which_file_and_leaves_the_earlier_one(small):
    path = write_text(small / "kept.txt", "earlier")
    weights = {"w": torch.zeros(ROOM // 4)}
    for write in (
        lambda to: to.write_bytes(bytes(2 * ROOM)),
        lambda to: save_file(weights, to),
        lambda to: torch.save(weights, to),
    ):
        with pytest.raises(FullDisk) as caught, whole(path) as temporary:
            write(temporary)
        assert caught.value.filename == str(path)
        assert path.read_text() == "earlier"
        assert os.listdir(small) == ["kept.txt"]
        assert about_full_disk(caught.value, "X").startswith(f"the disk is full: {path} could not be written")


@pytest.mark.parametrize(("to", "suffix"), [("torch", "pt2"), ("onnx", "onnx")])
def test_an_export_ends_in_words_and_not_in_an_abort(small, to, suffix):
    if to == "onnx":
        pytest.importorskip("onnxscript")
    model, path = network(16), small / f"model.{suffix}"
    weights = sum(value.numel() * 4 for value in model.state_dict().values())
    (small / "filler").write_bytes(bytes(ROOM - weights - 5_000))  # room for the weights, not for the file
    with pytest.raises((FullDisk, ValueError), match=r"No space left|disk is too full"):
        export(model, path, to)
    assert os.listdir(small) == ["filler"]


def test_a_save_and_a_limit_on_files(limited, tmp_path):
    with pytest.raises(OSError, match="File too large") as caught:
        kedge.save(network(), tmp_path / "model")
    assert "limit on the size of files (ulimit -f)" in about_full_disk(caught.value)


def test_a_run_that_cannot_fit_does_not_begin(small, capsys):
    command = ["train", "--data", "digits", "--epochs", "2", "--runs", str(small / "runs"), "--name", "a"]
    assert main([*command, "--arguments", "{width: 32}"]) == 1
    said = capsys.readouterr().err
    assert "the disk is too full: this run, its checkpoints and models, takes" in said
    assert f"in {small / 'runs' / 'a'}" in said
    assert not list(small.iterdir())


def test_a_run_that_fills_the_disk_says_how_to_go_on(small, capsys):
    command = ["train", "--data", "digits", "--epochs", "2", "--runs", str(small / "runs"), "--name", "a"]
    (small / "filler").write_bytes(bytes(30_000))  # what is certain to be needed fits, what comes to it does not
    assert main([*command, "--arguments", "{width: 8}"]) == 1
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert f"go on with --resume {small / 'runs' / 'a'}" in said
    (small / "filler").unlink()


def test_the_least_room_is_less_than_what_a_run_writes(tmp_path):
    recipe = {"data": "digits", "epochs": 1, "runs": str(tmp_path), "name": "a", "arguments": {"width": 8}}
    result = kedge.training.fit(recipe, progress=False, report=False)
    least = least_room(result.recipe, result.model, resumed=False, attacking=False)
    written = sum(path.stat().st_size for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert 0.5 * written < least <= written
    twice = Recipe.from_dict({**vars(result.recipe), "epochs": 4, "snapshots": 2})
    assert least_room(twice, result.model, False, False) > 1.5 * least


def test_space_is_asked_where_the_folder_will_be(tmp_path):
    check_space(tmp_path / "not" / "yet", 1, "a file")
    with pytest.raises(ValueError, match=r"the disk is too full: a file takes 1000\.0 TB in .*, and .* are free there"):
        check_space(tmp_path / "not" / "yet", 10**15, "a file")
    assert [in_bytes(n) for n in (12, 1_500, 25_000, 3_400_000_000)] == ["12 bytes", "1.5 kB", "25 kB", "3.4 GB"]


def test_other_errors_name_what_was_to_be_written_and_not_where_it_went_first(tmp_path):
    path, written = tmp_path / "model.onnx", tmp_path / ".model.onnx.0123abcd-1-0.tmp"
    for place in (written, written / "model.onnx"):
        with pytest.raises(PermissionError, match=r"/model\.onnx") as raised, naming(path, written):
            raise PermissionError(13, "Permission denied", str(place))
        assert raised.value.filename == str(path)
    with pytest.raises(PermissionError) as raised, naming(path, written):
        raise PermissionError(13, "Permission denied", "elsewhere")
    assert raised.value.filename == "elsewhere"
