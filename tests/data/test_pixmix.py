import pytest
import torch

from kedge.data import pixmix as module
from kedge.data.pixmix import mixing_pictures, pixmix


@pytest.fixture(scope="module")
def pictures():
    return mixing_pictures(16, 3, 32, 32, seed=1)


def test_pictures_come_from_their_seed(pictures):
    assert pictures.dtype == torch.uint8
    assert pictures.shape == (16, 3, 32, 32)
    assert torch.equal(pictures, mixing_pictures(16, 3, 32, 32, seed=1))
    assert not torch.equal(pictures, mixing_pictures(16, 3, 32, 32, seed=2))
    assert len({bytes(p.flatten().tolist()) for p in pictures}) == 16
    assert mixing_pictures(3, 1, 9, 14, seed=0).shape == (3, 1, 9, 14)


def test_pictures_have_structure_on_all_scales():
    pictures = mixing_pictures(64, 3, 32, 32, seed=0).float() / 255
    assert (pictures.std((1, 2, 3)) > 0.05).all()
    power = torch.fft.fft2(pictures - pictures.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))[0]
    falling = power[[1, 2, 4, 8, 16]]
    assert (falling[:-1] > falling[1:]).all()  # white noise is flat
    leaves, noise = pictures[:32], pictures[32:]
    flat = [(p[:, :, 1:] == p[:, :, :-1]).float().mean() for p in (leaves, noise)]
    assert flat[0] > 0.4 > flat[1]  # discs of one colour


def test_a_generator_decides(pictures):
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    first, again, other = (pixmix(images, pictures, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert first.dtype == torch.uint8
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert pixmix(images[:1], pictures[:1], None).shape == (1, 3, 32, 32)


def test_without_rounds_half_are_as_they_were(pictures):
    images = torch.randint(50, 200, (400, 1, 40, 40), dtype=torch.uint8)
    made = pixmix(images, images, torch.Generator().manual_seed(0), rounds=0)
    # Of the augmented half a few are moved by less than half a pixel.
    assert (made == images).flatten(1).all(1).float().mean() == pytest.approx(0.53, abs=0.07)


def one_by_one(x, p, a, b, additive):
    """The two ways of mixing, for one image with float numbers in [0, 1]."""
    out = []
    for u, v in zip(x.flatten().tolist(), p.flatten().tolist(), strict=True):
        if additive:
            mixed = (a * (2 * u - 1) + b * (2 * v - 1) + 1) / 2
        else:
            mixed = (2 * u) ** a * max(2 * v, 1e-37) ** b / 2
        out.append(min(max(mixed, 0.0), 1.0))
    return torch.tensor(out).view_as(x)


@pytest.mark.parametrize("additive", [True, False])
@pytest.mark.parametrize(("a", "b"), [(0.8, 0.2), (1.3, -0.4)])
def test_the_two_ways_of_mixing(additive, a, b):
    x, p = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    x[0, 0, 0, 0] = p[1, 0, 0, 0] = 0
    mix = module._added if additive else module._multiplied
    weights = (torch.full((2, 1, 1, 1), value) for value in (a, b))
    assert torch.allclose(mix(x, p, *weights).clamp(0, 1), one_by_one(x, p, a, b, additive), atol=1e-5)


def test_weights_are_drawn_as_in_the_paper(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "_added", lambda x, p, a, b: seen.append((a.flatten(), b.flatten())) or x)
    monkeypatch.setattr(module, "_multiplied", module._added)
    images = torch.zeros(6000, 1, 1, 1, dtype=torch.uint8)
    monkeypatch.setattr(module, "_augmented", lambda images, which, draws: images)
    pixmix(images, images, torch.Generator().manual_seed(0))
    a, b = (torch.cat(each) for each in zip(*seen, strict=True))
    assert len(a) == pytest.approx(2 * 6000, rel=0.05)  # 0 to 4 rounds, 2 on average
    flat = a <= 1
    assert flat.float().mean() == pytest.approx(0.5, abs=0.03)
    # Beta(3, 1) has mean 3/4 and second moment 3/5, Beta(1, 3) 1/4 and 1/10.
    assert a[flat].mean() == pytest.approx(0.75, abs=0.02)
    assert a[flat].square().mean() == pytest.approx(0.6, abs=0.02)
    assert (b[flat].mean(), b[~flat].mean()) == (pytest.approx(0.25, abs=0.02), pytest.approx(-0.25, abs=0.02))
    assert b.square().mean() == pytest.approx(0.1, abs=0.01)
    assert a[~flat].mean() == pytest.approx(1.25, abs=0.02)


def test_copies_go_through_one_mild_operation_of_augmix(monkeypatch):
    seen = {}

    def keep(images, kinds, magnitudes):
        seen["drawn"] = kinds, magnitudes
        return images

    monkeypatch.setattr(module, "transform", keep)
    images, which = torch.zeros(4000, 3, 32, 32, dtype=torch.uint8), torch.arange(4000) % 4 > 0
    module._augmented(images, which, torch.Generator().manual_seed(0))
    kinds, magnitudes = seen["drawn"]
    names = [module.OPERATIONS[k] for k in kinds.tolist()]
    assert set(names) == {*module._AUGMIX, "identity"}
    assert {n for n, w in zip(names, which.tolist(), strict=True) if not w} == {"identity"}
    of = {name: magnitudes[torch.tensor([n == name for n in names])] for name in set(names)}
    assert of["rotate"].abs().max() <= 9
    assert of["rotate"].min() < 0 < of["rotate"].max()
    assert of["shear_x"].abs().max() <= 0.09
    assert of["translate_x"].abs().max() <= 3.2
    assert set(of["posterize"].tolist()) == {3.0, 4.0}
    assert 0.7 <= of["solarize"].min() < of["solarize"].max() <= 0.99
