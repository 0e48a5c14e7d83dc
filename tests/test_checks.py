"""What goes into a model: what cannot be images in [0, 1] and labels is refused in words; NaN is never an answer."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import kedge
from kedge import checks
from kedge.anchoring import choose_references
from kedge.data import DataError, TensorSet
from kedge.evaluation import evaluate
from kedge.objectives import Anchored, CrossEntropy, CutMix, Mixup, Objective, SquaredError, set_looks
from kedge.scores import outputs_of
from tests.attacks.waits import Waits

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
LEVELS = (IMAGES * 255).round()
BAD = {
    "0 to 255": (LEVELS, r"4 of 4 \(numbers 0, 1, 2, 3\) hold .*divide by 255 if they are 0 to 255"),
    "one of them": (torch.cat([IMAGES[:3], LEVELS[3:]]), r"1 of 4 \(number 3\) holds values .*divide by 255"),
    "normalised": ((IMAGES - 0.45) / 0.225, "normalised already"),
    "-1 to 1": (2 * IMAGES - 1, "normalised already"),
    "NaN": (IMAGES.clone().index_fill_(0, torch.tensor([1, 2]), torch.nan), r"2 of 4 \(numbers 1, 2\) hold NaN"),
    "infinite": (IMAGES.clone().index_fill_(0, torch.tensor([2]), torch.inf), r"1 of 4 \(number 2\) holds NaN or inf"),
}
bad = pytest.mark.parametrize(("images", "words"), BAD.values(), ids=BAD)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


@pytest.fixture
def plain():
    torch.manual_seed(0)
    return kedge.plain(network(), example=(3, 8, 8), mean=0.5, std=0.25).eval()


@pytest.fixture
def anchored(plain):
    model = kedge.anchor(plain)
    model.references = torch.rand(3, 3, 8, 8)
    return model.eval()


@pytest.fixture
def data():
    return TensorSet(LEVELS.to(torch.uint8), LABELS, ["cat", "dog", "owl"], name="beasts", split="test")


# Images


@bad
def test_a_prediction_of_what_cannot_be_images_is_refused(plain, anchored, images, words):
    asked = [plain.predict, anchored.predict, lambda x: anchored.predict(x, "adaptive")]
    for ask in [*asked, lambda x: outputs_of(plain, x), lambda x: outputs_of(network(), x)]:
        with pytest.raises(ValueError, match=words):
            ask(images)
    assert anchored.predict(images, check=False).logits.shape == (4, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_images_and_what_bicubic_resizing_makes_of_them_are_taken(plain, dtype):
    """At worst, of black and white noise, the antialiased kernel (a = -1/2) weighs 1.25 a side: 1.25 ** 2 = 1.5625."""
    sharp = (torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    small = F.interpolate(sharp, size=(8, 8), mode="bicubic", antialias=True)
    large = F.interpolate(sharp, size=(64, 64), mode="bicubic", antialias=True)
    assert float(large.min()) < -0.2
    assert checks.OVERSHOOT >= (1.25**2 - 1) / 2
    checks.check_images(large.to(dtype))
    model = copy.deepcopy(plain).to(dtype)
    for images in (IMAGES, small, torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8), IMAGES[:0]):
        assert model.predict(images.to(dtype)).label.shape == (len(images),)


def test_vectors_have_no_range_and_no_nan():
    model = kedge.plain(nn.Linear(5, 2), example=(5,), task="regression")
    vectors = 100 * torch.randn(6, 5)
    assert model.predict(vectors).logits.shape == (6, 2)
    vectors[4, 1] = torch.nan
    with pytest.raises(ValueError, match=r"must be finite: 1 of 6 \(number 4\) holds NaN"):
        model.predict(vectors)


def test_a_model_called_as_a_function_stays_free_of_looks(anchored):
    with Waits() as waits:
        anchored.train()(LEVELS)
        anchored.eval()(IMAGES, references=IMAGES[:1])
    assert waits.calls == []
    compiled = torch.compile(anchored, fullgraph=True, backend="eager")
    expected = anchored(IMAGES)
    assert torch.allclose(compiled(IMAGES), expected, atol=1e-6)
    assert torch.allclose(torch.func.vmap(lambda x: anchored(x[None])[0])(IMAGES), expected, atol=1e-5)
    assert torch.allclose(torch.export.export(anchored, (IMAGES,)).module()(IMAGES), expected, atol=1e-6)


def test_a_prediction_inside_vmap_and_compile_is_not_looked_at(plain):
    expected = plain.predict(IMAGES).logits
    assert torch.allclose(torch.func.vmap(lambda x: plain.predict(x[None]).logits[0])(IMAGES), expected, atol=1e-5)
    asked = torch.compile(lambda x: plain.predict(x).logits, backend="eager", fullgraph=True)
    assert torch.allclose(asked(IMAGES), expected, atol=1e-6)


@bad
def test_an_export_is_not_checked_on_what_cannot_be_images(plain, tmp_path, images, words):
    with pytest.raises(ValueError, match=f"check_images must be .*{words}"):
        kedge.deploy.export(plain, tmp_path / "a.pt2", to="torch", check_images=images)
    with pytest.raises(TypeError, match=r"check_images must be uint8 or floating point in \[0, 1\], got torch.int64"):
        kedge.deploy.export(plain, tmp_path / "a.pt2", to="torch", check_images=LEVELS.long())
    assert list(tmp_path.iterdir()) == []


class Floats(TensorSet):
    """A set of one's own that gives other images than uint8."""

    def __init__(self, images, labels=LABELS):
        super().__init__(LEVELS.to(torch.uint8), LABELS, ["cat", "dog", "owl"])
        self.given, self.truth = images, labels

    def __getitem__(self, i):
        return self.given[i], int(self.truth[i])

    def batches(self, batch_size, workers=0):
        yield self.given, self.truth


@bad
def test_an_evaluation_of_what_cannot_be_images_is_refused(plain, images, words):
    for model in (plain, network()):
        with pytest.raises(ValueError, match=words):
            evaluate(model, Floats(images), shift=(), resamples=0)


def test_an_evaluation_of_integers_or_of_labels_with_a_fraction_is_refused(plain):
    with pytest.raises(TypeError, match=r"must be uint8 or floating point in \[0, 1\], got torch.int32"):
        evaluate(plain, Floats(LEVELS.int()), shift=(), resamples=0)
    with pytest.raises(TypeError, match="whole numbers"):
        evaluate(plain, Floats(IMAGES, LABELS + 0.7), shift=(), resamples=0)


# Objectives


OBJECTIVES = {
    "cross-entropy": CrossEntropy,
    "anchored": lambda: Anchored(CrossEntropy()),
    "mixup": lambda: Mixup(Anchored(CrossEntropy())),
    "cutmix": lambda: CutMix(CrossEntropy()),
}


@bad
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_training_on_what_cannot_be_images_is_refused(anchored, kind, images, words):
    objective = OBJECTIVES[kind]()
    for _ in range(2):  # and again: what was refused has not been looked at
        with pytest.raises(ValueError, match=words):
            objective(anchored, images, LABELS)


SOFT = F.one_hot(LABELS, 3).float()
WRONG_TARGETS = {
    "NaN": (SOFT * torch.tensor([1, 1, torch.nan, 1])[:, None], r"1 of 4 \(number 2\) holds others"),
    "negative": (SOFT + torch.tensor([0.5, -0.5, 0.0]), r"3 of 4 \(numbers 0, 2, 3\) .* the first \[1.5, -0.5, 0\]"),
    "twice": (2 * SOFT, "with sum 2"),
    "logits": (4 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), "must be probabilities"),
    "another class": (torch.tensor([0, 3, 1, 0]), "must be classes 0 to 2 of the model, got 3"),
    "ignored": (torch.tensor([0, -100, 1, 0]), "must be classes 0 to 2 of the model, got -100"),
    "fraction": (LABELS + 0.7, "whole numbers|class indices"),
}


@pytest.mark.parametrize(("targets", "words"), WRONG_TARGETS.values(), ids=WRONG_TARGETS)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_targets_that_are_none_are_refused(anchored, kind, targets, words):
    with pytest.raises((ValueError, TypeError), match=words):
        OBJECTIVES[kind]()(anchored, IMAGES, targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_probabilities_of_every_precision_are_targets(plain, dtype):
    targets = torch.randn(4, 3).softmax(1).to(dtype)
    loss = CrossEntropy(label_smoothing=0.1)(plain.to(dtype), IMAGES.to(dtype), targets)
    assert bool(loss.isfinite())


def test_after_the_first_batch_no_objective_waits(anchored):
    objective = Mixup(Anchored(CrossEntropy(), alpha=0))
    with Waits() as waits:
        objective(anchored, IMAGES, SOFT).backward()
    assert "tolist" in waits.calls
    with Waits() as waits:
        objective(anchored, LEVELS, SOFT).backward()
    assert waits.calls == []
    set_looks(objective, 1)  # as a loop may that waits anyway
    with pytest.raises(ValueError, match="divide by 255"):
        objective(anchored, LEVELS, SOFT)
    for unseen in (Mixup(Anchored(CrossEntropy())), Mixup(CrossEntropy()), CrossEntropy()):
        set_looks(unseen, 0)
        assert bool(unseen(anchored, IMAGES + torch.randn_like(IMAGES), SOFT).isfinite())


def test_a_network_of_ones_own_may_take_normalised_images_but_no_nan():
    normalised = (IMAGES - 0.45) / 0.225
    assert bool(CrossEntropy()(network(), normalised, LABELS).isfinite())
    with pytest.raises(ValueError, match="must be finite"):
        CrossEntropy()(network(), normalised * torch.nan, LABELS)
    with pytest.raises(ValueError, match="classes 0 to C - 1 of the model, got -100"):  # which torch leaves out
        CrossEntropy()(network(), normalised, torch.tensor([0, -100, 1, 2]))


def test_an_objective_of_ones_own_is_looked_at_too_and_compiles(plain):
    class Own(Objective):
        def forward(self, model, images, targets):
            return F.nll_loss(model(images).log_softmax(1), targets)

    with pytest.raises(ValueError, match="divide by 255"):
        Own()(plain, LEVELS, LABELS)
    compiled = torch.compile(Own(), backend="eager", fullgraph=True)
    assert torch.allclose(compiled(plain, IMAGES, LABELS), Own()(plain, IMAGES, LABELS))


def test_values_of_a_regression_are_finite():
    model = kedge.plain(nn.Linear(5, 1), example=(5,), task="regression")
    vectors, values = torch.randn(6, 5), torch.randn(6)
    assert bool(SquaredError()(model, vectors, 100 * values).isfinite())
    values[5] = torch.inf
    with pytest.raises(ValueError, match=r"targets must be finite: 1 of 6 \(number 5\)"):
        SquaredError()(model, vectors, values)


# References


@pytest.mark.parametrize("dtype", [torch.int16, torch.int32, torch.int64, torch.uint16])
def test_integers_of_unknown_range_are_no_references(dtype):
    """Divided by the largest int32, images of 0 to 255 were black."""
    items = [(image.to(dtype), 0) for image in LEVELS]
    for ask in (
        lambda: choose_references(items, 2, how="random"),
        lambda: choose_references(LEVELS.to(dtype), 2, how="random"),
        lambda: Anchored(CrossEntropy(), alpha=0, reference_set=LEVELS.to(dtype)),
    ):
        with pytest.raises(TypeError, match=f"uint8 or floating point in .0, 1., got {dtype}"):
            ask()


@bad
def test_a_reference_set_that_cannot_be_images_is_refused(images, words):
    with pytest.raises(ValueError, match=f"the images of the reference set must be .*{words}"):
        Anchored(CrossEntropy(), alpha=0, reference_set=images)


def test_a_set_of_references_item_by_item_of_integers_is_refused(anchored):
    objective = Anchored(CrossEntropy(), alpha=0, reference_set=[(image.int(), 0) for image in LEVELS])
    with pytest.raises(TypeError, match=r"got torch\.int32"):
        objective(anchored, IMAGES, LABELS)


def test_palettes_are_no_colours():
    pictures = [(Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P"), 0)] * 3
    with pytest.raises(ValueError, match="places in a palette"):
        choose_references(pictures, 2)


# Labels


def test_labels_with_a_fraction_are_no_labels(data):
    images = LEVELS.to(torch.uint8)
    items = [(image, 1.7) for image in images]
    stated = [(image, 1) for image in images]
    for ask in (
        lambda: TensorSet(images, LABELS + 0.7, data.class_names),
        lambda: TensorSet(images, [0, 1, 1.7, 0], data.class_names),
        lambda: TensorSet(images, LABELS.float() * torch.nan, data.class_names),
        lambda: kedge.data.from_dataset(items),
        lambda: choose_references(items, 2),
        lambda: checks.whole_labels(np.array([0.0, 1.7])),
    ):
        with pytest.raises(ValueError, match=r"a label is .*(1\.7|0\.7|nan).*whole numbers"):
            ask()
    assert TensorSet(images, LABELS.double(), data.class_names).labels.tolist() == LABELS.tolist()
    assert kedge.data.from_dataset([(image, float(label)) for image, label in stated]).labels.tolist() == [1] * 4


def test_a_parquet_with_labels_that_have_a_fraction_is_refused(tmp_path):
    import io

    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(stream, "PNG")
    for labels in ([0.0, 1.0, 1.7], [0.0, 1.0, float("nan")], [0.0, 1.0, 1.0]):
        rows = [{"image": {"bytes": stream.getvalue(), "path": None}, "label": label} for label in labels]
        pq.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
        if labels[2] == 1.0:
            assert kedge.data.load(tmp_path / "rows.parquet", "all").labels.tolist() == [0, 1, 1]
        else:
            with pytest.raises(DataError, match=r"a label is (1.7|nan); labels are whole numbers.*\(number 2\)"):
                kedge.data.load(tmp_path / "rows.parquet", "all")


class Stale:
    """A data set whose `targets` are those before its `target_transform`, as torchvision's are."""

    def __init__(self, size=8, transform=lambda label: 2 - label, count=4):
        self.targets = [i % 3 for i in range(count)]
        self.target_transform = transform
        self.size = size

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        label = self.targets[i] if self.target_transform is None else self.target_transform(self.targets[i])
        return torch.zeros(3, self.size, self.size, dtype=torch.uint8), label


@pytest.mark.parametrize("size", [8, 80])
def test_the_labels_of_the_items_win(size):
    assert kedge.data.from_dataset(Stale(size)).labels.tolist() == [2, 1, 0, 2]

    class Wrapped(Stale):
        """Passes on the `targets` of what it wraps, and nothing else."""

        target_transform = None

        def __init__(self, size):
            self.targets, self.size = [0, 0, 1, 1], size

        def __getitem__(self, i):
            return super().__getitem__(i)[0], 1 - self.targets[i]

    assert kedge.data.from_dataset(Wrapped(size)).labels.tolist() == [1, 1, 0, 0]
    assert kedge.data.from_dataset(Stale(size, None)).labels.tolist() == [0, 1, 2, 0]


def test_an_item_that_disagrees_later_is_said():
    """Of many items some are compared at once, and each when it is read."""

    class Few(Stale):
        def __getitem__(self, i):
            image, label = super().__getitem__(i)
            return image, (2 if i == 1 else label)

    with pytest.raises(DataError, match=r"custom:1: the item has label 2, but 1 was taken for it"):
        kedge.data.from_dataset(Few(8, None, count=300))


# Outputs


def broken(model):
    with torch.no_grad():
        model.network[-1].bias[1] = torch.nan
    return model


def test_nan_is_never_answered(plain, anchored):
    for model in (broken(plain), broken(anchored)):
        with pytest.raises(ValueError, match=r"no answer: of its outputs 4 of 4 \(numbers 0, 1, 2, 3\) hold NaN"):
            model.predict(IMAGES)
        prediction = model.predict(IMAGES, check=False)
        assert bool(prediction.confidence.isnan().all())


def test_nan_under_attack_is_no_right_answer():
    """`argmax` of NaN is the first class: images of it would count as robust."""
    from kedge.evaluation.attacked import attack_batch

    def attack(model, images, targets):
        return images * 0.5

    attack.eps, attack.norm = 0.5, "linf"

    class Fragile(nn.Module):
        def forward(self, images):
            logits = F.one_hot(LABELS[: len(images)], 3).float()
            return torch.where(images.amax() < 0.51, torch.nan, logits)

    seen = attack_batch(Fragile(), attack, IMAGES, LABELS)
    assert seen.correct.tolist() == [True] * 4
    assert seen.robust.tolist() == [False] * 4


def test_nan_in_a_data_set_of_floats_is_no_black_pixel():
    with pytest.raises(ValueError, match=r"float images must lie in \[0, 1\], got \[nan"):
        kedge.data.from_dataset([(IMAGES[0] * torch.nan, 0), (IMAGES[1], 1)])


def test_probabilities_in_place_of_logits_are_in_the_results(data):
    from kedge.reporting.page import page
    from kedge.reporting.text_table import table

    net = nn.Sequential(network(), nn.Softmax(dim=1))
    with pytest.warns(UserWarning, match="looks like probabilities"):
        wrapped = kedge.plain(net, example=(3, 8, 8))
    with pytest.warns(UserWarning, match="looks like probabilities"):
        kedge.anchor(net, example=(3, 8, 8))
    assert "looks like probabilities" in wrapped.predict(IMAGES).warnings[0]
    wrapped.set_temperature(0.5)
    assert "looks like probabilities" in wrapped.predict(IMAGES[:1]).warnings[0]
    results = evaluate({"own": net, "kedge": wrapped}, data, shift=(), resamples=0)
    for model in results["models"].values():
        assert any("looks like probabilities" in words for words in model["warnings"])
    for shown in (table(results, width=400), page(results)):
        assert shown.count("looks like probabilities") == 2


def test_logits_are_not_taken_for_probabilities(plain, data):
    assert plain.predict(IMAGES).warnings == ()
    assert evaluate(plain, data, shift=(), resamples=0)["models"]["model"]["warnings"] == []
    assert not checks.looks_like_probabilities(torch.randn(5, 3).log_softmax(1))
    assert not checks.looks_like_probabilities(torch.tensor([[0.5, 0.5002]]))


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["a", "b"], ["a", "b"], None),
        (["a", "b"], ("a", "b"), None),
        (["a", "b"], ["b", "a"], "another order: 'a' stands where the second has 'b'"),
        (["a", "b"], ["a", "c"], "the first also has b; the second also has c"),
        (["a", "b"], ["a"], "the first also has b"),
        (["a"], [str(i) for i in range(20)], "the second also has 0, 1, 2, 3, 4, 5, 6, 7, ..."),
        (["a", "b"], 2, None),
        (3, ["a", "b"], "the first has 3 outputs without names, the second 2 classes"),
        (3, 3, None),
    ],
)
def test_classes_that_differ(first, second, words):
    found = checks.unlike_classes(first, second)
    assert (found is None) if words is None else (words in found)
