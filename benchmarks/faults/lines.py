"""Wrong command lines: every option of every command with values of the wrong kind, wrong models, closed outputs."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from benchmarks.faults.forks import Place, call
from benchmarks.faults.scenes import SCENES
from benchmarks.faults.tries import TINY, Asked, Base, Try, spoiled

VALUES = (
    "", " ", "nonsense", "-1", "0", "1e309", "nan", "2.5", "[1,", "{a: 1}", "[[]]", "null", "~", "true", "cuda",
    "../up",
    "images/0.png", "runs", "a\nb\x1b[31mc", "\udcff", "x" * 4000, "évil", "=cmd", "evil:make", "99999999999999999999",
)  # fmt: skip
SHORT = {
    "train": ["train", *TINY, "--name", "r"],
    "evaluate": ["evaluate", "base", "--shift", "none", "--limit", "20"],
    "reproduce": ["reproduce", "tiny.yaml", "--print"],
    "adapt": ["adapt", "base", "--data", "digits", "--shots", "3", "--epochs", "1"],
    "interpolate": ["interpolate", "base", "other", "--limit", "20", "--bn_images", "50"],
    "calibrate": ["calibrate", "base"],
    "predict": ["predict", "base", "images"],
    "export": ["export", "base", "--to", "torch"],
    "card": ["card", "base"],
    "push": ["push", "base", "someone/model"],
    "version": ["version"],
}
# Names of files, which a shell may have filled in: what they hold is not the user's.
NAMED = {"--data", "--name", "--out", "--config", "--resume", "--weights", "--init_from", "--runs", "--validation"}
# Right answers to these take minutes or another machine.
LONG = {"quickstart", "push"}
MODELS = (
    "nothing", "images", "images/0.png", "tiny.yaml", "runs", "runs/base/run.json", "timm/nothing", "timm/",
    "os:system",
    "os:nothing", "evil:make", "hf-hub:nobody/nothing", "hf-hub:", "NAME=", "=base", "base=base,base", "base@7", ".",
    "/",
    "http://127.0.0.1:9/x", "\udcff", "a\x1b[31mb",
)  # fmt: skip
OTHERS: tuple[list[str], ...] = (
    [], ["nothing"], ["trian"], ["--nothing"], ["--debug"], ["--version", "--version"], ["train", "extra"],
    ["train", "--config"], ["train", "--config", "nothing"], ["train", "--config", "images"], ["train", "--epochs"],
    ["train", "--epochs", "1", "--epochs"], ["train", "--", "--name"], ["train", "--resume", "nothing"],
    ["train", "--resume", "images"], ["train", "--resume", "runs/base", "--lr", "7"], ["evaluate"], ["predict"],
    ["predict", "base"], ["predict", "base", "nothing.png"], ["predict", "base", "nothing/*.png"],
    ["predict", "base", "runs"], ["predict", "base", "images", "--format", "xml"], ["export"],
    ["export", "base", "other"],
    ["adapt", "base"], ["interpolate", "base"], ["interpolate", "base", "nothing"], ["reproduce", "nothing"],
    ["reproduce", "tiny.yaml", "--part", "3/2"], ["reproduce", "tiny.yaml", "--seeds", "x"], ["calibrate", "nothing"],
    ["push"], ["push", "base"], ["push", "base", "not a name"], ["version", "extra"], ["card", "nothing"],
)  # fmt: skip
TRIED, QUICK = 260, 8


def tries(base: Base, asked: Asked) -> Iterator[Try]:
    """Options and values, drawn; every wrong model; every command onto a closed and onto a full output."""
    if not asked.wants("lines"):
        return
    pairs = [(c, o, v) for c, options in options_of(base).items() for o in options for v in range(len(VALUES))]
    for command, option, number in asked.some("lines/options", pairs, QUICK, TRIED):
        given = [*SHORT.get(command, [command]), option, VALUES[number]]
        if command in LONG:
            given = [command, option, ""]
        yield Try(f"lines/{command}/{option.strip('-')}/{number}", base.run, _line(given, names=option in NAMED))
    fixed = [
        (f"lines/other/{n}", None, _line(words, fails=words[:1] not in (["--debug"], ["--version"])))
        for n, words in enumerate(OTHERS)
    ]
    for command in ("evaluate", "predict", "export", "adapt", "calibrate", "card", "interpolate"):
        for number, model in enumerate(MODELS):
            fixed.append((f"lines/{command}/model/{number}", None, _line([command, model, *SHORT[command][2:]])))
    for scene in SCENES:
        for device in ("closed", "/dev/full"):
            fixed.append((f"lines/{scene.name}/output-{Path(device).name}", scene, _line(scene.command, out=device)))
    for name, start, run in asked.some("lines/fixed", fixed, 5, len(fixed)):
        yield Try(name, base.run if start is None else start.start(base), run)


@cache
def options_of(base: Base) -> dict[str, list[str]]:
    """The options of every command, as its help lists them."""
    place = base.place()
    listed = call(["--help"], place).out
    commands = re.findall(r"^  (\w+)  ", listed, re.MULTILINE)
    found = {c: re.findall(r"^  (?:-\w, )?(--\w+)", call([c, "--help"], place).out, re.MULTILINE) for c in commands}
    place.gone()
    return {command: sorted({*options} - {"--help"}) for command, options in found.items()}


def _line(
    given: list[str], out: str | None = None, fails: bool = False, names: bool = True
) -> Callable[[Place], str | None]:
    def run(place: Place) -> str | None:
        (place.work / "evil.py").write_text("def make():\n    return None\n")
        done = call(given, place, 90, out=out)
        if wrong := spoiled(done, place, fails):
            return wrong
        return "an escape sequence reached the terminal" if "\x1b[31m" in done.out + done.err and names else None

    return run
