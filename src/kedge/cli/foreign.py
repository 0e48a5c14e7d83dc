"""Models that kedge did not train: published ones of timm, and Python callables of the user's own."""

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.named_model import TIMM, published, with_class_names
from kedge.own_code import NAME, imported, near_names, working_folder_first

if TYPE_CHECKING:
    from kedge.anchoring import PlainModel


def load_timm(word: str, weights: str | None = None, headless: bool = False) -> "PlainModel":
    """The published network that `timm/NAME` or `timm/NAME.TAG` names, behind its normalisation, in eval mode.

    `weights`: a file that holds them, in place of the library's; its head says how many classes there are. `headless`:
    whether a file without a head will do, as where the head is replaced anyway; the network then has a fresh one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: timm has no such network or weights, they have no classes, or the file is of another network.
        kedge.networks.PretrainedUnavailable: the weights exist but cannot be had here.
    """
    name = word.removeprefix(TIMM)
    _check_network(name)
    if weights is None:
        return published(word)
    model = with_class_names(_from_file(name, weights, headless))
    if not headless:
        named = "ImageNet's classes" if model.class_names else "the classes of the data, in its order"
        print(f"its {model.num_outputs} outputs have no names in the file: taken for {named}", file=sys.stderr)
    return model


def _from_file(name: str, weights: str, headless: bool) -> Any:
    from kedge.networks import create, heads
    from kedge.pretrained import load_weights, outputs_of_head

    word = f"{TIMM}{name.partition('.')[0]}"
    network = create(word, 2)
    classes = outputs_of_head(weights, network, heads(network))
    if classes is None and not headless:
        load_weights(network, weights, heads(network), keep_head=False)  # of another network it has another head, too
        raise ValueError(
            f"weights: {weights} has no head ({', '.join(heads(network))}), so it gives features and no "
            "classes: kedge train and kedge adapt give it one for your classes"
        )
    network = network if classes in (None, 2) else create(word, classes)
    fit = load_weights(network, weights, heads(network), keep_head=classes is not None)
    print(fit.line(Path(weights).name), file=sys.stderr)
    return network


def load_callable(word: str) -> Any:
    """What `package.module:attribute` names, or what `package.module:make()` returns: images in [0, 1] to logits.

    The module is imported, that is, run: the current directory comes first. A network of timm is put behind its
    normalisation, any other module or function is taken as it is; modules are put in eval mode.

    Raises:
        ValueError: no such module or attribute, or something that is not a model.
    """
    from torch import nn

    import kedge
    from kedge.anchoring.protocol import Model

    match = NAME.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is not of the form package.module:attribute or package.module:make()")
    working_folder_first()
    model = imported(word)
    if match["call"]:
        model = _called(word, model)
    elif inspect.isclass(model):
        raise ValueError(f"{word} is a class: {word}() makes a model of it, if it needs no arguments")
    elif inspect.isfunction(model) and not inspect.signature(model).parameters:
        raise ValueError(f"{word} takes no images; if it makes a model, write {word}()")
    if not callable(model):
        raise ValueError(f"{word} is a {type(model).__name__}, not a model: a model is called with images")
    if isinstance(model, nn.Module):
        if hasattr(model, "pretrained_cfg") and not isinstance(model, Model):
            model = kedge.plain(model)  # as timm made it: it expects normalised images
        model.eval()
    return model


def _called(word: str, make: Any) -> Any:
    if not callable(make):
        raise ValueError(f"{word} cannot be called: it is a {type(make).__name__}; leave out the ()")
    try:
        return make()
    except Exception as error:  # the user's code can raise anything
        raise ValueError(f"{word} failed: {type(error).__name__}: {error}") from error


def _check_network(name: str) -> None:
    """Raise ValueError, with near names, unless timm has the network and weights that `NAME` or `NAME.TAG` names."""
    import timm

    from kedge.networks import locate

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        raise ValueError(f"timm has no network {architecture!r}{near_names(architecture, timm.list_models())}")
    locate(f"{TIMM}{name}")
