"""An experiment: one file that names variants of a recipe, scales, seeds, and the figures to compare with.

Imports nothing slow: the command line lists experiments and checks them before anything is loaded.
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from kedge.experiments.measures import MEASURES
from kedge.own_code import near_names
from kedge.training.nested import change, flattened
from kedge.training.recipe import Recipe, load_recipe
from kedge.yaml_text import parse_yaml, read_yaml

__all__ = ["Experiment", "Variant", "experiment_names", "load_experiment"]

FOLDER = "paper"  # inside kedge/recipes
OURS = ("name", "runs", "seed", "data")  # keys of a recipe that the experiment decides, not its variants
EVALUATION = frozenset(
    {"shift", "severities", "near", "ood", "limit", "references", "equalise", "part", "views", "curve"}
)
PARTS = ("test", "rest")


@dataclass(frozen=True)
class Variant:
    """One row of the tables: how it is trained and asked.

    Attributes:
        name: of the variant.
        recipe: the keys of its recipe, without data, seed, name and runs.
        evaluation: keywords of the evaluation.
        runs: the name of the variant whose runs it evaluates; its own unless it only asks them in another way.
        after: the name of the variant whose runs, of the same seed, its training starts from; None: of none.
        start: the recipe of that variant.
    """

    name: str
    recipe: dict[str, Any]
    evaluation: dict[str, Any]
    runs: str
    after: str | None = None
    start: dict[str, Any] | None = None


@dataclass
class Experiment:
    """An experiment file, as it is written; `variants_at` gives its variants at a scale.

    Args:
        title: in a few words.
        source: paper and table that the figures in `expected` are of.
        data: names of the data set, the first that is here is taken.
        base: a recipe without data and seed, or {recipe: NAME, ...} for a shipped one with changes.
        variants: name to changes of the base; `objective.Anchored.alpha` reaches into the list of objectives,
            `evaluation.references` into the evaluation, `same_as` names a variant whose runs are evaluated again,
            `after` one whose runs this one starts from, `optimizer.sgd.lr` and `lr` are the same.
        evaluation: keywords of `kedge.evaluation.evaluate`: shift, severities, near, ood, limit, references, equalise;
            `part`: judge on the `test` images, or on the `rest`, the training images beyond train_images, or of data
            that is put together from parts on `easy-randomised` and the like; `views`: so many views of an image, see
            `kedge.evaluation.inputs`; `curve`: whether the copies that `snapshots` keeps of the model are measured too.
        scales: name to changes of the base, and `variants`: those that this scale keeps.
        seeds: how many, from 0.
        expected: measure to variant to the percentage in the source, at its own scale.
        contrasts: pairs of variants whose difference answers a question: {question: [one, other]}.
        notes: what a reader of the table must know.
    """

    title: str
    source: str
    data: list[str]
    base: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    scales: dict[str, dict[str, Any]]
    name: str = ""
    evaluation: dict[str, Any] = field(default_factory=dict)
    seeds: int = 3
    expected: dict[str, dict[str, float]] = field(default_factory=dict)
    contrasts: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Any, name: str = "", source: str = "") -> "Experiment":
        """Make an experiment of `values` and check every variant at every scale; ValueError says what is wrong."""
        if not isinstance(values, dict):
            raise ValueError(f"{source}an experiment is a mapping of keys to values, not {type(values).__name__}")
        known = [f.name for f in fields(cls) if f.name != "name"]
        for key in values:
            if key not in known:
                raise ValueError(f"{source}no experiment key is named {key!r}{near_names(key, known)}")
        if missing := [key for key in ("title", "source", "data", "base", "variants", "scales") if key not in values]:
            raise ValueError(f"{source}an experiment needs {', '.join(missing)}")
        _check_types(values, source)
        if isinstance(values.get("notes"), str):
            values = {**values, "notes": [values["notes"]]}
        data = [values["data"]] if isinstance(values["data"], str) else list(values["data"])
        experiment = cls(**{**values, "data": data, "name": name})
        experiment.check(source)
        return experiment

    def check(self, source: str = "") -> None:
        """Raise ValueError for the first thing that cannot work."""
        if not self.variants or not self.scales:
            raise ValueError(f"{source}an experiment has one variant and one scale or more")
        for scale in self.scales:
            for variant in self.variants_at(scale, source=source):
                Recipe.from_dict(variant.recipe, f"{source}variant {variant.name} at scale {scale}: ")
        for measure, figures in self.expected.items():
            if measure not in MEASURES:
                raise ValueError(f"{source}expected: no measure is named {measure!r}{near_names(measure, MEASURES)}")
            for name in figures:
                self._named(name, f"{source}expected {measure}: ")
        for question, pair in self.contrasts.items():
            if not isinstance(pair, list) or len(pair) != 2:
                raise ValueError(f"{source}contrasts: {question!r} needs two variants, not {pair!r}")
            for name in pair:
                self._named(name, f"{source}contrasts: ")

    def variants_at(self, scale: str, only: list[str] | None = None, source: str = "") -> list[Variant]:
        """The variants at `scale`, all or `only` some and those that these come after, in the order of the file.

        Raises:
            ValueError: for a scale or variant that the experiment does not have, or changes that lead nowhere.
        """
        if scale not in self.scales:
            known = ", ".join(self.scales)
            raise ValueError(
                f"{source}{self.name} has no scale {scale!r}; it has {known}{near_names(scale, self.scales)}"
            )
        changes = dict(self.scales[scale] or {})
        chosen = changes.pop("variants", list(self.variants))
        for name in [*chosen, *(only or [])]:
            self._named(name, source)
        variants = {name: self._variant(name, changes, source) for name in self.variants if name in (only or chosen)}
        before = {v.after for v in variants.values()}
        return [variants.get(name) or self._variant(name, changes, source) for name in self.variants
                if name in variants or name in before]  # fmt: skip

    def _variant(self, name: str, scaled: Mapping[str, Any], source: str) -> Variant:
        own = dict(self.variants[name] or {})
        same = own.pop("same_as", None)
        where = f"{source}variant {name}: "
        if same is not None:
            self._named(same, where)
            if "same_as" in (self.variants[same] or {}) or any(not key.startswith("evaluation.") for key in own):
                raise ValueError(
                    f"{where}same_as names a variant with runs of its own, and only evaluation.KEY may differ from it"
                )
            own = {**(self.variants[same] or {}), **own}
        after = own.pop("after", None)
        if after is not None:
            self._named(after, where)
            if {"same_as", "after"} & set(self.variants[after] or {}):
                raise ValueError(f"{where}after names a variant with runs of its own that starts from no other")
            if list(self.variants).index(after) > list(self.variants).index(same or name):
                raise ValueError(f"{where}it comes after {after}: write it below that")
        base = flattened(self.base, where)
        if "recipe" in base:
            shipped = asdict(load_recipe(base.pop("recipe")))
            base = {**{k: v for k, v in shipped.items() if k not in OURS}, **base}
        tree: dict[str, Any] = {**copy.deepcopy(base), "evaluation": copy.deepcopy(self.evaluation)}
        # What makes a variant wins over what makes a scale.
        for key, value in [*scaled.items(), *own.items()]:
            if not change(tree, key.split("."), copy.deepcopy(value), f"{where}{key}: "):
                _change(tree, key.split("."), copy.deepcopy(value), f"{where}{key}: ")
        evaluation = tree.pop("evaluation")
        for key in evaluation:
            if key not in EVALUATION:
                raise ValueError(f"{where}the evaluation has no {key!r}{near_names(key, EVALUATION)}")
        if reserved := [key for key in OURS if key in tree]:
            raise ValueError(f"{where}{reserved[0]} is not a variant's to say: the experiment does")
        part = evaluation.get("part", "test")
        if part not in PARTS and not str(part).endswith("-randomised"):
            known = f"{', '.join(PARTS)}, or of dominoes and slabs NAME-randomised"
            raise ValueError(f"{where}part is one of {known}, not {part!r}{near_names(part, PARTS)}")
        if part == "rest" and tree.get("train_images") is None:
            raise ValueError(f"{where}part rest is of training images beyond train_images: say how many are trained on")
        if not isinstance(evaluation.get("curve", False), bool):
            raise ValueError(f"{where}curve is true or false, not {evaluation['curve']!r}")
        if evaluation.get("curve") and not tree.get("snapshots"):
            raise ValueError(f"{where}a curve is of copies of the model: say after how many epochs each, as snapshots")
        if after is not None:
            if "init_from" in tree:
                raise ValueError(f"{where}it starts from a run of {after}: leave out init_from")
            tree["init_from"] = after  # of which seed, the plan says
        start = None if after is None else self._variant(after, scaled, source).recipe
        return Variant(name, tree, evaluation, same or name, after, start)

    def root(self, name: str) -> str:
        """The variant whose runs a variant asks, or starts from, in the end; itself where it has runs of its own."""
        own = self.variants.get(name) or {}
        before = own.get("same_as") or own.get("after")
        return name if before is None else self.root(before)

    def _named(self, name: str, source: str) -> None:
        if name not in self.variants:
            known = ", ".join(self.variants)
            raise ValueError(
                f"{source}no variant is named {name!r}; there are {known}{near_names(name, self.variants)}"
            )


def _check_types(values: Mapping[str, Any], source: str) -> None:
    """Raise ValueError for an entry of an experiment file that is of another type than its key has."""
    for key in ("base", "variants", "scales", "evaluation", "expected", "contrasts"):
        if not isinstance(values.get(key, {}), dict):
            raise ValueError(f"{source}{key} is a mapping, not {values[key]!r}")
    for key in ("variants", "scales"):
        for word, own in values[key].items():
            if not isinstance(word, str):
                raise ValueError(f"{source}{key}: a name is {word!r} to YAML, not text: write it in quotes")
            if not isinstance(own, dict | None):
                raise ValueError(f"{source}{key}: {word} is a mapping of changes, not {own!r}")
    for word, own in values["scales"].items():
        if not isinstance(chosen := (own or {}).get("variants", []), list):
            raise ValueError(f"{source}scales: {word}: variants is a list of names, not {chosen!r}")
    for key in ("data", "notes"):
        texts = values.get(key, [])
        if not (isinstance(texts, str) or (isinstance(texts, list) and all(isinstance(text, str) for text in texts))):
            raise ValueError(f"{source}{key} is text, or a list of texts, not {texts!r}")
    if type(seeds := values.get("seeds", 1)) is not int or seeds < 1:
        raise ValueError(f"{source}seeds is how many, 1 or more, not {seeds!r}")
    for measure, figures in values.get("expected", {}).items():
        numbers = figures.values() if isinstance(figures, dict) else [figures]
        if not isinstance(figures, dict) or not all(type(n) in (int, float) for n in numbers):
            raise ValueError(f"{source}expected: {measure} is a mapping of variants to numbers, not {figures!r}")


def load_experiment(name_or_file: "str | Path") -> Experiment:
    """The experiment of that name among those that ship with kedge, or of a YAML file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is not YAML, or cannot work; the message says where.
    """
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        values, name = read_yaml(path), path.stem
    elif str(name_or_file) in experiment_names():
        name = str(name_or_file)
        values = parse_yaml(_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8"), name)
    else:
        known = experiment_names()
        raise FileNotFoundError(
            f"no experiment and no .yaml file is named {str(name_or_file)!r}; the experiments are {', '.join(known)}"
            f"{near_names(name_or_file, known)}"
        )
    return Experiment.from_dict(values, name, f"{name_or_file}: ")


def experiment_names() -> list[str]:
    """Names of the experiments that ship with kedge."""
    return sorted(e.name.removesuffix(".yaml") for e in _folder().iterdir() if e.name.endswith(".yaml"))


def _folder() -> Any:
    return resources.files("kedge").joinpath("recipes", FOLDER)


def _change(tree: dict[str, Any], path: list[str], value: Any, where: str) -> None:
    """Set what a dotted path leads to; a name reaches into a list of objectives, as in objective.Anchored.alpha."""
    node: Any = tree
    for step in path[:-1]:
        node = _child(node, step, where)
    if isinstance(node, list):
        node = _entry(node, path[-1], where)
        node.clear()
        node.update(value or {})
    else:
        node[path[-1]] = value


def _child(node: Any, step: str, where: str) -> Any:
    if isinstance(node, list):
        return _entry(node, step, where)
    child = node.setdefault(step, {})
    if not isinstance(child, dict | list):
        raise ValueError(f"{where}{step} is {child!r}, nothing lies below it")
    return child


def _entry(entries: list[Any], name: str, where: str) -> dict[str, Any]:
    for i, entry in enumerate(entries):
        if entry == name:
            entries[i] = {name: {}}
        if isinstance(entries[i], dict) and name in entries[i]:
            entries[i][name] = entries[i][name] or {}
            child: dict[str, Any] = entries[i][name]
            return child
    raise ValueError(f"{where}the list of objectives has no {name!r}")
