"""adapt(): one trained model, one new task, one way to get there."""

import copy
import difflib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kedge.adaptation import HOWS
from kedge.adaptation.features import drawn_features, features
from kedge.adaptation.heads import find_head, with_head
from kedge.adaptation.origins import check_origin, note_origin, origin_of, rests_on
from kedge.adaptation.outcome import Settings, finished, load_outcome, write_outcome
from kedge.adaptation.probe import ProbeData, fit_probe
from kedge.adaptation.tuning import average, tune
from kedge.anchoring import AnchoredModel, PixelModel, anchor, choose_references, plain
from kedge.data import ImageSet, derive_seed
from kedge.data.sets import check_set
from kedge.training.recorded import recorded_facts

__all__ = ["Adapted", "adapt"]


@dataclass
class Adapted:
    """What `adapt` gives.

    Attributes:
        how: the way.
        model: for the new classes, in eval mode, on the CPU.
        record: what was done and what was chosen by what.
        folder: the run folder, which every command takes; None where none was asked for.
    """

    how: str
    model: PixelModel
    record: dict[str, Any]
    folder: Path | None


def adapt(
    model: nn.Module,
    train: ImageSet,
    val: ImageSet | None = None,
    *,
    how: str = "linear-probe",
    out: str | Path | None = None,
    **settings: Any,
) -> Adapted:
    """Take a trained model to the classes of `train`.

    - `linear-probe`: the body frozen, in eval mode; a linear head on its features (`fit_probe`). Features of an
      anchored model are means over its bank.
    - `anchored-probe`: the same head, body frozen and in eval mode, trained as `Anchored(CrossEntropy, alpha)` trains:
      each image with drawn references, [r, x - r], and for a share `alpha` of it with the reference hidden, [0, x - r],
      and the uniform target. A plain model is converted first (`kedge.anchor`), which changes nothing it computes.
    - `finetune`: all weights, from the body and a fresh head.
    - `lp-ft`: all weights, from the head of the linear probe, at a tenth of the learning rate (Kumar et al.,
      "Fine-Tuning can Distort Pretrained Features", arXiv 2202.10054).
    - `wise-ft`: the average of the linear probe and lp-ft (Wortsman et al., arXiv 2109.01903).

    The paper on anchoring (arXiv 2406.00529) says of its probes: frozen anchored features, masking, alpha 0.4.
    Two things are ours. The *input* is anchored, as in the body's own training; anchoring the features, [r_f, f - r_f],
    would give a linear head W_d f + (W_r - W_d) r_f, for a fixed reference no more than another bias. And the loss that
    steps of SGD sample is minimised as an expectation, over `drawn` references for each image and over masking, with
    the solver of the linear probe: with alpha 0 and one reference the two are one problem.

    An anchored model gets a bank of training images of the new task, as many as it had.

    Args:
        model: a kedge model, which is not changed, or any module from images `[B, C, H, W]` in [0, 1] to logits; one of
            timm with its `pretrained_cfg` gets the normalisation from there.
        train: images of the new task, in the shape the model takes.
        val: validation images, for the strength of regularisation and the reject threshold. None (few images): the
            strength comes from cross-validation in `train`, and no threshold is set.
        how: one of `kedge.adaptation.HOWS`.
        out: a folder in which the run folder `out/how` is made, and those of the ways that it rests on; what has
            finished there is not made again, what was broken off goes on; from another model, other images or with
            other settings of that way it is an error. None: nothing is kept. A network without a name in timm or
            torchvision is saved too, and `kedge.load` then needs the network (`model=`).
        **settings: see `Settings`: seed, head, alpha, drawn, strength, share, epochs, lr, references, ...

    Raises:
        ValueError: for an unknown way, images of another shape, a single class, no head, settings that cannot be,
            and an `out` that holds the way made otherwise.
    """
    if how not in HOWS:
        near = difflib.get_close_matches(how, HOWS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is no way to adapt called {how!r}; there are {', '.join(HOWS)}.{hint}")
    chosen = Settings(**settings)
    chosen.check()
    check_images(train, val)
    check_share([how], chosen, val)
    body = pixel_model(model, train)
    if out is not None:
        origin = origin_of(body, train, val)
        check_origin(Path(out), how, origin, chosen)
        for each in rests_on(how):
            note_origin(Path(out), each, origin, chosen)
        return _adapt(body, train, val, how, Path(out), chosen)
    with tempfile.TemporaryDirectory() as folder:
        made = _adapt(body, train, val, how, Path(folder), chosen)
    made.folder = None
    return made


def _adapt(
    model: PixelModel, train: ImageSet, val: ImageSet | None, how: str, out: Path, settings: Settings
) -> Adapted:
    folder = out / how
    head = find_head(model, settings.head)
    if finished(folder):
        facts = recorded_facts(folder)
        loaded = load_outcome(folder, with_head(model, head, train.class_names))
        return Adapted(how, loaded, facts["adaptation"], folder)
    began = time.perf_counter()
    record: dict[str, Any] = {
        "how": how,
        "from": settings.source or type(model.network).__name__,
        "head": head,
        "train": len(train),
        "validation": None if val is None else len(val),
        "settings": asdict(settings),
    }
    if how in ("linear-probe", "anchored-probe"):
        made = _probed(model, train, val, how, head, settings, record)
        write_outcome(made, folder, train, val, settings, record | {"seconds": time.perf_counter() - began})
    elif how == "wise-ft":
        probe, tuned = (_adapt(model, train, val, each, out, settings).model for each in ("linear-probe", "lp-ft"))
        made = average(probe, tuned, val, settings, record)
        write_outcome(made, folder, train, val, settings, record | {"seconds": time.perf_counter() - began})
    else:
        if how == "lp-ft":
            start = _adapt(model, train, val, "linear-probe", out, settings).model
        else:
            start = with_head(_with_bank(model, train, settings), head, train.class_names, seed=settings.seed)
        made = tune(start, train, val, how, out, settings, record)
    record["seconds"] = time.perf_counter() - began
    return Adapted(how, made.cpu().eval(), record, folder)


def _probed(
    model: PixelModel,
    train: ImageSet,
    val: ImageSet | None,
    how: str,
    head: str,
    settings: Settings,
    record: dict[str, Any],
) -> PixelModel:
    """The body with the head of a probe."""
    body = _with_bank(model, train, settings)
    if how == "anchored-probe" and not isinstance(body, AnchoredModel):
        record["converted"] = True
        body = _with_bank(anchor(body), train, settings)
    head = find_head(body, settings.head) if body.num_outputs == model.num_outputs else head
    body = body.to(settings.torch_device()).eval()
    reading: dict[str, Any] = {"batch_size": settings.batch_size, "workers": settings.workers}
    if isinstance(body, AnchoredModel) and how == "anchored-probe":
        seen, masked = drawn_features(body, head, train, settings.drawn, settings.alpha > 0, settings.seed, **reading)
        data = ProbeData(seen, train.labels, len(train.class_names), masked, settings.alpha)
        record |= {"alpha": settings.alpha, "references": f"{settings.drawn} training images drawn for each image"}
    else:
        seen = features(body, head, train, others=True, **reading)[None]
        data = ProbeData(seen, train.labels, len(train.class_names))
        if isinstance(body, AnchoredModel):
            record["references"] = f"the mean over the bank of {len(body.references)}, no image with itself"
    validation = None if val is None else (features(body, head, val, **reading), val.labels)
    intercept = getattr(body.network.get_submodule(head) if head else body.network, "bias", None) is not None
    probe = fit_probe(data, validation, settings.strength, intercept)
    record |= {"strength": probe.strength, "chosen": probe.chosen, "nll": {f"{s:.3g}": n for s, n in probe.nll.items()}}
    return with_head(body.cpu(), head, train.class_names, probe.weight, probe.bias)


def _with_bank(model: PixelModel, train: ImageSet, settings: Settings) -> PixelModel:
    """A copy for the new task: no temperature, no threshold, a bank of the new training images."""
    made = copy.deepcopy(model).eval()
    made.steps, made.reject = {}, None
    if isinstance(made, AnchoredModel):
        count = settings.references or (len(made.references) if len(made.references) > 1 else 10)
        seed = derive_seed(settings.seed, "references") % 2**31
        made.references = choose_references(train, min(count, len(train)), "stratified", seed)
        made.residuals = None
    return made


def pixel_model(model: nn.Module, train: ImageSet) -> PixelModel:
    """The model as kedge's; ValueError where it cannot take the images."""
    made = model if isinstance(model, PixelModel) else plain(model, example=train.image_shape)
    if made.task != "classification":
        raise ValueError(f"the model is for {made.task}; adaptation is from one classifier to another")
    if tuple(made.input_shape) != tuple(train.image_shape):
        c, h, w = train.image_shape
        wants = "x".join(map(str, made.input_shape))
        load = f"load them with image_size={made.input_shape[-1]}, channels={made.input_shape[0]}"
        raise ValueError(
            f"the model takes images of {wants} (C, H, W), the images of {train.name} are {c}x{h}x{w}: {load}"
        )
    return made


def check_images(train: ImageSet, val: ImageSet | None) -> None:
    """Raise TypeError for what is no image set, ValueError for images that no classifier can be made from."""
    check_set(train, "training images")
    if val is not None:
        check_set(val, "validation images")
    if len(train) == 0:
        raise ValueError(f"{train.name} holds no training images")
    counts = torch.bincount(train.labels, minlength=len(train.class_names))
    if len(counts) < 2:
        raise ValueError(f"{train.name} has one class, {train.class_names}: a classifier needs two or more")
    if bool((counts == 0).any()):
        empty = [name for name, n in zip(train.class_names, counts.tolist(), strict=True) if n == 0]
        raise ValueError(f"{train.name}: no training images of class {', '.join(empty[:10])}")
    if val is not None and (list(val.class_names) != list(train.class_names) or len(val) == 0):
        raise ValueError(
            f"the validation images ({len(val)} of {len(val.class_names)} classes) are not of the "
            f"{len(train.class_names)} classes of {train.name}, in its order"
        )


def check_share(hows: Sequence[str], settings: Settings, val: ImageSet | None) -> None:
    """Raise ValueError if wise-ft is to choose its share on validation images that are not there."""
    if "wise-ft" in hows and settings.share == "val" and val is None:
        raise ValueError(
            "share val is chosen on validation images, and there are none here (as with few shots): give a number"
        )
