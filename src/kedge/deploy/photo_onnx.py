"""An exported ONNX file once more, with the preparation of photos before its network and the answer after it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kedge.deploy.answering import Answering
from kedge.deploy.card import KEY, photo_card
from kedge.deploy.familiar import OUTPUT
from kedge.deploy.onnx_file import NETWORK, silence
from kedge.deploy.photo_graph import view_graph

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def write_with_photo_input(network: Path, card: dict[str, Any], path: Path) -> None:
    """Write the file at `network`, images to logits and familiarity, as one that takes a photo; its card is `card`.

    The weights of a large file stay in the file beside it, which the new one then names too.
    """
    silence()
    import onnx

    answering = Answering(card)
    middle = onnx.load(str(network), load_external_data=False)
    opset = next(each.version for each in middle.opset_import if each.domain in ("", "ai.onnx"))
    first, last = view_graph(tuple(card["input_shape"])), _answer_model(answering, opset)
    graph = _joined([first, middle, last])
    _name_the_answer(graph, answering)
    whole = onnx.helper.make_model(
        graph,
        ir_version=middle.ir_version,
        opset_imports=[
            *middle.opset_import,
            *(each for each in last.opset_import if each.domain not in _domains(middle)),
        ],
        functions=middle.functions,
        producer_name=middle.producer_name,
    )
    whole.metadata_props.add(key=KEY, value=json.dumps(photo_card(card, answering), ensure_ascii=False))
    onnx.save(whole, str(path))


def _domains(model: "ModelProto") -> set[str]:
    return {each.domain for each in model.opset_import}


def _answer_model(answering: Answering, opset: int) -> "ModelProto":
    """Logits `[1, C]`, familiarity where it is asked for, and thresholds to the answer, as operations of this opset."""
    from onnx import inliner

    inputs = {"logits": torch.zeros(1, len(answering.answers) - 2)}
    inputs |= {OUTPUT: torch.zeros(1)} if answering.familiar else {}
    inputs |= answering.defaults()
    program = torch.onnx.export(
        answering.eval(), tuple(inputs.values()), dynamo=True, opset_version=opset,
        input_names=list(inputs), output_names=answering.outputs, verbose=False,
    )  # fmt: skip
    assert program is not None  # only a call with a file name returns None
    return inliner.inline_local_functions(program.model_proto)


def _joined(models: "list[ModelProto]") -> "GraphProto":
    """One graph of the nodes of several, from `photo` to the outputs of the last; they share `images` and `logits`."""
    from onnx import helper

    nodes: list[Any] = []
    initial: list[Any] = []
    for part, model in zip(("photo/", NETWORK, "answer/"), models, strict=True):
        graph = model.graph
        _rename(graph, part, {"", *(each.name for each in [*graph.input, *graph.output])})
        nodes += graph.node
        initial += graph.initializer
    return helper.make_graph(
        nodes, "photo_to_answer", models[0].graph.input, models[-1].graph.output, initializer=initial
    )


def _rename(graph: "GraphProto", part: str, shared: set[str]) -> None:
    """Let names in a graph, and in those within its operations, begin with `part`, but for those that are shared."""
    for number, node in enumerate(graph.node):
        node.name = f"{part}{node.name or number}"
        node.input[:] = [each if each in shared else part + each for each in node.input]
        node.output[:] = [each if each in shared else part + each for each in node.output]
        del node.metadata_props[:]  # stack traces, with the paths of this machine
        node.doc_string = ""
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                inner = attribute.g
                for value in [*inner.input, *inner.output]:
                    value.name = part + value.name
                del inner.value_info[:]
                _rename(inner, part, shared)
    for tensor in graph.initializer:
        tensor.name = part + tensor.name


def _name_the_answer(graph: "GraphProto", answering: Answering) -> None:
    """Turn the place of the answer into its words, and give the thresholds their defaults."""
    from onnx import TensorProto, helper, numpy_helper

    words = np.array(answering.answers, dtype=object)
    graph.initializer.append(numpy_helper.from_array(words, "answers"))
    graph.node.append(helper.make_node("Gather", ["answers", "place"], ["answer"], name="answer"))
    outputs = [each for each in graph.output if each.name != "place"]
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("answer", TensorProto.STRING, [1]))
    graph.output.extend(outputs)
    classes = len(answering.answers) - 2
    graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes]))
    for name, value in answering.defaults().items():
        # An initializer that is an input too is a default: whoever runs the file may leave the input out.
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
        graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
