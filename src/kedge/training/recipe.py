"""The recipe: one run as one flat record. Imports nothing slow: the command line builds its flags from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from kedge import catalog
from kedge.own_code import near_names
from kedge.training.nested import DEFAULTS, FLAT, ROOMS, check_code, flattened, nested
from kedge.training.recipe_checks import as_type, check_recipe
from kedge.yaml_text import parse_yaml, read_yaml

__all__ = ["Recipe", "load_recipe", "recipe_names"]


@dataclass
class Recipe:
    """Everything that decides a training run. `None` and `auto` are filled in once the data is known.

    Args:
        name: folder of the run inside `runs`; null: made from data, model and the time.
        data: a data set's name, an image folder, parquet files, tar shards or a hub name, `stream:` before it to
            read that or parquet in turn; null: that of the run in init_from, else digits.
        image_size: pixels of a side; null: as it is up to 64 px, else 224.
        val_fraction: part of the training images held out for validation, if the data has no such split.
        folds: judge by so many folds of cross-validation in place of images held out, and train on all in the end;
            0: hold some out; null: 3 where published weights are tuned on fewer than 100 images, else 0.
        split_seed: which images those are; null: the seed, and with a run in init_from the images that it held out.
        split_by: what stays together when images are held out or dealt to folds, such as photos of one person, object
            or scene: `folder`, the folder that a file lies in, `folder:2` the one above, `near`, what looks like
            another shot of one scene, `regex:PATTERN`, what its first bracket matches in the file's name, or
            `column:NAME` of a table; null: each image by itself.
        classes: train on these classes only; null: all.
        ordered: the classes from the lowest to the highest, such as [low, medium, high], where they are grades of one
            thing: heads of ordered classes take them so, and wrong answers count by how far off they are; null: they
            have no order, and what files are called gives them none.
        train_images: train on the first so many training images only, validation taken from them; null: on all.
        imbalance: leave fewer images of some classes, {ratio: 50} or {ratio: 50, kind: step}: the most frequent class
            has `ratio` times the images of the rarest, and so have images held out of them; kind is `long-tailed`,
            `linear` or `step`, and rare, order, largest and seed are those of kedge.data.imbalanced; {}: as they are.
        selection: train on the images that this file chooses, selection.json of kedge select; images held out for
            validation must have had no part in it; null: on all.
        augment: `auto`, `none`, `crop-flip`, or that and `trivial`, `randaugment` or, up to 64 px, `pixmix`; auto: as
            the run in init_from was, else crop-flip.
        crop: smallest share of a photo's area that a random crop keeps; null: 0.4 where the run starts from trained
            weights, else 0.08.
        label_noise: share of the training labels that become another class; validation labels stay.
        label_noise_kind: `symmetric`: every other class equally likely; `pair`: each class becomes one fixed other.
        label_noise_val: the same share of the validation labels become wrong too, by which the run is then judged.
        workers: processes that read images; null: as many as make sense here.
        cache: folder that keeps photos as they were decoded, for later epochs and runs; null: they are decoded anew.
        cache_gb: gigabytes that this folder may hold; photos that do not fit are decoded anew.
        model: a timm or torchvision name, or `auto`.
        arguments: further arguments of the network, such as {width: 16}.
        pretrained: start from published weights; null: for photos, if the model has any.
        weights: a file with published weights of `model`, safetensors or a torch file, or its name in the folder
            $KEDGE_WEIGHTS; null: those of the library.
        init_from: start from a trained model: a run folder, a model folder, or a name of timm with its published
            weights; the network, its normalisation and its bank are those of that model.
        anchored: anchor the network, or train it as it is; null: as the model in init_from is, else anchored.
        references: size of the bank of references that travels with the model.
        choose: how the bank is chosen: `random`, `stratified` or `kcenter` photos; `mean` or `class-mean`, which show
            none.
        residuals: training residuals kept with the bank, for the per-image reference search (`blt`).
        objective: names inside kedge.objectives, outermost first, each alone or as {name: {argument: value}};
            null: from scratch cross-entropy, anchored with a quarter of the references masked and the label kept; from
            published weights not masked, with label smoothing 0.1. An objective that attacks gets Anchored with alpha
            0 round it where the model is anchored and the list does not say otherwise.
        eps: radius of the attack in the objective, in pixel units of [0, 1], such as 8/255; null: what stands there.
            A class of your own that attacks in its own way gets it as its argument eps.
        class_weights: `none`, or `balanced` to weigh rare classes up, so that every class counts the same; for
            objectives with an argument class_weights: CrossEntropy, and classes of your own.
        extra: further images that the objective needs in each step, {name: DATA}, such as {outliers: FOLDER} for
            OutlierExposure: a folder of images, or what data takes; as large and augmented as the training images, in
            batches as large.
        negatives: photos of the place where the object is not, a folder or what data takes: the model learns to be
            unsure on them. They are the outliers of the objective; where it takes none OutlierExposure is put round it.
        head: `probe` sets the last layer to the best linear one on the frozen network before training starts, `leave`
            leaves it as it is, at random where it is new; `auto`: probe for published weights.
        batch_norm: `frozen` keeps the statistics of batch norm as they are, `train` follows the batches; `auto`: frozen
            where the run starts from trained weights and attacks nothing.
        optimizer: the rule of a step, a name or {name: {setting: value}}; a list wraps rules from the outside in, such
            as [{sam: {rho: 0.1}}, {sgd: {lr: 0.1}}]; `auto`: by network and start. lr, momentum, nesterov and
            weight_decay are settings of the innermost, there or here.
        lr: highest learning rate; null: by optimizer, batch and whether the run starts from trained weights or attacks.
        head_lr: factor on the learning rate of the last layer; null: 5 for published weights, else 1.
        layer_decay: factor on the learning rate from each layer to the one before it, nearer to the image.
        layer_lr: further factors on the learning rate of the layers before the last one, cut into as many stages from
            the image on, such as [0, 0.1, 1]; 0 leaves a stage as it is; []: none.
        unfreeze: part of the run over which the layers begin to learn one after another, from the last to the first.
        momentum: of SGD.
        nesterov: Nesterov's form of it.
        weight_decay: on weights, not on biases and norms; null: by optimizer.
        clip: largest norm of the gradient; null: no limit.
        ema: decay of the moving average of the weights that is validated and saved, such as 0.999; null: off.
        schedule: how lr goes over the run, a name or {name: {setting: value}}. The next keys are settings of those
            that have them, there or here.
        warmup: below 1 a fraction of the run, else epochs; null: 0.05, from published weights and for a slow start
            0.3, for the halving one half of the epochs.
        milestones: epochs after which `multistep` multiplies the learning rate by gamma.
        gamma: the factor of `multistep`.
        start_factor: of `slow-start-fast-decay`: the share of lr that it starts from.
        end_factor: of `slow-start-fast-decay`: the share of lr that it ends at.
        ramp: of `slow-start-fast-decay`: `linear` or `exp`.
        sampler: which training images an epoch holds: `shuffled` each once; every class equally often
            `class-balanced`, in an epoch as long, `oversampled` up to the largest class, `undersampled` down to the
            smallest; `error-proportional` classes that are more often wrong on validation images more often.
        epochs: passes over the training images; null: by the data.
        batch_size: images in a step, over all devices together; null: by the data.
        precision: `auto`, `32`, `bf16` or `16`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        devices: how many of them, on each node.
        nodes: machines that train together, under torchrun or srun.
        sync: several devices compute what one would: the statistics of batch norm, references and all other draws are
            those of the whole batch; false: of each device's share, without waiting for the others.
        shard: share out the weights over the devices too (FSDP), for a network that does not fit on one in training.
        compile: compile the network with torch.compile.
        seed: decides every random draw of the run.
        coverage: part of the validation images that the stored reject threshold keeps.
        risk: largest part of wrong answers among the validation images that it keeps, in place of coverage; null: off.
        familiar: part of images like those of validation that are not to be called unknown; null: no rule for that.
        temperature: fit a temperature for the logits on the validation images when training is over.
        val_pgd_steps: steps of the attack on validation images after each epoch, where the objective attacks; 0: off.
        val_pgd_images: how many validation images are attacked, a random subset; they choose the model that is kept.
        keep: `best` by accuracy under that attack, or `last`; the other model is kept beside it.
        snapshots: epochs between copies of the model kept in the run's folder; 0: none.
        average: share of the trained weights in an average with those of the start that is kept in the end: of
            init_from, or of published weights with their linear probe; 1: the trained ones, though they be worse than
            the start; null: off, so what is kept is not below the start.
        gate: the bars that the model must meet, such as {min_accuracy: 0.9, max_ece: 0.03}, by which kedge check judges
            it: the flags of that are its keys; {}: none.
        runs: folder that holds the runs.
    """

    name: str | None = None
    data: str | None = None
    image_size: int | None = None
    val_fraction: float = 0.1
    folds: int | None = None
    split_seed: int | None = None
    split_by: str | None = None
    classes: list[str] | None = None
    ordered: list[str] | None = None
    train_images: int | None = None
    imbalance: dict[str, Any] = field(default_factory=dict)
    selection: str | None = None
    augment: str = "auto"
    crop: float | None = None
    label_noise: float = 0.0
    label_noise_kind: str = "symmetric"
    label_noise_val: bool = False
    workers: int | None = None
    cache: str | None = None
    cache_gb: float = 20.0
    model: str = "auto"
    arguments: dict[str, Any] = field(default_factory=dict)
    pretrained: bool | None = None
    weights: str | None = None
    init_from: str | None = None
    anchored: bool | None = None
    references: int = 10
    choose: str = "stratified"
    residuals: int = 0
    objective: list[Any] | None = None
    eps: str | None = None
    class_weights: str = "none"
    extra: dict[str, str] = field(default_factory=dict)
    negatives: str | None = None
    head: str = "auto"
    batch_norm: str = "auto"
    optimizer: list[Any] | dict[str, Any] | str = DEFAULTS["optimizer"]
    lr: float | None = None
    head_lr: float | None = None
    layer_decay: float = 1.0
    layer_lr: list[float] = field(default_factory=list)
    unfreeze: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float | None = None
    clip: float | None = None
    ema: float | None = None
    schedule: dict[str, Any] | str = DEFAULTS["schedule"]
    warmup: float | None = None
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.2
    start_factor: float = 0.01
    end_factor: float = 0.01
    ramp: str = "linear"
    sampler: dict[str, Any] | str = DEFAULTS["sampler"]
    epochs: int | None = None
    batch_size: int | None = None
    precision: str = "auto"
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    sync: bool = True
    shard: bool = False
    compile: bool = False
    seed: int = 0
    coverage: float = 0.95
    risk: float | None = None
    familiar: float | None = 0.95
    temperature: bool = False
    val_pgd_steps: int = 10
    val_pgd_images: int = 1000
    keep: str = "best"
    snapshots: int = 0
    average: float | None = None
    gate: dict[str, Any] = field(default_factory=dict)
    runs: str = "runs"

    def __post_init__(self) -> None:
        """Spell objectives as their classes are; settings under the name of a method go to fields of their own."""
        if isinstance(self.objective, list):
            self.objective = [_spelled(entry) for entry in self.objective]
        settings = [f for f in fields(self) if f.name in sum(FLAT.values(), ())]
        beside = {f.name: value for f in settings if (value := getattr(self, f.name)) not in (f.default, [])}
        for key, value in self.typed({**beside, **{key: getattr(self, key) for key in ROOMS}}).items():
            setattr(self, key, value)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str = "") -> "Recipe":
        """Make a recipe of `values` and check it; ValueError names the key, what was seen and what to write.

        `source` begins the messages, such as `my.yaml: `.
        """
        if not isinstance(values, dict):
            raise ValueError(f"{source}a recipe is a mapping of keys to values, not {type(values).__name__}")
        hints = get_type_hints(cls)
        for key in values:
            if key not in hints:
                raise ValueError(f"{source}no recipe key is named {key!r}{near_names(key, hints)}")
        recipe = cls(**cls.typed(values, source))
        recipe.check(source)
        return recipe

    @classmethod
    def typed(cls, values: dict[str, Any], source: str = "") -> dict[str, Any]:
        """`values` flat and in the types of their fields, keys that are none as they are.

        Raises ValueError for another type, and for a setting that is there twice with two values.
        """
        hints = {key: hint for key, hint in get_type_hints(cls).items() if key not in ROOMS}
        flat = flattened(values, source)
        return {k: as_type(source, k, value, hints[k]) if k in hints else value for k, value in flat.items()}

    @property
    def class_order(self) -> list[str] | None:
        """The classes that are trained on, in the order of the labels; None: those of the data, in its order."""
        return self.classes if self.ordered is None else self.ordered

    @property
    def world(self) -> int:
        """Devices of all nodes together."""
        return self.devices * self.nodes

    def to_yaml(self) -> str:
        """Return the recipe as YAML, in the order of its fields, settings of a method under its name."""
        tree = nested(asdict(self), asdict(Recipe()))
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)

    def check(self, source: str = "") -> None:
        """Raise ValueError for the first value that cannot work, before anything slow starts."""
        check_recipe(vars(self), source)


def load_recipe(source: "str | Path | dict[str, Any] | Recipe", allow_code: bool = False) -> Recipe:
    """Return the recipe that `source` is, or names: a file of YAML, or a recipe shipped with kedge.

    Raises:
        FileNotFoundError: if there is none of that name.
        ValueError: if it cannot work; for a file that names code, `module:Class`, which training would import and so
            run, unless `allow_code`, or `kedge.own_code.allow_code()` around the call, says that it may.
    """
    recipe = read_recipe(source)
    if not isinstance(source, Recipe | dict) and not allow_code:
        check_code(vars(recipe), f"{source}: ")
    return recipe


def read_recipe(source: "str | Path | dict[str, Any] | Recipe") -> Recipe:
    """As `load_recipe`, for those who only read what a recipe says, and build nothing by it."""
    if isinstance(source, Recipe):
        source.check()
        return source
    if isinstance(source, dict):
        return Recipe.from_dict(source)
    path = Path(source)
    if path.is_file():
        values = values_of(path)
    elif str(source) in recipe_names():
        shipped = resources.files("kedge").joinpath("recipes", f"{source}.yaml")
        values = parse_yaml(shipped.read_text(encoding="utf-8"), str(source))
    else:
        names = recipe_names()
        raise FileNotFoundError(
            f"no file and no recipe is named {str(source)!r}; the recipes are {', '.join(names)}"
            f"{near_names(source, names)}"
        )
    return Recipe.from_dict(values, f"{source}: ")


def values_of(path: Path) -> dict[str, Any]:
    """What a recipe in YAML says, key by key: names and classes as they are written. Raises ValueError, in words."""
    hints = get_type_hints(Recipe)
    return read_yaml(path, [key for key, hint in hints.items() if hint in (str, str | None)], ["classes", "ordered"])


def recipe_names() -> list[str]:
    """Names of the recipes that ship with kedge."""
    folder = resources.files("kedge").joinpath("recipes")
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def held_by(recipe: Mapping[str, Any]) -> int:
    """The seed that decides which images a run holds out, of its recipe as a mapping."""
    own = recipe.get("split_seed")
    return int(recipe.get("seed", 0) if own is None else own)


def changed(before: Recipe, after: Recipe) -> list[str]:
    """Names of the fields in which two recipes differ."""
    return [f.name for f in fields(Recipe) if getattr(before, f.name) != getattr(after, f.name)]


def _spelled(entry: Any) -> Any:
    """An entry of an objective with the name of its class, in whatever way it is written."""
    if isinstance(entry, str):
        return catalog.class_name("objectives", entry)
    if isinstance(entry, dict):
        return {catalog.class_name("objectives", str(name)): values for name, values in entry.items()}
    return entry
