"""A model that changes with the images it answers: what it was, what it has become, and the way back."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from kedge import specs
from kedge.anchoring.budget import WHOLE
from kedge.anchoring.protocol import Model, as_model, independent
from kedge.checks import check_images
from kedge.test_time._base import Adapter
from kedge.test_time._brake import Brake, Measured, Order
from kedge.test_time._learned import Learned
from kedge.test_time._record import Record
from kedge.test_time._statistics import Switch, batch_norms, use_batch_statistics

A = TypeVar("A")


class Adapting(Model):
    """A classifier that adapts to the batches it is asked about, each answered before the step that it leads to.

    What it says depends on the order of the images and on how many come at a time. The model itself is only read: a
    copy adapts. An anchored model adapts with the references it is asked with, all of which count as a batch: B images
    with K references go through the network as B K at once, and a step keeps the activations of as many, so ask with
    fewer references or images where memory is short. Of an ensemble every member adapts, by the entropy of their mean.
    Not for several threads.

    Attributes:
        source: the model as it was.
        adapted: the copy.
        method: how it adapts.
        brake: what holds it, or None.
    """

    kind: ClassVar[str] = "adapting"
    adapts: ClassVar[bool] = True

    def __init__(self, model: Any, method: Adapter | str | dict[str, Any] = "tent", brake: Brake | None = None) -> None:
        """`method`: a name of this room, also `{name: {argument: value}}`.

        Raises:
            ValueError: for a model without batch-norm layers, or without scales and shifts where the method learns;
                for one that is no classifier; for a cascade; for a brake whose images are not the model's.
            TypeError: for what is no model.
        """
        super().__init__()
        self.source = as_model(model)
        if isinstance(self.source, Adapting):
            raise ValueError("this model adapts already: adapt the model inside it, .source")
        if self.source.task != "classification":
            raise ValueError(f"test-time adaptation is for classifiers, and the model is for {self.source.task}")
        if any(isinstance(part, Model) and part.kind == "cascade" for part in self.source.modules()):
            raise ValueError(_OF_SOME)
        self.method: Adapter = method if isinstance(method, Adapter) else specs.build("test_time", method)
        if not batch_norms(self.source):
            raise ValueError(_WITHOUT)
        self.adapted: Model = independent(self.source).eval().requires_grad_(False)
        for part in self.adapted.modules():  # members of an ensemble too
            if isinstance(part, Model):
                part.max_rows = WHOLE  # statistics of one pass of several would be those of a few images
        layers = batch_norms(self.adapted)
        self._learned = Learned(layers)
        if self.method.learns and not self._learned.weights:
            raise ValueError(
                "the batch-norm layers of the model have no scale and shift, which is what is to learn; "
                "batch_statistics needs none"
            )
        self._switch = Switch(self.method.prior)
        use_batch_statistics(layers, self._switch)
        self.input_shape, self.num_outputs = self.source.input_shape, self.source.num_outputs
        self.class_names, self.reject, self.steps = self.source.class_names, self.source.reject, self.source.steps
        self.ordered, self.unknown = self.source.ordered, self.source.unknown
        self.prototypes = self.source.prototypes
        self.of_members = self.source.of_members  # type: ignore[misc]
        self.brake = brake
        if brake is not None and self.input_shape is not None and brake.images.shape[1:] != self.input_shape:
            raise ValueError(
                f"the brake has images {list(brake.images.shape[1:])}, and the model takes {list(self.input_shape)}"
            )
        if brake is not None and self.num_outputs is not None and int(brake.labels.max()) >= self.num_outputs:
            raise ValueError(
                f"the brake has images of class {int(brake.labels.max())}, and the model {self.num_outputs} outputs"
            )
        self.reset()

    @property
    def network(self) -> Any:
        """The network of the model as it was."""
        return self.source.network

    @property
    def mean(self) -> Tensor:
        """What the model takes off images."""
        mean: Any = self.source.mean
        return mean

    def reset(self) -> None:
        """Weights, optimizer and brake as at first, to the bit: before another stream."""
        self._learned.restore(self._learned.first)
        self._optimizer = self.method.optimizer(self._learned.weights) if self.method.learns else None
        self._good = self._learned.first
        self._learns, self._switch.on = self.method.learns, True
        self._largest = 0
        self._costs: dict[int, float] = {}  # of batches by size, to powers of two
        self._baselines: dict[int, Measured] = {}  # of the first weights, by size
        self._order = None if self.brake is None else Order(self.brake.seed)
        self.record = Record()

    def stream(self) -> dict[str, Any]:
        """What happened since it was reset."""
        return asdict(self.record)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]` after the steps, as of `answers`."""
        return self.answers(images)[0]

    def answers(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None]:
        """Logits and uncertainty of the next batch of the stream."""
        return self._next(images, references, lambda model: model.answers(images, references))

    def predict(self, images: Tensor, references: Any = None, *, check: bool = True) -> Any:
        """As of the model, of the next batch of the stream."""
        own = {"check": check} | ({} if references is None else {"references": references})
        return self._next(images, references, lambda model: model.predict(images, **own))

    def outputs(
        self,
        images: Tensor,
        references: Any = None,
        *,
        features: bool = False,
        masked: bool = False,
        reverse: tuple[Tensor, Tensor] | None = None,
        members: bool = False,
        check: bool = True,
    ) -> Any:
        """As of the model, of the next batch of the stream."""
        if check:
            check_images(images)
        wants = {"features": features, "masked": masked, "reverse": reverse, "members": members, "check": False}
        return self._next(images, references, lambda model: model.outputs(images, references, **wants))

    def count(self, references: Any = None) -> int:
        """How many references every image meets."""
        return self.source.count(references)

    def for_attack(self, references: Any = None, prepare: Callable[[Tensor], Tensor] | None = None) -> nn.Module:
        """Raises ValueError: there is no function to attack."""
        raise ValueError(
            "a model that adapts while it predicts is no function of an image, so an attack has nothing to climb: "
            "attack the model without adaptation"
        )

    def check_foldable(self) -> None:
        """Raises ValueError: what adapts has to be asked through this object."""
        raise ValueError("a model that adapts while it predicts cannot be folded or exported: export the model itself")

    def fold(self, reference: int = 0) -> nn.Module:
        """Raises ValueError, see `check_foldable`."""
        self.check_foldable()
        raise AssertionError

    def state(self) -> dict[str, Any]:
        """Raises TypeError: what it has become is of one stream."""
        raise TypeError("a model that adapts while it predicts is not saved: save the model itself, and adapt anew")

    def steps_in_force(self) -> dict[str, dict[str, Any]]:
        """Those of the model."""
        return self.source.steps_in_force()

    def set_rule(self, coverage: float | None = None, references: Any = None) -> Any:
        """Raises ValueError: the threshold of prediction sets is of the answers before."""
        raise ValueError(
            "prediction sets promise a coverage for the answers of the model as it was, and it adapts while it "
            "predicts: leave one of the two out"
        )

    def methods(self) -> list[type]:
        """The classes of the model and of its adaptation."""
        return [*self.source.methods(), type(self.method)]

    def describe(self, references: Any = None) -> dict[str, Any]:
        """What results say of the model, and how it adapts."""
        name = type(self.method).__module__.rpartition(".")[2]
        how = {
            "method": name,
            **self.method.settings(),
            "brake": None if self.brake is None else self.brake.settings(),
        }
        return {**self.source.describe(references), "test_time": how}

    @torch.no_grad()
    def _next(self, images: Tensor, references: Any, ask: Callable[[Any], A]) -> A:
        if isinstance(references, str):
            raise ValueError(
                f"references {references!r} asks images about different references, which are then no batch: "
                "name a number of them with test-time adaptation"
            )
        if len(images) == 0:
            return ask(self.source)
        record = self.record
        record.images += len(images)
        if len(images) == 1 and self.method.prior == 0:
            if self._largest < 2:
                raise ValueError(
                    "one image has no statistics of a batch: ask about more at a time, 64 or more at best "
                    "(batch_size), or give the stored statistics a weight (prior)"
                )
            record.as_before += 1  # what is left over at the end of a set
            return ask(self.source)
        self._largest = max(self._largest, len(images))
        if self.brake is not None and self._switch.on:
            self._look(self.brake, images, references)
        small = self.brake is not None and self._switch.on and self._cost(self.brake, images, references)
        record.batches += 1
        if small or not self._switch.on:
            record.as_before += len(images)
            return ask(self.source)
        answer = ask(self.adapted)
        if self._learns:
            self._step(images, references)
        return answer

    def _cost(self, brake: Brake, images: Tensor, references: Any) -> bool:
        """Whether batches of this size are too small for statistics of their own."""
        size = 1 << (len(images).bit_length() - 1)  # sizes up to twice as large are taken for one
        if size not in self._costs:
            before, now = self._asked(self.source, references), self._asked(self.adapted, references)
            self._costs[size] = brake.costs(before, now, size, images)
            if (cost := self._costs[size]) > brake.statistics:
                why = f"statistics of {size} images cost {100 * cost:.1f} points of the accuracy on kept images"
                self.record.hold(why, f"the model as it was, for batches of {size} to {2 * size - 1}")
        return self._costs[size] > brake.statistics

    def _look(self, brake: Brake, images: Tensor, references: Any) -> None:
        """Before a batch: whether the stream is mixed, and, where it is time, how kept images fare."""
        record = self.record
        assert self._order is not None
        if not self._order.mixed(self.source.answers(images, references)[0].argmax(1)):
            self._switch.on = False
            why = "the images are not mixed: their classes are others than in the batches before"
            adapted = record.images - len(images) - record.as_before
            before = (
                f"; the {adapted} images before were answered as it adapted: ask about them again" if adapted else ""
            )
            record.hold(why, f"the model as it was{before}")
            return
        if not self._learns or record.batches % brake.every:
            return
        ask, size = self._asked(self.adapted, references), self._largest
        now = brake.measure(ask, size, images)
        if size not in self._baselines:
            with self._learned.as_first():
                self._baselines[size] = brake.measure(ask, size, images)
        record.looks.append({"batch": record.batches + 1, "accuracy": now.accuracy, "auroc": now.auroc})
        if (why_not := brake.fall(self._baselines[size], now)) is None:
            self._good = self._learned.snapshot()
            return
        self._learned.restore(self._good)
        self._learns = False
        record.hold(why_not, f"the weights of {brake.every} batches before, without further steps")

    def _asked(self, model: Model, references: Any) -> Callable[[Tensor], Tensor]:
        return lambda part: model.answers(part, references)[0]

    def _step(self, images: Tensor, references: Any) -> None:
        original = self._original(images, references)
        with self._learned.with_gradients():
            logits = self.adapted.for_attack(references)(images)
            chosen = self.method.chosen(logits.detach(), original)
            self.record.chosen += int(chosen.sum())
            if not bool(chosen.any()):
                return
            loss = self.method.loss(logits, chosen)
            if not bool(loss.isfinite()):
                return
            assert self._optimizer is not None
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            self.record.steps += 1

    def _original(self, images: Tensor, references: Any) -> Tensor | None:
        """What the model as it was says of images, with the statistics that the method asks for."""
        if self.method.original is None:
            return None
        if self.method.original == "stored":
            return self.source.answers(images, references)[0]
        # The function that a step climbs, the way it is computed there: to the bit before the first step. No weight
        # asks for a gradient here, so no activations are held.
        with self._learned.as_first(), torch.enable_grad():
            logits: Tensor = self.adapted.for_attack(references)(images)
        return logits


_OF_SOME = (
    "a cascade asks its large model about the images that are hard for the small one, and statistics of a batch would "
    "be of those alone, maybe of one: adapt one of its two models"
)
_WITHOUT = (
    "the model has no batch-norm layer that could adapt: layer norm and group norm look at each image alone, and in an "
    "exported file batch norm is a part of the other layers; adapt the run or model folder that it was exported from"
)
