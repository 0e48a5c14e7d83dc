"""`kedge methods`: the catalogue of everything that kedge can train with, measure and attack by."""

import inspect

from kedge import catalog
from kedge.own_code import near_names

ROOMS = {
    "objectives": "what a training step minimises",
    "heads": "last layers by name, in place of the linear one of a network",
    "optim.rules": "gradient rules: optimizers, and wrappers round one",
    "optim.schedules": "the learning rate over a training",
    "samplers": "which images an epoch holds",
    "selection": "scores by which training images are chosen",
    "procedures": "how a model is made, in stages",
    "postprocess": "what is done to logits, saved and exported with the model",
    "test_time": "how a model adapts to the images that it answers",
    "scores": "one number for each image: higher is more familiar",
    "metrics": "numbers of a set of images",
    "attacks": "images changed within a ball, so that a model errs",
    "data.corruptions": "images that get worse, at five severities",
    "claims": "published claims, each against its control",
}


def run(room: str | None = None, name: str | None = None) -> int:
    """List the methods of kedge: the rooms, the methods of a room, or one method with its paper and settings.

    Args:
        room (ROOM): a room, such as scores
        name (NAME): a method of the room

    Examples:
        kedge methods                         the rooms
        kedge methods objectives              a line for each objective
        kedge methods objectives distill      what it is, its paper, its settings and their defaults
    """
    if room is None:
        width = max(map(len, ROOMS))
        print("\n".join(f"{each:<{width}}  {len(catalog.names(each)):>2}  {what}" for each, what in ROOMS.items()))
        return 0
    room = room_of(room)
    if name is not None:
        print(about(room, name))
        return 0
    names = catalog.names(room)
    width = max(map(len, names))
    print("\n".join(f"{each:<{width}}  {catalog.summary(room, each)}" for each in names))
    return 0


def room_of(word: str) -> str:
    """The room of a word, `optim.rules`, `rules` or `corruptions`. Raises ValueError for a word that is none."""
    plain = word.lower().replace("-", "_")
    for room in ROOMS:
        if plain in (room, room.rpartition(".")[2]):
            return room
    raise ValueError(f"there is no room {word!r}; there are {', '.join(ROOMS)}{near_names(plain, list(ROOMS))}")


def about(room: str, name: str) -> str:
    """One method: what it is, its paper, its settings with their defaults, and the words about it."""
    method, info = catalog.get(room, name), catalog.info(room, name)
    key = catalog.resolve(room, name)
    lines = [f"{room} {key}", catalog.summary(room, key), ""]
    if info is not None:
        paper = ", ".join(word for word in (info.title, info.cite) if word)
        lines += [f"source: {paper}" + (f"\n        {info.url}" if info.url else ""), ""]
    lines += ["settings:"]
    for setting, parameter in catalog.arguments(method).items():
        default = "needed" if parameter.default is inspect.Parameter.empty else repr(parameter.default)
        lines.append(f"  {setting}: {default}")
    if lines[-1] == "settings:":
        lines[-1] = "no settings"
    return "\n".join([*lines, "", inspect.getdoc(method) or ""]).rstrip()
