"""The best-reference search against its definition, and what it keeps and holds."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import kedge
from kedge.anchoring import transduction
from kedge.anchoring.transduction import BestReferences
from tests.anchoring.conftest import disturb

STD = torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1)


def distances(images, references, residuals, std=1.0):
    """min over δ of ||(x - r - δ) / std||², `[B, K]`, pair by pair in float64."""
    x, r, d, std = (torch.as_tensor(t).double().numpy() for t in (images, references, residuals, std))
    of = [[min(float((((a - b - c) / std) ** 2).sum()) for c in d) for b in r] for a in x]
    return torch.tensor(of, dtype=torch.float64).reshape(len(x), len(r))


def check(chosen, true):
    """Each chosen reference is the best, or as good as the best to what float32 can tell."""
    assert chosen.dtype == torch.long
    assert chosen.shape == true.shape[:1]
    if len(true):
        assert torch.allclose(true.gather(1, chosen[:, None])[:, 0], true.amin(1), rtol=1e-5, atol=1e-5)
        two = true.topk(min(2, true.shape[1]), largest=False).values
        clear = two[:, -1] - two[:, 0] > 1e-4 * two[:, 0] + 1e-4
        assert torch.equal(chosen[clear], true.argmin(1)[clear])


@pytest.fixture
def model(net):
    made = disturb(kedge.anchor(net, example=(3, 8, 8), mean=0.5, std=STD.flatten().tolist()))
    made.references = torch.rand(5, 3, 8, 8)
    made.residuals = torch.rand(7, 3, 8, 8) - 0.5
    return made


@pytest.fixture
def tables(monkeypatch):
    """A list that grows with every table that is computed."""
    made, compute = [], transduction._table
    monkeypatch.setattr(transduction, "_table", lambda *a: made.append(1) or compute(*a))
    return made


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(0, 5), k=st.integers(1, 9), m=st.integers(1, 9), held=st.sampled_from([1, 8, 30, 2**18]),
    prepared=st.sampled_from([1, 200, 2**23]), side=st.sampled_from([4, 6]), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_is_the_definition_at_any_block_size(b, k, m, held, prepared, side, seed):
    g = torch.Generator().manual_seed(seed)
    images, references = torch.rand(b, 3, 4, 4, generator=g), torch.rand(k, 3, side, side, generator=g)
    residuals = torch.rand(m, 3, side, side, generator=g) - torch.rand(m, 3, side, side, generator=g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transduction, "HELD_CPU", held)
        patch.setattr(transduction, "PREPARED", prepared)
        chosen = BestReferences()(images, references, residuals, STD)
    fit = [torch.nn.functional.interpolate(t, (4, 4), mode="bilinear", antialias=True) for t in (references, residuals)]
    check(chosen, distances(images, *(fit if side != 4 else (references, residuals)), STD))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_and_layouts(dtype):
    images, references, residuals = torch.rand(6, 3, 5, 5), torch.rand(8, 3, 5, 5), torch.rand(9, 3, 5, 5) - 0.5
    images, references, residuals = (t.to(dtype) for t in (images, references, residuals))
    search, true = BestReferences(), distances(images, references, residuals, STD)
    check(search(images, references, residuals, STD), true)
    channels_last = [t.contiguous(memory_format=torch.channels_last) for t in (images, references, residuals)]
    check(search(*channels_last, STD), true)


def test_vectors():
    images, references, residuals, std = torch.randn(4, 6), torch.randn(5, 6), torch.randn(3, 6), torch.rand(1, 6) + 1
    check(BestReferences()(images, references, residuals, std), distances(images, references, residuals, std))
    check(BestReferences()(images, references, residuals), distances(images, references, residuals))


def test_the_first_of_equals():
    # Numbers that float32 adds exactly: 8 and 4 are equally far from 6, and 12 is in the bank twice.
    references = torch.tensor([0.0, 8, 4, 12, 12, 0, 0, 12]).view(8, 1, 1, 1).expand(8, 3, 4, 4).contiguous()
    images = torch.tensor([6.0, 13, -3]).view(3, 1, 1, 1).expand(3, 3, 4, 4)
    residuals = torch.zeros(2, 3, 4, 4)
    assert BestReferences()(images, references, residuals).tolist() == [1, 3, 0]


def test_vectors_far_from_zero():
    references = 1e5 + torch.rand(6, 8)
    residuals = 0.1 * torch.randn(4, 8)
    images = references[[3, 0, 5, 2]] + residuals
    assert BestReferences()(images, references, residuals).tolist() == [3, 0, 5, 2]


@pytest.mark.parametrize("size", [8, 12])
def test_predict_takes_the_best_reference_of_each_image(model, size):
    images = torch.rand(5, 3, size, size)
    fit = [torch.nn.functional.interpolate(t, (size, size), mode="bilinear", antialias=True) for t in
           (model.references, model.residuals)] if size != 8 else [model.references, model.residuals]  # fmt: skip
    best = distances(images, *fit, STD).argmin(1)
    expected = model(images, fit[0][best])
    for rows in (None, 1, 2, 100):
        found = model.predict(images, references="blt", max_rows=rows).logits
        assert torch.allclose(found, expected, atol=1e-5)
    assert model.predict(images[:0], references="blt").logits.shape == (0, 5)


def test_the_search_does_not_depend_on_autocast(model):
    images = torch.rand(3, 3, 8, 8)
    chosen = model._search(images, model.references, model.residuals, model.std)
    seen = Biggest()
    with torch.autocast("cpu", torch.bfloat16), seen:
        assert torch.equal(model._search(images, model.references, model.residuals, model.std), chosen)
    assert torch.bfloat16 not in seen.dtypes


def test_the_table_is_made_once_for_many_calls(model, tables):
    for size in (3, 1, 4):
        model.predict(torch.rand(size, 3, 8, 8), references="blt")
    assert len(tables) == 1
    model.predict(torch.rand(3, 3, 12, 12), references="blt")
    assert len(tables) == 2


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m.references[3].mul_(0.5),
        lambda m: m.residuals.neg_(),
        lambda m: m.residuals.data[2, 0, 0, 0].add_(1e-3),
        lambda m: np.copyto(m.references.numpy()[1], m.references.numpy()[2]),
        lambda m: m.references.copy_(m.references.flip(0)),
        lambda m: m.std.mul_(torch.tensor([1.0, 2.0, 1.0]).view(1, 3, 1, 1)),
        lambda m: setattr(m, "residuals", m.residuals[:4]),
        lambda m: m.load_state_dict({**m.state_dict(), "references": m.references + 1e-4}),
        lambda m: m.double(),
    ],
    ids=["scaled", "negated", "data", "numpy", "reversed", "std", "fewer", "loaded", "double"],
)
def test_the_table_is_made_again_after_any_edit(model, tables, edit):
    model.references.mul_(0.9)
    images = torch.rand(4, 3, 8, 8)
    model.predict(images, references="blt")
    edit(model)
    found = model.predict(images, references="blt").logits
    assert len(tables) == 2
    best = distances(images, model.references, model.residuals, model.std).argmin(1)
    assert torch.allclose(found, model(images, model.references[best]), atol=1e-5)


def test_edits_that_change_nothing_keep_the_table(model, tables):
    images = torch.rand(2, 3, 8, 8)
    model.predict(images, references="blt")
    model.references = model.references.clone()
    model.load_state_dict(model.state_dict())
    model.to(memory_format=torch.channels_last).predict(images, references="blt")
    assert len(tables) == 1


def test_what_is_kept_is_no_part_of_a_copy_or_a_checkpoint(model):
    before = set(model.state_dict()), len(pickle.dumps(model))
    images = torch.rand(2, 3, 8, 8)
    expected = model.predict(images, references="blt").logits
    assert model._search._cached is not None
    twin, loaded = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert twin._search._cached is None
    assert loaded._search._cached is None
    # The terms of the bank are kept by `references=1` only, so the size is the same to the byte.
    assert (set(model.state_dict()), len(pickle.dumps(model))) == before
    assert torch.equal(twin.predict(images, references="blt").logits, expected)
    with torch.inference_mode():
        model.predict(images, references="blt")
    assert torch.equal(model.predict(images, references="blt").logits, expected)


class Biggest(TorchDispatchMode):
    """What operations return while it is on: the most bytes of one tensor that has memory of its own, the dtypes."""

    def __init__(self):
        super().__init__()
        self.bytes, self.dtypes = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in torch.utils._pytree.tree_leaves((args, kwargs))
                 if isinstance(t, torch.Tensor)}  # fmt: skip
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.dtypes.add(tensor.dtype)
                if tensor.untyped_storage().data_ptr() not in given:
                    self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


@pytest.mark.parametrize(("dtype", "side"), [(torch.float32, 32), (torch.bfloat16, 32), (torch.float32, 24)])
def test_no_copy_of_the_bank_is_made(monkeypatch, dtype, side):
    monkeypatch.setattr(transduction, "PREPARED", 2**15)
    references, residuals = torch.rand(200, 3, side, side).to(dtype), torch.rand(200, 3, side, side).to(dtype) - 0.5
    search, images = BestReferences(), torch.rand(4, 3, 32, 32).to(dtype)
    for _ in range(2):  # while the table is made, and with it
        with Biggest() as seen:
            search(images, references, residuals, STD)
        assert seen.bytes <= 4 * transduction.HELD_CPU  # the bank in float32 is 2.5 times as large
    with Biggest() as seen:
        BestReferences()(images, references[:20], residuals[:20], STD)
    assert seen.bytes <= 4 * 2**15
