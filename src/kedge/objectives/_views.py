"""Views of a model: what objectives hand inward in its place, and how to see through them."""

from typing import Any

from torch import Tensor, nn


class View(nn.Module):
    """A model as an objective hands it on, in the mode that it is in: a module with the same outputs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = model.training

    @property
    def num_outputs(self) -> int:
        """The number of outputs of the model, where it says it."""
        if (count := stated_outputs(self.model)) is None:
            raise AttributeError(f"{type(bare(self)).__name__} does not say how many outputs it has")
        return count

    def forward(self, images: Tensor, **bound: Tensor | None) -> Tensor:
        """Logits `[B, C]` of the model; what is `bound` (references, mask) is handed on."""
        logits: Tensor = self.model(images, **bound)
        return logits

    def rows_of(self, rows: Tensor) -> Tensor:
        """Of what a layer inside put out, `[N, ...]`, the rows of the images that this view was called with."""
        return rows

    def around(self, other: nn.Module) -> nn.Module:
        """`other` as this view, and those inside of it, would show it."""
        return viewed_as(self.model, other)


class BoundReferences(View):
    """A view of an anchored model with references, mask and slot fixed, in train and in eval mode.

    `unlabelled` `[B]` bool says which images have the uniform target in place of their own; None: none.

    An inner objective sees an ordinary classifier; an attack inside it faces the references of the training step
    instead of fresh ones at each of its steps, which would be a randomised defence.
    """

    def __init__(
        self,
        model: nn.Module,
        references: Tensor,
        mask: Tensor | None,
        slot: Tensor | None,
        unlabelled: Tensor | None = None,
    ) -> None:
        super().__init__(model)
        self.references = references
        self.mask = mask
        self.slot = slot
        self.unlabelled = unlabelled

    def forward(self, images: Tensor, **bound: Tensor | None) -> Tensor:
        """Logits `[B, C]` with the references bound, which are in the order of the images they were drawn for.

        `images`: these, or several times as many: row i of each such batch has the reference and the mask of row i.
        """
        own = {"references": self.references, "mask": self.mask, "slot": self.slot}
        return super().forward(images, **repeated(own, len(images)))

    def around(self, other: nn.Module) -> nn.Module:
        """`other` with the same references and mask."""
        return BoundReferences(super().around(other), self.references, self.mask, self.slot, self.unlabelled)


class Recorded(View):
    """A view of a model that keeps the logits of its last call, for a wrapper to use what its inner objective made."""

    logits: Tensor

    def forward(self, images: Tensor, **bound: Tensor | None) -> Tensor:
        """Logits `[B, C]`, kept in `logits`."""
        self.logits = super().forward(images, **bound)
        return self.logits


class Unlabelled(View):
    """A view of a model that says which images of a step `[B]` bool have no label of their own.

    Losses with class weights ask for it, see `kedge.objectives.image_weights`.
    """

    def __init__(self, model: nn.Module, unlabelled: Tensor) -> None:
        super().__init__(model)
        self.unlabelled = unlabelled


def viewed_as(view: nn.Module, model: nn.Module) -> nn.Module:
    """`model` with the references and the mask that `view` binds, and its share of the batch."""
    return view.around(model) if isinstance(view, View) else model


def with_references(model: nn.Module, images: Tensor) -> nn.Module:
    """`model` with references of `images` bound, where it would draw new ones at each call in training mode.

    For objectives that call it with several batches, row by row of one kind: they share a reference, and none comes
    from elsewhere.
    """
    fixed = any(isinstance(each, BoundReferences) for each in model.modules())
    draw = getattr(bare(model), "draw_references", None) if model.training and len(images) > 1 and not fixed else None
    return model if draw is None else BoundReferences(model, draw(images), None, None)


def through(model: nn.Module, rows: Tensor) -> Tensor:
    """What a layer inside of a model or a view put out, for the images that the view was called with."""
    if isinstance(model, View):
        return model.rows_of(through(model.model, rows))
    inner = unwrapped(model)
    return rows if inner is model else through(inner, rows)


def bare(model: nn.Module) -> nn.Module:
    """The model inside views of it, `torch.compile` and data-parallel wrappers."""
    model = unwrapped(model)
    while isinstance(model, View):
        model = unwrapped(model.model)
    return model


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and data-parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def num_outputs(model: nn.Module) -> int:
    """How many outputs `model` says it has (`num_outputs`, or `num_classes` as in timm); the model may be wrapped."""
    for name in ("num_outputs", "num_classes"):
        count = getattr(unwrapped(model), name, None)
        if isinstance(count, int):
            return count
    raise ValueError(f"{type(model).__name__} does not say how many outputs it has: set model.num_outputs")


def stated_outputs(model: nn.Module) -> int | None:
    """As `num_outputs`; None where neither the model nor the one that it is a view of says it."""
    try:
        return num_outputs(model)
    except ValueError:
        return None


def without_labels(model: Any) -> Tensor | None:
    """Which images of a step have the uniform target in place of their own, `[B]` bool; None where all have theirs.

    Asked of the model that an objective is called with: a view of it says so in `unlabelled`, whatever views are
    round that one.
    """
    views = model.modules() if isinstance(model, nn.Module) else ()
    return next((mask for view in views if (mask := vars(view).get("unlabelled")) is not None), None)


def repeated(bound: dict[str, Tensor | None], count: int) -> dict[str, Tensor | None]:
    """What is bound to the rows of a batch, for `count` rows that are this batch several times over."""
    return {name: value if value is None else _rows(value, count) for name, value in bound.items()}


def _rows(value: Tensor, count: int) -> Tensor:
    times, rest = divmod(count, max(1, len(value)))
    if times < 2 or rest or (len(value) == 1 and value.ndim > 1):  # what does not fit, the model says
        return value
    return value.repeat(times, *[1] * (value.ndim - 1))
