"""Write a model as one file that needs no kedge, and leave it only if it computes the same function."""

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.protocol import independent
from kedge.checks import check_tensor, unit_images
from kedge.deploy.card import KEY, write_card
from kedge.deploy.familiar import OUTPUT, Familiar, with_familiarity
from kedge.deploy.onnx_file import load_onnx, silence, weights_beside
from kedge.files import scratch_beside, sweep
from kedge.full_disk import check_space, is_full_disk, naming

FORMATS = {"onnx": ".onnx", "torch": ".pt2"}
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """What `export` wrote and how closely it agrees.

    Attributes:
        path: the file.
        weights: the file beside it that holds its weights, `NAME.onnx.data`, of an ONNX file of 1.5 GiB and more, which
            torch writes as two; else None.
        to: "onnx" or "torch".
        images: the number of images that the file was checked on.
        real: whether those were given by the caller (else they were noise).
        largest_difference: the largest absolute difference between a logit of the file and of the model.
        allowed: the difference from which the file would have been refused.
    """

    path: Path
    to: str
    images: int
    real: bool
    largest_difference: float
    allowed: float
    weights: Path | None = None

    def load(self) -> Callable[[Tensor], Tensor]:
        """The file as a function from images `[B, C, H, W]` in [0, 1] to logits, on the CPU."""
        return load_onnx(self.path) if self.to == "onnx" else _run_torch(self.path)

    def __str__(self) -> str:
        kind = "images" if self.real else "random images (pass real ones to check on them)"
        size = sum(path.stat().st_size for path in (self.path, self.weights) if path is not None)
        beside = "" if self.weights is None else f" with {self.weights.name}, without which it does not run"
        return (
            f"{self.path}{beside} ({size / 1e6:.1f} MB): checked on {self.images} {kind}, "
            f"largest difference of a logit {self.largest_difference:.1e} (allowed {self.allowed:.1e})"
        )


def export(
    model: PixelModel,
    path: str | os.PathLike[str],
    to: str = "onnx",
    check_images: Tensor | None = None,
) -> Exported:
    """Fold `model` and write it as an ordinary network: images `[B, C, H, W]` in [0, 1] in, logits out, any B.

    The file is written next to its final name, loaded back, run on `check_images` in batches of one, two and all
    of them, compared with `model` in eval mode, and moved into place only if every logit agrees within 1e-4 of the
    largest logit (or of 1). Class names, input shape, rules and task travel inside it; where the rule for `unknown` is
    by prototypes, how familiar images are, `familiarity` `[B]`, is a second output. The steps after the
    logits, such as a temperature, are part of its computation, and of prediction sets it holds threshold and formula. A
    folded network holds a map of the first reference of the bank, in which that picture can be made out, and from which
    it can be computed for patch embeddings or with the anchored weights (see `deploy.folded`).

    Args:
        model: from `kedge.anchor`, `kedge.plain` or `kedge.load`; it is copied.
        path: the file to write; its suffix must be `.onnx` or `.pt2`, as `to` says.
        to: "onnx" (checked; needs `pip install onnx onnxruntime onnxscript`) or "torch" (`torch.export`).
        check_images: real images `[N, C, H, W]`, N >= 1, float in [0, 1] or uint8. Noise if None.

    Raises:
        ValueError: for an unknown `to`, another suffix, images that the model does not take or that cannot be in
            [0, 1], and prediction sets that were set on answers with several references.
        ImportError: if the packages for ONNX are not installed.
        RuntimeError: if the network cannot be exported, or the file disagrees with the model; none is left.
    """
    final = check_target(model, path, to)
    original = independent(model).cpu().float().eval()
    images = _checked_images(original, check_images)
    folded = with_familiarity(original, original.fold())
    sweep(final.parent)
    weights_of = sum(each.numel() * each.element_size() for each in folded.state_dict().values())
    check_space(final.parent, weights_of, final.name)
    # A folder beside the target: the file has its final name from the start, and the move stays on one disk.
    with scratch_beside(final) as folder:
        written = folder / final.name
        try:
            write = _write_onnx if to == "onnx" else _write_torch
            with naming(final, written):
                write(folded, original.input_shape, write_card(model), written)
        except Exception as error:
            if is_full_disk(error):
                raise
            raise RuntimeError(
                f"{type(getattr(folded, 'network', folded)).__name__} could not be exported to {to}: "
                f"{type(error).__name__}: {error}"
            ) from error
        run = load_onnx(written) if to == "onnx" else _run_torch(written)
        difference, allowed = _compare(run, original, images)
        # not <=, so that NaN is refused too
        if not difference <= allowed:
            raise RuntimeError(
                f"the exported {to} file disagrees with the model on {len(images)} images: the largest difference "
                f"of a logit is {difference:.3g}, allowed is {allowed:.3g}; nothing was written to {final}"
            )
        if isinstance(folded, Familiar) and not (off := _off(written, to, folded, images)) <= 10 * TOLERANCE:
            raise RuntimeError(
                f"the exported {to} file disagrees with the model about how familiar images are, by {off:.3g}; nothing "
                f"was written to {final}"
            )
        weights = weights_beside(final) if len(list(folder.iterdir())) > 1 else None
        if weights is not None:
            final.unlink(missing_ok=True)  # an earlier file would run on with the weights of this one
            os.replace(written.with_name(weights.name), weights)
        os.replace(written, final)
    return Exported(final, to, len(images), check_images is not None, difference, allowed, weights)


def check_target(model: PixelModel, path: str | os.PathLike[str], to: str) -> Path:
    """The file to write; raises what `export` says of arguments that cannot be."""
    if to not in FORMATS:
        raise ValueError(f"to must be one of {', '.join(FORMATS)}, got {to!r}")
    if not isinstance(model, PixelModel):
        raise ValueError(
            f"export takes a kedge model, got {type(model).__name__}; wrap it first: kedge.plain(model, ...)"
        )
    model.check_foldable()
    final = Path(path)
    if final.suffix != FORMATS[to]:
        raise ValueError(
            f"a file for to={to!r} must end in {FORMATS[to]}, got {final.name!r}"
            + "".join(f"; for {final.suffix} use to={f!r}" for f, s in FORMATS.items() if s == final.suffix)
        )
    if to == "onnx":
        need_onnx()
    if (asked := model.steps.get("prediction_sets", {}).get("references") or 1) > 1:
        raise ValueError(
            f"the prediction sets were set on answers with {asked} references, and the file keeps one, of whose "
            "answers they say nothing: leave the model one (model.references = model.references[:1]) and set them anew "
            "(kedge.training.calibration.set_anew), or take them out (model.remove_step('prediction_sets'))"
        )
    return final


def need_onnx() -> None:
    """Raise an ImportError that says what to install unless the packages for ONNX are there."""
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {', '.join(missing)}, not installed here: pip install onnx onnxruntime onnxscript"
        )


def _checked_images(model: PixelModel, images: Tensor | None) -> Tensor:
    if images is None:
        return torch.rand(8, *model.input_shape, generator=torch.Generator().manual_seed(0))
    check_tensor(images, "check_images")
    if len(images) == 0:
        raise ValueError("check_images is empty; pass at least one image")
    if tuple(images.shape[1:]) != model.input_shape:
        raise ValueError(
            f"check_images must be [N, {', '.join(map(str, model.input_shape))}], got {list(images.shape)}"
        )
    return unit_images(images.detach().cpu(), "check_images").float()


def _compare(run: Callable[[Tensor], Tensor], model: nn.Module, images: Tensor) -> tuple[float, float]:
    """The largest difference of a logit, and what is allowed; batches of 1, 2 and up to 32."""
    difference, scale, start = 0.0, 1.0, 0
    sizes = [1, 2]
    with torch.no_grad():
        while start < len(images):
            batch = images[start : start + (sizes.pop(0) if sizes else 32)]
            expected, got = model(batch), run(batch)
            start += len(batch)
            if got.shape != expected.shape:
                raise RuntimeError(
                    f"the exported file returns {list(got.shape)} where the model returns "
                    f"{list(expected.shape)}; nothing was written"
                )
            scale = max(scale, float(expected.abs().max()))
            largest = float((got - expected).abs().max())
            if not largest <= difference:
                difference = largest
    return difference, TOLERANCE * scale


def _off(written: Path, to: str, folded: Familiar, images: Tensor) -> float:
    """The largest difference of a familiarity between a file and what was written to it."""
    session: Any = load_onnx(written).network if to == "onnx" else None
    with torch.no_grad():
        said = session.both(images) if to == "onnx" else load_program(written)(images)
        return float((said[1] - folded(images)[1]).abs().max())


def _example(shape: tuple[int, ...]) -> tuple[tuple[Tensor], tuple[Any]]:
    # Two noise images: a batch of one would be taken for a constant, and a .pt2 keeps its example inputs.
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    return (example,), ({0: torch.export.Dim("batch", min=1)},)


def _write_onnx(folded: nn.Module, shape: tuple[int, ...], card: str, path: Path) -> None:
    silence()
    example, dynamic = _example(shape)
    program = torch.onnx.export(
        folded,
        example,
        dynamo=True,
        dynamic_shapes=dynamic,
        input_names=["images"],
        output_names=["logits", OUTPUT][: 1 + isinstance(folded, Familiar)],
        verbose=False,
    )
    assert program is not None  # only a call with a file name returns None
    model = program.model
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        for node in graph.all_nodes():
            node.metadata_props.clear()  # stack traces, with the paths of this machine
            for value in node.outputs:
                value.metadata_props.clear()
    model.metadata_props[KEY] = card
    program.save(str(path))


def _write_torch(folded: nn.Module, shape: tuple[int, ...], card: str, path: Path) -> None:
    example, dynamic = _example(shape)
    save_program(torch.export.export(folded, example, dynamic_shapes=dynamic), card, path)


def save_program(program: torch.export.ExportedProgram, card: str, path: Path) -> None:
    """Write a `.pt2` with its card, and without the paths of this machine."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    with warnings.catch_warnings():
        # It is about tensors that share memory (a BatchNorm's step counts); the check that follows sees the weights.
        warnings.filterwarnings("ignore", message="No complete tensor found", category=UserWarning)
        # Into memory first: where the disk is full, torch's own writer ends the whole process.
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={f"{KEY}.json": card})
    path.write_bytes(buffer.getbuffer())


def load_program(path: Path) -> Callable[..., Any]:
    """A `.pt2` that was just written, as a function."""
    # A .pt2 may hold pickles: this one was written a moment ago, by us, in a folder of our own.
    return torch.export.load(path).module()


def _run_torch(path: Path) -> Callable[[Tensor], Tensor]:
    module = load_program(path)

    def logits(images: Tensor) -> Tensor:
        outputs = module(images)
        return outputs[0] if isinstance(outputs, tuple) else outputs

    return logits
