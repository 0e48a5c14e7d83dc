"""What went wrong with data, in words a person can act on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kedge.data.traits import Traits
from kedge.printable import printable, printable_lines

UNREADABLE_LIMIT = 0.01  # more unreadable images than this share of a set, and more than one, is an error
ALL_BUT_ONE = 1.0  # the share for images that are only looked at: those that can be read are
_SHOWN = 5  # of those that are left out
_NAMED = 20  # of those that must be mended before anything works


class DataError(ValueError):
    """The data cannot be used; the message says what was seen and what to do."""


class UnreadableImage(DataError):
    """One image could not be decoded. `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot read image {printable(path)}: {printable_lines(reason)}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # a worker process hands it back by pickling
        return type(self), (self.path, self.reason)


@dataclass
class LoadReport:
    """What happened while a set was loaded.

    Attributes:
        total: images that were listed, unreadable ones included.
        skipped: (path, reason) of each unreadable image that was left out.
        converted_grey: grey images turned to RGB in an RGB set.
        converted_colour: colour images turned to grey in a grey set.
        limit: the share of images that may be unreadable.
        resized: images of another size than the set's that were resized.
        traits: what of the files is not read, such as further frames.
        notes: anything else a person should know.
    """

    total: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    converted_grey: int = 0
    converted_colour: int = 0
    resized: int = 0
    limit: float = UNREADABLE_LIMIT
    traits: Traits = field(default_factory=Traits)
    notes: list[str] = field(default_factory=list)

    def summary(self, used: int | None = None) -> str:
        """Return what happened in a few lines; the first line has the counts.

        `used`: how many images a part of the set holds, where that is what is used.
        """
        read = self.total - len(self.skipped)
        parts = [f"{read} images" if used in (None, read) else f"{used} images are used, of {read} that were read"]
        if self.skipped:
            parts.append(f"{len(self.skipped)} unreadable and skipped")
        if self.converted_grey:
            parts.append(f"{self.converted_grey} grey converted to RGB")
        if self.converted_colour:
            parts.append(f"{self.converted_colour} colour converted to grey")
        if self.resized:
            parts.append(f"{self.resized} resized")
        lines = [", ".join(parts), *([self.traits.line()] if self.traits else []), *self.notes]
        lines += [f"skipped {printable(path)}: {printable(reason)}" for path, reason in self.skipped[:_SHOWN]]
        if len(self.skipped) > _SHOWN:
            lines.append(f"... and {len(self.skipped) - _SHOWN} more")
        return "\n".join(lines)

    def skip(self, error: UnreadableImage) -> None:
        """Note an image that is left out, once."""
        if (entry := (error.path, error.reason)) not in self.skipped:
            self.skipped.append(entry)

    def check(self, name: str) -> None:
        """Raise DataError when of the set called `name` more images are unreadable than the limit says, or all are."""
        if len(self.skipped) > tolerated(self.total, self.limit) or len(self.skipped) == self.total:
            among = (
                "" if self.limit == ALL_BUT_ONE else f", more than the {self.limit:.0%} that are skipped with a warning"
            )
            raise DataError(
                f"{name}: {len(self.skipped)} of {self.total} images cannot be read{among}:\n{listed(self.skipped)}\n"
                "Repair or remove these files; kedge check-data lists every one."
            )


def tolerated(count: int, limit: float = UNREADABLE_LIMIT) -> int:
    """How many of `count` images may be unreadable: 1 %, or another share, but one at least."""
    return max(1, int(limit * count))


def listed(skipped: Sequence[Sequence[str]]) -> str:
    """Return the first of these (path, reason), a line for each, and how many more there are."""
    lines = [f"  {printable(path)}: {printable(reason)}" for path, reason in skipped[:_NAMED]]
    return "\n".join(lines + ([f"  ... and {len(skipped) - _NAMED} more"] if len(skipped) > _NAMED else []))
