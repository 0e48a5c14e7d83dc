"""`tpr` of an evaluation: in the results, on the page, in the CSV; refused where it is no share."""

import pytest

from kedge.evaluation import evaluate
from kedge.reporting import as_csv, table
from kedge.reporting.page import page
from kedge.scores import MSP, Energy


def test_the_share_asked_for_has_a_threshold_and_counts(network, data, noise):
    results = evaluate(
        network, data, shift=(), ood=noise, tpr=0.8, scores=[MSP(), Energy()], resamples=50, examples=0, batch_size=32
    )
    (scores,) = [own["scores"] for own in results["models"]["model"]["ood"].values()]
    for own in scores.values():
        assert (own["fpr_at_tpr"]["tpr"], own["fpr95"]["tpr"]) == (0.8, 0.95)
        assert own["fpr_at_tpr"]["accepted"] == 72  # of 90
        assert own["fpr_at_tpr"]["threshold"] >= own["fpr95"]["threshold"]
        assert own["fpr_at_tpr"]["value"] == own["fpr_at_tpr"]["passed"] / 40
    assert results["settings"]["tpr"] == 0.8
    assert "72 of 90 (80.0 %)" in page(results).replace("\N{NO-BREAK SPACE}", " ")
    assert "FPR at the TPR asked for, confidence" in table(results, 160)
    lines = as_csv(results).splitlines()
    assert f"model,ood,static,,msp,fpr_at_tpr threshold,{scores['msp']['fpr_at_tpr']['threshold']},,,40" in lines
    assert "model,ood,static,,msp,fpr95 accepted,86.0,,,40" in lines


def test_without_it_results_are_as_before_but_for_the_threshold(network, data, noise):
    results = evaluate(network, data, shift=(), ood=noise, near=["static"], scores=[MSP()], resamples=0, examples=0)
    own = results["models"]["model"]
    assert "fpr_at_tpr" not in own["ood"]["static"]["scores"]["msp"]
    assert set(own["ood_groups"]["near"]["msp"]) == {"auroc", "aupr_in", "aupr_out", "fpr95", "sets"}
    assert "threshold" in own["ood"]["static"]["scores"]["msp"]["fpr95"]


@pytest.mark.parametrize(("near", "groups"), [(None, set()), ((), {"far"}), (["static"], {"near"})])
def test_sets_are_grouped_where_it_is_said_which_are_near(network, data, noise, near, groups):
    results = evaluate(network, data, shift=(), ood=noise, near=near, scores=[MSP()], resamples=0, examples=0)
    assert set(results["models"]["model"]["ood_groups"]) == groups


@pytest.mark.parametrize("tpr", [0, 1, 95, -0.5, "0.9", True])
def test_what_is_no_share_is_refused(network, data, noise, tpr):
    with pytest.raises(ValueError, match="share between 0 and 1"):
        evaluate(network, data, ood=noise, tpr=tpr)


def test_nothing_to_tell_apart_is_refused(network, data):
    with pytest.raises(ValueError, match="no set of these was given"):
        evaluate(network, data, tpr=0.9)
