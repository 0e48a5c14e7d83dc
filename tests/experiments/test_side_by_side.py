import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from kedge.experiments import side_by_side as module
from kedge.experiments.side_by_side import cores, shares, side_by_side


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A `kedge` whose first word is Python code."""
    (tmp_path / "kedge").mkdir()
    (tmp_path / "kedge" / "__init__.py").touch()
    (tmp_path / "kedge" / "__main__.py").write_text("import sys\nexec(sys.argv[1])\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logs(folder: Path, count: int) -> list[Path]:
    return [folder / "logs" / f"job-{i}.log" for i in range(count)]


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2] if Path("/proc").is_dir() else False


@pytest.mark.parametrize(("jobs", "part", "parts"), [(1, 1, 1), (2, 1, 1), (3, 2, 4), (5, 1, 2)])
def test_shares_divide_a_part_without_rest(jobs, part, parts):
    runs = list(range(41))
    mine = [runs[int(k) - 1 :: int(n)] for k, _, n in (share.partition("/") for share in shares(jobs, part, parts))]
    assert sorted(run for own in mine for run in own) == runs[part - 1 :: parts]


def test_all_run_at_once_each_with_its_share_of_the_cpu(stand_in, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(module, "cores", lambda: 4)
    code = (
        "import os, pathlib, time\npathlib.Path('{}').touch()\nwhile not pathlib.Path('{}').exists(): time.sleep(.02)\n"
    )
    meeting = [[code.format(a, b) + "print(os.environ['OMP_NUM_THREADS'])"] for a, b in ("ab", "ba")]
    ticks = []
    assert side_by_side(meeting, logs(stand_in, 2), lambda: ticks.append(0)) == []
    assert [log.read_text().strip() for log in logs(stand_in, 2)] == ["2", "2"]
    assert ticks


def test_what_stopped_is_said_in_words_and_the_others_go_on(stand_in):
    commands = [
        ["print('half'); raise SystemExit('kedge train: the disk is full')"],
        ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)"],
        ["print('well')"],
        ["raise SystemExit(3)"],
    ]
    said = side_by_side(commands, logs(stand_in, 4), lambda: None, well=(0, 3))
    assert len(said) == 2
    assert said[0].endswith("kedge train: the disk is full")
    assert "job-0.log" in said[0]
    assert "ended by SIGKILL, as happens where memory runs out" in said[1]
    assert logs(stand_in, 4)[2].read_text() == "well\n"


def test_a_failure_while_waiting_leaves_no_process(stand_in):
    code = "import os, pathlib, time\npathlib.Path(f'{os.getpid()}.pid').touch()\ntime.sleep(60)"

    def tick() -> None:
        if len(list(stand_in.glob("*.pid"))) == 2:
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        side_by_side([[code], [code]], logs(stand_in, 2), tick)
    assert all(gone(int(path.stem)) for path in stand_in.glob("*.pid"))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interruption_ends_all_even_those_that_will_not(stand_in):
    script = stand_in / "parent.py"
    source = Path(module.__file__).parents[2]
    child = (
        "import os, pathlib, signal, time\n"
        "for each in (signal.SIGINT, signal.SIGTERM): signal.signal(each, signal.SIG_IGN)\n"
        "pathlib.Path(f'{os.getpid()}.pid').touch()\ntime.sleep(60)"
    )
    script.write_text(
        textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's job in the background ignores it
        sys.path.insert(0, {str(source)!r})
        from kedge.experiments import side_by_side as module
        module.GRACE = 0.3
        child = {child!r}
        try:
            module.side_by_side([[child], [child]], [Path("0.log"), Path("1.log")], lambda: None)
        except KeyboardInterrupt:
            print("interrupted")
        """)
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, cwd=stand_in)
    until = time.monotonic() + 60
    while len(list(stand_in.glob("*.pid"))) < 2 and parent.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    parent.send_signal(signal.SIGINT)
    assert parent.communicate(timeout=60)[0] == "interrupted\n"
    children = [int(path.stem) for path in stand_in.glob("*.pid")]
    assert len(children) == 2
    assert all(map(gone, children))


def test_cores_are_those_that_this_process_may_use():
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_processes_share_out_the_gpus_that_this_one_may_use(stand_in, monkeypatch):
    show = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    for mine, theirs in (("2,3", ["2", "3", "2"]), ("", ["0", "1", "0"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mine)
        files = [stand_in / f"{mine}-{i}.log" for i in range(3)]
        assert side_by_side([[show]] * 3, files, lambda: None, gpus=2) == []
        assert [file.read_text().strip() for file in files] == theirs


def test_one_that_is_told_to_end_ends_its_processes_too(stand_in):
    """As `kill`, `timeout` and SLURM do."""
    before = signal.getsignal(signal.SIGTERM)
    pids = []

    def tick():
        texts = [log.read_text().strip() for log in logs(stand_in, 2)]
        if all(texts) and not pids:
            pids.extend(map(int, texts))
            os.kill(os.getpid(), signal.SIGTERM)

    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    with pytest.raises(KeyboardInterrupt):
        side_by_side([[sleeper]] * 2, logs(stand_in, 2), tick)
    assert len(pids) == 2
    assert all(map(gone, pids))
    assert signal.getsignal(signal.SIGTERM) is before
