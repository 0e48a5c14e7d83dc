"""`--adapt_at_test`: models as they adapt to the images they are asked about, beside the models as they are."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kedge import catalog
from kedge.cli.resolve_model import Source
from kedge.printable import counted

if TYPE_CHECKING:
    from kedge.data import ImageSet


def check_methods(methods: Sequence[str], no_brake: bool) -> list[str]:
    """The methods by their names in the room. Raises ValueError for one that is none, and for a brake of nothing."""
    if no_brake and not methods:
        raise ValueError("--no_brake is for --adapt_at_test, which is missing")
    return list(dict.fromkeys(catalog.resolve("test_time", name) for name in methods))


def kept_images(
    sources: dict[str, Source], models: Mapping[str, Any], validation: str | None, no_brake: bool
) -> "dict[str, ImageSet] | None":
    """Labelled images for each model that its brake rests on; None without a brake.

    Raises:
        ValueError: for a model of which it is not known what it was trained on, if none are named.
    """
    from kedge.cli.validation_data import load_validation

    if no_brake:
        return None
    try:
        return load_validation(sources, dict(models), validation)
    except ValueError as error:
        raise ValueError(
            f"the brake of --adapt_at_test rests on labelled images that were kept from training: {error}, or go "
            "without it (--no_brake)"
        ) from error


def adapting(model: Any, method: str, held_out: "ImageSet | None", seed: int = 0) -> Any:
    """A model that adapts by a method of `kedge.test_time`, held by a brake where there are images for one."""
    from kedge.test_time import Adapting, Brake

    return Adapting(model, method, None if held_out is None else Brake.of(held_out, model, seed=seed))


def beside(
    sources: dict[str, Source],
    models: Mapping[str, Any],
    groups: Mapping[str, list[str]],
    methods: Sequence[str],
    held_out: "Mapping[str, ImageSet] | None",
    seed: int,
) -> tuple[dict[str, Source], dict[str, Any], dict[str, list[str]]]:
    """Sources, models and groups with, after each model, the same as it adapts by each method: `NAME+METHOD`."""
    all_sources, all_models = {}, {}
    for name, model in models.items():
        all_sources[name], all_models[name] = sources[name], model
        for method in methods:
            key = f"{name}+{method}"
            all_sources[key] = sources[name]
            try:
                all_models[key] = adapting(model, method, None if held_out is None else held_out[name], seed)
            except ValueError as error:
                raise ValueError(f"{name} cannot adapt by {method}: {error}") from error
    all_groups = {group: list(members) for group, members in groups.items()}
    for method in methods:
        all_groups |= {f"{group}+{method}": [f"{m}+{method}" for m in members] for group, members in groups.items()}
    return all_sources, all_models, all_groups


def what_happened(model: Any) -> list[str]:
    """What a model that adapts did in its stream, in sentences."""
    record = model.record
    seen = counted(record.images, "image")
    count = f"adapted to {record.images - record.as_before:,} of {seen} in {counted(record.steps, 'step')}"
    return [count, *(f"the brake held {words}" for words in record.words())]
