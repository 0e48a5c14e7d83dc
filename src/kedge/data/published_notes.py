"""What a copy of a published set lacks or has beside, in words: corruptions, severities, classes."""

from collections.abc import Collection, Mapping, Sequence

from kedge.data.corruptions import groups
from kedge.printable import counted, printable

C_BAR = (
    "blue_noise_sample", "brownish_noise", "caustic_refraction", "checkerboard_cutout", "cocentric_sine_waves",
    "inverse_sparkles", "perlin_noise", "plasma_noise", "single_frequency_greyscale", "sparkles",
)  # fmt: skip
SEVERITIES = 5
_COUNTS = {"ImageNet-R": 200, "ImageNet-A": 200, "Tiny-ImageNet-C": 200}  # of classes; the others have 1000
_NAMED = 8  # of what is lacking
_LONGEST = 40  # of a folder's name, which may be anything


def few(names: Sequence[str]) -> str:
    """The first names in a line, each printable and no longer than fits, and how many more there are."""
    shown = [
        text if len(text := printable(name)) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for name in names[:_NAMED]
    ]
    return ", ".join(shown) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def about_classes(name: str, count: int) -> list[str]:
    """A sentence where a set of ImageNet's has other than the published number of classes, or is none that is known."""
    expected = _COUNTS.get(name, 1000)
    if not name.startswith(("ImageNet-", "Tiny-")):
        return [f"a model chooses among this set's {count} of ImageNet's 1000 classes only"]
    if count == expected:
        return []
    return [
        f"{name} was published with {expected} classes; here there are {count}, and a model chooses among these only: "
        "not comparable with published numbers"
    ]


def about_corruptions(name: str, corruptions: Sequence[str]) -> list[str]:
    """Sentences on corruptions that are lacking, and on those that published means are not over."""
    further = () if name == "ImageNet-C-bar" else groups()["extra"]
    whole = C_BAR if name == "ImageNet-C-bar" else [one for one in groups()["corruptions"] if one not in further]
    notes = []
    if lacking := [one for one in whole if one not in corruptions]:
        notes.append(
            f"{len(lacking)} of the {len(whole)} corruptions that published means of {name} are over are lacking here: "
            f"{few(lacking)}. A mean without them is not comparable with published ones"
        )
    if beside := [one for one in corruptions if one in further]:
        note = (
            f"means here are also over {len(beside)} of the {len(further)} further corruptions ({few(beside)}): "
            f"published means and mCE are over the {len(whole)} others"
        )
        if others := [one for one in further if one not in corruptions]:
            note += f". {len(others)} further {'is' if len(others) == 1 else 'are'} lacking: {few(others)}"
        notes.append(note)
    if strange := [one for one in corruptions if one not in whole and one not in further]:
        are = "1 corruption is" if len(strange) == 1 else f"{len(strange)} corruptions are"
        notes.append(f"{are} not among those of {name}, and means here are over them too: {few(strange)}")
    return notes


def about_severities(conditions: Sequence[tuple[str, int | None]], by_rank: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences on corruptions without each of the five severities, or with more.

    `by_rank`: the folders of the corruptions whose severities are counted off, as their folders are named after a
    parameter.
    """
    severities: dict[str, list[int]] = {}
    for corruption, severity in conditions:
        severities.setdefault(corruption, []).append(int(severity or 0))
    usual = range(1, SEVERITIES + 1)
    lacking = {one: [str(s) for s in usual if s not in own] for one, own in severities.items() if one not in by_rank}
    notes = []
    if short := [f"{one} ({', '.join(levels)})" for one, levels in lacking.items() if levels]:
        lack = "1 corruption lacks" if len(short) == 1 else f"{len(short)} of {len(severities)} corruptions lack"
        notes.append(f"{lack} some of the five severities: {few(short)}")
    # The five parameters of C-bar are its five severities; anything else is a guess.
    if unclear := [one for one in by_rank if one not in C_BAR or len(severities[one]) != SEVERITIES]:
        folders = [f"{one} ({', '.join(by_rank[one])})" for one in unclear]
        notes.append(
            "severities are counted off where folders are not called 1 to 5, and may be others of the five: "
            f"{few(folders)}"
        )
    if more := [one for one, own in severities.items() if max(own) > SEVERITIES]:
        notes.append(f"more than five severities, of which an evaluation measures the first five: {few(more)}")
    return notes


def about_class_folders(folders: Mapping[str, Collection[str]]) -> list[str]:
    """A sentence on conditions that lack class folders which others have; `folders` is by condition."""
    total = len(set().union(*folders.values()))
    lacking = [f"{name} ({total - len(own)})" for name, own in folders.items() if len(own) < total]
    if not lacking:
        return []
    lack = f"{len(lacking)} of {counted(len(folders), 'condition')} lack{'s' * (len(lacking) == 1)}"
    return [f"{lack} some of the {total} class folders: {few(lacking)}. Their numbers are over fewer classes"]
