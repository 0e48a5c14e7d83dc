"""`predict` reads a model that other threads predict with and train: nothing of it changes, every answer is right."""

import copy
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn

import kedge
from kedge.anchoring.twin import in_eval


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def model_of(kind):
    model = kedge.plain(network(), example=(3, 8, 8)) if kind == "plain" else kedge.anchor(network(), example=(3, 8, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for norm in (model.network[1], model.network[5]):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2)
    if kind != "plain":
        model.references, model.residuals = torch.rand(5, 3, 8, 8), torch.rand(6, 3, 8, 8) - 0.5
    return model


def asked(model, how):
    return model.predict if how is None else partial(model.predict, references=how)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}, [m.training for m in model.modules()]


KINDS = [("plain", None), ("anchored", 1), ("anchored", 5), ("anchored", "blt"), ("anchored", "adaptive")]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(("kind", "how"), KINDS)
def test_threads_get_the_answers_of_one_eval_model_and_change_nothing(kind, how, training):
    model = model_of(kind).train(training)
    alone = copy.deepcopy(model).eval()
    batches = torch.rand(6, 4, 3, 8, 8)
    expected = [asked(alone, how)(images).probs for images in batches]
    values, modes = state(model)
    start = threading.Barrier(3)

    def answers(thread):
        start.wait()
        return [
            torch.equal(asked(model, how)(batches[i % 6]).probs, expected[i % 6]) for i in range(thread, thread + 50)
        ]

    with ThreadPoolExecutor(3) as pool:
        assert all(all(right) for right in pool.map(answers, range(3)))
    after, modes_after = state(model)
    assert all(torch.equal(after[name], value) for name, value in values.items())
    assert modes_after == modes


def test_predictions_leave_a_training_in_another_thread_alone():
    model, images, labels = model_of("anchored").train(), torch.rand(16, 3, 8, 8), torch.arange(16) % 4
    for dropout in model.modules():
        if isinstance(dropout, nn.Dropout):
            dropout.p = 0.0
    alone = copy.deepcopy(model)

    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        generator = torch.Generator().manual_seed(1)
        for _ in range(40):
            references = images[torch.randperm(16, generator=generator)]
            nn.functional.cross_entropy(model(images, references), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

    train(alone)
    over = threading.Event()

    def ask():
        while not over.is_set():
            model.predict(images[:2])

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        train(model)
        over.set()
        assert [future.result() for future in asking] == [None, None]
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert torch.equal(model.predict(images).probs, alone.predict(images).probs)


class Caller:
    def __init__(self, module):
        self.module = module

    def __call__(self, x):
        return self.module(x)


class Tied(nn.Module):
    """Reaches its layers by ways other than `self._modules`."""

    def __init__(self, how):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        if how == "list":
            self.steps = self.same = [self.norm]
        elif how == "method":
            self.step = self.apply_norm
        elif how == "partial":
            self.step = partial(Tied.apply_norm, self)
        elif how == "closure":
            self.step = lambda x: self.apply_norm(x)
        elif how == "dict":
            self.table = {"a": (self.norm,)}
        elif how == "object":
            self.step = Caller(self.norm)
        elif how == "weak":
            self.step = weakref.ref(self.norm)
        elif how == "hook":
            norm = self.norm
            self.idle = nn.Identity()
            self.idle.register_forward_hook(lambda module, inputs, output: norm(output))
        self.how = how

    def apply_norm(self, x):
        return self.norm(x)

    def forward(self, x):
        if self.how == "list":
            return (self.steps if self.steps[0] is self.same[0] else [])[0](x)
        if self.how == "hook":
            return self.idle(x)
        if self.how == "weak":
            return self.step()(x)
        return self.table["a"][0](x) if self.how == "dict" else self.step(x)


WAYS = ["list", "dict", "method", "partial", "closure", "object", "weak", "hook", "script", "compiled"]


@pytest.mark.parametrize("how", WAYS)
def test_a_network_that_holds_its_layers_otherwise_is_in_eval_mode_too(how):
    x = torch.rand(4, 3)
    if how == "script":
        net = torch.jit.script(nn.BatchNorm1d(3))
    elif how == "compiled":
        net = torch.compile(nn.BatchNorm1d(3), backend="eager")
    else:
        net = Tied(how)
    net.train()
    expected = x / (1 + 1e-5) ** 0.5  # fresh statistics: mean 0, variance 1
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad(), in_eval(net) as quiet:
        torch.testing.assert_close(quiet(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training


def test_the_modes_come_back_after_an_error_and_hooks_are_asked():
    model, seen = model_of("plain").train(), []
    model.network[4].register_forward_hook(lambda module, *_: seen.append(module.training))
    model.predict(torch.rand(2, 3, 8, 8))
    assert seen == [False]
    with pytest.raises(ValueError, match="shape"):
        model.predict(torch.rand(2, 1, 8, 8))
    assert all(module.training for module in model.modules())


def test_threads_collect_the_features_of_their_own_images():
    from kedge.scores import outputs_of

    model = model_of("anchored").train()
    alone, batches = copy.deepcopy(model).eval(), torch.rand(6, 4, 3, 8, 8)
    expected = [outputs_of(alone, images, 5, features=True).features for images in batches]
    values, modes = state(model)

    def right(thread):
        collected = [outputs_of(model, batches[i % 6], 5, features=True).features for i in range(thread, thread + 20)]
        return all(torch.equal(one, expected[(thread + i) % 6]) for i, one in enumerate(collected))

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(right, range(3)))
    after, modes_after = state(model)
    assert all(torch.equal(after[name], value) for name, value in values.items())
    assert modes_after == modes


class Kept(nn.Module):
    """Its head reads what a hook, a method of it, saw."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.BatchNorm1d(8)), nn.Linear(8, 3)
        self.body.register_forward_hook(self.keep)
        self.features = torch.zeros(2, 8)

    def keep(self, module, inputs, output):
        self.features = output.detach()

    def forward(self, x):
        self.body(x)
        return self.head(self.features)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_what_a_hook_hands_on_is_of_the_same_images(training):
    torch.manual_seed(0)
    net, images = Kept(), torch.rand(6, 2, 3, 4, 4)
    expected = [copy.deepcopy(net).eval().body(x) @ net.head.weight.T + net.head.bias for x in images]
    net.train(training)

    def right(thread):
        for i in range(30):
            with torch.no_grad(), in_eval(net) as quiet:
                torch.testing.assert_close(quiet(images[(i + thread) % 6]), expected[(i + thread) % 6])
        return True

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(right, range(3)))
    assert net.training is training


class Switched(nn.Module):
    """Has another scale in eval mode, as networks that merge weights in `train` have other weights."""

    scale = 1.0

    def train(self, mode=True):
        self.scale = 1.0 if mode else 3.0
        return super().train(mode)

    def forward(self, x):
        return self.scale * x


def test_a_network_that_changes_when_its_mode_does_is_as_in_eval_mode():
    with in_eval(Switched().train()) as quiet:
        assert quiet(torch.ones(1)) == 3
