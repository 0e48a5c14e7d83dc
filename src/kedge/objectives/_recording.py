"""What layers inside a model put out while an objective calls it, with its gradients."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from kedge.objectives._views import bare, through


@contextmanager
def recording(model: nn.Module, layers: Sequence[str], inputs: bool = False) -> Iterator[Mapping[str, Tensor]]:
    """Within, a mapping of each layer's name to what it put out when the model was last called, gradients intact.

    ::

        with recording(model, ["layer3"]) as features:
            logits = model(images)
        features["layer3"]  # [B, C, H, W]

    The model may be a view that an objective is called with, such as one with bound references, in train or eval mode.
    It is the output for the images that this view is called with: of the whole batch where several processes share one,
    without the outliers that an outer objective adds.

    Args:
        model: the model, or a view of it.
        layers: names as in `model.named_modules()`; of a kedge model also names inside its network.
        inputs: record what each layer reads, its first argument, in place of what it puts out.

    Raises:
        ValueError: for a name that is none, and for a compiled model, which calls its layers otherwise.
        TypeError: within, when a layer puts out something else than one tensor.
    """
    core = bare(model)
    if any(hasattr(each, "_orig_mod") for each in model.modules()):
        raise ValueError("what layers put out cannot be recorded in a compiled model: leave compile out")
    named = dict(core.named_modules())
    inside = named | {name.removeprefix("network."): m for name, m in named.items() if name.startswith("network.")}
    if unknown := [name for name in layers if not name or name not in inside]:
        listed = dict(named.get("network", core).named_modules())
        raise ValueError(f"the model has no layer {unknown[0]!r}; it has {', '.join(list(filter(None, listed))[:40])}")
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(layer: nn.Module, read: Any, output: Any) -> None:
            value, does = (read[0], "reads") if inputs else (output, "puts out")
            if not isinstance(value, Tensor):
                raise TypeError(f"layer {name} {does} a {type(value).__name__} and not one tensor: name another")
            outputs[name] = through(model, value)

        return hook

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(inside[name].register_forward_hook(keep(name)))
        yield outputs
