"""Several processes that share a batch compute what one does: parameters and statistics after steps of training."""

import multiprocessing

import pytest
import torch
from torch import nn

import kedge
from kedge import attacks, objectives
from kedge.objectives._whole_batch import WholeBatch

SIZES = (8, 7, 8, 2)  # of the batches: an uneven one, and one of fewer images than three processes


class Fancy(nn.BatchNorm2d):
    """Batch norm with its activation inside, as timm's."""

    def forward(self, x):
        return super().forward(x).relu()


NORMS = {
    "batch": lambda: nn.BatchNorm2d(8),
    "own": lambda: Fancy(8),
    "mean": lambda: nn.BatchNorm2d(8, momentum=None),
    "group": lambda: nn.GroupNorm(2, 8),
    "fleeting": lambda: nn.BatchNorm2d(8, track_running_stats=False),
    "plain": lambda: nn.BatchNorm2d(8, affine=False),
}


def network(norm):
    last = NORMS["group" if norm == "group" else "batch"]()
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), NORMS[norm](), nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1), last, nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def weighted():
    return objectives.CrossEntropy(class_weights=[0.5, 1.0, 2.0, 0.5])


def taught(make, *arguments, **more):
    torch.manual_seed(7)
    return make(weighted(), kedge.plain(network("batch"), example=(3, 8, 8)).double(), *arguments, **more)


PGD = attacks.PGD(8 / 255, 3)
CASES = {
    "cross-entropy": ("batch", False, lambda: objectives.CrossEntropy(label_smoothing=0.1)),
    "group norm": ("group", False, objectives.CrossEntropy),
    "layer with an activation": ("own", False, objectives.CrossEntropy),
    "cumulative statistics": ("mean", False, objectives.CrossEntropy),
    "no statistics kept": ("fleeting", False, objectives.CrossEntropy),
    "no scale": ("plain", False, objectives.CrossEntropy),
    "class weights": ("batch", False, weighted),
    "mixup": ("batch", False, lambda: objectives.Mixup(weighted())),
    "cutmix": ("batch", False, lambda: objectives.CutMix(objectives.CrossEntropy())),
    "noise": ("batch", False, lambda: objectives.Noise(objectives.CrossEntropy(), 0.5)),
    "blend": ("batch", False, lambda: objectives.Blend(weighted(), 0.5, target="uniform")),
    "anchored by itself": ("batch", True, objectives.CrossEntropy),
    "anchored": ("batch", True, lambda: objectives.Anchored(weighted(), alpha=0.5)),
    "masked per batch": (
        "batch", True, lambda: objectives.Anchored(objectives.CrossEntropy(), alpha=0.5, mask_per="batch")
    ),
    "masked, share": ("group", True, lambda: objectives.Anchored(objectives.CrossEntropy(), 0.5, mask_target="share")),
    "other classes": ("batch", True, lambda: objectives.Anchored(weighted(), 0.5, partners="other-class", average=2)),
    "reference set": (
        "batch", True, lambda: objectives.Anchored(
            objectives.CrossEntropy(), 0.5,
            reference_set=torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(3)))
    ),
    "one reference": ("batch", True, objectives.OneReference),
    "adversarial": ("batch", False, lambda: objectives.Adversarial(objectives.CrossEntropy(), PGD)),
    "anchored, adversarial": (
        "batch", True, lambda: objectives.Anchored(objectives.Adversarial(weighted(), PGD), alpha=0.5)
    ),
    "l2 attack": (
        "group", False, lambda: objectives.Adversarial(objectives.CrossEntropy(), attacks.PGD(0.5, 3, norm="l2"))
    ),
    "TRADES": ("batch", True, lambda: objectives.Anchored(objectives.TRADES(objectives.CrossEntropy(), PGD), alpha=0)),
    "AAER": ("batch", False, lambda: objectives.AAER(objectives.CrossEntropy(), attacks.FGSM(8 / 255, variant="rs"))),
    "outlier exposure": ("batch", False, lambda: objectives.OutlierExposure(weighted())),
    "outliers, anchored": (
        "batch", True, lambda: objectives.Anchored(objectives.OutlierExposure(weighted()), alpha=0.5)
    ),
    "outliers, anchored inside": (
        "batch", True, lambda: objectives.OutlierExposure(objectives.Anchored(weighted(), alpha=0.5))
    ),
    "outliers, anchored by itself": ("batch", True, lambda: objectives.OutlierExposure(weighted())),
    "distillation": ("batch", False, lambda: taught(objectives.Distill)),
    "distillation, anchored": ("batch", True, lambda: objectives.Anchored(taught(objectives.Distill), alpha=0.5)),
    "features": ("batch", False, lambda: taught(objectives.FeatureDistill, "5")),
    "features beside outliers": (
        "batch", True,
        lambda: objectives.Anchored(objectives.OutlierExposure(taught(objectives.FeatureDistill, "5")), alpha=0.5)
    ),
    "features, anchored": (
        "batch", True, lambda: objectives.Anchored(taught(objectives.FeatureDistill, "7"), alpha=0.5)
    ),
    "CURE": (
        "batch", True, lambda: objectives.Anchored(objectives.CURE(objectives.CrossEntropy(), PGD, decay=0.5), alpha=0)
    ),
}  # fmt: skip


def trained(norm, anchored, make, together):
    """The model in float64 after one step for each of SIZES; `together`: as one of several processes."""
    torch.manual_seed(0)
    wrap = kedge.anchor if anchored else kedge.plain
    model = wrap(network(norm), example=(3, 8, 8)).double().train()
    if anchored:
        model.references = torch.rand(3, 3, 8, 8).double()
    objective = make()
    for each in objective.modules():
        each.prepare(model) if isinstance(each, objectives.Objective) else None
    objective.double()  # weights of its own, and a teacher
    own = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD([*model.parameters(), *own], lr=0.05, momentum=0.9)
    draws = torch.Generator().manual_seed(1)
    for step, size in enumerate(SIZES):
        images = torch.rand(size, 3, 8, 8, generator=draws).double()
        labels = torch.randint(4, (size,), generator=draws)
        objectives.set_streams(objective, outliers=torch.rand(size, 3, 8, 8, generator=draws).double())
        torch.manual_seed(step)
        objectives.set_progress(objective, step / len(SIZES))
        loss = objective(WholeBatch(model, step) if together else model, images, labels)
        loss.backward()
        if together:
            for parameter in [*model.parameters(), *own]:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= torch.distributed.get_world_size()
        for each in objective.modules():
            each.on_gradients(model) if isinstance(each, objectives.Objective) else None
        optimizer.step()
        optimizer.zero_grad()
    return {**model.state_dict(), **objective.state_dict(prefix="own."), "loss": loss.detach()}


def inside(rank, world):
    """What dropout in the network draws for a batch, twice, and what is drawn after it."""
    torch.manual_seed(0)
    ones, view = torch.ones(world * 50, 4), WholeBatch(nn.Dropout(0.5), seed=1)
    return torch.stack([view(ones), view(ones)]), torch.rand(3)


def one_of(rank, world, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    states = {name: trained(*case, together=True) for name, case in CASES.items()}
    torch.save({**states, "inside": inside(rank, world)}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3])
def together(request, tmp_path_factory):
    """What every process ended with, by its rank."""
    folder, world = tmp_path_factory.mktemp("processes"), request.param
    # Not forked from this process: autograd has threads here once a test before this one needed them.
    multiprocessing.set_forkserver_preload([__name__])
    torch.multiprocessing.start_processes(one_of, args=(world, folder), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_several_processes_train_as_one(case, together):
    alone = trained(*CASES[case], together=False)
    for states in together:
        theirs = states[case]
        assert theirs.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(
                theirs[name], value, rtol=1e-9, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
            )


@pytest.mark.slow
def test_dropout_draws_in_each_process_for_its_own_rows_and_moves_no_generator(together):
    drawn, after = together[0]["inside"]
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(3))
    for states in together:  # all see the same answers of all
        assert torch.equal(states["inside"][0], drawn)
    shares = [drawn[:, rank :: len(together)] for rank in range(len(together))]
    assert not torch.equal(shares[0], shares[1])
    assert not torch.equal(drawn[0], drawn[1])
