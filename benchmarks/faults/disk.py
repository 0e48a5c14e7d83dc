"""A full disk: no space from the k-th file event on, and a real small disk (tmpfs) where this process may make one."""

import re
from collections.abc import Callable, Iterator

from benchmarks.faults.events import Fault
from benchmarks.faults.forks import Outcome, Place, call
from benchmarks.faults.mounts import Disk, can_mount
from benchmarks.faults.scenes import SCENES, Known, go_on, known
from benchmarks.faults.tries import Asked, Base, Try, spoiled, temporary_files

EVENTS, SIZES = 6, 4  # of each command, drawn
QUICK = {"train": (2, 1)}
SPACE = ("disk", "space", "full")


def tries(base: Base, asked: Asked) -> Iterator[Try]:
    """Every command that writes, where it takes room, and on disks that end between its first and last byte."""
    for scene in SCENES:
        name = f"disk/{scene.name}"
        if (asked.quick and scene.name not in QUICK) or scene.name == "predict" or not asked.wants(name):
            continue
        it = known(scene, base)
        points = [k for k, event in enumerate(it.events, 1) if re.match("(open|mkdir|sync) .work/", event)]
        few, sizes = QUICK.get(scene.name, (0, 0)) if asked.quick else (0, SIZES)
        for event in asked.some(name, points, few, EVENTS):
            yield Try(f"{name}/event-{event}", scene.start(base), _at_event(it, Fault("full", event)))
        draw = asked.draw(f"{name}/sizes")
        for share in [round(draw.uniform(0.0, 0.95), 3) for _ in range(sizes * can_mount())]:
            yield Try(f"{name}/tmpfs-{share}", scene.start(base), _small(it, base, share))


def _at_event(it: Known, fault: Fault) -> Callable[[Place], str | None]:
    def run(place: Place) -> str | None:
        done = call(it.scene.command, place, fault=fault)
        wrong = _judged(done, place) or go_on(it.scene, place, it.expected)
        return wrong and f"{wrong} (no space at: {it.events[fault.event - 1]})"

    return run


def _small(it: Known, base: Base, share: float) -> Callable[[Place], str | None]:
    def run(place: Place) -> str | None:
        size = it.before + int(share * (it.after - it.before)) + 4096
        with Disk(place.work, size, it.scene.start(base)) as disk:
            done = call(it.scene.command, place)
            if done.status == 0 and it.expected.differs(place.work) is None:
                return None  # it needed less than it leaves
            wrong = _judged(done, place)
            disk.grow()
            return wrong or go_on(it.scene, place, it.expected)

    return run


def _judged(done: Outcome, place: Place) -> str | None:
    """Whether a full disk was said in words, and nothing half written stayed."""
    if wrong := spoiled(done, place):
        return wrong
    if not any(word in done.err.lower() for word in SPACE):
        return f"no word of the disk: {done.last}"
    left = temporary_files(place.work)
    return f"left behind: {', '.join(left[:3])}" if left else None
