"""A file that takes photos, against `kedge predict`, other ways to resize, and the runtimes that it was tried on.

    KEDGE_DATA=path/to/packs python -m benchmarks.photo_export RUN --node examples/photo --python ort-1.23.2 ort-1.26.0

RUN is a run on photos. It is exported as it is (images), for photos, and for photos as `.pt2`. Measured are

- by how much probabilities differ from those that Pillow's view gives, on photos of the pack as they are and in other
  sizes: of the file, of ONNX's own `Resize` in three ways, of torchvision's resizing of tensors, and of a JPEG that is
  decoded whole where kedge decodes it smaller;
- which opsets (the same operations, declared as of another version and checked) and runtimes take the file: the
  onnxruntime here, others in the folders of `--python` (`pip install --no-deps --target DIR onnxruntime==VERSION`), and
  those of node in the folder of `--node` (`npm install --ignore-scripts`);
- milliseconds from a decoded photo to the answer, of 12 megapixels and of 500 px, beside Pillow and the plain file,
  in turns, on one core.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from PIL import Image
from PIL import __version__ as pillow
from torchvision.transforms.v2 import functional as v2

import kedge
from kedge import data
from kedge.clock import now
from kedge.data.decode import OBLONG, open_image, shorter_side
from kedge.deploy import as_photo, choose_folded, export, export_photo, load_onnx, with_photo_input
from kedge.deploy.photo_file import view_of
from kedge.evaluation.provenance import machine
from kedge.files import write_text

RESULTS = Path(__file__).parent / "results"
WIDE = ((1, 1), (97, 50), (192, 192), (219, 219), (341, 256), (640, 480), (500, 375), (1203, 801), (2000, 37), (3, 2),
        (300, 600), (1600, 1200), (4000, 3000))  # fmt: skip
HIGH = ((390, 844), (100, 1000), (1080, 2400), (256, 513), (2, 300))  # where Pillow 13 begins with the columns
OPSETS = range(18, 23)
ROUNDS = 9
PYTHON = """
import json, sys
import numpy as np, onnxruntime
onnxruntime.set_default_logger_severity(3)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
photos = np.load(sys.argv[2])
said = [session.run(["probabilities", "answer"], {"photo": photos[name]}) for name in photos.files]
unsure = session.run(["answer"], {"photo": photos[photos.files[0]], "reject_threshold": np.array([99], np.float32)})
print(json.dumps({"version": onnxruntime.__version__, "probabilities": [p.tolist() for p, _ in said],
                  "threshold": unsure[0][0] == "unsure"}))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line each, and write photo_export.json."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photo_export", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="ants_bees256")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--node", type=Path)
    parser.add_argument("--python", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS / "photo_export.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # onnxruntime's threads too
    model = kedge.load(args.run / "model")
    side = model.input_shape[-1]
    images = data.load(args.data, data.splits(args.data)[-1], image_size=side, channels=3)
    originals = [images.uncropped(i).convert("RGB") for i in range(min(args.photos, len(images)))]
    if model.count() > 1:
        model.references = choose_folded(model, images.subset(range(args.photos))).reference
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = [as_photo(image) for image in originals]
        plain = export(model, folder / "plain.onnx", "onnx").path
        file = with_photo_input(plain, folder / "photo.onnx", photos[:8]).path
        pt2 = export_photo(model, folder / "photo.pt2", "torch", photos[:8]).path
        record: dict[str, Any] = {
            "name": "photo_export",
            "command": f"python -m benchmarks.photo_export RUN --data {args.data} --photos {args.photos}",
            "created": now(),
            "machine": {**machine(), "pillow": pillow, "onnxruntime": onnxruntime.__version__},
            "load": os.getloadavg(),
            "model": {"side": side, "opset": opset_of(file)},
            "bytes": {"plain": plain.stat().st_size, "photo": file.stat().st_size, "torch": pt2.stat().st_size},
        }
        for part, rows in (
            ("milliseconds", paces(plain, file, pt2, originals[0], side)),
            ("against_pillow", against_pillow(file, pt2, originals, side)),
            ("jpeg_decoded_smaller", [decoded_smaller(file, originals, side)]),
            ("runtimes", runtimes(file, folder, originals, args.node, args.python)),
        ):
            record[part] = list(rows)
            write_text(args.out, json.dumps(record, indent=1) + "\n")
    print(f"written: {args.out}")


def opset_of(path: Path) -> int:
    """The version of ONNX's operations that a file uses."""
    return next(each.version for each in onnx.load(path).opset_import if each.domain == "")


def session_of(content: str | bytes) -> onnxruntime.InferenceSession:
    """A session on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def in_other_sizes(originals: Sequence[Image.Image]) -> Iterator[tuple[str, list[Image.Image]]]:
    """Groups of photos: as they are, in other sizes, and higher than twice their width."""
    yield "as they are", list(originals)
    for what, sizes in (("other sizes", WIDE), ("more than twice as high as wide", HIGH)):
        few = (image for _ in range(len(sizes)) for image in originals)
        yield what, [next(few).resize(size, Image.Resampling.BICUBIC) for size in sizes for _ in range(2)]


def against_pillow(file: Path, pt2: Path, originals: Sequence[Image.Image], side: int) -> Iterator[dict[str, Any]]:
    """How far the probabilities by each way of resizing are from those by Pillow's."""
    loaded, program = load_onnx(file), torch.export.load(pt2).module()
    thresholds = [torch.tensor([value]) for value in loaded.card["thresholds"].values()]
    shape = (3, side, side)
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "ONNX Resize of float32": onnx_resize(side, TensorProto.FLOAT, 0),
        "ONNX Resize of bytes": onnx_resize(side, TensorProto.UINT8, 0),
        "ONNX Resize of bytes, exclude_outside": onnx_resize(side, TensorProto.UINT8, 1),
        "torchvision on byte tensors": lambda photo: by_torchvision(photo, side),
        "torchvision on float tensors": lambda photo: by_torchvision(photo.float(), side),
    }
    for group, images in in_other_sizes(originals):
        photos = [as_photo(image) for image in images]
        views = [view_of(photo, shape) for photo in photos]
        with torch.no_grad():
            right = torch.cat([loaded(view[None].float() / 255).softmax(1) for view in views])
            answers = {
                "the file": torch.cat([torch.from_numpy(loaded.answer(photo)["probabilities"]) for photo in photos]),
                "the .pt2 file": torch.cat([program(photo, *thresholds)["probabilities"] for photo in photos]),
            }
            levels: dict[str, tuple[float, float]] = {}
            for name, way in ways.items():
                own = [way(without_ends(photo)) for photo in photos]
                apart = torch.cat([(a.float() - b.float()).abs().flatten() for a, b in zip(own, views, strict=True)])
                levels[name] = (float(apart.max()), float((apart > 0.5).float().mean()))
                answers[name] = torch.cat([loaded(view[None].float() / 255).softmax(1) for view in own])
        for name, probabilities in answers.items():
            apart = (probabilities - right).abs().amax(1)
            row = {
                "photos": group, "count": len(photos), "by": name, "largest": float(apart.max()),
                "median": float(apart.median()),
                "other_labels": int((probabilities.argmax(1) != right.argmax(1)).sum()),
            }  # fmt: skip
            if name in levels:
                row |= {"largest_level": levels[name][0], "levels_apart": levels[name][1]}
            print(f"{group:<34}{name:<40}{row['largest']:.2e}  {row['other_labels']} other labels", flush=True)
            yield row


def onnx_resize(side: int, kind: int, exclude_outside: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """ONNX's Resize with antialiasing, of one kind of numbers, and the crop."""
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], mode="linear", antialias=1,
                            exclude_outside=exclude_outside, coordinate_transformation_mode="half_pixel")  # fmt: skip
    graph = helper.make_graph(
        [node], "resize",
        [helper.make_tensor_value_info("x", kind, [1, 3, "h", "w"]),
         helper.make_tensor_value_info("sizes", TensorProto.INT64, [4])],
        [helper.make_tensor_value_info("y", kind, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = session_of(model.SerializeToString())
    dtype = np.uint8 if kind == TensorProto.UINT8 else np.float32

    def resize(photo: torch.Tensor) -> torch.Tensor:
        height, width = resized(photo, side)
        pixels = photo.permute(2, 0, 1)[None].numpy().astype(dtype)
        (out,) = session.run(None, {"x": pixels, "sizes": np.array([1, 3, height, width])})
        return v2.center_crop(torch.from_numpy(out[0]), [side, side])

    return resize


def without_ends(photo: torch.Tensor) -> torch.Tensor:
    """A photo `[H, W, 3]` without the ends of what is very long, as the evaluation view leaves them out."""
    most = OBLONG * min(photo.shape[:2])
    inner = [min(each, most) for each in photo.shape[:2]]
    return v2.center_crop(photo.permute(2, 0, 1), inner).permute(1, 2, 0)


def resized(photo: torch.Tensor, side: int) -> tuple[int, int]:
    """Height and width before the crop."""
    height, width = photo.shape[:2]
    shorter = shorter_side(side)
    return shorter * height // min(height, width), shorter * width // min(height, width)


def by_torchvision(photo: torch.Tensor, side: int) -> torch.Tensor:
    """The view by torchvision's resizing of tensors."""
    return v2.center_crop(v2.resize(photo.permute(2, 0, 1), [shorter_side(side)], antialias=True), [side, side])


def decoded_smaller(file: Path, originals: Sequence[Image.Image], side: int) -> dict[str, Any]:
    """A JPEG of 4000 x 3000 decoded whole, as most callers do, against decoded smaller, as kedge does."""
    loaded, apart, other = load_onnx(file), [], 0
    for image in originals[:8]:
        buffer = io.BytesIO()
        image.resize((4000, 3000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        both = [loaded.answer(as_photo(open_image(buffer.getvalue(), least=least))) for least in (None, 2 * side)]
        whole, small = (said["probabilities"] for said in both)
        apart.append(float(np.abs(whole - small).max()))
        other += int(whole.argmax() != small.argmax())
    print(f"JPEG decoded smaller: {max(apart):.2e}, {other} other labels")
    return {"photos": len(apart), "largest": max(apart), "median": statistics.median(apart), "other_labels": other}


def runtimes(
    file: Path, folder: Path, originals: Sequence[Image.Image], node: Path | None, pythons: Sequence[Path]
) -> Iterator[dict[str, Any]]:
    """Each opset in each runtime: whether it runs, and how far its probabilities are from those here."""
    some = [
        originals[0],
        originals[1].resize((640, 480)),
        originals[2].resize((4000, 3000)),
        originals[3].resize((1, 1)),
    ]
    np.savez(folder / "photos.npz", **{str(i): np.asarray(image) for i, image in enumerate(some)})
    for i, image in enumerate(some):
        image.save(folder / f"{i}.png", compress_level=1)
    right = [load_onnx(file).answer(as_photo(image))["probabilities"][0] for image in some]
    for opset in OPSETS:
        model = onnx.load(file)
        for each in model.opset_import:
            each.version = opset if each.domain == "" else each.version
        onnx.checker.check_model(model, full_check=True)
        path = folder / f"opset{opset}.onnx"
        onnx.save(model, path)
        commands = [("onnxruntime", [sys.executable, "-c", PYTHON, str(path), str(folder / "photos.npz")],
                     {"PYTHONPATH": str(place.resolve())} if place else {}) for place in (None, *pythons)]  # fmt: skip
        if node is not None:
            pictures = [str(folder / f"{i}.png") for i in range(len(some))]
            commands += [(name, ["node", str(node / "photo.mjs"), str(path), *pictures], {"ORT": name})
                         for name in ("onnxruntime-node", "onnxruntime-web")]  # fmt: skip
        for name, command, more in commands:
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more}, check=False)
            row: dict[str, Any] = {"opset": opset, "runtime": name, "ran": done.returncode == 0}
            if done.returncode:
                row["error"] = done.stderr.strip()[-300:]
            elif name == "onnxruntime":
                said = json.loads(done.stdout)
                row |= {"version": said["version"], "threshold_as_input": said["threshold"]}
                row["largest"] = furthest(said["probabilities"], right)
            else:
                assert node is not None
                rows = [json.loads(line) for line in done.stdout.splitlines()]
                package = json.loads((node / "node_modules" / name / "package.json").read_text())
                row |= {"version": package["version"], "threshold_as_input": False}
                row["largest"] = furthest([[each["probabilities"]] for each in rows], right)
                row["milliseconds"] = [each["milliseconds"] for each in rows]
            print(row, flush=True)
            yield row


def furthest(probabilities: Sequence[Any], right: Sequence[np.ndarray]) -> float:
    """The largest difference of a probability."""
    return max(float(np.abs(np.asarray(a)[0] - b).max()) for a, b in zip(probabilities, right, strict=True))


def paces(plain: Path, file: Path, pt2: Path, original: Image.Image, side: int) -> Iterator[dict[str, Any]]:
    """Milliseconds from a decoded photo to probabilities: median and quartiles, in turns."""
    whole, alone, program = session_of(str(file)), session_of(str(plain)), torch.export.load(pt2).module()
    thresholds = [torch.tensor([value]) for value in load_onnx(file).card["thresholds"].values()]
    for what, size in (("12 megapixels", (4000, 3000)), ("500 px", (500, 375))):
        photo = as_photo(original.resize(size, Image.Resampling.BICUBIC))
        coded = encoded(Image.fromarray(photo.numpy()))

        def by_pillow(photo: torch.Tensor = photo) -> Any:
            pixels = view_of(photo, (3, side, side))[None].float() / 255
            return alone.run(None, {"images": pixels.numpy()})

        def in_torch(photo: torch.Tensor = photo) -> Any:
            with torch.no_grad():
                return program(photo, *thresholds)

        ways: dict[str, Callable[[], Any]] = {
            "the file": lambda photo=photo: whole.run(None, {"photo": photo.numpy()}),
            "Pillow and the plain file": by_pillow,
            "the .pt2 file": in_torch,
            "decoding a JPEG of it": lambda coded=coded: open_image(coded),
            "decoding it smaller": lambda coded=coded: open_image(coded, least=2 * side),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS + 1):
            for name, way in ways.items():
                began = time.perf_counter()
                way()
                times[name].append(1000 * (time.perf_counter() - began))
        for name, own in times.items():
            low, middle, high = statistics.quantiles(own[1:], n=4)
            print(f"{what:<16}{name:<28}{middle:8.1f} ms ({low:.1f} to {high:.1f})", flush=True)
            yield {"photo": what, "by": name, "median": middle, "quartiles": [low, high], "least": min(own[1:])}


def encoded(image: Image.Image) -> bytes:
    """A JPEG of it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
