"""Complete results of format 2 from seeded random numbers: every part of the table and the page without a model."""

import base64
import io
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

SCORES = {
    "msp": "confidence (MSP)", "max_logit": "max logit", "energy": "energy", "entropy": "entropy",
    "disagreement": "disagreement", "amp": "AMP", "masked": "masked reference", "knn": "nearest neighbours",
    "mahalanobis": "Mahalanobis", "vim": "ViM",
}  # fmt: skip
SETS = {"cifar100": "near", "mnist": "far", "fashion_mnist": "far", "textures": "far", "scenes": "far", "odd": None}
CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "defocus_blur", "glass_blur", "motion_blur",
    "zoom_blur", "gaussian_blur", "snow", "frost", "fog", "brightness", "spatter", "contrast", "elastic_transform",
    "pixelate", "jpeg_compression", "saturate",
)  # fmt: skip
ATTACKS = {
    "fgsm": ("FGSM", 1, "single-step"), "pgd": ("PGD-20", 20, "pgd"), "eot": ("PGD-20 over references", 20, "eot"),
}  # fmt: skip
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
N = 10_000


def estimate(value: float, n: float = N, top: float | None = 1.0, interval: bool = True) -> dict[str, Any]:
    """An estimate with an interval of about the width that `n` images give."""
    if not interval:
        return {"value": value, "low": None, "high": None}
    reach = 1.96 * (max(value * (1 - value), 1e-3) / n) ** 0.5 if top == 1.0 else 1.96 * value / n**0.5
    low, high = max(0.0, value - reach), value + reach if top is None else min(top, value + reach)
    return {"value": value, "low": low, "high": high}


OUTLOOK = {
    "expected_accuracy": 0.81, "calibration_accuracy": 0.93, "unfamiliar": 0.12, "broken": False,
    "words": "what the images say of the promise",
}  # fmt: skip


def prediction_sets(accuracy: float, classes: Sequence[str], corruptions: Sequence[str]) -> dict[str, Any]:
    """The entry of a model with prediction sets."""

    def held(share: float) -> dict[str, Any]:
        return {"coverage": estimate(share), "size": estimate(1.2 + share, top=None)}

    rows = [
        {"corruption": c, "severity": s, "coverage": 0.9 - 0.1 * s, "size": 2.0, "warned": s > 2}
        for c in corruptions
        for s in range(1, 6)
    ]
    return {
        "score": "lac", "coverage": 0.9, "by_class": False, "calibration_images": 1000,
        "clean": {**held(0.9), "empty": 0.01, "outlook": OUTLOOK,
                  "classes": [{"images": 100, **held(accuracy - 0.005 * k)} for k in range(len(classes))]},
        "shift": {**held(0.6), "by_severity": [{"severity": s, **held(0.9 - 0.1 * s)} for s in range(1, 6)],
                  "conditions": rows} if corruptions else None,
    }  # fmt: skip


def picture(rng: np.random.Generator, side: int = 32) -> str:
    """A data: URL of a soft random image."""
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(stream, "png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def metrics(accuracy: float, ece: float, interval: bool = True) -> dict[str, Any]:
    return {
        "accuracy": estimate(accuracy, interval=interval),
        "nll": estimate(2.2 * (1 - accuracy) + ece, top=None, interval=interval),
        "brier": estimate(1.3 * (1 - accuracy), top=2.0, interval=interval),
        "ece": {**estimate(ece, interval=interval), "corrected": 0.9 * ece},
        "smooth_ece": {**estimate(0.9 * ece, interval=interval), "corrected": 0.8 * ece},
    }


def reliability(rng: np.random.Generator, accuracy: float, lean: float, bins: int = 15) -> dict[str, Any]:
    edges = np.linspace(0, 1, bins + 1)
    confidence = rng.beta(8 * accuracy, 1.5, N)
    right = rng.random(N) < np.clip(confidence - lean, 0, 1)
    index = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    out: dict[str, Any] = {"edges": edges.tolist(), "count": count.tolist()}
    out |= {"confidence": [], "accuracy": [], "low": [], "high": []}
    for b in range(bins):
        own = index == b
        if not own.any():
            for key in ("confidence", "accuracy", "low", "high"):
                out[key].append(None)
            continue
        mean = estimate(float(right[own].mean()), int(own.sum()))
        out["confidence"].append(float(confidence[own].mean()))
        out["accuracy"].append(mean["value"])
        out["low"].append(mean["low"])
        out["high"].append(mean["high"])
    return out


def detection(rng: np.random.Generator, inside: np.ndarray, edges: np.ndarray, apart: float) -> dict[str, Any]:
    outside = rng.normal(2.0 - apart, 1.2, 3000)
    thresholds = np.quantile(np.concatenate([inside, outside]), np.linspace(1, 0, 120))
    tpr = [float((inside >= t).mean()) for t in thresholds]
    fpr = [float((outside >= t).mean()) for t in thresholds]
    area = float(np.trapezoid([0.0, *tpr, 1.0], [0.0, *fpr, 1.0]))
    at = float((outside >= np.quantile(inside, 0.05)).mean())
    return {
        "auroc": estimate(area, 3000), "aupr_in": estimate(min(1.0, area + 0.02), 3000),
        "aupr_out": estimate(max(0.0, area - 0.05), 3000), "fpr95": estimate(at, 3000),
        "outside": np.histogram(np.clip(outside, edges[0], edges[-1]), edges)[0].tolist(),
        "roc": {"fpr": [0.0, *fpr, 1.0], "tpr": [0.0, *tpr, 1.0]},
    }  # fmt: skip


def average(found: list[dict[str, Any]]) -> dict[str, Any]:
    return {key: estimate(float(np.mean([f[key]["value"] for f in found])), 6000)
            for key in ("auroc", "aupr_in", "aupr_out", "fpr95")}  # fmt: skip


def curve(accuracy: float, bend: float) -> dict[str, Any]:
    coverage = np.linspace(0.005, 1, 200)
    return {"coverage": coverage.tolist(), "risk": ((1 - accuracy) * coverage**bend).tolist()}


def model(
    rng: np.random.Generator,
    i: int,
    *,
    sets: dict[str, str | None],
    corruptions: tuple[str, ...],
    published: tuple[str, ...],
    attacks: bool,
    classes: tuple[str, ...],
    thumbnails: int,
    interval: bool,
) -> dict[str, Any]:
    anchored = i % 2 == 1
    accuracy = 0.93 - 0.015 * i + 0.01 * rng.random()
    lean = 0.06 - 0.05 * anchored
    made: dict[str, Any] = {
        "kind": "anchored" if anchored else "plain", "network": "resnet18", "parameters": 11_173_962 + 1728 * anchored,
        "references": 10 if anchored else None, "device": "cpu", "input_shape": [3, 32, 32], "conversion": "",
        "steps": ["temperature 1.32"] if i == 2 else [], "gate": {}, "refusal": None,
    }  # fmt: skip
    clean = metrics(accuracy, 0.01 + lean / 2, interval)
    del clean["smooth_ece"]
    made["clean"] = clean | {
        "top5": estimate(0.5 + accuracy / 2) if len(classes) > 5 else None,
        "reliability": reliability(rng, accuracy, lean),
        "calibration": {
            key: estimate(max(0.001, 0.01 + lean * factor), interval=interval)
            for key, factor in (("ece_mass", 0.5), ("ece_classwise", 0.1), ("rmsce", 0.8), ("mce", 2.0),
                                ("smooth_ece", 0.45), ("brier_reliability", 0.05), ("brier_resolution", 3),
                                ("brier_uncertainty", 4))
        },
    }  # fmt: skip
    made["shift"] = None
    if corruptions:
        hard = {c: 0.3 + rng.random() for c in corruptions}
        rows = []
        for c in corruptions:
            for s in range(1, 6):
                a = accuracy - 0.1 * s * hard[c] * (0.7 if anchored else 1.0)
                rows.append({"corruption": c, "severity": s, **metrics(max(a, 0.1), 0.02 + 0.03 * s * hard[c] + lean)})

        def mean(own: list[dict[str, Any]]) -> dict[str, Any]:
            return metrics(*(float(np.mean([r[key]["value"] for r in own])) for key in ("accuracy", "ece")))

        made["shift"] = {
            "mean": mean(rows),
            "by_severity": [{"severity": s, **mean([r for r in rows if r["severity"] == s])} for s in range(1, 6)],
            "conditions": rows,
            "reliability": reliability(rng, 0.8 * accuracy, lean + 0.1),
        }
    made["shift_sets"] = {
        name: {**metrics(accuracy - 0.05 * (j + 1), 0.03 + lean), "reliability": reliability(rng, accuracy, lean)}
        for j, name in enumerate(published)
    }
    made["scores"], made["ood"], made["ood_groups"] = (
        {},
        {name: {"scores": {}, "accepted": 0.4, "separability": estimate(0.8, 500)} for name in sets},
        {},
    )
    left_out = () if anchored else ("disagreement", "masked")
    made["skipped_scores"] = dict.fromkeys(left_out, "a plain model has no references")
    for score, title in SCORES.items() if sets else []:
        if score in made["skipped_scores"]:
            continue
        inside, edges = rng.normal(2.0, 1.0, 3000), np.linspace(-3, 5, 31)
        counts = np.histogram(np.clip(inside, -3, 5), edges)[0].tolist()
        fitted = 5000 if score in ("knn", "mahalanobis", "vim") else None
        made["scores"][score] = {"title": title, "edges": edges.tolist(), "inside": counts, "fitted_on": fitted}
        for name, group in sets.items():
            apart = {"near": 1.2, "far": 2.4, None: 1.8}[group] + 0.5 * rng.random() + 0.3 * anchored
            made["ood"][name]["scores"][score] = detection(rng, inside, edges, apart)
        for group in dict.fromkeys(g for g in sets.values() if g):
            own = [name for name, g in sets.items() if g == group]
            found = average([made["ood"][name]["scores"][score] for name in own])
            made["ood_groups"].setdefault(group, {})[score] = {**found, "sets": own}
    made["selective"] = {
        "score": "confidence", "threshold": 0.61 if i != 3 else None,
        "log_odds": 0.44731 if i != 3 else None, "wanted_coverage": 0.95,
        "clean": {"coverage": 0.951, "accuracy": accuracy + 0.03} if i != 3 else None,
        "shift": {"coverage": 0.74, "accuracy": accuracy - 0.1} if corruptions and i != 3 else None,
        "aurc": estimate(0.011 + 0.002 * i), "excess_aurc": estimate(0.008 + 0.002 * i),
        "at_risk": {"risk": 0.05, "tpr": None, "coverage": 0.95 - 0.05 * i, "threshold": 0.55 if i < 4 else None,
                    "log_odds": 0.20067 if i < 4 else None},
        "curve": {"clean": curve(accuracy, 3), "shift": curve(0.7 * accuracy, 1.5) if corruptions else None},
        "joint": {name: {**curve(0.6 * accuracy, 1 + rng.random()), "aurc": 0.15 + 0.02 * i} for name in sets},
    }  # fmt: skip
    made["attacks"], made["attack_curve"], made["first_order"], made["sanity"] = {}, None, None, []
    made["prediction_sets"] = prediction_sets(accuracy, classes, corruptions) if corruptions and i % 2 == 0 else None
    if attacks:
        for name, (title, steps, kind) in ATTACKS.items():
            if kind != "eot" or anchored:
                made["attacks"][name] = {
                    "title": title, "norm": "linf", "eps": 8 / 255, "steps": steps, "restarts": 1, "images": 1000,
                    "clean_accuracy": estimate(accuracy, 1000), "seconds": 31.5, "kind": kind,
                    "accuracy": estimate({"fgsm": 0.22, "pgd": 0.03, "eot": 0.01}[name] + 0.2 * anchored, 1000),
                }  # fmt: skip
        made["attack_curve"] = {
            "norm": "linf",
            "points": [{"eps": e / 255, "accuracy": estimate(accuracy * 0.6**e, 1000)} for e in (0, 0.5, 1, 2, 4, 8)],
        }
        made["first_order"] = {
            "norm": "linf", "images": 1000, "without_gradient": 0, "note": "" if i != 2 else "20 of 1,000 have none",
            "points": [{"eps": e / 255, "accuracy": estimate(accuracy * 0.5**e, 1000)} for e in (0, 1, 2, 4, 8, 16)],
        }  # fmt: skip
        made["sanity"] = [
            {"check": "more steps, lower accuracy", "ok": True, "detail": "PGD-20 3.0 % below FGSM 22.0 %"},
            {"check": "gradients are not zero", "ok": i != 2, "detail": f"{80 if i == 2 else 0} of 1,000 images"},
        ]
    made["test_time"] = None
    made["stability"] = {
        "oversensitive": estimate(0.04), "overstable": estimate(0.1), "confidence": 0.9, "images": N,
        "changes": [
            {"name": name, "title": title, "kind": kind, "rate": estimate(0.05), "kept": estimate(0.2),
             "mean_confidence": 0.7}
            for name, title, kind in (("shift", "moved by one pixel", "unseen"), ("grey", "grey image", "destroyed"))
        ],
        "notes": ["on images of 8 x 8 px a shift can be seen"] if i == 2 else [],
    } if attacks else None  # fmt: skip
    made["unlabelled"] = {
        "validation": {"name": "cifar10", "split": "val", "images": 5000, "accuracy": estimate(accuracy, 5000)},
        "warnings": [],
        "sets": {
            name: {
                "images": 300, "of": 400, "headline": "atc_entropy", "warnings": ["only 300 images"],
                "estimates": {
                    "atc_entropy": {"title": "thresholded entropy (ATC)", **estimate(accuracy - 0.2, 300)},
                    "doc": {"title": "difference of confidences (DoC)", **estimate(accuracy - 0.1, 300)},
                },
                "unlike": {"score": "nearest neighbours (KNN)", **estimate(0.71, 300)},
                "prediction_sets": {**OUTLOOK, "broken": True} if i % 2 == 0 else None,
            }
            for name in ("<s>new photos</s>",)
        },
    } if sets else None  # fmt: skip
    kinds = {"most_certain": True, "least_certain": True, "confident_mistakes": False}
    made["images"] = {
        kind: [
            {
                "index": int(rng.integers(N)), "path": f"a/{j}.png", "label": classes[j % len(classes)],
                "predicted": classes[(j + (not right)) % len(classes)], "correct": right,
                "confidence": float(rng.random()), "uncertainty": 0.01 if anchored else None,
                "thumbnail": picture(rng),
            }
            for j in range(thumbnails)
        ]
        for kind, right in kinds.items()
    }  # fmt: skip
    made["timing"] = {"images_per_second": 1000.0 / (1 + 9 * anchored), "device": "cpu", "seconds": 61.0}
    made["errors"] = []
    made["warnings"] = []
    made["trained_on"] = None
    made["verdict"] = {
        "kind": "half", "risk": 0.05, "all": {"images": N, "wrong": 700, "low": 0.066, "high": 0.075},
        "half": {"images": N // 2, "wrong": 20, "low": 0.003, "high": 0.006},
    }  # fmt: skip
    made["answers"] = None
    made["training"] = {
        "folder": f"runs/{i}", "data": "cifar10", "images": 45000, "validation_images": 5000, "classes": None,
        "repeated": 0, "photos": False,
        "seconds": 100.0, "finished": "2026-01-02T03:04:05+0000", "recipe": {"epochs": 3},
        "probe": None, "validation": {"accuracy": accuracy},
        "curve": {"epoch": [1, 2], "lr": [0.1, 0.0], "train_loss": [2.0, 1.0], "val_accuracy": [0.4, accuracy]},
    }  # fmt: skip
    return made


def results(
    names: tuple[str, ...] | list[str] = ("standard", "anchored"),
    *,
    sets: dict[str, str | None] | None = None,
    corruptions: tuple[str, ...] = CORRUPTIONS,
    published: tuple[str, ...] = ("CIFAR-10.1", "CIFAR-10-C files"),
    attacks: bool = True,
    groups: bool = False,
    limited: bool = False,
    classes: tuple[str, ...] = CLASSES,
    thumbnails: int = 8,
    interval: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Results of `names`, as they come out of a JSON file."""
    rng = np.random.default_rng(seed)
    sets = SETS if sets is None else sets
    record = {"split": "test", "images": 500 if limited else N, "of": N, "limited": limited,
              "image_shape": [3, 32, 32], "unreadable": 0, "repeated": 0}  # fmt: skip
    models = {
        name: model(rng, i, sets=sets, corruptions=corruptions, published=published, attacks=attacks, classes=classes,
                    thumbnails=thumbnails, interval=interval)
        for i, name in enumerate(names)
    }  # fmt: skip
    made: dict[str, Any] = {
        "format_version": 2, "created": "2026-01-02T03:04:05+00:00", "command": "kedge evaluate a b --data cifar10",
        "machine": {"kedge": "0.2", "torch": "2.11", "python": "3.11.2", "system": "Linux x86_64", "cpus": 2,
                    "threads": 2, "accelerators": []},
        "seconds": 1234.5, "peak_memory_mb": 812.0, "complete": True,
        "settings": {"corruptions": list(corruptions), "severities": [1, 2, 3, 4, 5] if corruptions else [],
                     "seed": 0, "limit": 500 if limited else None, "batch_size": 256, "bins": 15,
                     "resamples": 1000 if interval else 0, "scores": list(SCORES), "references": None,
                     "attacks": list(ATTACKS) if attacks else [], "risk": 0.05, "tpr": None, "equalise": None},
        "conventions": {"accuracy": "share of correct answers; interval: Wilson", "ood": "in-distribution positive",
                        "corruptions": "generated on the batch"},
        "citations": [
            {"what": "corruptions", "cite": "Hendrycks and Dietterich, ICLR 2019", "url": "https://arxiv.org/abs/1903.12261"},
            {"what": "smooth ECE", "cite": "Błasiok and Nakkiran, ICLR 2024", "url": "https://arxiv.org/abs/2309.12236"},
        ],
        "data": {"name": "cifar10", **record, "class_names": list(classes)},
        "test_images": None,
        "ood_sets": {
            name: {"name": name, **record, "conversion": dict.fromkeys(names, ""), "group": group, "seen": None,
                   "warning": "28 px and grey, against 32 px and colour" if name == "mnist" else None}
            for name, group in sets.items()
        },
        "shift_sets": {name: {"name": name, "images": 2000, "classes": 10, "of_classes": 10, "note": "published files"}
                       for name in published},
        "shift_notes": {},
        "models": models, "strips": [], "groups": {}, "comparisons": [], "group_table": {},
    }  # fmt: skip
    if corruptions and thumbnails:
        made["strips"] = [
            {"title": c.replace("_", " "),
             "images": [{"label": f"severity {s}", "thumbnail": picture(rng)} for s in range(1, 6)]}
            for c in corruptions[:4]
        ]  # fmt: skip
    if attacks and thumbnails:
        shown = [{"label": label, "thumbnail": picture(rng)} for label in ("clean", "PGD-20") * 2]
        made["strips"].append({"title": f"{names[0]} under PGD-20", "images": shown})
    for a, b in itertools.pairwise(names):
        for metric, where, test in (("accuracy", "clean", "McNemar exact"), ("ece", "clean", "paired bootstrap")):
            difference = models[a]["clean"][metric]["value"] - models[b]["clean"][metric]["value"]
            made["comparisons"].append(
                {"a": a, "b": b, "metric": metric, "where": where, "test": test, "p": 0.003, "n": N,
                 "difference": {"value": difference, "low": difference - 0.004, "high": difference + 0.004},
                 **({"reported": difference} if metric == "ece" else {})}
            )  # fmt: skip
    if groups:
        half = max(1, len(names) // 2)
        made["groups"] = {"first": list(names[:half]), "second": list(names[half:])}
        made["group_table"] = {
            g: {"accuracy, clean": {"mean": 0.91, "sd": 0.004 if len(own) > 1 else None, "n": len(own)},
                "ece, clean": {"mean": 0.031, "sd": 0.002 if len(own) > 1 else None, "n": len(own)}}
            for g, own in made["groups"].items()
        }  # fmt: skip
    return json.loads(json.dumps(made, allow_nan=False))
