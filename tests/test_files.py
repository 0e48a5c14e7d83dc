import errno
import os
import subprocess
import sys
import time

import pytest

from kedge import files
from kedge.files import folder_in_place_of, sweep, temporary_beside, whole, whole_folder, write_text, write_together


def test_what_fails_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "new" / "file.txt", "earlier\n")

    def fail():
        with whole(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "earlier\n"
    assert os.listdir(path.parent) == ["file.txt"]


def test_the_umask_decides_who_reads(tmp_path):
    before = os.umask(0o027)
    try:
        with whole(tmp_path / "file") as temporary:
            temporary.touch(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_name_as_long_as_names_can_be(tmp_path):
    path = write_text(tmp_path / ("ü" * 127), "long")
    assert path.read_text() == "long"


def test_a_folder_is_whole_or_not_there(tmp_path):
    def fill(fail):
        with whole_folder(tmp_path / "runs" / "new") as folder:
            (folder / "file").write_text("whole")
            assert not (tmp_path / "runs" / "new").exists()
            if fail:
                raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fill(True)
    assert os.listdir(tmp_path / "runs") == []
    fill(False)
    with (
        pytest.raises(FileExistsError, match="just made by another process"),
        whole_folder(tmp_path / "runs" / "new") as folder,
    ):
        (folder / "file").write_text("other")
    assert (tmp_path / "runs" / "new" / "file").read_text() == "whole"
    assert os.listdir(tmp_path / "runs") == ["new"]


def test_a_folder_takes_the_place_of_one_broken_off_and_of_nothing_else(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "run.json").write_text("{}")
    with folder_in_place_of(old, ["run.json"]) as folder:
        (folder / "file").write_text("new")
    assert os.listdir(old) == ["file"]
    with pytest.raises(FileExistsError, match="holds file, which is not replaced"), folder_in_place_of(old, []):
        pass
    assert (old / "file").read_text() == "new"


def test_of_several_files_none_is_there_unless_all_could_be_written(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    write_together(dict.fromkeys(paths, "earlier"))
    original = type(tmp_path).write_text

    def write(path, text, **how):
        if path.name == "b":
            raise OSError(errno.ENOSPC, "full")
        return original(path, text, **how)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "write_text", write)
        with pytest.raises(OSError, match=r"No space left on device: .*b"):
            write_together(dict.fromkeys(paths, "later"))
    assert [path.read_text() for path in paths] == ["earlier"] * 3
    renamed = []
    monkeypatch.setattr(os, "replace", lambda a, b: renamed.append(b.name))
    write_together(dict.fromkeys(paths, "later"))
    assert renamed == ["a", "b", "c"]  # the last is the sign that all are there


@pytest.fixture
def dead(tmp_path):
    """The number of a process that is over."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_what_dead_processes_left_goes_and_nothing_else(tmp_path, dead):
    mine = temporary_beside(tmp_path / "file")
    machine = files._here()
    elsewhere = "0" * 8 if machine != "0" * 8 else "1" * 8
    left = [f".file.{machine}-{dead}-0.tmp", f".old.{elsewhere}-{dead}-3.tmp"]
    stays = [mine.name, f".young.{elsewhere}-{dead}-3.tmp", f".other.{dead}.tmp", ".kedge-export-a1"]
    stays += ["file", ".hidden", f"shown.{machine}-{dead}-0.tmp", f"..{machine}-x-0.tmp"]
    for name in [*left, *stays]:
        (tmp_path / name).write_text("")
    folder = tmp_path / f".run.{machine}-{dead}-1.tmp"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    week = time.time() - files.FORGOTTEN - 60
    for name in [left[1], stays[3]]:
        os.utime(tmp_path / name, (week, week))
    assert sweep(tmp_path) == 3
    assert sorted(os.listdir(tmp_path)) == sorted(stays)
    assert sweep(tmp_path / "nowhere") == 0


def test_a_folder_of_another_machine_is_as_young_as_the_youngest_file_in_it(tmp_path):
    folder = tmp_path / ".run.00000000-1-1.tmp"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_text("")
    week = time.time() - files.FORGOTTEN - 60
    for path in (folder / "model", folder):
        os.utime(path, (week, week))
    assert sweep(tmp_path) == 0
    os.utime(folder / "model" / "weights", (week, week))
    assert sweep(tmp_path) == 1


def test_what_a_writer_leaves_of_its_own_is_swept(tmp_path):
    """As safetensors does, which is killed while it writes under a name of its own."""
    dead = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], check=False)
    assert dead.returncode == 9
    left = [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()]
    assert len(left) == 1
    assert left[0].endswith(".tmpHLz8LB")
    assert sweep(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from kedge.files import whole
with whole(sys.argv[1]) as temporary:
    (temporary.parent / ".tmpHLz8LB").write_text("half")
    os._exit(9)
"""
