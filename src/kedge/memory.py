"""The C library's malloc: what it does with memory that was freed."""

import ctypes
import functools
import os

# The settings of mallopt(3) in glibc.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have malloc keep freed memory for the next tensor instead of returning it to the kernel; whether it now does.

    By default glibc maps every block above a threshold (at most 32 MiB) anew and unmaps it when it is freed. The kernel
    fills a new mapping with zeros page by page as it is touched, which for the activations of a network can take as
    long as computing them. From this call on blocks are cut from the heap, and what is freed stays there: the process
    holds what it took until it ends, and takes somewhat more at its peak, as gaps in the heap do not fit every block
    (`python -m benchmarks.allocation` measures both). Worker processes that are forked later inherit the setting, and
    before each fork what is free goes back: the kernel would copy each page of it that is written to while they live,
    though nothing is in it, which took seconds for the activations of a network on photos.

    `kedge` on the command line calls this for itself; a program of your own has to ask for it, best before it makes its
    first tensor. Does nothing, and returns False, where malloc is not glibc's or where `MALLOC_*` or `GLIBC_TUNABLES`
    variables already say what it should do. Memory of other devices than the CPU is not concerned. Never raises.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        mallopt = ctypes.CDLL(None).mallopt
        # No block in a mapping of its own; -1: the heap's free end never goes back (mallopt(3)).
        if not (mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, -1)):
            return False
    except (AttributeError, OSError, ValueError):  # another system or C library
        return False
    _give_back_before_forks()
    return True


@functools.cache
def _give_back_before_forks() -> None:
    os.register_at_fork(before=lambda: ctypes.CDLL(None).malloc_trim(0))
