"""Reads the trunk of our MobileNetV2 out of a quantised TensorFlow Lite file (ImageNet).

    python training/mobilenet_from_tflite.py MODEL.tflite out/mobilenet_v2.safetensors

Needs the package `tflite`. The file's convolutions carry their folded batch norm as a bias and
8-bit weights with a scale per output channel; the trunk gets them as float32 convolutions
followed by a batch norm that only adds the bias.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import safetensors.torch
import tflite
import torch
from torch import Tensor, nn

from kapture_ros.features.apgem_network import ApGemConfig, ApGemNet

CONVOLUTIONS = (tflite.BuiltinOperator.CONV_2D, tflite.BuiltinOperator.DEPTHWISE_CONV_2D)
TYPES = {tflite.TensorType.INT8: np.int8, tflite.TensorType.INT32: np.int32}


def dequantised(model: tflite.Model, index: int) -> np.ndarray:
    """A constant tensor as float32."""
    tensor = model.Subgraphs(0).Tensors(index)
    values = model.Buffers(tensor.Buffer()).DataAsNumpy().view(TYPES[tensor.Type()])
    values = values.reshape(tensor.ShapeAsNumpy()).astype(np.float64)
    quantisation = tensor.Quantization()
    scale, zero = quantisation.ScaleAsNumpy(), quantisation.ZeroPointAsNumpy()
    shape = [1] * values.ndim
    shape[quantisation.QuantizedDimension()] = len(scale)
    return ((values - zero.reshape(shape)) * scale.reshape(shape)).astype(np.float32)


def convolutions(model: tflite.Model) -> list[tuple[Tensor, Tensor]]:
    """Weights (out, in per group, 3, 3) and biases, in order."""
    graph = model.Subgraphs(0)
    found = []
    for number in range(graph.OperatorsLength()):
        operator = graph.Operators(number)
        code = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if code not in CONVOLUTIONS:
            continue
        weight, bias = (dequantised(model, operator.Inputs(i)) for i in (1, 2))
        depthwise = code == tflite.BuiltinOperator.DEPTHWISE_CONV_2D
        weight = weight.transpose((3, 0, 1, 2) if depthwise else (0, 3, 1, 2))
        found.append((torch.from_numpy(weight.copy()), torch.from_numpy(bias)))
    return found


def trunk_state(layers: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The state of ApGemNet's MobileNetV2 trunk with these layers."""
    trunk = ApGemNet(ApGemConfig(trunk="mobilenet_v2", linear=False)).trunk
    ours = [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    for conv, norm, (weight, bias) in zip(ours, norms, layers, strict=True):
        conv.weight.data.copy_(weight)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.data.fill_(1)
        norm.bias.data.copy_(bias)
    return {
        key: value.half() if value.is_floating_point() else value
        for key, value in trunk.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }


def main() -> None:
    model = tflite.Model.GetRootAsModel(Path(sys.argv[1]).read_bytes(), 0)
    safetensors.torch.save_file(trunk_state(convolutions(model)), sys.argv[2])


if __name__ == "__main__":
    main()
