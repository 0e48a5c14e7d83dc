"""Results as text: a table for people, JSON for programs."""

import copy
import io
import json
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kedge.printable import printable
from kedge.reporting.claims import comparison, settled
from kedge.reporting.csv_table import as_csv
from kedge.reporting.files import check_results
from kedge.reporting.rows import Row, dig
from kedge.reporting.sections import comparing, unlabelled
from kedge.reporting.summary import cautions, summary_rows

if TYPE_CHECKING:
    from rich.table import Table

LEGEND = "↑ higher is better, ↓ lower is better; in brackets the 95 % interval."
MARK, SOME = "✔", "›"  # none of the markers of the plots
BETTER = f"{MARK} better than every other model here: the intervals do not overlap."
BETTER_THAN_SOME = f"{SOME} better in this way than the models whose numbers stand behind it."
OOD_LEGEND = "Out of distribution: in-distribution is the positive class, a higher score means more in-distribution."
UNLABELLED = (
    "The interval of an expected accuracy is of sampling alone: how far the method itself errs on such images is not "
    "in it."
)
_ERRORS = 5  # so many failed parts of a model are named
_LABEL, _CELL = 33, 23  # columns that a label and a model take without wrapping


def render(results: dict[str, Any], how: str = "table", width: int | None = None, color: bool = False) -> str:
    """Results as "table", "json" or "csv". Raises ValueError for another word."""
    if how == "table":
        return table(results, width, color)
    if how == "json":
        return as_json(results)
    if how == "csv":
        return as_csv(results)
    raise ValueError(f"results can be rendered as table, json or csv, not as {how!r}")


def subject_line(results: dict[str, Any]) -> str:
    """What was evaluated on, in one line."""
    data = results["data"]
    split = f" ({data['split']})" if data["split"] else ""
    count = (
        f"{data['images']:,} of {data['of']:,} images, a random subset" if data["limited"] else f"{data['of']:,} images"
    )
    return printable(f"{data['name']}{split}: {count}, {len(data['class_names'])} classes")


def table(results: dict[str, Any], width: int | None = None, color: bool = False) -> str:
    """The summary of all models side by side, `width` columns wide (default: the terminal's).

    Where not all models fit, there are several tables of some of them each; what is marked as better is so among all.
    """
    results = check_results(results)
    rows = summary_rows(results)
    names = list(results["models"])
    show = _Console(width, color)
    show.line(subject_line(results), "bold")
    some = any(row.beats(i) for row in rows for i in range(len(names)))
    heads = [f"{i} {printable(name)}" if some else printable(name) for i, name in enumerate(names, 1)]
    for models in show.side_by_side(len(names)):
        show.print(_columns(rows, heads, models))
    legends = [LEGEND, BETTER if len(names) > 1 else "", BETTER_THAN_SOME if some else "", cautions(rows)]
    legends += [OOD_LEGEND, sizes(results)] if results["ood_sets"] else []
    show.line(" ".join(filter(None, legends)), "dim")
    _over_seeds(results, show)
    for name, model in results["models"].items():
        for sentence in unlabelled.sentences(name, model):
            show.line(sentence, "bold")
    if any(model["unlabelled"] for model in results["models"].values()):
        show.line(UNLABELLED, "dim")
    if len(results["groups"]) > 1:  # else the claims are between single models
        for question, claim in comparison(results):
            show.line(f"{question}: ", "bold", claim)
        show.line(settled(results["groups"]), "dim")
    for words in warnings(results):
        show.line(words, "bold")
    return show.text()


def over_seeds(results: dict[str, Any], width: int | None = None) -> str:
    """The groups alone, each with mean and spread over its models, `width` columns wide (default: the terminal's)."""
    results = check_results(results)
    show = _Console(width)
    show.line(subject_line(results))
    _over_seeds(results, show)
    for words in warnings(results):
        show.line(words)
    return show.text()


class _Console:
    """A console of rich that prints into a text; what it prints is text of a user, and never markup."""

    def __init__(self, width: int | None, color: bool = False) -> None:
        from rich.console import Console

        self.width = width or shutil.get_terminal_size((110, 24)).columns
        self._stream = io.StringIO()
        self._console = Console(
            file=self._stream, width=self.width, force_terminal=color, no_color=not color, highlight=False
        )
        self.print = self._console.print

    def line(self, words: str, style: str = "", more: str = "") -> None:
        """A paragraph; `more` follows without the style."""
        from rich.text import Text

        self.print(Text.assemble((words, style), more))

    def side_by_side(self, count: int) -> Iterator[list[int]]:
        """Which of `count` columns stand in each table, as many as fit."""
        fit = max(1, (self.width - _LABEL) // _CELL)
        for start in range(0, count, fit):
            yield list(range(start, min(start + fit, count)))

    def text(self) -> str:
        """What was printed."""
        return "\n".join(line.rstrip() for line in self._stream.getvalue().rstrip().split("\n")) + "\n"


def sizes(results: dict[str, Any]) -> str:
    """How many images stand against each other out of distribution."""
    against = [f"{record['images']:,} of {printable(name)}" for name, record in results["ood_sets"].items()]
    return f"{results['data']['images']:,} in-distribution images against {', '.join(against)}."


def warnings(results: dict[str, Any]) -> list[str]:
    """What a reader must not miss: unfinished and failed parts, and robust accuracies that are not to be believed."""
    lines = [] if results["complete"] else ["Some parts could not be measured: their cells say why."]
    for name, model in results["models"].items():
        if model["trained_on"]:
            count = f"{model['trained_on']:,} of these {results['data']['images']:,} images"
            lines.append(f"{printable(name)} was trained on {count}, bit for bit: its numbers on them are flattered.")
        errors = [f"{printable(e['part'])} failed: {printable(e['message'])}" for e in model["errors"]]
        more = [f"{len(errors) - _ERRORS} more parts failed; results.json has them all"]
        lines += [f"{printable(name)}, {e}" for e in errors[:_ERRORS] + (more if len(errors) > _ERRORS else [])]
        doubts = dict.fromkeys([*model["warnings"], *(dig(model, "unlabelled", "warnings") or [])])
        lines += [f"{printable(name)}: {printable(words)}." for words in doubts]
        for images, entry in (dig(model, "unlabelled", "sets") or {}).items():
            lines += [f"{printable(name)}, {printable(images)}: {printable(words)}" for words in entry["warnings"]]
    for name, model in results["models"].items():
        lines += [
            f"{printable(name)}, suspicious under attack ({printable(s['check'])}): {printable(s['detail'])}"
            for s in model["sanity"]
            if not s["ok"]
        ]
    return lines


def _columns(rows: list[Row], heads: list[str], models: list[int]) -> "Table":
    """The table of some of the models."""
    from rich.text import Text

    grid = _grid("", [heads[i] for i in models])
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            grid.add_row(Text(printable(group), style="bold"), *[""] * len(models))
        arrow = {"higher": "↑", "lower": "↓", None: " "}[row.better]
        cells = []
        for i in models:
            spread = f" [{row.spread(i)}]" if row.spread(i) else ""
            mark = f"{MARK} " if row.best == i else f"{SOME}{','.join(str(j + 1) for j in row.beats(i))} "
            text = Text((mark if row.best == i or row.beats(i) else "") + row.text(i), "bold" if row.best == i else "")
            cells.append(text.append(spread, style="dim"))
        grid.add_row(Text(printable(f"{arrow} {row.title}")), *cells)
    return grid


def _over_seeds(results: dict[str, Any], show: _Console) -> None:
    """Mean ± standard deviation of each group."""
    from rich.text import Text

    seeds = comparing.section(results, 0)
    if seeds is None or not seeds["rows"]:
        return
    for groups in show.side_by_side(len(seeds["groups"])):
        grid = _grid("Over seeds, mean ± sd (n)", [seeds["groups"][i]["name"] for i in groups])
        for label, cells in seeds["rows"]:
            texts = [f"{cells[i]['text']} ({cells[i]['n']})" if cells[i]["n"] else cells[i]["text"] for i in groups]
            grid.add_row(Text(label), *map(Text, texts))
        show.print(grid)


def _grid(corner: str, heads: list[str]) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    grid.add_column(corner, overflow="fold")
    for head in heads:
        grid.add_column(Text(head), justify="right", overflow="fold")
    return grid


def as_json(results: dict[str, Any]) -> str:
    """All results as JSON, without the pictures and what was answered to each image."""
    bare = copy.deepcopy(check_results(results))
    bare.pop("test_images")
    for model in bare["models"].values():
        model.pop("answers")
        for entries in model["images"].values():
            for entry in entries:
                entry.pop("thumbnail", None)
    for strip in bare["strips"]:
        for image in strip["images"]:
            image.pop("thumbnail", None)
    return json.dumps(bare, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
