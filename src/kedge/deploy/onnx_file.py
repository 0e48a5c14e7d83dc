"""An exported ONNX file, run with onnxruntime, as a model like any other."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kedge.anchoring import PlainModel, Prediction
from kedge.anchoring.outputs import Outputs
from kedge.anchoring.prediction import conclude, vetted
from kedge.anchoring.prototypes import reads_features
from kedge.checks import check_images
from kedge.deploy.card import KEY, read_card
from kedge.deploy.familiar import OUTPUT

PROVIDERS = ["CPUExecutionProvider"]
NETWORK = "network/"  # how the names of a network's operations and weights begin in a file that takes photos


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


class PhotoSession(OnnxSession):
    """Runs a file that takes photos: whole, or its network alone on images."""

    def __init__(self, session: Any, path: Path, card: Mapping[str, Any]) -> None:
        super().__init__(session, card["num_outputs"])
        self.path, self.whole, self.card = path, session, card
        self.session = None

    def both(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """As of a file that takes images, of the network between preparation and answer."""
        if self.session is None:
            self.session, self.input_name = _network_within(self.path, self.card), "images"
        return super().both(images)

    def answer(self, photo: Tensor) -> dict[str, Any]:
        """The outputs of the file by name, arrays as onnxruntime gives them, for a photo, uint8 `[H, W, 3]`."""
        names = [output.name for output in self.whole.get_outputs()]
        return dict(zip(names, self.whole.run(None, {"photo": photo.numpy()}), strict=True))


class OnnxModel(PlainModel):
    """An exported file with its class names, input shape and reject rule: `model(images)`, `model.predict(images)`.

    What `steps` the model had is done inside the file: `inside` holds their records, `steps` itself is empty.
    `precision` says how an 8-bit file was made and compared with the float one (`quantise`); None of a float file.
    `file` is where it was read from.
    """

    file: Path | None = None

    def __init__(self, session: OnnxSession, card: dict[str, Any]) -> None:
        super().__init__(
            session,
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
        self.card = card

    @torch.no_grad()
    def predict(self, images: Tensor, *, check: bool = True) -> Prediction:
        """As of a plain model; the familiarity is what the file says."""
        if check:
            check_images(images)
        session: Any = self.network
        logits, familiarity = session.both(self.normalise(images))
        prediction = replace(conclude(logits, None, self.task), familiarity=familiarity)
        return vetted(prediction) if check else prediction

    @torch.no_grad()
    def outputs(self, images: Tensor, references: Any = None, *, check: bool = True, **wants: Any) -> Outputs:
        """The logits, and the familiarity where the file gives one: nothing else that is wanted is in a file."""
        if check:
            check_images(images)
        prediction = self.predict(images, check=False)
        return Outputs(prediction.logits, familiarity=prediction.familiarity)

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


class PhotoModel(OnnxModel):
    """A file that takes photos. Images `[B, C, H, W]` go to its network alone, photos through the whole file."""

    takes_photos: ClassVar[bool] = True
    network: PhotoSession

    def answer(self, photo: Tensor) -> dict[str, Any]:
        """What the file says of a photo, uint8 `[H, W, 3]`, RGB, upright: its outputs by name."""
        return self.network.answer(photo)

    def predict_photos(self, photos: Sequence[Tensor]) -> Prediction:
        """The prediction for B photos, uint8 `[H, W, 3]` each of its own size, from the logits of the file."""
        said = [self.answer(photo) for photo in photos]
        logits = torch.cat([torch.from_numpy(each["logits"]) for each in said])
        familiarity = None
        if reads_features(self.unknown):
            familiarity = torch.cat([torch.from_numpy(each["score"]) for each in said])
        return replace(conclude(logits, None, self.task), familiarity=familiarity)


def weights_beside(path: Path) -> Path:
    """The file in which a large ONNX file keeps its weights, and by whose name it asks for them; few have one."""
    return path.with_name(f"{path.name}.data")


def load_onnx(path: str | os.PathLike[str]) -> OnnxModel:
    """Open a file written by `kedge.deploy.export(..., to="onnx")` or `export_photo`.

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
            "running an ONNX file needs onnxruntime, not installed here: pip install onnx onnxruntime onnxscript"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=PROVIDERS)
    except Exception as error:  # onnxruntime raises its own classes, which share no base
        weights = weights_beside(path)
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
    if stated.get("takes") == "photo":
        _check_photo_graph(session, stated, path)
        return PhotoModel(PhotoSession(session, path, stated), stated)
    _check_graph(session, stated, path)
    model = OnnxModel(OnnxSession(session, stated["num_outputs"]), stated)
    model.file = path
    return model


def _network_within(path: Path, card: Mapping[str, Any]) -> Any:
    """A session of the part of a file that takes photos which goes from images to logits, and to their familiarity."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            f"the network of {path.name}, which takes photos, is taken out of the file with onnx, not installed here: "
            "pip install onnx onnxruntime onnxscript"
        ) from error
    model, one = onnx.load(str(path), load_external_data=False), onnx.TensorProto.FLOAT
    whole = onnx.GraphProto()
    whole.CopyFrom(model.graph)
    for field in ("node", "initializer", "input", "output"):
        model.graph.ClearField(field)
    model.graph.node.extend(each for each in whole.node if each.name.startswith(NETWORK))
    model.graph.initializer.extend(each for each in whole.initializer if each.name.startswith(NETWORK))
    model.graph.input.append(onnx.helper.make_tensor_value_info("images", one, [None, *card["input_shape"]]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", one, [None, card["num_outputs"]]))
    if reads_features(card.get("unknown")):
        model.graph.output.append(onnx.helper.make_tensor_value_info(OUTPUT, one, [None]))
    onnxruntime = _import_onnxruntime()
    options = onnxruntime.SessionOptions()
    if any(each.external_data for each in model.graph.initializer):
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=PROVIDERS)


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


def _check_photo_graph(session: Any, stated: dict[str, Any], path: Path) -> None:
    """Raise ValueError unless a file takes a photo and gives logits and an answer, as its card says."""
    inputs = [(node.name, node.type, node.shape[2:]) for node in session.get_inputs()]
    outputs = {node.name: (node.type, node.shape) for node in session.get_outputs()}
    logits = ("tensor(float)", [1, stated["num_outputs"]])
    needed = {"answer", "score"} if stated.get("unknown") else {"answer"}
    if inputs != [("photo", "tensor(uint8)", [3])] or outputs.get("logits") != logits or not needed <= outputs.keys():
        raise ValueError(
            f"{path} says of itself that it takes a photo and answers with one of {stated['num_outputs']} classes, but "
            f"takes {inputs} and returns {outputs}: it was changed; export the model again"
        )
