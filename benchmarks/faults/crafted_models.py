"""Crafted model folders: lying safetensors, configs that name code or ask for the machine; exported files that lie."""

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.crafted_texts import (
    DEEP,
    EVIL_PY,
    JSON,
    Prepare,
    both,
    changed,
    fifo,
    folder,
    linked,
    pickled,
    put,
    set_json,
    torch_pickled,
)
from benchmarks.faults.tries import digest

CONFIG, WEIGHTS = "runs/base/model/config.json", "runs/base/model/model.safetensors"


def header(text: str | bytes, size: int | None = None, rest: bytes = b"") -> bytes:
    """A safetensors file with this header, and another length of it if `size` says so."""
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data) if size is None else size) + data + rest


def _tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> str:
    return json.dumps({"mean": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


HEADERS: dict[str, bytes] = {
    "length-huge": header("{}", 2**63 - 1),
    "length-4-gib": header("{}", 2**32),
    "empty": b"",
    "short": b"\1\2",
    "deep": header("[" * DEEP + "]" * DEEP),
    "no-json": header(bytes(range(256))),
    "tensor-huge": header(_tensor([10**12], [0, 4 * 10**12])),
    "product-overflows": header(_tensor([2**33, 2**33], [0, 4]), rest=b"0000"),
    "offsets-behind": header(_tensor([1], [4, 0]), rest=b"0000"),
    "offsets-outside": header(_tensor([1], [10**9, 10**9 + 4]), rest=b"0000"),
    "dtype-unknown": header(_tensor([1], [0, 4], "EVIL"), rest=b"0000"),
    "shape-negative": header('{"mean": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', rest=b"0000"),
    "one-tensor": header(_tensor([1], [0, 4]), rest=b"0000"),
}


def matching(content: bytes | Callable[[bytes], bytes]) -> Prepare:
    """Other weights, with a config that has their digest: the stranger wrote both."""

    def prepare(work: Path, marker: Path) -> None:
        path = work / WEIGHTS
        path.write_bytes(content if isinstance(content, bytes) else content(path.read_bytes()))
        set_json(CONFIG, weights_sha256=digest(path))(work, marker)

    return prepare


def architecture(**changes: Any) -> Prepare:
    def change(data: bytes) -> bytes:
        config = json.loads(data)
        config["architecture"] = {**(config["architecture"] or {}), **changes}
        return json.dumps(config).encode()

    return changed(CONFIG, change)


def metadata(text: str | Callable[[str], str]) -> Prepare:
    """The card inside runs/base/base.onnx, written anew."""

    def prepare(work: Path, marker: Path) -> None:
        import onnx

        path = work / "runs/base/base.onnx"
        model = onnx.load(path)
        for entry in model.metadata_props:
            if entry.key == "kedge":
                entry.value = text if isinstance(text, str) else text(entry.value)
        onnx.save(model, path)

    return prepare


def card(**values: Any) -> Prepare:
    return metadata(lambda text: json.dumps({**json.loads(text), **values}))


def rejects(threshold: float) -> Callable[[str], str]:
    """The card with another threshold wherever one stands."""

    def change(text: str) -> str:
        values = json.loads(text)
        values["reject"] = {**(values.get("reject") or {}), "threshold": threshold, "log_odds": threshold}
        return json.dumps(values)

    return change


def external(work: Path, marker: Path) -> None:
    """An ONNX file whose weights lie in a file outside its folder."""
    import onnx
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "../../../../../../etc/hostname"), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1, 8, 8])
    graph = helper.make_graph([helper.make_node("Mul", ["images", "w"], ["logits"])], "g", [images], [logits], [tensor])
    model = helper.make_model(graph)
    (work / "evil.onnx").write_bytes(model.SerializeToString())
    assert onnx is not None


def crafts() -> Iterator[tuple[Any, ...]]:
    predict = ["predict", "base", "images"]
    for name, content in HEADERS.items():
        yield f"safetensors/{name}", "run", matching(content), predict
        yield f"record/{name}", "run", put("runs/base/images.safetensors", content), [
            "evaluate", "base", "--split", "val", "--shift", "none", "--limit", "20",
        ]  # fmt: skip
    yield "safetensors/pickle", "run", pickled(WEIGHTS), predict
    yield "safetensors/torch-pickle", "run", torch_pickled(WEIGHTS), predict
    yield "safetensors/torn", "run", changed(WEIGHTS, lambda data: data[: len(data) // 2]), predict
    yield "safetensors/torn-matching", "run", matching(lambda data: data[: len(data) // 2]), predict
    yield (
        "safetensors/bit",
        "run",
        changed(WEIGHTS, lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]),
        predict,
    )
    yield "safetensors/nan", "run", matching(lambda data: data[:-8] + struct.pack("<ff", *[float("nan")] * 2)), predict
    yield "safetensors/fifo", "run", fifo(WEIGHTS), predict
    yield "safetensors/dev-zero", "run", linked(WEIGHTS, "/dev/zero"), predict
    yield "safetensors/folder", "run", folder(WEIGHTS), predict
    for name, content in JSON.items():
        yield f"config/{name}", "run", put(CONFIG, content), predict
    yield "config/fifo", "run", fifo(CONFIG), predict
    yield "config/dev-zero", "run", linked(CONFIG, "/dev/zero"), predict
    evil = lambda work, marker: (work / "evil.py").write_text(EVIL_PY.format(marker=str(marker)))  # noqa: E731
    odd: dict[str, Prepare] = {
        "name-code": both(evil, architecture(name="evil:make")),
        "name-dotted": both(evil, architecture(name="evil.make", library="evil")),
        "name-hub": architecture(name="hf-hub:someone/evil", library="timm"),
        "name-local": architecture(name="local-dir:.", library="timm"),
        "width-huge": architecture(arguments={"width": 100000, "num_classes": 10, "in_chans": 1}),
        "width-negative": architecture(arguments={"width": -4, "num_classes": 10, "in_chans": 1}),
        "width-text": architecture(arguments={"width": "os.system", "num_classes": 10, "in_chans": 1}),
        "arguments-odd": architecture(
            arguments={"__class__": 1, "pretrained": True, "checkpoint_path": "/etc/hostname"}
        ),
        "arguments-list": architecture(arguments=[1, 2]),
        "outputs": set_json(CONFIG, num_outputs=11),
        "outputs-huge": set_json(CONFIG, num_outputs=10**12, class_names=None),
        "shape-huge": set_json(CONFIG, input_shape=[1, 10**6, 10**6]),
        "shape-other": set_json(CONFIG, input_shape=[3, 8, 8]),
        "threshold-nan": set_json(CONFIG, reject={"score": "confidence", "threshold": float("nan"), "log_odds": 0.0}),
        "threshold-text": set_json(CONFIG, reject={"score": "confidence", "threshold": "low", "log_odds": 0.0}),
        "log-odds-nan": set_json(CONFIG, reject={"score": "confidence", "threshold": 0.5, "log_odds": float("nan")}),
        "steps-unknown": set_json(CONFIG, format_version=2, steps={"evil": {"value": 1}}),
        "steps-nan": set_json(CONFIG, format_version=2, steps={"temperature": {"value": float("nan")}}),
        "steps-list": set_json(CONFIG, format_version=2, steps=["temperature"]),
        "temperature-zero": set_json(CONFIG, format_version=2, steps={"temperature": {"value": 0}}),
        "version-new": set_json(CONFIG, format_version=99),
        "names-numbers": set_json(CONFIG, class_names=list(range(10))),
        "kind-unknown": set_json(CONFIG, kind="evil"),
        "first-layer": set_json(CONFIG, first_layer="__class__"),
        "dtype": set_json(CONFIG, dtype="system"),
        "task": set_json(CONFIG, task="regression"),
    }
    for name, prepare in odd.items():
        yield f"config/{name}", "run", prepare, predict
    escape = set_json(CONFIG, class_names=[f"=cmd|{n}\x1b[31m\n" for n in range(10)])
    for shape in ("table", "csv", "json"):
        yield f"config/names-escape-{shape}", "run", escape, [*predict, "--format", shape], False
    exported = ["predict", "runs/base/base.onnx", "images"]
    nan = float("nan")
    cards: dict[str, Prepare] = {
        "text": metadata("not JSON"),
        "deep": metadata("[" * DEEP + "]" * DEEP),
        "list": metadata("[]"),
        "empty": metadata("{}"),
        "threshold-nan": metadata(rejects(nan)),
        "threshold-inf": metadata(rejects(float("inf"))),
        "threshold-text": metadata(lambda text: json.dumps({**json.loads(text), "reject": "never"})),
        "names-short": card(class_names=["one"]),
        "names-nested": card(class_names=[["one"]] * 10),
        "outputs": card(num_outputs=7),
        "outputs-huge": card(num_outputs=10**12),
        "shape": card(input_shape=[3, 9, 9]),
        "shape-text": card(input_shape="images"),
        "temperature-nan": card(temperature=nan, steps={"temperature": {"value": nan}}),
    }
    for name, prepare in cards.items():
        # Nothing at all is an ONNX file of somebody else; what is not in a card cannot lie.
        yield f"onnx/card-{name}", "files", prepare, exported, name not in ("temperature-nan", "empty")
    onnx = "runs/base/base.onnx"
    yield "onnx/text", "files", put(onnx, "no model"), exported
    yield "onnx/empty", "files", put(onnx, b""), exported
    yield "onnx/torn", "files", changed(onnx, lambda data: data[: len(data) // 2]), exported
    yield "onnx/fifo", "files", fifo(onnx), exported
    yield "onnx/silent", "files", lambda work, marker: None, exported, False
    yield "onnx/external-data", "run", external, ["predict", "evil.onnx", "images"]
