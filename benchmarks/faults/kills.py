"""Kills: before every file event, with half a file synced, and at random moments; then the command is gone on with."""

from collections.abc import Callable, Iterator

from benchmarks.faults.events import Fault
from benchmarks.faults.forks import Place, call, start, wait
from benchmarks.faults.scenes import SCENES, Known, go_on, known
from benchmarks.faults.tries import Asked, Base, Try

EVENTS, MOMENTS = 16, 4  # of each command, drawn
QUICK = {"train": (3, 1), "evaluate": (1, 0)}


def tries(base: Base, asked: Asked) -> Iterator[Try]:
    """All kills of all commands, or some drawn; a command that no wanted name could be of is not run."""
    for scene in SCENES:
        name = f"kills/{scene.name}"
        if (asked.quick and scene.name not in QUICK) or not asked.wants(name):
            continue
        it = known(scene, base)
        points = [(kind, k) for k, event in enumerate(it.events, 1) if " 'work/" in event for kind in kinds(event)]
        few, moments = QUICK.get(scene.name, (0, 0)) if asked.quick else (0, MOMENTS)
        for kind, event in asked.some(name, points, few, EVENTS):
            yield Try(f"{name}/{kind}-{event}", scene.start(base), _at_event(it, Fault(kind, event)))
        draw = asked.draw(f"{name}/moments")
        for share in [round(draw.uniform(0.02, 1.0), 3) for _ in range(moments)]:
            yield Try(f"{name}/moment-{share}", scene.start(base), _at_moment(it, share))


def kinds(event: str) -> tuple[str, ...]:
    """How a kill strikes there."""
    return ("kill", "torn") if event.startswith("sync") else ("kill",)


def _at_event(it: Known, fault: Fault) -> Callable[[Place], str | None]:
    def run(place: Place) -> str | None:
        done = call(it.scene.command, place, fault=fault)
        if done.status is not None and done.status >= 0 and not done.err and fault.event <= len(done.events):
            return "was not killed"
        wrong = go_on(it.scene, place, it.expected)
        return wrong and f"{wrong} (killed at: {it.events[fault.event - 1]})"

    return run


def _at_moment(it: Known, share: float) -> Callable[[Place], str | None]:
    def run(place: Place) -> str | None:
        wait(start(it.scene.command, place), kill_after=share * it.seconds)
        return go_on(it.scene, place, it.expected)

    return run
