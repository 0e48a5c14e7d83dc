"""References for those that need them: time and quality of `predict(references="adaptive")` against the whole bank.

    KEDGE_DATA=path/to/packs python -m benchmarks.adaptive [--model runs/anchored-0 runs/anchored-1]

Each model is an anchored run on CIFAR-10; runs/anchored-0, as of `benchmarks.cifar10_small`, is trained where it is not
there (five minutes on two cores). CIFAR-100 and MNIST are what it should notice. Quality is of `--limit` images of each
set, drawn once; a difference to the whole bank has a bootstrap interval over images, the same images drawn for both.
"Another bank" is the jackknife standard error of the whole bank's own value: what it would move by if other references
had been drawn, with which any answer from part of a bank has to live.
"""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kedge
import kedge.data
from benchmarks.cifar10_small import VARIANTS
from benchmarks.pipeline import has_pack
from benchmarks.side_by_side import finish, in_turn, options, parser, ratio, row, table
from kedge.anchoring import AnchoredModel
from kedge.anchoring.adaptive import TOLERANCE, adaptively
from kedge.anchoring.prediction import Prediction, conclude, summarise
from kedge.anchoring.references import choose_references
from kedge.evaluation.inputs import convert, to_unit
from kedge.metrics import accuracy, auroc, calibration_error, detection_draws, interval, resampled_error, resamples
from kedge.training import Recipe, fit

TRAINED = Path("runs/anchored-0")
TOLERANCES = (1.0, TOLERANCE, 0.4, 0.3, 0.2)
SCORES: dict[str, Callable[[Prediction], Tensor]] = {
    "confidence": lambda said: said.log_odds,
    "energy": lambda said: said.logits.logsumexp(1),
    "max logit": lambda said: said.logits.amax(1),
    "uncertainty": lambda said: -said.uncertainty,
}  # higher = more familiar
ALLOWED = 0.5  # points


@dataclass(frozen=True)
class Asked:
    """A set of images, the labels of the first set, and the logits of every reference for them, `[K, N, C]`."""

    images: Tensor
    labels: Tensor
    logits: Tensor

    def first(self, k: int) -> Prediction:
        """The answer of the first k references."""
        return summarise([self.logits[:k]], "classification")

    def settled(self, model: AnchoredModel, tolerance: float) -> Prediction:
        """The adaptive answer, from the logits at hand."""
        terms = model.stem.reference_terms(model._arriving(model._fitted(model.references, self.images[:1]))).cpu()
        places = torch.arange(len(self.images))
        logits, spread, used = adaptively(
            lambda which, start, stop: self.logits[start:stop, which],
            lambda start, stop: [terms[start:stop]],
            places,
            len(terms),
            tolerance,
        )
        return conclude(logits, spread, "classification", references_used=used)


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    """Time predictions side by side, compare their quality, write both."""
    made = parser("adaptive", __doc__, rounds=15, quick=2)
    made.add_argument(
        "--model",
        type=Path,
        nargs="+",
        default=None,
        help=f"anchored CIFAR-10 runs; default {TRAINED}, trained if absent",
    )
    made.add_argument("--limit", type=int, default=None, help="images of each set; default 5000, with --quick 300")
    made.add_argument("--batch", type=int, default=128, help="images of a batch where time is taken")
    args = options(made, arguments)
    limit = args.limit or (300 if args.quick else 5000)
    rows: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    if args.quick and args.model:
        made.error("--quick takes a very small model of its own, not --model")
    models = (
        {"digits": digits_model()} if args.quick else {path.name: run_of(path) for path in args.model or [trained()]}
    )
    for name, model in models.items():
        model = model.to(args.device).eval()
        sets = digits_sets() if args.quick else {n: drawn(n, limit) for n in ("cifar10", "cifar100", "mnist")}
        asked = {n: ask(model, x[:limit], y[:limit], args.device) for n, (x, y) in sets.items()}
        rows += times(model, name, {n: a.images for n, a in asked.items()}, args)
        tables += quality(model, name, asked, resample=20 if args.quick else 1000)
    return finish(args, rows, tables)


def times(model: AnchoredModel, name: str, sets: dict[str, Tensor], args: Any) -> list[dict[str, Any]]:
    """Rows: a batch of each set, and single images of the first."""
    rows = []
    k = len(model.references)
    for i, (named, images) in enumerate(sets.items()):
        for size in (args.batch, 1) if i == 0 else (args.batch,):
            # Four batches or 32 single images, so that the share of open inputs is not that of a few.
            parts = images[: 32 if size == 1 else 4 * size].to(args.device).split(size)
            taken = in_turn(
                {
                    "adaptive": lambda parts=parts: [model.predict(x, "adaptive") for x in parts],
                    "all": lambda parts=parts: [model.predict(x, k) for x in parts],
                },
                args.rounds,
                args.device,
                warm=1,
            )
            used = torch.cat([model.predict(x, "adaptive").references_used for x in parts]).float().mean()
            rows.append(
                row(
                    f'predict(references="adaptive"), {name}, {named}, batch {size}',
                    f"references={k}",
                    ratio(taken, "adaptive", "all"),
                    0.4 if i == 0 and size > 1 else None,
                    note=f"{float(used):.2f} references used",
                )
            )
    return rows


def quality(model: AnchoredModel, name: str, asked: dict[str, Asked], resample: int) -> list[dict[str, Any]]:
    """Tables: what each number of references, and each tolerance, reads; and how far adaptive is from all."""
    k = len(model.references)
    ways: dict[str, Callable[[Asked], Prediction]] = {
        f"references={n}": lambda a, n=n: a.first(n) for n in (1, 2, 3, 4, k) if n <= k
    }
    for tolerance in TOLERANCES:
        ways[f"adaptive, tolerance {tolerance:g}"] = lambda a, t=tolerance: a.settled(model, t)
    inside, *outside = asked
    whole = {n: a.first(k) for n, a in asked.items()}
    columns = [f"{n}, {s}" for n in outside for s in SCORES]
    lines = []
    for way, answer in ways.items():
        said = {n: answer(a) for n, a in asked.items()}
        found = read(said, asked[inside].labels)
        agree = float((said[inside].label == whole[inside].label).float().mean())
        used = [said[n].references_used for n in asked]
        n_used = [way.partition("=")[2] if u is None else f"{float(u.float().mean()):.2f}" for u in used]
        cells = [f"{100 * found[c]:.2f}" if c in found else "" for c in ("accuracy", "ECE", *columns)]
        lines.append([way, *n_used, f"{100 * agree:.2f}", *cells])
    head = ["", *[f"used, {n}" for n in asked], "label as all", "accuracy", "ECE", *columns]
    values = table(f"{name}: quality in percent", head, lines, "AUROC by each score of telling a set from the first.")
    said = {n: a.settled(model, TOLERANCE) for n, a in asked.items()}
    return [values, differences(name, asked, said, whole, resample)]


def read(said: dict[str, Prediction], labels: Tensor) -> dict[str, float]:
    """Accuracy and ECE on the first set, AUROC against the others by every score there is."""
    inside, *outside = said
    here = said[inside]
    found = {"accuracy": float(accuracy(here.probs, labels)), "ECE": float(calibration_error(here.probs, labels))}
    for n in outside:
        for score, of in SCORES.items():
            if here.uncertainty is not None or score != "uncertainty":
                found[f"{n}, {score}"] = float(auroc(of(here), of(said[n])))
    return found


def differences(
    name: str, asked: dict[str, Asked], said: dict[str, Prediction], whole: dict[str, Prediction], resample: int
) -> dict[str, Any]:
    """Table: adaptive less all references, in points, with its interval, and how far another bank would be."""
    inside = next(iter(asked))
    labels, k = asked[inside].labels, len(asked[inside].logits)
    now, then = read(said, labels), read(whole, labels)
    one_less = [
        read({n: summarise([torch.cat([a.logits[:i], a.logits[i + 1 :]])], "classification") for n, a in asked.items()},
             labels)
        for i in range(k)
    ]  # fmt: skip
    a, b = said[inside], whole[inside]
    draws = {"accuracy": [], "ECE": []}
    for weights in resamples(len(labels), resample, seed=0):
        right = [(p.label == labels).float() for p in (a, b)]
        draws["accuracy"].append(weights @ (right[0] - right[1]) / len(labels))
        errors = [resampled_error(p.confidence, p.label == labels, weights) for p in (a, b)]
        draws["ECE"].append(errors[0] - errors[1])
    lines = []
    for what in now:
        if what in draws:
            drawn_here = torch.cat(draws[what])
        else:
            n, _, score = what.rpartition(", ")
            of = SCORES[score]
            each = [detection_draws(of(p[inside]), of(p[n]), resample)[:, 0] for p in (said, whole)]
            drawn_here = each[0] - each[1]
        apart = 100 * (now[what] - then[what])
        low, high = (100 * float(v) for v in interval(drawn_here, torch.tensor(now[what] - then[what])))
        values = torch.tensor([run[what] for run in one_less])
        bank = 100 * math.sqrt((k - 1) / k * float((values - values.mean()).square().sum()))
        met = "" if what == "accuracy" else "yes" if abs(apart) <= ALLOWED else "no"
        lines.append([what, f"{apart:+.2f}", f"{low:+.2f} to {high:+.2f}", met, f"{bank:.2f}"])
    title = f"{name}: adaptive less references={k}, in points"
    return table(title, ["", "difference", "95 % interval", f"within {ALLOWED:g}", "another bank"], lines)


def ask(model: AnchoredModel, images: Tensor, labels: Tensor, device: torch.device) -> Asked:
    """The logits of every reference for images `[N, C, H, W]`, uint8 or in [0, 1], of any convertible shape."""
    parts = [convert(to_unit(x), model.input_shape) for x in images.split(250)]
    logits = [model.predict(x.to(device), keep_per_reference=True).per_reference.cpu() for x in parts]
    return Asked(torch.cat(parts), labels, torch.cat(logits, 1))


def drawn(name: str, limit: int) -> tuple[Tensor, Tensor]:
    """Images `[N, ...]` and labels of a random part of a pack's test set."""
    if not has_pack(name):
        raise SystemExit(f"benchmarks.adaptive needs the {name} pack, a folder of $KEDGE_DATA; --quick needs none")
    data = kedge.data.load(name, "test")
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    return torch.stack([data[i][0] for i in chosen]), torch.tensor([int(data[i][1]) for i in chosen])


def trained() -> Path:
    """The run that is taken where none is named, trained where it is missing."""
    path = TRAINED
    if not (path / "model").is_dir():
        print(f"training {path}", file=sys.stderr)
        with torch.inference_mode(False), torch.enable_grad():
            fit(
                Recipe(
                    data="cifar10", model="kedge_resnet_small", arguments={"width": 16}, epochs=5, seed=0,
                    runs=str(path.parent), name=path.name, **VARIANTS["anchored"],
                ),
                progress=False,
            )  # fmt: skip
    return path


def run_of(path: Path) -> AnchoredModel:
    """The model of a run."""
    if not (path / "model").is_dir():
        raise SystemExit(f"{path}: there is no trained run there")
    model = kedge.load(path)
    if not isinstance(model, AnchoredModel) or len(model.references) < 4:
        raise SystemExit(f"{path} is no anchored model with four references or more")
    return model


def digits_model() -> AnchoredModel:
    """A small network on digits, anchored with six references and trained for some seconds."""
    train = kedge.data.load("digits", "train")
    images, labels = torch.stack([train[i][0] for i in range(len(train))]).float() / 255, train.labels
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(144, 10),
        )  # fmt: skip
        model = kedge.anchor(net, example=images[:2]).train()
        model.references = choose_references(train, 6, how="stratified", seed=0)
        optimiser = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(150):
            batch = torch.randint(len(images), (64,))
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimiser.step()
    return model


def digits_sets() -> dict[str, tuple[Tensor, Tensor]]:
    """Digits, and two sets made of them: on their side, and black on white."""
    test = kedge.data.load("digits", "test")
    images = torch.stack([test[i][0] for i in range(len(test))])
    return {"digits": (images, test.labels), "turned": (images.rot90(1, (2, 3)), test.labels),
            "inverted": (255 - images, test.labels)}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
