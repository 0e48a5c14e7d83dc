"""Why a run stops before its end, in words."""

import errno

__all__ = ["TrainingStopped", "explained"]


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says where it stopped, why, and what to do."""


def explained(error: BaseException, batch_size: int, devices: int = 1) -> TrainingStopped | None:
    """Return the words for an error that people can act on: out of memory, disk full. None for any other."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text or "out of memory" in text.lower():
        smaller = max(devices, batch_size // 2 // devices * devices)
        advice = f"try batch_size {smaller}" if smaller < batch_size else "take a smaller model or image_size"
        return TrainingStopped(f"out of memory with batch_size {batch_size}: {advice}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TrainingStopped(
            f"the disk is full: {error}. What was saved before is intact; free some space, and resume"
        )
    return None
