"""An exported model written by hand, without TensorFlow: it says whether a picture is red, green or blue."""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from imgclassify.serving.exported import FAMILIARITY, PICTURES, PROBABILITIES, About

ABOUT = About(
    "colours.keras", ("red", "green", "blue"), (32, 32, 3), 1.0, 0.05, "made-up colours", "Right.", None, "hand"
)


def write_colours(path: Path) -> Path:
    """Its probabilities are the softmax of a tenth of the mean of each colour; its familiarity is the highest one."""
    nodes = [
        helper.make_node("Cast", [PICTURES], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("Mul", ["means", "tenth"], ["logits"]),
        helper.make_node("Softmax", ["logits"], [PROBABILITIES], axis=1),
        helper.make_node("ReduceMax", [PROBABILITIES], [FAMILIARITY], axes=[1], keepdims=0),
    ]
    value = helper.make_tensor_value_info
    given = [value(PICTURES, TensorProto.UINT8, ["N", 32, 32, 3])]
    found = [value(PROBABILITIES, TensorProto.FLOAT, ["N", 3]), value(FAMILIARITY, TensorProto.FLOAT, ["N"])]
    tenth = helper.make_tensor("tenth", TensorProto.FLOAT, [], [0.1])
    graph = helper.make_graph(nodes, "colours", given, found, [tenth])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, ABOUT.properties())
    onnx.save(model, path)
    return path
