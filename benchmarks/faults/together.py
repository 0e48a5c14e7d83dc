"""Two commands on one folder at once: one wins and the other says so, or both are right."""

import time
from collections.abc import Callable, Iterator

from benchmarks.faults.forks import Place, start, wait
from benchmarks.faults.scenes import SCENES, Known, known
from benchmarks.faults.tries import TINY, Asked, Base, Try, spoiled, temporary_files

PAIRS = {
    "train+train": ("train", ["train", *TINY, "--name", "r"]),
    "resume+resume": ("resume", ["train", "--resume", "runs/r"]),
    "finetune+evaluate": ("finetune", ["evaluate", "runs/r", "--shift", "none", "--limit", "20"]),
    "resume+evaluate": ("resume", ["evaluate", "runs/r", "--shift", "none", "--limit", "20"]),
    "train+predict": ("train", ["predict", "runs/r", "images"]),
    "adapt+adapt": ("adapt", None),
    "evaluate+evaluate": ("evaluate", None),
    "reproduce+reproduce": ("reproduce", None),
    "calibrate+calibrate": ("calibrate", None),
    "calibrate+predict": ("calibrate", ["predict", "base", "images"]),
    "interpolate+interpolate": ("interpolate", None),
    "export+export": ("export", None),
    "card+card": ("card", None),
}
ROUNDS = 3
QUICK = ("train+train", "evaluate+evaluate")


def tries(base: Base, asked: Asked) -> Iterator[Try]:
    """Each pair several times, the second begun at another moment of the first."""
    scenes = {scene.name: scene for scene in SCENES}
    for name, (first, second) in PAIRS.items():
        if (asked.quick and name not in QUICK) or not asked.wants(f"together/{name}"):
            continue
        it, draw = known(scenes[first], base), asked.draw(f"together/{name}")
        for share in [0.0, *(round(draw.uniform(0.0, 0.9), 3) for _ in range(0 if asked.quick else ROUNDS))]:
            yield Try(f"together/{name}/{share}", it.scene.start(base), _both(it, second or it.scene.command, share))


def _both(it: Known, second: list[str], share: float) -> Callable[[Place], str | None]:
    def run(place: Place) -> str | None:
        one = start(it.scene.command, place)
        time.sleep(share * it.seconds)
        two = start(second, place)
        ends = wait(one, 120), wait(two, 120)
        for end, command in zip(ends, (it.scene.command, second), strict=True):
            if wrong := spoiled(end, place):
                return f"kedge {command[0]}: {wrong}"
        if second == it.scene.command and all(end.status for end in ends):
            return f"both failed: {ends[0].last} | {ends[1].last}"
        if ends[0].status and second != it.scene.command:
            return f"the other broke it: {ends[0].last}"
        return _compared(it, place)

    return run


def _compared(it: Known, place: Place) -> str | None:
    """What the first should leave must be there; either may have added files of its own, none of them temporary."""
    wrong = it.expected.differs(place.work)
    if wrong is not None and not wrong.startswith("left behind"):
        return wrong
    left = temporary_files(place.work)
    return f"left behind: {', '.join(left[:3])}" if left else None
