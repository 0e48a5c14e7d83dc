"""Optimizer, schedule and sampler of a recipe: methods of their rooms, their settings under their names or beside them.

    optimizer: {sgd: {lr: 0.1}}                   is    optimizer: sgd, lr: 0.1
    optimizer: [{sam: {rho: 0.1}}, adamw]         from the outside in: SAM round AdamW

A `Recipe` holds the settings of `FLAT` as fields of its own, and what else is set with the name. YAML has all of them
under the names. Imports nothing slow.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from kedge import catalog, specs
from kedge.own_code import NAME, check_allowed, near_names

__all__ = [
    "AUTO",
    "DEFAULTS",
    "FLAT",
    "ROOMS",
    "change",
    "check_code",
    "check_methods",
    "code_of",
    "flattened",
    "innermost",
    "methods",
    "nested",
    "short",
    "takes",
]

ROOMS = {"optimizer": "optim.rules", "schedule": "optim.schedules", "sampler": "samplers"}
_METHODS = {"objective": "objectives", **ROOMS}
AUTO = "auto"  # stands for the innermost rule until the network is known
DEFAULTS = {"optimizer": AUTO, "schedule": "cosine", "sampler": "shuffled"}
# Keys of a recipe that are settings of whichever method takes them. Other settings are written under its name alone.
FLAT = {
    "optimizer": ("lr", "momentum", "nesterov", "weight_decay"),
    "schedule": ("warmup", "milestones", "gamma", "start_factor", "end_factor", "ramp"),
    "sampler": (),
}
_OPEN = ("lr", "weight_decay", "warmup")  # without a value until they are resolved: those of any method
_OF_THE_RUN = {
    "optimizer": ("params", "inner", "model", "fused"),
    "schedule": ("optimizer", "steps", "steps_per_epoch"),
    "sampler": ("labels", "epoch", "seed", "errors"),
}

Method = tuple[str, dict[str, Any]]


def methods(key: str, value: Any, source: str = "") -> list[Method]:
    """Name and settings of each method that `value` of the key names, outermost first.

    Raises:
        ValueError: for what names none.
    """
    entries = value if key == "optimizer" and isinstance(value, list | tuple) else [value]
    try:
        named = [specs.spelled(ROOMS[key], entry) for entry in entries]
    except ValueError:
        named = []
    if not named or not all(name.strip() for name, _ in named):
        more = "; a list of them wraps from the outside in" if key == "optimizer" else ""
        raise ValueError(f"{source}{key} is a name or {{name: {{setting: value}}}}{more}, not {value!r}")
    return [(_word(key, name), settings) for name, settings in named]


def innermost(value: Any) -> str:
    """The name of the rule that moves the weights, inside of all wrappers."""
    return methods("optimizer", value)[-1][0]


def takes(key: str, name: str, setting: str) -> bool:
    """Whether a method has a setting; of one's own code, which is not read, the few that every run has."""
    if ":" in name or name == AUTO:
        return setting in (_OPEN if ":" in name else FLAT[key])
    return setting in _settings(key, name)


def flattened(values: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """`values` of a recipe with the settings of `FLAT` beside the names.

    Raises:
        ValueError: for a setting that the method does not have, or that is written twice with two values.
    """
    flat = dict(values)
    for key in (key for key in ROOMS if key in values):
        entries = methods(key, values[key], source)
        name, settings = entries[-1]
        for setting in [s for s in settings if s in FLAT[key] and takes(key, name, s)]:
            value = settings.pop(setting)
            if value is None:
                continue
            if values.get(setting) is not None and not _same(values[setting], value):
                raise ValueError(
                    f"{source}{setting} is {value!r} in {key} {name} and {values[setting]!r} beside it: leave out one"
                )
            flat[setting] = value
        flat[key] = short(entries)
    return flat


def nested(values: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of a recipe with the settings of each method under its name, in the order of the keys.

    Settings that the method does not take are left out where they are as `usual`; under `auto` nothing moves.
    """
    tree = dict(values)
    for key in ROOMS:
        entries = methods(key, values[key])
        name, settings = entries[-1]
        if name == AUTO:
            continue
        under = {s: tree.pop(s) for s in FLAT[key] if takes(key, name, s)}
        for setting in FLAT[key]:
            if setting in tree and tree[setting] == usual[setting]:
                del tree[setting]
        entries[-1] = (name, {**under, **settings})
        tree[key] = short(entries)
    return tree


def change(values: dict[str, Any], path: list[str], value: Any, source: str = "") -> bool:
    """Set in flattened `values` what a dotted path such as `optimizer.sgd.lr` leads to; False for another path.

    Raises:
        ValueError: for a name that is not there, or a setting that it does not have.
    """
    key = path[0]
    if key not in ROOMS or len(path) > 3:
        return False
    if len(path) == 1:
        values.update(flattened({key: value}, source))
        return True
    entries = methods(key, values.get(key, DEFAULTS[key]), source)
    name = _word(key, path[1])
    place = next((i for i, (known, _) in enumerate(entries) if known == name), None)
    if place is None:
        raise ValueError(f"{source}the {key} is {', '.join(n for n, _ in entries)}, and not {path[1]!r}")
    written = {path[2]: value} if len(path) == 3 else dict(value or {})
    inner = place == len(entries) - 1
    entries[place] = (name, {**entries[place][1], **written})
    beside = {k: v for k, v in values.items() if not (inner and k in written and k in FLAT[key])}
    changed = flattened({**beside, key: short(entries)})
    values.clear()
    values.update(changed)
    return True


def check_methods(values: Mapping[str, Any], source: str = "") -> None:
    """Raise ValueError for a method or a setting that is none, and for wrappers in the wrong place."""
    for key, room in ROOMS.items():
        entries = methods(key, values[key], source)
        auto = (AUTO,) if key == "optimizer" else ()
        known = [*auto, *(_word(key, name) for name in catalog.names(room))]
        for place, (name, settings) in enumerate(entries):
            last = place == len(entries) - 1
            if ":" in name:
                continue
            if name not in known or (name == AUTO and not last):
                raise ValueError(f"{source}{key} is one of {', '.join(known)}, not {name!r}{near_names(name, known)}")
            names = _settings(key, name) if name != AUTO else FLAT[key]
            for setting in settings:
                if setting not in names:
                    raise ValueError(
                        f"{source}{key} {name} has no setting {setting!r}; it has {', '.join(names) or 'none'}"
                        f"{near_names(setting, names)}"
                    )
            wraps = name != AUTO and "inner" in catalog.argument_names(room, name)
            if wraps and last:
                raise ValueError(f"{source}{key} {name} wraps another: name that after it, as in [{name}, {AUTO}]")
            if not wraps and not last:
                raise ValueError(f"{source}{key} {name} wraps no other: it comes last, and {entries[-1][0]} after it")


def code_of(values: Mapping[str, Any]) -> list[str]:
    """The names in a recipe, as a mapping, that ask for code which is not kedge's."""
    return [name for _, name in _code(values)]


def check_code(values: Mapping[str, Any], source: str = "") -> None:
    """Raise ValueError, in words that name the key, for such a name where nothing said that it may be imported."""
    for key, name in _code(values):
        check_allowed(name, f"{source}{key}")


def _code(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, room in _METHODS.items():
        value = values.get(key) or []
        for spec in value if isinstance(value, list) else [value]:
            yield from ((key, name) for name in _code_in(room, spec))


def _code_in(room: str, spec: Any) -> list[str]:
    """The names of one's own code in how a method is named: its own, and those that its arguments are built from.

    Nothing of that code is imported. What its arguments are is not known then: all texts of that form count.
    """
    texts = [text for text in _texts(spec) if ":" in text]
    if not texts:  # as nearly always; else the method of kedge is imported, to see what its arguments are
        return []
    name = ""
    with suppress(ValueError):  # for what names no method
        name, values = specs.spelled(room, spec)
        if ":" not in name:
            part = specs.Part(room, name, catalog.get(room, name), values)
            return [code for key, of in part.rooms.items() for code in _code_in(of, values[key])]
    return [text for text in texts if text == name or NAME.fullmatch(text)]


def _texts(spec: Any) -> Iterator[str]:
    """All texts in a spec, names and values."""
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, Mapping):
        for name, value in spec.items():
            yield from (*_texts(name), *_texts(value))
    elif isinstance(spec, list | tuple):
        for value in spec:
            yield from _texts(value)


def _settings(key: str, name: str) -> tuple[str, ...]:
    """What may be set of a method of kedge; nothing is known of a name that is none."""
    try:
        names = catalog.argument_names(ROOMS[key], name)
    except ValueError:
        return FLAT[key]
    return tuple(n for n in names if n not in _OF_THE_RUN[key])


def _word(key: str, name: str) -> str:
    """A name as recipes have it: as the file, with dashes; what is none stays as it is."""
    if ":" in name or name == AUTO:
        return name
    try:
        return catalog.resolve(ROOMS[key], name).replace("_", "-")
    except ValueError:
        return name


def _entry(name: str, settings: Mapping[str, Any]) -> Any:
    return {name: dict(settings)} if settings else name


def short(entries: list[Method]) -> Any:
    """One method alone, several as a list."""
    short = [_entry(*entry) for entry in entries]
    return short if len(short) > 1 else short[0]


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same to people: `1e-3` is text to YAML."""
    try:
        return bool(one == other) or float(one) == float(other)
    except (TypeError, ValueError):
        return False
