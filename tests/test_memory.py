import ctypes
import os
import subprocess
import sys

import pytest

from kedge import memory

GLIBC = sys.platform == "linux" and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}


@pytest.fixture(autouse=True)
def mallopt(monkeypatch):
    """What is asked of malloc, instead of asking it: the tests that follow keep the malloc they had."""
    for name in [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    calls = []

    class Library:
        def mallopt(self, setting, value):
            calls.append((setting, value))
            return 1

    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(memory, "_give_back_before_forks", lambda: calls.append("before forks"))
    return calls


def test_nothing_is_mapped_alone_and_nothing_given_back(mallopt):
    assert memory.keep_freed_memory() is True
    assert mallopt.pop() == "before forks"
    assert sorted(mallopt) == [(-4, 0), (-1, -1)]  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_MMAP_THRESHOLD_", "65536"),
        ("MALLOC_ARENA_MAX", "2"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1"),
    ],
)
def test_the_settings_of_the_user_stand(mallopt, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert memory.keep_freed_memory() is False
    assert mallopt == []


def test_other_tunables_do_not_matter(mallopt, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.rtld.nns=4")
    assert memory.keep_freed_memory() is True


@pytest.mark.parametrize("answer", ["musl 1.2", None, ValueError("unrecognized configuration name")])
def test_another_c_library_is_left_alone(mallopt, monkeypatch, answer):
    def confstr(name):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(os, "confstr", confstr, raising=False)
    assert memory.keep_freed_memory() is False
    assert mallopt == []


def test_a_system_without_any_of_it(mallopt, monkeypatch):
    monkeypatch.delattr(os, "confstr")
    assert memory.keep_freed_memory() is False
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.36", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_freed_memory() is False


FAULTS = """
import resource, sys, torch
from kedge.memory import keep_freed_memory
assert keep_freed_memory() is (sys.argv[1] == "keep")
def use():
    for mib in (40, 100, 3, 70):
        torch.empty(mib << 20, dtype=torch.uint8).fill_(1)
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF)
for _ in range(5):
    use()
after = resource.getrusage(resource.RUSAGE_SELF)
print(after.ru_minflt - before.ru_minflt, after.ru_maxrss - before.ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(not GLIBC, reason="malloc is not glibc's")
def test_memory_is_used_again_without_page_faults():
    def run(how, **more):
        command = [sys.executable, "-c", FAULTS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=CLEAN | more)
        return [int(n) for n in done.stdout.split()]

    kept, grown = run("keep")
    returned, _ = run("return", MALLOC_TOP_PAD_="131072")  # as glibc has it: keep_freed_memory() does nothing then
    pages = 5 * (40 + 100 + 70 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert kept < pages / 20
    assert returned > pages / 2
    assert grown * 1024 < 40 << 20  # and no more memory is taken


WORKERS = """
import torch
from torch.utils.data import DataLoader, Dataset
from kedge.memory import keep_freed_memory
assert keep_freed_memory()
class Faults(Dataset):
    def __len__(self):
        return 20
    def __getitem__(self, i):
        import resource
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(50 << 20, dtype=torch.uint8).fill_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*[int(b) for b in DataLoader(Faults(), batch_size=None, num_workers=1, multiprocessing_context="fork")])
"""


@pytest.mark.skipif(not GLIBC, reason="malloc is not glibc's")
def test_forked_workers_inherit_it():
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, check=True, env=CLEAN)
    faults = [int(n) for n in done.stdout.split()]
    # Small objects that stay between two large ones cost a new block now and then, at first.
    assert sum(faults[10:]) < (50 << 20) // os.sysconf("SC_PAGE_SIZE"), faults


@pytest.mark.skipif(not GLIBC, reason="for glibc's malloc")
def test_what_was_freed_is_given_back_before_a_fork():
    program = """
import ctypes, os
from kedge.memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

assert keep_freed_memory()
assert keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [c.malloc(1 << 20) for _ in range(200)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
fence = c.malloc(64)  # so that the free end of the heap is not what goes
for block in blocks:
    c.free(block)
before = resident()
if (child := os.fork()) == 0:
    os._exit(0)
os.waitpid(child, 0)
print(before - resident() > 150 << 20)
"""
    said = subprocess.run([sys.executable, "-c", program], env=CLEAN, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "True"
