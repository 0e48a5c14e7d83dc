"""What lacks in a copy of a published set is said with the count; what cannot be told apart is refused."""

import pytest

import kedge.data as kd
from kedge.data import DataError
from kedge.data.corruptions import GROUPS, NAMES

from .test_published import WNIDS, cifar_c, tree

FIFTEEN = [name for name in NAMES if name not in GROUPS["extra"]]


def empty(root, folders):
    """The class folders of `tree`, without images."""
    for folder, classes in folders.items():
        for wnid in classes:
            (root / folder / wnid).mkdir(parents=True, exist_ok=True)
    return root


def test_every_corruption_that_lacks_is_counted(tmp_path):
    cifar_c(tmp_path / "fifteen", names=FIFTEEN)
    assert kd.published(tmp_path / "fifteen").notes == []
    cifar_c(tmp_path / "sixteen", names=[*FIFTEEN, "spatter"])
    assert kd.published(tmp_path / "sixteen").notes == [
        "means here are also over 1 of the 4 further corruptions (spatter): published means and mCE are over the 15 "
        "others. 3 further are lacking: speckle_noise, gaussian_blur, saturate"
    ]
    cifar_c(tmp_path / "all", names=NAMES)
    (note,) = kd.published(tmp_path / "all").notes
    assert "over 4 of the 4 further corruptions" in note
    assert note.endswith("published means and mCE are over the 15 others")
    cifar_c(tmp_path / "another", names=[*FIFTEEN[1:], "my\x1b[2Jown"])
    assert kd.published(tmp_path / "another").notes == [
        "1 of the 15 corruptions that published means of CIFAR-10-C are over are lacking here: gaussian_noise. A mean "
        "without them is not comparable with published ones",
        "1 corruption is not among those of CIFAR-10-C, and means here are over them too: my\\x1b[2Jown",
    ]


def test_imagenet_c_with_one_corruption_or_without_some_severities(tmp_path):
    empty(tmp_path / "one", {f"fog/{s}": WNIDS for s in range(1, 6)})
    assert any(
        note.startswith("14 of the 15 corruptions that published means of ImageNet-C are over are lacking here: gauss")
        and " and 6 more. " in note
        for note in kd.published(tmp_path / "one").notes
    )
    levels = {name: {1, 2, 3, 4, 5} for name in FIFTEEN} | {"fog": {1, 2}, "snow": {2, 3, 4, 5}}
    empty(tmp_path / "some", {f"{name}/{s}": WNIDS for name, own in levels.items() for s in own})
    notes = kd.published(tmp_path / "some").notes
    assert "2 of 15 corruptions lack some of the five severities: snow (1), fog (3, 4, 5)" in notes or (
        "2 of 15 corruptions lack some of the five severities: fog (3, 4, 5), snow (1)" in notes
    )
    empty(tmp_path / "bar", {f"sparkles/{s}": WNIDS for s in range(1, 6)})
    assert any("9 of the 10 corruptions that published means of ImageNet-C-bar" in n
               for n in kd.published(tmp_path / "bar").notes)  # fmt: skip


def test_class_folders_that_only_some_conditions_have(tmp_path):
    empty(tmp_path, {f"{c}/{s}": WNIDS if s < 4 else WNIDS[:1] for c in ("fog", "snow") for s in range(1, 6)})
    notes = kd.published(tmp_path).notes
    assert (
        "4 of 10 conditions lack some of the 4 class folders: fog 4 (3), fog 5 (3), snow 4 (3), snow 5 (3). Their "
        "numbers are over fewer classes"
    ) in notes


def test_folders_beside_those_of_corruptions_are_told_of(tmp_path):
    empty(tmp_path, {**{f"fog/{s}": WNIDS for s in range(1, 6)}, "val": WNIDS})
    assert "class folders that are no corruption's at a severity are left out: val" in kd.published(tmp_path).notes


def test_severities_and_parameters_are_not_mixed(tmp_path):
    """Taken for a severity where it is whole, the parameter 2 hid 3.50, which is the second of its corruption."""
    levels = ["2", "3.50", "5", "8.25", "10.00"]
    empty(tmp_path / "bar", {f"plasma_noise/{s}": WNIDS for s in levels})
    mixed = kd.published(tmp_path / "bar")
    assert mixed.conditions == [("plasma_noise", s) for s in range(1, 6)]
    assert [place.name for place in mixed.places.values()] == levels
    assert not any("counted off" in note for note in mixed.notes)
    empty(tmp_path / "few", {f"plasma_noise/{s}": WNIDS for s in levels[1:]})
    told = "severities are counted off where folders are not called 1 to 5, and may be others of the five: "
    assert f"{told}plasma_noise (3.50, 5, 8.25, 10.00)" in kd.published(tmp_path / "few").notes
    empty(tmp_path / "six", {f"fog/{s}": WNIDS for s in range(1, 7)})
    notes = kd.published(tmp_path / "six").notes
    assert f"{told}fog (1, 2, 3, 4, 5, 6)" in notes
    assert "more than five severities, of which an evaluation measures the first five: fog" in notes
    empty(tmp_path / "bar", {"plasma_noise/2.00": WNIDS})
    with pytest.raises(DataError, match=r"plasma_noise severity 2(\.00)? is there twice: .*plasma_noise/2"):
        kd.published(tmp_path / "bar")


def test_files_that_are_not_read_are_named_below_their_folder(tmp_path):
    levels = {f"fog/{s}": WNIDS for s in (1, 2)}
    for folder in tree(tmp_path, levels, count=1, size=(8, 8)).glob("fog/*"):
        (folder / WNIDS[0] / "raw.dng").touch()
    notes = [kd.published(tmp_path).load(("fog", s)).report.notes[0] for s in (1, 2)]
    assert notes[0] == notes[1]
    assert f"1 .dng, such as {WNIDS[0]}/raw.dng. " in notes[0]


def test_two_class_folders_that_are_one_number(tmp_path):
    with pytest.raises(DataError, match="two class folders are one number, such as 7 and 07"):
        kd.published(empty(tmp_path / "imagenet-v2", {"": ["1", "7", "07"]}))
