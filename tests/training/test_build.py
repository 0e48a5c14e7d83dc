import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

import kedge
from kedge import data
from kedge.data import TensorSet
from kedge.objectives._weights import balanced_weights
from kedge.own_code import allow_code
from kedge.training import Recipe, fit
from kedge.training.build import make_model, make_network, make_optimizer, make_schedule
from kedge.training.images import load_sets
from kedge.training.nested import code_of
from kedge.training.objective import check_objective, make_objective
from kedge.training.recorded import masking
from kedge.training.start_from import inherit

pytestmark = pytest.mark.usefixtures("own_code_allowed")


class Focal(kedge.objectives.Objective):
    """Somebody's own loss, which weighs classes."""

    def __init__(self, gamma=2.0, class_weights=None):
        super().__init__()
        self.gamma, self.class_weights = gamma, class_weights


class Passing(kedge.objectives.CrossEntropy):
    """Somebody's own loss, which passes on what it does not know."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale


class Smoothed(kedge.objectives.Objective):
    """Somebody's own training on noisy images; its radius is called eps."""

    def __init__(self, inner, eps=0.5):
        super().__init__()
        self.inner, self.eps = inner, eps


class Quiet(kedge.objectives.Anchored):
    """Somebody's own wrapper, which says nothing of the arguments that it passes on."""

    def __init__(self, *args, scale=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = scale


class Doubled(nn.Module):
    """Somebody's own objective."""

    def __init__(self, inner, factor=2.0):
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, model, images, targets):
        return self.factor * self.inner(model, images, targets)


class Knows(kedge.objectives.Objective):
    """Somebody's own loss, which asks what the run knows."""

    def __init__(self, inner, labels=None, classes=None, num_classes=None, seed=None, floor: float = 0.0):
        super().__init__()
        self.inner, self.labels, self.classes, self.num_classes, self.seed = inner, labels, classes, num_classes, seed
        self.floor = floor


class Nudge:
    """Somebody's own attack."""

    def __init__(self, eps=0.1):
        self.eps = eps

    def __call__(self, model, images, targets):
        return (images + self.eps).clamp(0, 1)


@pytest.fixture(scope="module")
def train():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
    return TensorSet(
        torch.randint(256, (60, 3, 12, 12), dtype=torch.uint8, generator=generator), labels, ["a", "b", "c"]
    )


def recipe(**fields):
    settings = {"model": "kedge_resnet_small", "arguments": {"width": 4}, "pretrained": False}
    settings |= {"lr": 0.1, "weight_decay": 1e-4, "optimizer": "sgd", "epochs": 4, "batch_size": 8}
    return inherit(Recipe(**{**settings, **fields}))


def test_objectives_nest_outermost_first(train):
    made = make_objective(
        recipe(objective=[{"Mixup": {"alpha": 0.2}}, {"Anchored": {"mask_per": "batch"}}, "CrossEntropy"]), train
    )
    assert isinstance(made, kedge.objectives.Mixup)
    assert isinstance(made.inner, kedge.objectives.Anchored)
    assert made.inner.mask_per == "batch"
    assert isinstance(made.inner.inner, kedge.objectives.CrossEntropy)


def test_a_wrapper_that_passes_its_arguments_on(train):
    made = make_objective(
        recipe(objective=[{f"{__name__}:Quiet": {"alpha": 0.5, "scale": 2.0}}, "CrossEntropy"]), train
    )
    assert (made.alpha, made.scale) == (0.5, 2.0)
    with pytest.raises(ValueError, match=r"no argument 'alhpa'; did you mean alpha"):
        make_objective(recipe(objective=[{f"{__name__}:Quiet": {"alhpa": 0.5}}, "CrossEntropy"]), train)


def test_foreign_objectives_only_in_the_explicit_form(train):
    made = make_objective(recipe(objective=[{f"{__name__}:Doubled": {"factor": 3.0}}, "CrossEntropy"]), train)
    assert isinstance(made, Doubled)
    with pytest.raises(ValueError, match="objective has no 'Doubled'"):
        make_objective(recipe(objective=["Doubled", "CrossEntropy"]), train)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (["CrossEntrpy"], "did you mean cross_entropy"),
        ([{"CrossEntropy": {"label_smothing": 0.1}}], "no argument 'label_smothing'; did you mean label_smoothing"),
        (["Anchored"], "wraps another objective"),
        (["CrossEntropy", "CrossEntropy"], "CrossEntropy wraps no other: it comes last"),
        ([f"{__name__}:Focal", "CrossEntropy"], "Focal wraps no other: it comes last, and CrossEntropy is after it"),
        ([{"Anchored": {"alpha": 3}}, "CrossEntropy"], "alpha is a probability"),
        (["os:system"], "a module of Python itself"),
        (["no_such_module:Class"], "no_such_module"),
        ([{"Anchored": {"reference_set": {"count": 3}}}, "CrossEntropy"], "classes, n and seed"),
    ],
)
def test_objectives_that_cannot_be_made(train, objective, words):
    with pytest.raises(ValueError, match=words):
        make_objective(recipe(objective=objective), train)


def test_an_objective_gets_what_the_run_knows_where_the_recipe_leaves_it_out(train):
    made = make_objective(recipe(objective=[f"{__name__}:Knows", "cross_entropy"], seed=7), train)
    assert torch.equal(made.labels, train.labels)
    assert (made.classes, made.num_classes, made.seed) == (["a", "b", "c"], 3, 7)
    written = {f"{__name__}:Knows": {"seed": 1, "classes": None, "floor": "1/4"}}
    made = make_objective(recipe(objective=[written, "cross-entropy"], seed=7), train)
    assert (made.classes, made.num_classes, made.seed, made.floor) == (None, 3, 1, 0.25)
    with pytest.raises(ValueError, match=r"Knows: floor: 'a quarter' is not a number"):
        make_objective(recipe(objective=[{f"{__name__}:Knows": {"floor": "a quarter"}}, "CrossEntropy"]), train)


def test_names_are_spelled_in_any_way_and_recorded_as_the_classes_are(train):
    written = [{"cut_mix": {}}, {"anchored": {"alpha": 0.5}}, "CROSS-ENTROPY"]
    settings = recipe(objective=written)
    assert settings.objective == [{"CutMix": {}}, {"Anchored": {"alpha": 0.5}}, "CrossEntropy"]
    assert masking(settings.objective) == (0.5, "uniform")
    assert make_objective(settings, train).inner.alpha == 0.5


def test_an_attack_of_ones_own_is_built_by_its_name(train):
    adversarial = {"Adversarial": {"attack": {f"{__name__}:Nudge": {"eps": 0.2}}}}
    assert make_objective(recipe(objective=[adversarial, "CrossEntropy"]), train).attack.eps == 0.2
    assert make_objective(recipe(objective=[adversarial, "CrossEntropy"], eps="8/255"), train).attack.eps == 8 / 255
    assert code_of({"objective": [adversarial, "CrossEntropy"]}) == [f"{__name__}:Nudge"]
    with allow_code(False), pytest.raises(ValueError, match=r"Nudge is Python code.*--allow-code"):
        make_objective(recipe(objective=[adversarial, "CrossEntropy"]), train)


def test_a_reference_set_can_be_other_images(train, tmp_path):
    from PIL import Image

    for i in range(6):
        Image.new("RGB", (12, 12), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    settings = recipe(
        objective=[{"Anchored": {"alpha": 0, "reference_set": str(tmp_path)}}, "CrossEntropy"], references=3
    )
    made = make_objective(settings, train)
    assert made.reference_images.shape == (6, 3, 12, 12)
    bank = make_model(settings, make_network(settings, train), train).references
    assert not bank[:, 1:].any()


def test_balanced_weights_are_scikit_learns(train):
    labels = train.labels.numpy()
    expected = compute_class_weight("balanced", classes=np.unique(labels), y=labels)
    assert balanced_weights(train.labels, 3).numpy() == pytest.approx(expected)
    made = make_objective(recipe(objective=["CrossEntropy"], class_weights="balanced"), train)
    assert made.class_weights.numpy() == pytest.approx(expected)
    assert make_objective(recipe(objective=["CrossEntropy"]), train).class_weights is None


def test_balanced_weights_average_one_over_the_images_whatever_classes_are_empty():
    for labels in (torch.tensor([0] * 9 + [1]), torch.tensor([0] * 9 + [4])):
        assert float(balanced_weights(labels, 5)[labels].mean()) == pytest.approx(1)


@pytest.mark.parametrize("own", ["Focal", "Passing"])
def test_balanced_weights_go_to_whoever_takes_them(train, own):
    expected = balanced_weights(train.labels, 3)
    inner = {f"{__name__}:{own}": {"gamma": 1.0} if own == "Focal" else {"scale": 3.0, "label_smoothing": 0.1}}
    for around in ([], [f"{__name__}:Doubled"], ["Anchored"]):
        made = make_objective(recipe(objective=[*around, inner], class_weights="balanced"), train)
        made = made.inner if around else made
        assert torch.equal(made.class_weights, expected)
    assert made.gamma == 1.0 if own == "Focal" else (made.scale, made.label_smoothing) == (3.0, 0.1)


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (["SquaredError"], r"class_weights is balanced.*\(SquaredError\) weighs classes: CrossEntropy does"),
        ([f"{__name__}:Doubled", "SquaredError"], "Doubled, SquaredError"),
        (
            [{"CrossEntropy": {"class_weights": [1, 2, 3]}}],
            "CrossEntropy in the objective has class_weights of its own",
        ),
        ([{f"{__name__}:Focal": {"class_weights": [1, 2, 3]}}], "Focal in the objective has class_weights of its own"),
    ],
)
def test_balanced_weights_that_nobody_takes_are_an_error_before_the_data_is_read(train, objective, words, tmp_path):
    settings = recipe(objective=objective, class_weights="balanced", data=str(tmp_path / "nowhere"), anchored=False)
    with pytest.raises(ValueError, match=words):
        check_objective(settings)
    with pytest.raises(ValueError, match=words):
        fit(settings, progress=False)


def test_weights_written_in_a_recipe_are_ratios(train):
    for scale in (1.0, 0.01, 100.0):
        weights = [1.0 * scale, 2.0 * scale, 4.0 * scale]
        made = make_objective(recipe(objective=[{"CrossEntropy": {"class_weights": weights}}]), train)
        assert float(made.class_weights[train.labels].mean()) == pytest.approx(1)
        assert (made.class_weights / made.class_weights[0]).tolist() == pytest.approx([1.0, 2.0, 4.0])
    own = make_objective(recipe(objective=[{f"{__name__}:Focal": {"class_weights": [5.0, 6.0, 7.0]}}]), train)
    assert own.class_weights == [5.0, 6.0, 7.0]
    for weights, words in (([1.0, 2.0], "2 values, and the training images have 3 classes"), ([0.0] * 3, "0 or more")):
        with pytest.raises(ValueError, match=words):
            make_objective(recipe(objective=[{"CrossEntropy": {"class_weights": weights}}]), train)


def test_a_radius_goes_to_the_attack_else_to_a_class_that_has_one(train):
    own, attack = f"{__name__}:Smoothed", {"Adversarial": {"attack": {"PGD": {"eps": 0.1, "steps": 2}}}}
    assert make_objective(recipe(objective=[own, "CrossEntropy"], eps="8/255"), train).eps == 8 / 255
    assert make_objective(recipe(objective=[{own: {"eps": 0.2}}, "CrossEntropy"], eps="0.3"), train).eps == 0.3
    assert make_objective(recipe(objective=[own, "CrossEntropy"]), train).eps == 0.5
    both = make_objective(recipe(objective=[own, attack, "CrossEntropy"], eps="8/255"), train)
    assert (both.eps, both.inner.attack.eps) == (0.5, 8 / 255)
    with pytest.raises(ValueError, match=r"eps must be a number, 0 or more, in pixel units.*'eight'"):
        make_objective(recipe(objective=[own, "CrossEntropy"], eps="eight"), train)
    for objective in (["CrossEntropy"], None, [f"{__name__}:Doubled", "CrossEntropy"]):
        settings = recipe(objective=objective, eps="8/255", data="nowhere")
        with pytest.raises(ValueError, match="eps 8/255 is the radius of an attack, and the objective"):
            fit(settings, progress=False)


def test_reference_set_and_bank_come_from_the_same_images(train):
    wanted = {"classes": ["b"], "n": 12}
    settings = recipe(objective=[{"Anchored": {"alpha": 0, "reference_set": wanted}}, "CrossEntropy"], references=5)
    chosen = data.reference_subset(train, ["b"], 12)
    assert torch.equal(make_objective(settings, train).reference_images, chosen.images)
    bank = make_model(settings, make_network(settings, train), train).references
    held = {image.numpy().tobytes() for image in chosen.images}
    assert all((image * 255).round().to(torch.uint8).numpy().tobytes() in held for image in bank)


def test_the_seed_decides_the_fresh_weights_whatever_was_drawn_before(train):
    first = make_network(recipe(), train)
    torch.rand(7)
    again, other = make_network(recipe(), train), make_network(recipe(seed=1), train)
    assert torch.equal(first.stem.weight, again.stem.weight)
    assert not torch.equal(first.stem.weight, other.stem.weight)


def test_fresh_networks_are_normalised_by_the_training_images(train):
    model = make_model(recipe(anchored=False), make_network(recipe(), train), train)
    pixels = train.images.numpy() / 255
    assert model.mean.flatten().numpy() == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-3)
    assert model.std.flatten().numpy() == pytest.approx(pixels.std((0, 2, 3)), abs=1e-3)
    assert model.class_names == ["a", "b", "c"]


def test_pretrained_networks_keep_their_own_normalisation(train):
    network = make_network(recipe(model="test_resnet", arguments={}), train)
    model = make_model(recipe(pretrained=True), network, train)
    assert model.mean.flatten().tolist() == pytest.approx(network.pretrained_cfg["mean"])
    assert isinstance(model, kedge.AnchoredModel)


def test_residuals_are_kept_when_asked_for(train):
    model = make_model(recipe(residuals=20), make_network(recipe(), train), train)
    assert model.residuals.shape == (20, 3, 12, 12)
    assert len(model.references) == 10


def test_optimizers_and_schedules(train):
    model = make_network(recipe(), train)
    sgd = make_optimizer(recipe(), model)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["nesterov"]
    assert isinstance(make_optimizer(recipe(optimizer="adamw"), model), torch.optim.AdamW)
    assert not make_optimizer(recipe(momentum=0.0), model).param_groups[0]["nesterov"]
    schedule = make_schedule(recipe(schedule="multistep", milestones=[1.0, 3.0], warmup=0.0), sgd, 10)
    factors = [schedule.lr_lambdas[0](step) for step in range(40)]
    assert factors == pytest.approx([1.0] * 10 + [0.2] * 20 + [0.04] * 10)
    warm = make_schedule(recipe(schedule="constant", warmup=2.0), sgd, 10)
    assert [warm.lr_lambdas[0](s) for s in (0, 9, 19, 20)] == pytest.approx([0.05, 0.5, 1.0, 1.0])
    with pytest.raises(ValueError, match="leaves nothing"):
        recipe(warmup=4.0).check()


def test_sets_come_with_a_validation_split_that_the_seed_decides(tmp_path):
    from PIL import Image

    for kind, count in (("cat", 20), ("dog", 10)):
        (tmp_path / kind).mkdir()
        for i in range(count):
            Image.fromarray(np.full((16, 16, 3), 8 * i, np.uint8)).save(tmp_path / kind / f"{i}.png")
    train, val = load_sets(Recipe(data=str(tmp_path), val_fraction=0.2))
    assert len(train) + len(val) == 30
    assert all(1 <= n <= 8 for n in torch.bincount(val.labels).tolist())
    assert torch.equal(load_sets(Recipe(data=str(tmp_path), val_fraction=0.2))[1].images, val.images)
    assert not torch.equal(load_sets(Recipe(data=str(tmp_path), val_fraction=0.2, seed=1))[1].images, val.images)


def test_some_classes_only():
    train, val = load_sets(Recipe(data="digits", classes=["7", "1"]))
    assert train.class_names == val.class_names == ["7", "1"]
    with pytest.raises(ValueError, match="no class 'seven'"):
        load_sets(Recipe(data="digits", classes=["7", "seven"]))


def test_one_class_is_no_classifier(tmp_path):
    from PIL import Image

    (tmp_path / "cat").mkdir()
    for i in range(5):
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / "cat" / f"{i}.png")
    with pytest.raises(ValueError, match=r"one class|two"):
        load_sets(Recipe(data=str(tmp_path)))
