"""Quantisation: an ONNX network with weights and activations of eight bits, smaller and mostly faster.

The convolutions are quantised statically: the ranges of their activations are measured on pictures. Weights have one
scale per channel. Rounding shifts the mean of what a layer gives; the layer's bias takes the shift back ("bias
correction", Nagel et al., "Data-Free Quantization through Weight Equalization and Bias Correction", 2019). Matrices of
other layers are only stored in eight bits.
"""

import math
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from imgclassify import backend
from imgclassify.serving.exported import PICTURES, PROBABILITIES, onnx_runtime

_QUANTISED = ["Conv", "Relu", "Clip", "Add", "MaxPool", "AveragePool"]  # operations; the others stay as they are
_FLOAT_SHARES = (0, 1 / 16, 1 / 3, 2 / 3)  # of the convolutions, the first ones, that may have to stay as they are
_CORRECTED_ON = 64  # pictures
_CHANGE = 0.002  # of a probability on average, that is small enough
_LARGE = 4096  # elements of a constant that is worth storing in fewer bits


def quantise(model, pictures: np.ndarray, others: np.ndarray):
    """A quantised copy of a network.

    The first convolutions, which have few weights, suffer most. More and more of them stay in float32, until
    probabilities change by at most 0.002 on average.

    Args:
        model: An ONNX network from prepared pictures to probabilities.
        pictures: Training pictures that the ranges are measured on, uint8 (N, H, W, 3).
        others: Further training pictures, on which the change is measured.
    """
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        whole = _preprocessed(model, Path(folder))
        (wanted,) = run(whole, [PROBABILITIES], others)
        convolutions = [node for node in whole.graph.node if node.op_type == "Conv"]
        best, least = model, np.inf
        for first in sorted({math.ceil(share * len(convolutions)) for share in _FLOAT_SHARES}):
            _static(Path(folder), pictures, _outside(whole.graph, convolutions[first:]))
            candidate = onnx.load(Path(folder) / "quantised.onnx")
            _correct_biases(whole, candidate, pictures[:_CORRECTED_ON])
            change = float(np.abs(run(candidate, [PROBABILITIES], others)[0] - wanted).mean())
            if change < least:
                best, least = candidate, change
            if least <= _CHANGE:
                break
    return best


def compact(model, *, exact: bool) -> None:
    """Store large constants of an ONNX network in fewer bits; they become float32 when the file is loaded.

    Those that float16 holds exactly are stored so. Unless `exact`, matrices have eight bits, with a scale per column.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph, ahead, stored = model.graph, [], []
    matrices = {name for node in graph.node if node.op_type in ("MatMul", "Gemm") for name in node.input}
    for constant in graph.initializer:
        values, name = numpy_helper.to_array(constant), constant.name
        if values.dtype != np.float32 or values.size < _LARGE:
            stored.append(constant)
        elif not exact and name in matrices and values.ndim == 2 and _is_even(values):
            scale = np.maximum(np.abs(values).max(axis=0), 1e-12) / np.float32(127)
            few = np.round(values / scale).astype(np.int8)
            stored += [numpy_helper.from_array(few, f"{name}:few"), numpy_helper.from_array(scale, f"{name}:scale")]
            ahead += [
                helper.make_node("Cast", [f"{name}:few"], [f"{name}:float"], to=onnx.TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}:float", f"{name}:scale"], [name]),
            ]
        elif np.array_equal(half := values.astype(np.float16), values):
            stored.append(numpy_helper.from_array(half, f"{name}:half"))
            ahead.append(helper.make_node("Cast", [f"{name}:half"], [name], to=onnx.TensorProto.FLOAT))
        else:
            stored.append(constant)
    nodes = [*ahead, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(stored)
    graph.node.extend(nodes)


def _is_even(values: np.ndarray) -> bool:
    """Whether no column of a matrix has so large an element that eight bits would lose the others."""
    return bool((np.abs(values).max(axis=0) <= 16 * np.sqrt(np.square(values).mean(axis=0))).all())


def run(model, outputs: list[str], pictures: np.ndarray) -> list[np.ndarray]:
    """What an ONNX network gives for pictures, also between its layers; of maps (N, C, H, W), the means (N, C)."""
    import onnx

    onnxruntime = onnx_runtime()

    shown, parts = onnx.ModelProto(), []
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for start in range(0, len(pictures), 8):
        given = session.run(None, {PICTURES: pictures[start : start + 8]})
        parts.append([each.mean(axis=(2, 3)) if each.ndim == 4 else each for each in given])
    return [np.concatenate(each) for each in zip(*parts, strict=True)]


def _preprocessed(model, folder: Path):
    """The network as the quantiser wants it: simplified, and with the shapes between its layers."""
    import onnx

    onnx.save(model, folder / "given.onnx")
    with backend.quiet():
        onnx_runtime()
        from onnxruntime.quantization.shape_inference import quant_pre_process

        quant_pre_process(folder / "given.onnx", folder / "whole.onnx", skip_symbolic_shape=True)
    return onnx.load(folder / "whole.onnx")


def _static(folder: Path, pictures: np.ndarray, kept: Iterable[str]) -> None:
    """Quantise whole.onnx of the folder to quantised.onnx, except these nodes."""
    with backend.quiet():
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            """Hands out one picture at a time."""

            def __init__(self):
                self._rows = iter(pictures)

            def get_next(self) -> dict[str, np.ndarray] | None:
                row = next(self._rows, None)
                return None if row is None else {PICTURES: row[np.newaxis]}

        quantize_static(
            folder / "whole.onnx",
            folder / "quantised.onnx",
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=_QUANTISED,
            nodes_to_exclude=list(kept),
        )


def _outside(graph, convolutions: list) -> set[str]:
    """Names of the nodes that stay in float32: those before the first of these convolutions, or after the last."""
    makers = {name: node for node in graph.node for name in node.output}

    def before(names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            node = makers.get(waiting.pop())
            if node is not None and node.name not in found:
                found.add(node.name)
                waiting += node.input
        return found

    ends = {name for node in convolutions for name in node.output}
    inside = before(ends) & before([PROBABILITIES])  # what only the detector looks at stays too
    inside |= {each.name for each in graph.node if each.op_type in ("Relu", "Clip") and set(each.input) & ends}
    start = before(convolutions[0].input) if convolutions else set()
    return {node.name for node in graph.node} - inside | start


def _correct_biases(whole, quantised, pictures: np.ndarray) -> None:
    """Move each quantised convolution's bias so that the means of what it gives are those of the whole network."""
    from onnx import numpy_helper

    graph = quantised.graph
    constants = {constant.name: constant for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    users = {name: node for node in graph.node for name in node.input}
    corrected = []
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        bias, rounding = makers.get(node.input[2]), users.get(node.output[0])
        if bias and rounding and (bias.op_type, rounding.op_type) == ("DequantizeLinear", "QuantizeLinear"):
            corrected.append((node.output[0], users[rounding.output[0]].output[0], bias.input[:2]))
    if not corrected:
        return
    means = [each.mean(axis=0) for each in run(whole, [each[0] for each in corrected], pictures)]
    for (_, rounded, (name, scale)), mean in zip(corrected, means, strict=True):
        shift = mean - run(quantised, [rounded], pictures)[0].mean(axis=0)
        steps = np.round(shift / numpy_helper.to_array(constants[scale]))
        moved = numpy_helper.to_array(constants[name]) + steps.astype(np.int32)
        constants[name].CopyFrom(numpy_helper.from_array(moved, name))
