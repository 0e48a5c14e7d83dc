import io

import pytest
import torch
from PIL import Image

import kedge
from kedge.data import DataError
from kedge.data.grouping import group_by
from kedge.data.groups import Groups


def png(shade):
    stream = io.BytesIO()
    Image.new("L", (8, 8), shade).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Two classes, in each pictures of two cameras in folders of two days, and one that names no camera."""
    for c, name in enumerate(("cat", "dog")):
        for i in range(12):
            place = tmp_path / "photos" / name / f"day{i % 2}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"cam{i % 3}_{i}.png").write_bytes(png(20 * i + c))
        (tmp_path / "photos" / name / "day0" / "found.png").write_bytes(png(250 + c))
    return tmp_path / "photos"


@pytest.fixture
def parquet(tmp_path):
    """Twenty pictures of two classes; three cameras, one picture without, one twice with different ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, start in (("train", 0), ("test", 100)):
        cells = [{"bytes": png(start + i), "path": None} for i in range(20)]
        cells.append(cells[3])
        cameras = [None if i == 5 else f"cam{i % 3}" for i in range(20)] + ["cam1"]
        columns = {
            "image": cells,
            "label": [i % 2 for i in range(21)],
            "camera": cameras,
            "hour": [i % 4 for i in range(21)],
            "share": [i / 3 for i in range(21)],
        }
        (tmp_path / "table").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), tmp_path / "table" / f"{split}.parquet")
    return tmp_path / "table"


def test_by_file_name_folder_and_class(folder):
    images = kedge.data.load(folder)
    names = [path.rsplit("/", 1)[1] for path in images.paths]
    cameras = group_by(images, r"regex:^(cam\d)_")
    assert cameras.words() == [name.split("_")[0] if name.startswith("cam") else None for name in names]
    assert cameras.names == ["cam0", "cam1", "cam2"]
    assert cameras.counts() == [8, 8, 8]
    assert group_by(images, r"regex:cam\d").words() == cameras.words()  # without a bracket the whole match
    assert group_by(images, "folder").words() == [path.split("/")[-2] for path in images.paths]
    assert group_by(images, "folder:2").words() == [path.split("/")[-3] for path in images.paths]
    both = group_by(images, ["folder", "class"])
    assert both.names == ["day0, cat", "day0, dog", "day1, cat", "day1, dog"]
    assert both.by == "folder and class"
    assert sum(both.counts()) == len(images)


def test_groups_follow_the_images(folder):
    images = kedge.data.load(folder)
    part = images.only_classes(["dog"]).subset([4, 0, 7])
    whole = dict(zip(images.paths, group_by(images, "folder").words(), strict=True))
    assert group_by(part, "folder").words() == [whole[path] for path in part.paths]


@pytest.mark.parametrize("size", [None, 96])  # in memory, and read from its place each time
def test_by_column(parquet, size):
    images = kedge.data.load(parquet, "test", size)
    words = group_by(images, "column:camera", str(parquet)).words()
    expected = [None if i in (5, 3) else f"cam{i % 3}" for i in range(20)] + [None]
    assert words == expected  # that lies there twice, as of two cameras, is of neither
    assert group_by(images.subset([7, 2, 7]), "column:camera", str(parquet)).words() == ["cam1", "cam2", "cam1"]
    hours = group_by(images, "column:hour", str(parquet))
    assert hours.names == ["0", "1", "2", "3"]
    held, _ = kedge.data.split_validation(kedge.data.load(parquet, "train", size), 0.5)
    own = group_by(held, "column:camera", str(parquet))  # a part that no file holds
    assert len(own) == len(held)


@pytest.mark.parametrize(
    ("ways", "words"),
    [
        (["camera"], "named by column:NAME, folder, folder:2, regex:PATTERN, near or class, not 'camera'"),
        (["folder:0"], "not 'folder:0'"),
        (["regex:^IMG_"], "matches none of 26 file names, such as"),
        (["regex:("], "is no regular expression: missing"),
        (["folder:3"], "makes no groups of 26 images: all are in 'photos'"),
        (["folder:99"], "no image is in one"),
        (["regex:found"], "all are in 'found', 24 in none"),
        (["class"], "accuracy of each class"),
        (["column:camera"], "no parquet files and no hub set"),
        ([], "groups of a set are named by"),
    ],
)
def test_what_makes_no_groups_is_refused(folder, ways, words):
    with pytest.raises(DataError, match=words):
        group_by(kedge.data.load(folder), ways, str(folder))


def test_columns_that_are_none_are_refused(parquet):
    images = kedge.data.load(parquet, "test")
    with pytest.raises(DataError, match="no column 'kamera' that could name a group; there are: label, camera, hour"):
        group_by(images, "column:kamera", str(parquet))
    with pytest.raises(DataError, match="no column 'image'"):
        group_by(images, "column:image", str(parquet))
    with pytest.raises(DataError, match="holds floats such as 0"):
        group_by(images, "column:share", str(parquet))
    with pytest.raises(DataError, match="digits: its images lie in no files"):
        group_by(kedge.data.load("digits", "test"), "folder")


def test_groups_of_words():
    groups = Groups.of(["b", None, "a", "b"])
    assert groups.names == ["a", "b"]
    assert groups.index.tolist() == [1, -1, 0, 1]
    assert groups.at(torch.tensor([3, 1])).words() == ["b", None]
