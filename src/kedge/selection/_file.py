"""A selection as a file: which images were scored, how, and which of them are to be trained on."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.data.sets import ImageSet
from kedge.files import write_text
from kedge.json_text import read_json

__all__ = ["Selection"]

FORMAT = "kedge selection"
SPLIT = ("split_seed", "val_fraction", "split_by")  # what decides which images are held out
Named = tuple[bytes, str]  # an image by what is in it, and its class


@dataclass(frozen=True)
class Selection:
    """Images by their keys (`ImageSet.keys`), so that files may be moved and renamed.

    Attributes:
        keys_of: what the keys are made from.
        images: key and class of each image that was scored.
        scores: of each, float64 `[N]`.
        chosen: which are to be trained on, bool `[N]`.
        about: how they were scored and chosen, and which images the models held out.
    """

    keys_of: str
    images: Sequence[Named]
    scores: Tensor
    chosen: Tensor
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, images: ImageSet, scores: Tensor, places: Tensor, about: Mapping[str, Any]) -> "Selection":
        """The selection of the images at `places`, long `[n]`."""
        chosen = torch.zeros(len(images), dtype=torch.bool)
        chosen[places] = True
        named = [(key, images.class_names[y]) for key, y in zip(images.keys(), images.labels.tolist(), strict=True)]
        return cls(images.keys_of, named, scores, chosen, about)

    @classmethod
    def read(cls, path: str | Path) -> "Selection":
        """Read a file that `write` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is another file, or a damaged one.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"selection: there is no file {path}; kedge select writes one, selection.json")
        try:
            tree = read_json(Path(path))
            if tree["format"] != FORMAT:
                raise KeyError("format")
            rows = [
                (bytes.fromhex(r["key"]), str(r["class"]), float(r["score"]), bool(r["chosen"])) for r in tree["images"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"selection: {path} is no selection.json that kedge select wrote: {error!r}") from error
        named = [(key, label) for key, label, _, _ in rows]
        scores = torch.tensor([score for _, _, score, _ in rows], dtype=torch.float64)
        return cls(tree["keys_of"], named, scores, torch.tensor([chosen for *_, chosen in rows]), tree["about"])

    def write(self, path: Path, files: Sequence[str] | None = None) -> None:
        """Write it as JSON, with the names of the files for a reader."""
        rows = [
            {
                "key": key.hex(),
                "class": label,
                "score": score,
                "chosen": chosen,
                **({"file": files[i]} if files else {}),
            }
            for i, ((key, label), score, chosen) in enumerate(
                zip(self.images, self.scores.tolist(), self.chosen.tolist(), strict=True)
            )
        ]
        tree = {"format": FORMAT, "format_version": 1, "about": dict(self.about), "keys_of": self.keys_of}
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        head = json.dumps(tree, indent=1, ensure_ascii=False).removesuffix("\n}")
        write_text(path, f'{head},\n "images": [\n{lines}\n]\n}}\n')

    def pick(self, images: ImageSet, val: ImageSet | None = None) -> tuple[ImageSet, str]:
        """(the images that are chosen, in words how many), of training images that are there now.

        An image that has another class now is taken if it was chosen in any: its label was mended. One that was never
        scored is left out; of copies of one image as many are taken as were chosen.

        Raises:
            ValueError: where keys cannot be compared; chosen images that are gone or changed; validation images that
                were scored, so that they would judge a choice that they had a part in; nothing left.
        """
        if images.keys_of != self.keys_of:
            raise ValueError(
                f"the selection knows images by {self.keys_of}, and those of {images.name} are known by "
                f"{images.keys_of}: select from this data, in this size"
            )
        scored = {key for key, _ in self.images}
        if val is not None and val.keys_of == self.keys_of and (leak := sum(key in scored for key in val.keys())):  # noqa: SIM118
            by = ", ".join(SPLIT)
            how = ", ".join(f"{key}: {self.about[key]}" for key in self.about if key in SPLIT)
            raise ValueError(
                f"{leak:,} of the {len(val):,} images held out for validation had a part in the selection, and cannot "
                f"judge it: hold out those that its models held out ({how or f'by {by}'})"
            )
        wanted = Counter(named for named, chosen in zip(self.images, self.chosen.tolist(), strict=True) if chosen)
        keys = {key for key, _ in wanted}
        named = [(key, images.class_names[y]) for key, y in zip(images.keys(), images.labels.tolist(), strict=True)]
        known, places = set(self.images), []
        for i, each in enumerate(named):
            if wanted[each] > 0 if each in known else each[0] in keys:
                places.append(i)
                wanted[each] -= 1
        if gone := len(keys - {named[i][0] for i in places}):
            raise ValueError(
                f"of the {len(keys):,} images that the selection chose {gone:,} are gone or changed, or left out by "
                "another key of the recipe: put them back, or select anew"
            )
        if not places:
            raise ValueError("the selection chose no image")
        new = sum(key not in scored for key, _ in named)
        words = f"selection: {len(places):,} of {len(images):,} training images, by {self.about.get('how', 'a list')}"
        return images.subset(places), words + (f"; {new:,} that were not there then are left out" if new else "")
