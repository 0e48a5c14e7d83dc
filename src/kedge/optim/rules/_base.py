"""What the rules of the room share."""

from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

__all__ = ["Wrapper"]


class Wrapper(Optimizer):
    """An optimizer round another one: it changes what `inner` gets to see, and has its groups, state and defaults.

    A subclass has `step(closure)`. Checkpoints are those of the innermost optimizer, schedulers act on its groups.

    Attributes:
        inner: the optimizer that is wrapped.
        passes: how often a step calls its closure, which computes the loss and its gradients.
        reads_outputs: whether it looks at what the model puts out, which a compiled model does not show.
    """

    inner: Optimizer
    passes = 1
    reads_outputs = False

    def __init__(self, inner: Optimizer) -> None:
        self.__setstate__({"inner": inner})

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner, **{k: v for k, v in vars(self).items() if not k.startswith("_") and k != "step"}}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Those of the optimizer inside."""
        return self.inner.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """That of the optimizer inside."""
        return self.inner.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """Those of the optimizer inside."""
        return self.inner.defaults

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer inside."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Give the optimizer inside its state back."""
        self.inner.load_state_dict(state_dict)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Let the optimizer inside train more parameters."""
        self.inner.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self.inner.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights; `closure` computes the loss and its gradients, and gives the loss."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"
