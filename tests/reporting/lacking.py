"""Synthetic results from which something is missing: of a run that was broken off, and of an earlier version."""

import json
from typing import Any

from tests.reporting.synthetic import results


def interrupted(**settings: Any) -> dict[str, Any]:
    """Results of a run that was broken off, and in which some parts failed."""
    made = results(("whole", "partly", "hardly"), **settings)
    _, partly, hardly = made["models"].values()
    made["complete"] = False
    partly["shift"] = None
    partly["attacks"].pop("pgd", None)
    partly["attack_curve"] = None
    partly["errors"] = [
        {"part": "shift", "message": "out of memory at gaussian noise 3"},
        {"part": "attack pgd", "message": "the model gives no gradient <b>at all</b>"},
    ]
    for key in list(hardly):
        if key not in ("kind", "network", "parameters", "errors"):
            del hardly[key]
    hardly["clean"] = None
    hardly["errors"] = [{"part": "clean", "message": "logits that are not finite for 3 of 10000 images"}]
    return json.loads(json.dumps(made))


def earlier(made: dict[str, Any]) -> dict[str, Any]:
    """The same without what came later."""
    made = json.loads(json.dumps(made))
    later = ("peak_memory_mb", "complete", "citations", "shift_sets", "strips", "groups", "comparisons", "group_table",
             "shift_notes")  # fmt: skip
    for key in later:
        del made[key]
    for key in ("references", "attacks", "risk", "equalise"):
        del made["settings"][key]
    for record in made["ood_sets"].values():
        del record["group"], record["warning"]
    later = ("steps", "shift_sets", "ood_groups", "skipped_scores", "attacks", "attack_curve", "sanity", "errors")
    later += ("warnings", "prediction_sets")
    for own in made["models"].values():
        for key in later:
            del own[key]
        del own["clean"]["calibration"]
        diagrams = [own["clean"]["reliability"]]
        if own["shift"]:
            diagrams.append(own["shift"]["reliability"])
            for row in (own["shift"]["mean"], *own["shift"]["by_severity"], *own["shift"]["conditions"]):
                del row["smooth_ece"]
        for diagram in diagrams:
            del diagram["low"], diagram["high"]
        for found in own["scores"].values():
            del found["fitted_on"]
        for found in own["ood"].values():
            for values in found["scores"].values():
                del values["aupr_in"], values["aupr_out"], values["roc"]
        for key in ("aurc", "excess_aurc", "at_risk", "curve", "joint"):
            del own["selective"][key]
        if own["selective"]["threshold"] is None:
            own["selective"] = None
        del own["timing"]["seconds"]
    return made
