"""Why a run stops before its end, in words."""

from pathlib import Path

from kedge.full_disk import about_full_disk

__all__ = ["TrainingStopped", "explained"]


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says where it stopped, why, and what to do."""


def explained(
    error: BaseException, batch_size: int, devices: int = 1, folder: Path | None = None
) -> TrainingStopped | None:
    """Return the words for an error that people can act on: out of memory, disk full. None for any other.

    `folder`: of the run, which goes on there.
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text or "out of memory" in text.lower():
        smaller = max(devices, batch_size // 2 // devices * devices)
        advice = f"try batch_size {smaller}" if smaller < batch_size else "take a smaller model or image_size"
        return TrainingStopped(f"out of memory with batch_size {batch_size}: {advice}")
    then = "free some space" + ("" if folder is None else f", then go on with --resume {folder}")
    words = about_full_disk(error, then)
    return None if words is None else TrainingStopped(words)
