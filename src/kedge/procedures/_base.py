"""What a procedure is, and what it runs with: a model to start from, images, settings, and a folder for each stage."""

import copy
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from kedge import catalog
from kedge.anchoring import PixelModel, choose_references
from kedge.data import ImageSet, derive_seed
from kedge.probing.heads import find_head, with_head
from kedge.procedures._folder import add_record, finished, load_outcome, write_outcome
from kedge.procedures._settings import Settings
from kedge.training.recorded import recorded_facts

__all__ = ["Context", "Procedure", "origins", "perform", "procedure", "way", "ways"]

_PLACES = ("batch_size", "workers", "device", "source", "data", "val_fraction", "split_seed")  # decide no weights


class Procedure:
    """How a model is made, in stages.

    Attributes:
        decided_by: the settings that its own stage depends on: made with others, a folder is not handed back.
        rests_on: procedures whose models it is made from, each in a folder of its own beside it.
        equal_classes: whether its probabilities are those of classes that are equally frequent, whatever their shares
            in the training images.
    """

    room = "procedures"
    decided_by: tuple[str, ...] = tuple(f.name for f in fields(Settings) if f.name not in _PLACES)
    rests_on: tuple[str, ...] = ()
    equal_classes: bool = False

    def check(self, settings: Settings, val: ImageSet | None) -> None:
        """Raise ValueError, before anything is made, for settings that it cannot work with."""

    def run(self, context: "Context") -> PixelModel:
        """The model for the classes of `context.train`, on the CPU."""
        raise NotImplementedError


@dataclass
class Context:
    """What a procedure runs with.

    Attributes:
        how: the procedure.
        model: what it starts from, which is not changed.
        train, val: images; `val` None where few are trained on.
        settings: what was chosen.
        out: the folder of all stages.
        record: what is done and by what it is chosen, for run.json.
        trained: whether a training loop wrote the run folder.
    """

    how: str
    model: PixelModel
    train: ImageSet
    val: ImageSet | None
    settings: Settings
    out: Path
    record: dict[str, Any] = field(default_factory=dict)
    trained: bool = False

    @property
    def folder(self) -> Path:
        """The run folder of this stage."""
        return self.out / self.how

    def stage(self, how: str) -> PixelModel:
        """The model of another procedure on the same images with the same settings, made before or now."""
        model, record = perform(Context(way(how), self.model, self.train, self.val, self.settings, self.out))
        if "layer_lr" in record:  # what was searched for it decides this model too
            self.record["layer_lr"] = record["layer_lr"]
        return model

    def with_bank(self, model: PixelModel) -> PixelModel:
        """A copy for the new task: no steps after the logits, no threshold, a bank of the new training images.

        An averaged and blurred bank is so again, as references were when the body was trained.
        """
        body: Any = copy.deepcopy(model).eval()
        body.steps, body.reject, body.unknown = {}, None, None
        if body.count():
            count = self.settings.references or (len(body.references) if len(body.references) > 1 else 10)
            seed = derive_seed(self.settings.seed, "references") % 2**31
            prepared = body.bank_prepared
            body.references = choose_references(self.train, min(count, len(self.train)), "stratified", seed)
            body.prepare_bank(*prepared)
            body.residuals = None
        return cast(PixelModel, body)


def procedure(how: str) -> Procedure:
    """The procedure of a name in the room. Raises ValueError for a name that is none, with the nearest."""
    instance: Procedure = catalog.get("procedures", way(how))()
    return instance


def way(how: str) -> str:
    """How a procedure is called in folders, records and on the command line: the name of its file, with dashes."""
    return catalog.resolve("procedures", how).replace("_", "-")


def ways(how: str) -> tuple[str, ...]:
    """The procedures whose models `how` is made from, first ones first, and itself."""
    before = [each for stage in procedure(how).rests_on for each in ways(stage)]
    return tuple(dict.fromkeys([*before, way(how)]))


def origins(how: str, origin: dict[str, Any], settings: Settings) -> dict[str, dict[str, Any]]:
    """What decides the models of `how` and of what it rests on: weights and images, and settings of each and below."""
    chosen = asdict(settings)
    return {
        each: {**origin, **{key: chosen[key] for below in ways(each) for key in procedure(below).decided_by}}
        for each in ways(how)
    }


def perform(context: Context) -> tuple[PixelModel, dict[str, Any]]:
    """The model and its record; what is finished in the folder is taken from there, what was broken off goes on."""
    folder, model = context.folder, context.model
    head = find_head(model, context.settings.head)
    if finished(folder):
        loaded = load_outcome(folder, with_head(model, head, context.train.class_names))
        return loaded.eval(), recorded_facts(folder)["adaptation"]
    began = time.perf_counter()
    context.record |= {
        "how": context.how,
        "from": context.settings.source or type(model.network).__name__,
        "head": head,
        "train": len(context.train),
        "validation": None if context.val is None else len(context.val),
        "settings": asdict(context.settings),
    }
    result = procedure(context.how).run(context).cpu().eval()
    context.record["seconds"] = time.perf_counter() - began
    if context.trained:
        add_record(folder, context.record)
    else:
        write_outcome(result, folder, context.train, context.val, context.settings, context.record)
    return result, context.record
