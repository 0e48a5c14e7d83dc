"""One line for each method of each room: the small arguments by which `test_every_method` tries it."""

from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parent / "fixtures" / "first-house"
TEACHER = str(HOUSE / "plain" / "model")
DIGITS = [str(digit) for digit in range(9, -1, -1)]  # ordered, and not as the labels are
CLIMB = {"pgd": {"eps": 0.1, "steps": 2}}

# What a recipe says besides TINY, so that a run trains with the method.
RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "objectives": {
        "aaer": {
            "anchored": False,
            "objective": [{"aaer": {"attack": {"fgsm": {"eps": 0.1, "variant": "rs"}}}}, "cross_entropy"],
        },
        "adversarial": {"objective": [{"anchored": {"alpha": 0}}, {"adversarial": {"attack": CLIMB}}, "cross_entropy"]},
        "anchored": {"objective": [{"anchored": {"alpha": 0.5, "mask_target": "label"}}, "cross_entropy"]},
        "balanced_softmax": {"objective": ["anchored", "balanced_softmax"]},
        "brier": {"objective": ["anchored", "brier"]},
        "blend": {"anchored": False, "objective": ["blend", "cross_entropy"]},
        "conditional_tc": {
            "model": "kedge_members",
            "objective": [{"anchored": {"alpha": 0.2}}, {"conditional_tc": {"weight": 0.5}}],
        },
        "confidence_penalty": {"objective": ["anchored", "confidence_penalty"]},
        "critic_tc": {
            "model": "kedge_members",
            "objective": [{"anchored": {"alpha": 0}}, {"critic_tc": {"hidden": 8}}],
        },
        "cross_entropy": {"objective": [{"cross_entropy": {"label_smoothing": 0.1}}]},
        "cure": {"anchored": False, "objective": [{"cure": {"attack": CLIMB}}, "cross_entropy"]},
        "cutmix": {"objective": ["cutmix", "anchored", "cross_entropy"]},
        "diverse_experts": {"objective": ["anchored", "diverse_experts"], "arguments": {"width": 4, "heads": 3}},
        "dbat": {
            "objective": ["anchored", {"dbat": {"against": TEACHER}}, "cross_entropy"],
            "extra": {"unlabelled": "OUTLIERS"},
        },
        "divdis": {
            "objective": ["anchored", "divdis"],
            "arguments": {"width": 4, "heads": 2},
            "extra": {"unlabelled": "OUTLIERS"},
        },
        "distill": {"objective": ["anchored", {"distill": {"teacher": TEACHER}}, "cross_entropy"]},
        "feature_distill": {
            "anchored": False,
            "objective": [{"feature_distill": {"teacher": TEACHER, "layer": "network.blocks.0"}}, "cross_entropy"],
        },
        "fragility": {"objective": ["anchored", {"fragility": {"k": 0.5}}]},
        "keep_features": {
            "init_from": str(HOUSE / "masked" / "model"),
            "objective": ["anchored", "keep_features", "cross_entropy"],
            "extra": {"auxiliary": "AUXILIARY"},
        },
        "levi": {
            "anchored": False,
            "model": "kedge_levi",
            "arguments": {
                "body": {"kedge_resnet_small": {"width": 4}},
                "small": {"kedge_resnet_small": {"width": 4}},
                "layers": ["blocks.0", "blocks.1"],
                "widths": [4, 8, 16],
            },
            "objective": ["levi"],
        },
        "mixoe": {
            "objective": ["anchored", {"mixoe": {"op": "cutmix"}}, "cross_entropy"],
            "extra": {"outliers": "OUTLIERS"},
        },
        "guidance": {"objective": ["anchored", {"guidance": {"guide": TEACHER}}, "cross_entropy"]},
        "mixup": {"objective": [{"mixup": {"alpha": 0.2, "points": 3}}, "anchored", "cross_entropy"]},
        "noise": {"anchored": False, "objective": ["noise", "cross_entropy"]},
        "oat": {"objective": [{"anchored": {"alpha": 0}}, {"oat": {"momentum": 0.5}}], "temperature": True},
        "one_reference": {"init_from": str(HOUSE / "masked" / "model"), "objective": ["one_reference"]},
        "outlier_exposure": {
            "objective": ["anchored", "outlier_exposure", "cross_entropy"],
            "extra": {"outliers": "OUTLIERS"},
        },
        "presto": {
            "ordered": DIGITS,
            "arguments": {"width": 4, "head": "presto"},
            "objective": ["anchored", {"presto": {"weight": 0.05}}, "cross_entropy"],
        },
        "pull_towards": {
            "init_from": str(HOUSE / "masked" / "model"),
            "objective": [
                {"pull_towards": {"importance": "fisher", "source": "digits", "count": 20}},
                "anchored",
                "cross_entropy",
            ],
        },
        "self_targets": {
            "init_from": str(HOUSE / "masked" / "model"),
            "objective": ["anchored", {"self_targets": {"weight": 0.8}}, "cross_entropy"],
        },
        "sphereface2": {
            "objective": [{"anchored": {"alpha": 0}}, "sphereface2"],
            "arguments": {"width": 4, "head": "cosine"},
            "temperature": True,
        },
        "stable_max": {"objective": ["anchored", "stable_max", "cross_entropy"]},
        "tgeo_kd": {
            "objective": ["anchored", {"tgeo_kd": {"teacher": TEACHER}}, "cross_entropy"],
            "extra": {"meta": "LABELLED"},
        },
        "trades": {"objective": [{"anchored": {"alpha": 0}}, {"trades": {"attack": CLIMB}}, "cross_entropy"]},
        "vib": {"arguments": {"width": 4, "head": "vib"}, "objective": ["anchored", "vib", "cross_entropy"]},
    },
    "heads": {
        "cosine": {"anchored": False, "arguments": {"width": 4, "head": "cosine"}},
        "presto": {"ordered": DIGITS, "arguments": {"width": 4, "head": "presto"}},
        "proportional_odds": {"ordered": DIGITS, "arguments": {"width": 4, "head": "proportional_odds"}},
        "vib": {"anchored": False, "arguments": {"width": 4, "head": "vib"}},
    },
    "optim.rules": {
        "adamw": {"optimizer": {"adamw": {"lr": 0.002, "weight_decay": 0.1}}},
        "gradient_norm": {
            "optimizer": [
                {"gradient_norm": {"target": "output", "bound": 0.01, "dual_rate": 0.1}},
                {"sgd": {"lr": 0.05}},
            ]
        },
        "orthograd": {"optimizer": ["orthograd", {"sgd": {"lr": 0.05}}]},
        "sam": {"optimizer": [{"sam": {"rho": 0.05}}, {"sgd": {"lr": 0.05}}], "ema": 0.9},
        "sgd": {"optimizer": {"sgd": {"lr": 0.05, "momentum": 0.8, "nesterov": False}}},
    },
    "optim.schedules": {
        "constant": {"schedule": "constant"},
        "cosine": {"schedule": {"cosine": {"warmup": 0.2}}},
        "multistep": {"schedule": {"multistep": {"milestones": [1], "gamma": 0.5}}},
        "slow_start_fast_decay": {"schedule": "slow-start-fast-decay"},
        "slow_start_halving": {"schedule": "slow-start-halving"},
    },
    "samplers": {
        "class_balanced": {"sampler": "class-balanced"},
        "error_proportional": {"sampler": {"error-proportional": {"memory": 0.5}}, "epochs": 3},
        "oversampled": {"sampler": {"oversampled": {"ratio": 0.5}}, "imbalance": {"ratio": 4}},
        "shuffled": {"sampler": "shuffled"},
        "undersampled": {"sampler": "undersampled", "imbalance": {"ratio": 2, "kind": "step"}},
    },
}
TINY = {
    "data": "digits", "model": "kedge_resnet_small", "arguments": {"width": 4}, "train_images": 160, "batch_size": 40,
    "epochs": 2, "references": 3, "device": "cpu", "val_pgd_images": 8, "anchored": True,
    "familiar": None,  # to choose a rule for unknown images takes as long as two such epochs
}  # fmt: skip
# squared_error is for regression, which recipes do not train; tests/objectives has it.
BY_HAND = {"objectives": {"squared_error"}}
