"""An exported ONNX file, run with onnxruntime, as a model like any other."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import PlainModel, Prediction
from kedge.anchoring.prediction import conclude, vetted
from kedge.anchoring.prototypes import reads_features
from kedge.checks import check_images
from kedge.deploy.card import KEY, read_card
from kedge.deploy.familiar import OUTPUT


class OnnxSession(nn.Module):
    """Runs an onnxruntime session on the CPU; the inputs' device gets the outputs back."""

    def __init__(self, session: Any, num_outputs: int) -> None:
        super().__init__()
        self.session = session
        self.input_name = session.get_inputs()[0].name
        self.num_outputs = num_outputs

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]` of images `[B, C, H, W]` in [0, 1]; without gradients."""
        return self.both(images)[0]

    def both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits `[B, C]`, and how familiar the images are `[B]` where the file says so."""
        logits, *more = self.session.run(None, {self.input_name: images.detach().float().cpu().numpy()})
        if logits.shape != (len(images), self.num_outputs):
            raise ValueError(
                f"the file gives {list(logits.shape)} for {len(images)} images, and says of itself that it has "
                f"{self.num_outputs} outputs: it was changed; export the model again"
            )
        return torch.from_numpy(logits).to(images.device), torch.from_numpy(more[0]) if more else None


class OnnxModel(PlainModel):
    """An exported file with its class names, input shape and reject rule: `model(images)`, `model.predict(images)`.

    What `steps` the model had is done inside the file: `inside` holds their records, `steps` itself is empty.
    `precision` says how an 8-bit file was made and compared with the float one (`quantise`); None of a float file.
    """

    def __init__(self, session: Any, card: dict[str, Any]) -> None:
        super().__init__(
            OnnxSession(session, card["num_outputs"]),
            mean=torch.zeros(1),  # the file normalises inside
            std=torch.ones(1),
            input_shape=card["input_shape"],
            num_outputs=card["num_outputs"],
            task=card["task"],
        )
        self.class_names, self.ordered = card["class_names"], bool(card.get("ordered"))
        self.reject, self.unknown = card["reject"], card.get("unknown")
        self.inside: dict[str, Any] = card.get("steps") or {}
        self.precision: dict[str, Any] | None = card.get("precision")

    @torch.no_grad()
    def predict(self, images: Tensor, *, check: bool = True) -> Prediction:
        """As of a plain model; the familiarity is what the file says."""
        if check:
            check_images(images)
        session: Any = self.network
        logits, familiarity = session.both(self.normalise(images))
        prediction = replace(conclude(logits, None, self.task), familiarity=familiarity)
        return vetted(prediction) if check else prediction

    def steps_in_force(self) -> dict[str, dict[str, Any]]:
        """The steps that the file does."""
        return self.inside

    def describe_steps(self) -> list[str]:
        """The steps that the file does, and whether its numbers are of 8 bits."""
        return [*super().describe_steps(), *(["8-bit weights and activations"] if self.precision else [])]

    def check_foldable(self) -> None:
        """Raise ValueError: what was exported is folded already."""
        raise ValueError(
            "this model is an exported file already, and folded already; export from the run or model folder that it "
            "came from"
        )

    def fold(self, reference: int = 0) -> nn.Module:
        """Raise ValueError, as `check_foldable`."""
        self.check_foldable()
        return super().fold(reference)

    def bare(self) -> nn.Module:
        """Raise ValueError: the weights are in the file."""
        raise ValueError("this model is an exported file, of which there is no network to go on with")

    def state(self) -> dict[str, Any]:
        """Raise TypeError: the weights are in the file."""
        raise TypeError("this model is an exported file, whose weights kedge does not read: copy the file")


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Open a file written by `kedge.deploy.export(..., to="onnx")`.

    Raises:
        FileNotFoundError: if there is no such file.
        ImportError: if onnxruntime is not installed.
        ValueError: if it is not an ONNX file, or not one that kedge exported.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    try:
        onnxruntime = _import_onnxruntime()
    except ImportError as error:
        raise ImportError(
            "running an ONNX file needs onnxruntime, not installed here: pip install 'kedge[export]'"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own classes, which share no base
        weights = path.with_name(f"{path.name}.data")
        if weights.name in str(error) and not weights.is_file():
            raise FileNotFoundError(f"{path} keeps its weights in {weights.name}, which is not beside it") from error
        raise ValueError(f"{path} is not an ONNX file that onnxruntime can run: {error}") from error
    card = session.get_modelmeta().custom_metadata_map.get(KEY)
    if card is None:
        raise ValueError(
            f"{path} does not say what it takes and returns: it was not written by kedge export. "
            "Run it with onnxruntime itself"
        )
    stated = read_card(card, str(path))
    _check_graph(session, stated, path)
    return OnnxModel(session, stated)


def _import_onnxruntime() -> Any:
    """The library, which else writes an identifier of this machine below the home folder as soon as it is imported."""
    silence()
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # where somebody else imported it before
    onnxruntime.set_default_logger_severity(3)  # errors only: its warnings are about the machine
    return onnxruntime


def silence() -> None:
    """Keep onnxruntime, if it is imported from now on, from reporting to its makers and from taking notes for that."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def _check_graph(session: Any, stated: dict[str, Any], path: Path) -> None:
    """Raise ValueError unless the network in the file takes and returns what the card says, as far as it tells."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    familiar = [each.name for each in outputs[1:]] == [OUTPUT]
    if len(inputs) != 1 or len(outputs) != 1 + familiar:
        raise ValueError(f"{path} has {len(inputs)} inputs and {len(outputs)} outputs, not one of each: it was changed")
    if reads_features(stated.get("unknown")) and not familiar:
        raise ValueError(f"{path} has no output {OUTPUT}, by which its rule for unknown goes: it was changed")
    for what, node, expected in (
        ("takes", inputs[0], stated["input_shape"]),
        ("returns", outputs[0], [stated["num_outputs"]]),
    ):
        shape = node.shape[1:]
        same = len(shape) == len(expected) and all(
            n == m for n, m in zip(shape, expected, strict=True) if isinstance(n, int)
        )
        if node.type != "tensor(float)" or not same:
            raise ValueError(
                f"{path} {what} {node.type} {node.shape}, but says of itself {expected} for each image: it was "
                "changed; export the model again"
            )
