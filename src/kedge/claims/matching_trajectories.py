"""Images by which a student's weights go where those of experts went teach more than the photos they began as."""

import statistics
from functools import cache

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.seeds import derive_seed, generator

info = Info(
    "Efficient Dataset Distillation through Alignment with Smooth and High-Quality Expert Trajectories", "Shen et al.",
    "arXiv", 2023, "https://arxiv.org/abs/2310.10541", "code",
)  # fmt: skip

PHOTOS, EXPERTS, EPOCHS, AHEAD = 1000, 10, 8, 2  # an image follows an expert for two of its epochs
INSIDE, RATE, ITERATIONS, STEP = 15, 0.1, 500, 0.02  # steps of a student and their rate; of the images
STUDENTS, LESSONS = 5, 300
Weights = dict[str, Tensor]


class MatchingTrajectories(Claim):
    """Digits, one image of each class, an MLP 64-48-10: images such that 15 steps on them end where an expert went.

    Ten experts learn from 1,000 photos for 8 epochs. An iteration draws an expert and an epoch t of it, starts a
    student there and takes 15 steps of gradient descent on the ten images; these minimise ‖θ − θ_{t+2}‖² / ‖θ_t −
    θ_{t+2}‖², by Adam, 500 times. Of the smoothing of experts the loss that grows from a half to all over the epochs is
    here; the gradient penalty, perturbed starts and the intermediate losses are not. Accuracy is that of an MLP after
    300 steps on the ten images alone, the mean of five; "left" the share of the way that the images did not go, at
    their end. Nothing was tuned.
    """

    variants = ("photos", "means", "matched photos", "matched means", "all")
    criteria = (
        Criterion("better than the photos they began as", "accuracy", "matched photos", "photos", "above", 3),
        Criterion("class means nearly suffice", "accuracy", "means", "matched photos", "near", 3),
        Criterion("they go further than means", "left", "matched means", "means", "below"),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """What students learn of a set, and how far it leads along the way of experts."""
        photos, labels = _photos(seed)
        shown, own = (photos, labels) if variant == "all" else (_shown(variant, seed), torch.arange(10))
        test = packed("digits", "test")
        (pixels, truth) = (torch.stack([test[i][0] for i in range(len(test))]) / 127.5 - 1), test.labels
        right = []
        for number in range(STUDENTS):
            student, draws = _fresh(derive_seed(seed, "student", number)), generator(seed, "order", number)
            optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
            for _ in range(LESSONS):
                batch = torch.randperm(len(own), generator=draws)[:32]
                optimizer.zero_grad()
                nn.functional.cross_entropy(student(shown[batch]), own[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                right.append(100 * float((student(pixels).argmax(1) == truth).double().mean()))
        values = {"accuracy": statistics.fmean(right)}
        if variant != "all":
            ways = [(expert, start) for expert in range(EXPERTS) for start in range(EPOCHS - AHEAD + 1)]
            values["left"] = statistics.fmean(float(_left(shown, seed, *way).detach()) for way in ways)
        return values


@cache
def _photos(seed: int) -> tuple[Tensor, Tensor]:
    """Training photos `[N, 1, 8, 8]` in [-1, 1], and their labels."""
    drawn = cut(packed("digits", "train"), PHOTOS, seed)
    return torch.stack([drawn[i][0] for i in range(len(drawn))]) / 127.5 - 1, drawn.labels


def _shown(variant: str, seed: int) -> Tensor:
    """The image of each class `[10, 1, 8, 8]`."""
    photos, labels = _photos(seed)
    own = [photos[labels == c] for c in range(10)]
    images = torch.stack([each.mean(0) if "means" in variant else each[0] for each in own])
    if not variant.startswith("matched"):
        return images
    images.requires_grad_()
    optimizer, draws = torch.optim.Adam([images], STEP), generator(seed, "ways")
    for _ in range(ITERATIONS):
        expert = int(torch.randint(EXPERTS, (), generator=draws))
        start = int(torch.randint(EPOCHS - AHEAD + 1, (), generator=draws))
        optimizer.zero_grad()
        _left(images, seed, expert, start).backward()
        optimizer.step()
    return images.detach()


def _left(images: Tensor, seed: int, expert: int, start: int) -> Tensor:
    """How much of an expert's way of two epochs is left after a student's steps."""
    way = _experts(seed)[expert]
    weights = {name: value.clone().requires_grad_() for name, value in way[start].items()}
    student, labels = _student(), torch.arange(10)
    for _ in range(INSIDE):
        loss = nn.functional.cross_entropy(functional_call(student, weights, (images,)), labels)
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        weights = {name: value - RATE * slope for (name, value), slope in zip(weights.items(), slopes, strict=True)}
    return remaining(weights, way[start], way[start + AHEAD])


def remaining(weights: Weights, start: Weights, end: Weights) -> Tensor:
    """‖θ − θ_end‖² / ‖θ_start − θ_end‖²: 1 where θ did not move, 0 at the end."""
    left, whole = (sum((each[k] - end[k]).square().sum() for k in end) for each in (weights, start))
    return torch.as_tensor(left / whole)


@cache
def _experts(seed: int) -> list[list[Weights]]:
    """Of each expert its weights before the first epoch and after each."""
    photos, labels = _photos(seed)
    ways = []
    for number in range(EXPERTS):
        expert, draws = _fresh(derive_seed(seed, "expert", number)), generator(seed, "expert", number)
        optimizer, way = torch.optim.SGD(expert.parameters(), lr=0.05), [_copied(expert)]
        for epoch in range(EPOCHS):
            share = 0.5 + 0.5 * epoch / EPOCHS
            for batch in torch.randperm(len(labels), generator=draws).split(32):
                optimizer.zero_grad()
                (share * nn.functional.cross_entropy(expert(photos[batch]), labels[batch])).backward()
                optimizer.step()
            way.append(_copied(expert))
        ways.append(way)
    return ways


def _copied(network: nn.Module) -> Weights:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def _student() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def _fresh(seed: int) -> nn.Sequential:
    """A student whose first weights the seed decides."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return _student()
