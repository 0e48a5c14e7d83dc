import pytest
import torch
from torch import nn

from kedge import data
from kedge.data.file_sets import FileSet
from kedge.data.items import FileItems
from kedge.data.overlap import shared_images
from kedge.data.report import UnreadableImage
from kedge.data.sets import TensorSet
from kedge.evaluation import evaluate
from tests.data.conftest import picture


@pytest.fixture
def root(make_folder):
    """Twenty pictures of two kinds; one of another size, one grey, one that is no image."""
    root = make_folder({"test/cat": 12, "test/dog": 8})
    picture(7, 30, 20).save(root / "test" / "cat" / "003.png")
    picture(8, mode="L").save(root / "test" / "dog" / "002.png")
    (root / "test" / "dog" / "extra.png").write_bytes(b"no image")
    return root


@pytest.fixture
def looked_at(monkeypatch):
    """The images that were decoded, in turn."""
    found = []
    small = FileItems.small

    def counted(self, i, *rest):
        found.append(i)
        return small(self, i, *rest)

    monkeypatch.setattr(FileItems, "small", counted)
    return found


@pytest.fixture(autouse=True)
def some_may_be_damaged(monkeypatch):
    monkeypatch.setattr(data.LoadReport, "check", lambda self, name: None)


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("channels", [None, 1])
def test_decoded_it_is_the_set_that_loading_gives(root, looked_at, size, channels):
    whole = data.load(root, "test", size, channels)
    looked_at.clear()
    lazy = data.load(root, "test", size, channels, decode=False)
    assert not looked_at
    assert (len(lazy), lazy.image_shape, lazy.class_names) == (len(whole), whole.image_shape, whole.class_names)
    assert lazy.report == whole.report
    made = lazy.decoded()
    assert isinstance(made, TensorSet)
    assert torch.equal(made.images, whole.images)
    assert torch.equal(made.labels, whole.labels)
    assert (made.paths, made.origin, made.mirror, made.name, made.split) == (
        whole.paths, whole.origin, whole.mirror, whole.name, whole.split,
    )  # fmt: skip
    assert lazy.fingerprint() == made.fingerprint() == whole.fingerprint()


@pytest.mark.parametrize("rows", [[5], [0, 19, 3], list(range(20)), []])
def test_of_a_part_nothing_else_is_decoded(root, looked_at, rows):
    whole = data.load(root, "test")
    looked_at.clear()
    part = data.load(root, "test", decode=False).subset(rows)
    other = part.only_classes(["dog"])
    assert not looked_at
    made = part.decoded()
    assert sorted(looked_at) == sorted(rows)
    assert torch.equal(made.images, whole.images[rows])
    dogs = whole.subset(rows).only_classes(["dog"])
    assert torch.equal(other.decoded().images, dogs.images)
    assert other.decoded().fingerprint() == dogs.fingerprint()


def test_batches_decode_what_they_hold(root, looked_at):
    whole, lazy = data.load(root, "test"), data.load(root, "test", decode=False)
    looked_at.clear()
    first, labels = next(lazy.batches(3))
    assert looked_at == [0, 1, 2]
    assert torch.equal(first, whole.images[:3])
    assert torch.equal(labels, whole.labels[:3])
    assert [len(images) for images, _ in lazy.batches(7)] == [7, 7, 6]


def test_what_a_header_does_not_show_is_left_out_when_it_is_met(root, looked_at):
    path = root / "test" / "cat" / "004.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + bytes(40) + whole[100:])  # the end is there
    lazy = data.load(root, "test", decode=False)
    assert len(lazy.subset([3, 5]).decoded()) == 2
    with pytest.raises(UnreadableImage, match=r"004\.png"):
        lazy[4]
    made, places = lazy.readable()
    assert len(made) == len(lazy) - 1
    assert places.tolist() == [i for i in range(len(lazy)) if i != 4]
    assert [path for path, _ in lazy.report.skipped[1:]] == [str(path)]


def test_shared_images_are_found_without_decoding(root, looked_at):
    lazy = data.load(root, "test", decode=False)
    looked_at.clear()
    assert shared_images(lazy, lazy.subset([1, 2, 4])) == 3
    assert not looked_at
    assert shared_images(data.load(root, "test"), lazy.subset([1, 2, 4])) == 3  # by their pixels
    assert shared_images(lazy.subset([1, 2, 4]), data.load(root, "test")) == 3


def test_larger_images_are_decoded_as_they_are_read_anyway(make_folder):
    root = make_folder({"test/cat": 2, "test/dog": 2}, size=(80, 80))
    assert isinstance(data.load(root, "test", decode=False), FileSet)


def test_an_evaluation_of_a_few_decodes_those_and_its_probes(root, make_folder, looked_at):
    """And measures the same as one of a set that was decoded as a whole."""
    away = make_folder({"a": 30}, name="away")
    for i in range(30):
        picture(1000 + i).save(away / "a" / f"{i:03d}.png")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 2))
    with_size = {"image_size": 24, "channels": 3}

    def measured(decode: bool) -> dict:
        test = data.load(root, "test", **with_size, decode=decode)
        outside = data.load_unlabelled(away / "a", **with_size, decode=decode)
        looked_at.clear()
        found = evaluate(model, test, shift=["contrast"], ood={"away": outside}, limit=5, resamples=0, examples=1)
        return found["models"]["model"] | {"data": found["data"], "ood_sets": found["ood_sets"], "timing": None}

    whole, few = measured(True), measured(False)
    assert len(looked_at) == 8 + 5 + 5  # a model is tried on eight images; five of each set are measured
    assert few == whole
