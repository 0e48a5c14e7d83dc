"""What the libraries of Hugging Face raise, in words: a cache that cannot be written, a set that cannot be loaded."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kedge.data.report import DataError

# A full disk is none of these: what is said of it is said in one place.
_NOT_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@contextmanager
def cache_errors(name: str) -> Iterator[None]:
    """Turn an error of writing to the cache into a DataError about the set `name`; others are raised as they are."""
    try:
        yield
    except OSError as error:
        if (words := _about_cache(error)) is None:
            raise
        raise DataError(f"{name}: {words}") from error


@contextmanager
def hub_errors(repository: str) -> Iterator[None]:
    """Turn what the hub's libraries raise into one message that says what to do."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if (words := _about_cache(error)) is not None:
            raise DataError(f"{repository}: {words}") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        folder = repository.split("/")[-1]
        raise DataError(
            f"{repository!r} is no folder here, and loading it from the Hugging Face hub failed: {reason}\n"
            "If the name is right, check the network (HF_ENDPOINT, HTTPS_PROXY, and HF_TOKEN for a private set). "
            "Without a network: on a connected machine run\n"
            f"  hf download --repo-type dataset {repository} --local-dir {folder}\n"
            f"copy the folder here and load it by its path (or put it into $KEDGE_DATA and load {folder!r})."
        ) from error


def _about_cache(error: Exception) -> str | None:
    """What to say of an error of writing to a cache of Hugging Face; None of any other."""
    import datasets
    from huggingface_hub import constants

    place = getattr(error, "filename", None)
    if not isinstance(error, OSError) or error.errno not in _NOT_WRITTEN or not isinstance(place, str):
        return None
    for variable, cache in (
        ("HF_DATASETS_CACHE", datasets.config.HF_DATASETS_CACHE),
        ("HF_HUB_CACHE", constants.HF_HUB_CACHE),
    ):
        folder, named = Path(cache).expanduser().absolute(), Path(place).absolute()
        # of a folder that is to be made the first one above it that cannot be is named
        if folder.is_relative_to(named) or named.is_relative_to(folder):
            return (
                f"the cache {folder}, which Hugging Face's libraries copy data to, cannot be written "
                f"({error.strerror}). Set {variable} to a folder that can be"
            )
    return None
