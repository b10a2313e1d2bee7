"""A perceptron and its forward-mode derivative in one pass, written out by hand.

Mean flows need, at every training step, the output of a network with a graph and the derivative of
that output along one direction without one. `torch.func.jvp` gives both, at the price of a traced
tangent for every operation. For a plain SiLU perceptron the two share each matrix product (stacked
rows), the SiLU slope of the tangent is the one the backward pass needs anyway, and nothing of the
tangent has to be kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class DualPerceptron(torch.autograd.Function):
    """linear, SiLU, linear, SiLU, ..., linear on dual numbers.

    `apply(features, tangents, weight_1, bias_1, ..., weight_L, bias_L)` with features and tangents
    (n, inputs), weights (outputs, inputs) and biases (outputs,) returns the output (n, outputs),
    differentiable in features and parameters, and its derivative (n, outputs) along `tangents`,
    which carries no graph.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, tangents: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        weights, biases = parameters[0::2], parameters[1::2]
        n = len(features)
        stacked = torch.cat((features, tangents))
        inputs, slopes = [stacked[:n]], []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            stacked = stacked @ weight.T
            values, derivatives = stacked[:n], stacked[n:]
            values += bias
            gate = torch.sigmoid(values)
            values *= gate
            # silu'(a) = s + a s (1 - s) with s = sigmoid(a); `values` holds a s by now.
            slope = torch.addcmul(gate, values, 1.0 - gate)
            derivatives *= slope
            inputs.append(values)
            slopes.append(slope)
        stacked = stacked @ weights[-1].T
        output = stacked[:n] + biases[-1]
        derivative = stacked[n:]
        ctx.save_for_backward(*inputs, *slopes, *weights)
        ctx.layers = len(weights)
        ctx.mark_non_differentiable(derivative)
        return output, derivative

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        saved, layers = ctx.saved_tensors, ctx.layers
        inputs, slopes, weights = saved[:layers], saved[layers:-layers], saved[-layers:]
        grads: list[Tensor | None] = []
        for layer in reversed(range(layers)):
            grads += [grad.sum(0), grad.T @ inputs[layer]]
            if layer > 0:
                grad = (grad @ weights[layer]).mul_(slopes[layer - 1])
        first = grad @ weights[0] if ctx.needs_input_grad[0] else None
        return first, None, *reversed(grads)
