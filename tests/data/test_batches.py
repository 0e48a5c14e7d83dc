import logging
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import kedge.data as kd
from kedge.data import DataError, training_batches
from kedge.data.batches import fits

from .test_splitting import numbered_set, positions


def seen(batches) -> list[list[int]]:
    return [(x[:, 0, 0, 0].int() + 256 * x[:, 0, 0, 1].int()).tolist() for x, _ in batches]


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(1, 16), st.integers(1, 5), st.integers(0, 3))
def test_ranks_share_the_epoch_evenly(count, batch_size, world, epoch):
    images = numbered_set([0] * count)
    try:
        ranks = [training_batches(images, batch_size, 1, rank, world) for rank in range(world)]
    except DataError:
        assert count < min(2, batch_size) * world  # not enough for each process
        return
    got = []
    for batches in ranks:
        batches.set_epoch(epoch)
        got.append(seen(batches))
        assert len(got[-1]) == len(batches) == len(got[0])
    everything = [i for batches in got for batch in batches for i in batch]
    assert len(everything) == len(set(everything))  # none twice
    left_out = count % (batch_size * world)
    assert len(everything) in (count, count - left_out)
    assert len(everything) == count or left_out < min(2, batch_size) * world
    for step, shares in enumerate(zip(*got, strict=True)):
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == ranks[0].size(step)
        assert min(sizes) >= min(2, batch_size)


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 16), st.integers(1, 5))
def test_ranks_together_have_the_batches_of_one(count, batch_size, world):
    images = numbered_set([0] * count)
    try:
        alone = seen(training_batches(images, batch_size * world, 1))
    except DataError:
        return
    ranks = [seen(training_batches(images, batch_size, 1, rank, world, together=True)) for rank in range(world)]
    for step, batch in enumerate(alone):
        assert [ranks[i % world][step][i // world] for i in range(len(batch))] == batch


def test_labels_belong_to_their_images():
    images = numbered_set([i % 7 for i in range(50)])
    for x, y in training_batches(images, 8, seed=0):
        assert torch.equal(x[:, 0, 0, 0].long() % 7, y)


def test_an_epoch_is_the_same_whatever_came_before():
    images = numbered_set([0] * 40)
    batches = training_batches(images, 7, seed=5)
    torch.manual_seed(1)
    batches.set_epoch(3)
    state = torch.get_rng_state()
    third = seen(batches)
    assert torch.equal(state, torch.get_rng_state())
    batches.set_epoch(0)
    first = seen(batches)
    next(iter(batches))
    batches.set_epoch(3)
    assert seen(batches) == third != first
    other = training_batches(images, 7, seed=6)
    other.set_epoch(3)
    assert seen(other) != third
    assert sorted(i for batch in third for i in batch) == list(range(40))


def test_a_last_batch_of_one_is_dropped():
    images = numbered_set([0] * 9)
    assert [len(b) for b in seen(training_batches(images, 4, 0))] == [4, 4]
    assert [len(b) for b in seen(training_batches(images, 4, 0, drop_last_single=False))] == [4, 4, 1]
    assert [len(b) for b in seen(training_batches(images, 1, 0))] == [1] * 9
    with pytest.raises(DataError, match="1 training images"):
        training_batches(numbered_set([0]), 4, 0)


def test_bad_arguments():
    images = numbered_set([0] * 9)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        training_batches(images, 0, 0)
    with pytest.raises(ValueError, match="rank must be 0 to 1 for world 2, got 2"):
        training_batches(images, 2, 0, rank=2, world=2)
    with pytest.raises(ValueError, match="'mixup'"):
        training_batches(images, 2, 0, augment="mixup")


@pytest.fixture
def photos(make_folder):
    return kd.load(make_folder({"cat": 7, "dog": 6}, size=(70, 90)), image_size=66)


def epoch_of(batches, epoch):
    batches.set_epoch(epoch)
    return [(x.clone(), y.clone()) for x, y in batches]


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


@pytest.mark.slow
def test_photos_are_the_same_with_any_number_of_workers_and_any_history(photos):
    plain = training_batches(photos, 4, seed=2, augment="trivial", workers=0)
    state = torch.get_rng_state()
    epochs = [epoch_of(plain, e) for e in range(2)]
    assert torch.equal(state, torch.get_rng_state())
    assert [len(y) for _, y in epochs[0]] == [4, 4, 4]  # the 13th image would be alone
    assert not same(*epochs)
    for workers in (1, 2):
        batches = training_batches(photos, 4, seed=2, augment="trivial", workers=workers)
        torch.manual_seed(workers)
        batches.set_epoch(7)
        next(iter(batches))  # an epoch that was broken off
        assert same(epoch_of(batches, 1), epochs[1])
        assert same(epoch_of(batches, 0), epochs[0])
    assert not same(epoch_of(training_batches(photos, 4, seed=3, augment="trivial", workers=0), 0), epochs[0])


def test_photos_without_augmentation_are_the_evaluation_views(photos):
    batches = training_batches(photos, 5, seed=0, augment="none", workers=0)
    for index, (x, y) in zip(batches.indices(), batches, strict=True):
        assert torch.equal(x, torch.stack([photos[i][0] for i in index.tolist()]))
        assert torch.equal(y, photos.labels[index])


def test_an_augmented_photo_does_not_depend_on_its_batch(photos):
    views = []
    for batch_size in (2, 6):
        batches = training_batches(photos, batch_size, seed=0, workers=0)
        views.append(
            {
                i: image
                for index, (x, _) in zip(batches.indices(), batches, strict=True)
                for i, image in zip(index.tolist(), x, strict=True)
            }
        )
    both = views[0].keys() & views[1].keys()
    assert len(both) == 12
    assert all(torch.equal(views[0][i], views[1][i]) for i in both)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_goes_bad_is_replaced_and_reported_once(photos, caplog, workers):
    bad = 9
    Path(photos.paths[bad]).write_bytes(b"")
    batches = training_batches(photos, 4, seed=0, augment="none", workers=workers)
    with caplog.at_level(logging.WARNING):
        got = [epoch_of(batches, e) for e in range(3)]
    assert caplog.text.count("another image of its class takes its place") == 1
    assert Path(photos.paths[bad]).name in caplog.text
    assert all(len(epoch) == 3 for epoch in got)
    batches.set_epoch(0)
    for index, (x, _) in zip(batches.indices(), got[0], strict=True):
        if bad in index:
            stand_in = x[index.tolist().index(bad)]
            assert torch.equal(stand_in, photos[10][0])  # the next one of its class


@pytest.mark.slow
def test_many_photos_that_go_bad_stop_the_run_and_are_named(photos):
    for i in (0, 3):
        Path(photos.paths[i]).write_bytes(b"")
    batches = training_batches(photos, 4, seed=0, workers=0)
    with pytest.raises(DataError, match=r"2 of 13 images could not be read in training(?s:.*)000\.png"):
        [epoch_of(batches, e) for e in range(3)]


def test_a_whole_class_that_goes_bad_is_named(photos):
    for i in range(7, 13):
        Path(photos.paths[i]).unlink()
    with pytest.raises(DataError, match=r"no such file; nor can any other image of class 'dog'"):
        [epoch_of(training_batches(photos, 4, seed=0, workers=0), e) for e in range(2)]


@pytest.mark.parametrize("augment", ["auto", "none", "trivial", "pixmix"])
@pytest.mark.parametrize("size", [(24, 24), (32, 48)])
def test_small_images_that_stay_on_disk_are_those_in_memory(make_folder, monkeypatch, augment, size):
    folder = make_folder({"cat": 7, "dog": 6}, size=size)
    in_memory = kd.load(folder)
    monkeypatch.setattr("kedge.data.build._IN_MEMORY", 0)
    on_disk = kd.load(folder)
    assert (type(in_memory), type(on_disk)) == (kd.TensorSet, kd.FileSet)
    assert in_memory.image_shape == on_disk.image_shape == (3, *size)
    assert torch.equal(torch.cat([x for x, _ in on_disk.batches(5)]), in_memory.images)
    settings = {"batch_size": 5, "seed": 0, "augment": augment, "workers": 0}
    of_memory, of_disk = (epoch_of(training_batches(images, **settings), 1) for images in (in_memory, on_disk))
    assert same(of_memory, of_disk)  # both are augmented on the batch, and so must not be before


def test_larger_images_in_memory_are_augmented_one_by_one(photos):
    in_memory = kd.TensorSet(photos.first(13), photos.labels, photos.class_names)
    plain, *augmented = (
        epoch_of(training_batches(in_memory, 4, seed=0, augment=augment, crop=0.3, workers=0), 0)
        for augment in ("none", "crop-flip", "trivial")
    )
    for batches in augmented:
        assert [x.shape for x, _ in batches] == [x.shape for x, _ in plain]
        assert all(torch.equal(y, labels) for (_, y), (_, labels) in zip(batches, plain, strict=True))
        changed = [not torch.equal(a, b) for (x, _), (u, _) in zip(batches, plain, strict=True)
                   for a, b in zip(x, u, strict=True)]  # fmt: skip
        assert all(changed)


def test_larger_oblong_images_in_memory_keep_their_shape_and_channels():
    images = kd.TensorSet(torch.randint(0, 256, (6, 2, 66, 80), dtype=torch.uint8), torch.arange(6) % 2, ["a", "bc"])
    batches = training_batches(images, 3, seed=0, workers=0)
    for index, (views, _) in zip(batches.indices(), batches, strict=True):
        assert views.shape == (3, 2, 66, 80)
        assert not any(torch.equal(view, images.images[i]) for view, i in zip(views, index, strict=True))


def test_subsets_of_photos_feed_batches(photos):
    train, val = kd.split_validation(photos, 0.3)
    assert len(train) + len(val) == len(photos)
    assert sum(len(y) for _, y in training_batches(train, 5, 0, workers=0)) == len(train) == 10
    assert positions(numbered_set([0]).subset([0])) == [0]


class Copies(TorchDispatchMode):
    """Counts the tensors that are copied from the CPU to another device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.device.type != "cpu":
            self.count += any(isinstance(a, torch.Tensor) and a.device.type == "cpu" for a in args)
        return made


@pytest.mark.parametrize("small", [0, 2**30])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batches_of_a_set_in_memory_are_its_images_wherever_they_come_from(monkeypatch, small, layout):
    monkeypatch.setattr("kedge.data.batches.SMALL", small)
    pixels = torch.randint(0, 256, (23, 3, 6, 5), dtype=torch.uint8).contiguous(memory_format=layout)
    images = kd.TensorSet(pixels, torch.arange(23) % 4, ["aa", "bb", "cc", "dd"])
    batches = training_batches(images, 5, seed=0, device="cpu")
    got = epoch_of(batches, 1)
    assert [len(y) for _, y in got] == [5, 5, 5, 5, 3]
    for index, (x, y) in zip(batches.indices(), got, strict=True):
        assert torch.equal(x, pixels[index])
        assert torch.equal(y, images.labels[index])
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert x.untyped_storage().data_ptr() != pixels.untyped_storage().data_ptr()  # may be changed in place


def test_a_set_that_lies_on_the_device_is_copied_there_once():
    images = numbered_set([0] * 40)
    with Copies() as copies:
        batches = training_batches(images, 4, seed=0, device="meta")
        assert len(batches) == 10
        assert copies.count == 0  # a length needs no images
        for epoch in (1, 2):
            got = epoch_of(batches, epoch)
            assert copies.count == 2 + epoch  # images and labels once, the order of each epoch
            assert {(x.device.type, y.device.type, tuple(x.shape[:1])) for x, y in got} == {("meta", "meta", (4,))}


def test_only_a_set_that_takes_little_of_the_device_lies_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert fits(100, cuda)
    assert not fits(101, cuda)
    assert fits(2**30, cpu)
    assert not fits(2**30 + 1, cpu)
