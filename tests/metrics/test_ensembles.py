import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.metrics import false_false_true


def test_by_hand():
    labels = torch.tensor([0, 1, 2, 3, 0])
    a = torch.tensor([1, 0, 2, 0, 0])
    b = torch.tensor([2, 0, 0, 0, 0])
    ensemble = torch.tensor([0, 1, 2, 1, 1])  # images 0 and 1: both wrong, together right
    assert float(false_false_true(a, b, ensemble, labels)) == 2 / 5
    assert float(false_false_true(a, b, a, labels)) == 0
    assert false_false_true(a, b, ensemble, labels).ndim == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 4), min_size=1, max_size=30))
def test_against_a_loop(rows):
    a, b, ensemble, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    found = sum(x != y and z != y and e == y for x, z, e, y in rows) / len(rows)
    assert float(false_false_true(a, b, ensemble, labels)) == pytest.approx(found)


def test_what_an_ensemble_of_outputs_can_do():
    # Each member is drawn to another wrong class, by less than both together are to the right one.
    a, b = torch.tensor([[0.4, 0.5, 0.1]]), torch.tensor([[0.4, 0.1, 0.5]])
    both = (a + b) / 2
    found = false_false_true(a.argmax(1), b.argmax(1), both.argmax(1), torch.tensor([0]))
    assert float(found) == 1


def test_bad_input():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"a must be class indices \[N\].*float32 \[2, 3\].*argmax"):
        false_false_true(torch.rand(2, 3), labels, labels, labels)
    with pytest.raises(ValueError, match="ensemble must be class indices"):
        false_false_true(labels, labels, labels.float(), labels)
    with pytest.raises(ValueError, match="b has 1 predictions for 2 labels"):
        false_false_true(labels, labels[:1], labels, labels)
    with pytest.raises(ValueError, match="0 labels"):
        false_false_true(*[labels[:0]] * 4)
