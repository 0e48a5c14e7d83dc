"""A model as it is in eval mode, for those who only read: the model itself is not touched."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType
from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)
_COMMON = frozenset(vars(nn.Module()))
_LEADING = (list, tuple, dict, MethodType, FunctionType, functools.partial)
_flipping = threading.RLock()


class _TiedError(Exception):
    """Something in a module leads back to the module itself, where a twin cannot follow."""


@contextmanager
def in_eval(model: M) -> Iterator[M]:
    """`model` in eval mode for whoever only reads it: a twin that shares parameters, buffers and hooks.

    No mode of `model` changes, so that other threads may predict with it, in whatever mode it is, and train it. Made
    anew at each call, so that nothing can be missed that changed since, at 0.9 to 1.6 times the price of setting the
    modes and putting them back (ResNet-18: 0.6 against 0.4 ms, where one image of 64 px takes 18 ms; a lock round those
    would let one thread predict at a time). What a forward pass assigns to attributes of its module is lost with the
    twin; buffers, and objects that attributes hold, are the model's own.

    Modules that a twin cannot stand for (scripted ones, functions as attributes that hold their module) are put in
    eval mode and back, one thread at a time; such a model cannot be trained meanwhile.
    """
    try:
        twin = _twin(model)
    except _TiedError:
        with _flipping, evaluating(model):
            yield model
        return
    yield twin


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode, and every submodule back as it was afterwards; other threads see that."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _twin(model: M) -> M:
    modules = list(model.modules())
    twins: dict[int, Any] = {}
    for module in modules:
        if isinstance(module, torch.jit.ScriptModule) or "_orig_mod" in module._modules:  # scripted, compiled
            raise _TiedError
        twins[id(module)] = object.__new__(type(module))
    for module in modules:
        state = vars(module).copy()
        for name, value in vars(module).items():
            if name not in _COMMON and isinstance(value, _LEADING):
                state[name] = _followed(value, twins)
        state["_modules"] = {n: None if child is None else twins[id(child)] for n, child in module._modules.items()}
        state["training"] = False
        state["_compiled_call_impl"] = None  # it would run the module itself
        twins[id(module)].__dict__.update(state)
    return twins[id(model)]


def _followed(value: Any, twins: dict[int, Any]) -> Any:
    """`value` with twins in the place of modules; itself where it holds none."""
    if isinstance(value, nn.Module):
        return twins.get(id(value), value)
    if isinstance(value, MethodType):
        twin = twins.get(id(value.__self__))
        return value if twin is None else MethodType(value.__func__, twin)
    if not isinstance(value, _LEADING):
        return value
    if isinstance(value, functools.partial):
        inside = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, FunctionType):
        inside = [_content(cell) for cell in value.__closure__ or ()]
    else:
        held: Any = value.values() if isinstance(value, dict) else value
        inside = list(held)
    followed = [_followed(each, twins) for each in inside]
    if all(old is new for old, new in zip(inside, followed, strict=True)):
        return value
    if type(value) is list or type(value) is tuple:
        return type(value)(followed)
    if type(value) is dict:
        return dict(zip(value, followed, strict=True))
    raise _TiedError


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None
