"""Folders of very many images: compact paths, a split that costs what its images cost, links that lead in circles."""

import math
import os

import pytest
import torch

from kedge import data
from kedge.data.fingerprints import key_of_bytes, key_of_file, keys_of_files
from kedge.data.image_files import files_under
from kedge.data.paths import Paths
from kedge.data.sets import TensorSet
from kedge.data.splitting import split_validation, uniform


def test_paths_are_what_they_were_made_from():
    names = ["a/b.jpg", "", "ünï/☃.png", os.fsdecode(b"caf\xe9.jpg"), "a/b.jpg"]
    paths = Paths.of(names)
    assert list(paths) == names
    assert [paths[i] for i in range(-5, 5)] == names + names
    assert paths == names
    assert names[1:4] == paths[1:4]
    assert paths.at(torch.tensor([4, 2, 2])) == [names[4], names[2], names[2]]
    assert paths != names[:-1]
    assert Paths.of([]) == []
    assert not Paths.of([])
    with pytest.raises(IndexError):
        paths[5]
    assert Paths.of(paths) is paths


def _by_comparing_all(labels, u, fraction):
    """The rule of `split_validation`, each step a comparison with all images."""
    out = u < fraction
    free = torch.ones_like(out)

    def lowest(of):
        for value in u[of].unique().tolist():
            copies = (u == value) & free
            left = torch.bincount(labels[~out & ~copies], minlength=int(labels.max()) + 1)
            if bool((left[labels[copies]] > 0).all()):
                out[copies] = True
                return

    every = torch.bincount(labels)
    gone = torch.bincount(labels[out], minlength=len(every))
    for c in ((gone == every) & (every > 0)).nonzero()[:, 0].tolist():
        own = (labels == c) & out
        if own.any():
            out[u == u[own].max()] = False
    gone = torch.bincount(labels[out], minlength=len(every))
    for c in ((gone == 0) & (every >= max(2, math.ceil(0.5 / fraction)))).nonzero()[:, 0].tolist():
        lowest(labels == c)
    if not out.any():
        lowest(free)
    return out


@pytest.mark.parametrize("seed", range(40))
def test_the_split_is_that_of_comparing_all_with_all(seed):
    draws = torch.Generator().manual_seed(seed)
    count, classes = 60, int(torch.randint(2, 25, (1,), generator=draws))
    fraction = (0.05, 0.1, 0.3, 0.49)[seed % 4]
    labels = torch.randint(classes, (count,), generator=draws)
    pixels = torch.randint(256, (45, 1, 2, 2), generator=draws, dtype=torch.uint8)
    images = pixels[torch.randint(45, (count,), generator=draws)]  # a quarter of them twice, also in two classes
    whole = TensorSet(images, labels, [f"c{i}" for i in range(classes)])
    _, val = split_validation(whole, fraction, seed)
    wanted = _by_comparing_all(labels, uniform(whole.keys(), seed), fraction)
    assert torch.equal(val.images, images[wanted])
    assert torch.equal(val.labels, labels[wanted])


def test_a_split_of_many_classes_takes_no_longer_than_of_few(monkeypatch):
    """Each class without an image above looks at its own alone; compared with all, 4,000 classes took minutes."""
    count = 40_000
    labels = torch.arange(count) // 10
    whole = TensorSet(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), labels, [str(c) for c in range(count // 10)])
    keys = [i.to_bytes(16, "little") for i in range(1, count + 1)]
    monkeypatch.setattr(TensorSet, "keys", lambda self, sampled=False: keys)
    train, val = split_validation(whole, 0.1, 0)
    assert torch.bincount(val.labels, minlength=count // 10).min() == 1
    assert torch.bincount(train.labels).min() >= 1


def test_keys_by_threads_are_those_of_one_file(tmp_path):
    contents = [bytes([i % 251]) * (i * 97 % 40_000) for i in range(1200)] + [b"BM" + b"x" * 50_000, b"y" * 100_000]
    names = []
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.jpg").write_bytes(content)
        names.append(str(tmp_path / f"{i}.jpg"))
    os.mkfifo(tmp_path / "pipe.jpg")
    names += [str(tmp_path / "pipe.jpg"), str(tmp_path / "none.jpg"), str(tmp_path)]
    assert keys_of_files(names) == [key_of_bytes(content) for content in contents] + [b""] * 3
    assert [key_of_file(name) for name in names[-5:]] == keys_of_files(names)[-5:]


def test_a_link_to_a_folder_above_is_not_followed(make_folder):
    root = make_folder({"cat": 1, "cat/more": 0})
    other = make_folder({"2": 1}, name="elsewhere")
    (root / "cat/more/round").symlink_to(root / "cat", target_is_directory=True)
    (root / "cat/more/link").symlink_to(other, target_is_directory=True)
    images, _ = files_under(root / "cat")
    assert [os.path.relpath(path, root) for path in images] == ["cat/000.png", "cat/more/link/2/000.png"]


def test_links_in_a_circle_are_listed_with_what_cannot_be_read(make_folder):
    root = make_folder({"ant": 3, "bee": 3})
    os.symlink("loop.png", root / "ant" / "loop.png")
    os.symlink("again", root / "again")
    files, _ = files_under(root)
    assert sum(path.endswith("loop.png") for path in files) == 1
    assert len(files) == 7


def test_the_paths_of_a_part_share_the_memory_of_the_whole(make_folder):
    root = make_folder({"a": 3, "b": 3}, size=(80, 80))
    whole = data.load(root)
    part = whole.subset([5, 0])
    assert part.paths == [str(root / "b/002.png"), str(root / "a/000.png")]
    assert part.paths._text is whole.paths._text
