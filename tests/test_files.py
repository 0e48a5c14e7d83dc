import os

import pytest

from kedge.files import whole, write_text


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
