"""What words on the command line of evaluate stand for."""

import pytest

from kedge.cli.parse import choose_scores


@pytest.mark.parametrize(
    ("recipes", "masked"),
    [
        ([{"objective": [{"Anchored": {"alpha": 0.25, "mask_target": "label"}}, "CrossEntropy"]}], False),
        ([{"objective": [{"Anchored": {"alpha": 0.0}}, "CrossEntropy"]}], False),
        ([{"objective": ["CrossEntropy"]}], False),
        ([{"objective": [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"]}], True),  # the class's own target is uniform
        (
            [{"objective": ["CrossEntropy"]}, {"objective": [{"Anchored": {"alpha": 0.1, "mask_target": "uniform"}}]}],
            True,
        ),
        ([{"objective": ["CrossEntropy"]}, {}], True),  # a model that belongs to no run
    ],
)
def test_the_masked_pass_is_a_score_where_a_run_made_it_uniform(recipes, masked):
    chosen = choose_scores(["all"], recipes)
    assert (chosen is None) == masked  # None: all of them
    assert chosen is None or "masked" not in [score.name for score in chosen]
    assert [score.name for score in choose_scores(["masked"], recipes)] == ["masked"]
