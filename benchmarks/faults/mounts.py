"""Small disks: a tmpfs in a mount namespace of this process, gone when it ends; needs no root where users may."""

import ctypes
import os
import shutil
from pathlib import Path
from types import TracebackType

_NEWNS, _NEWUSER, _PRIVATE, _REC, _REMOUNT = 0x20000, 0x10000000, 1 << 18, 0x4000, 32
_state = {"mount": False}


def _call(name: str, *arguments: object) -> bool:
    try:
        return int(getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments)) == 0
    except (OSError, AttributeError):
        return False


def apart() -> bool:
    """Give this process mounts of its own, before it has threads; whether small disks can be made."""
    user, group = os.getuid(), os.getgid()
    if not _call("unshare", _NEWNS):
        if not _call("unshare", _NEWNS | _NEWUSER):
            return False
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    _state["mount"] = _call("mount", b"none", b"/", None, ctypes.c_ulong(_REC | _PRIVATE), None)
    return _state["mount"]


def can_mount() -> bool:
    """Whether `apart` worked."""
    return _state["mount"]


class Disk:
    """`folder` as a disk of `size` bytes with a copy of `start` on it; `grow` makes it large."""

    def __init__(self, folder: Path, size: int, start: Path) -> None:
        self.folder, self.size, self.start = folder, size, start

    def __enter__(self) -> "Disk":
        self._mount(1 << 27)
        shutil.copytree(self.start, self.folder, dirs_exist_ok=True, symlinks=True)
        self._mount(self.size, _REMOUNT)
        return self

    def grow(self) -> None:
        self._mount(1 << 28, _REMOUNT)

    def _mount(self, size: int, flags: int = 0) -> None:
        target, options = os.fsencode(self.folder), f"size={size}".encode()
        if not _call("mount", b"tmpfs", target, b"tmpfs", ctypes.c_ulong(flags), options):
            raise OSError(f"no tmpfs of {size} bytes at {self.folder}")

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _call("umount2", os.fsencode(self.folder), 2)
