"""The built-in layers, under PyTorch's names and with its layouts, state names and default initialisers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from ...ir.errors import ArgumentTypeError, ArgumentValueError, ShapeError
from ...ir.record import here
from ...ir.types import normalize_axis
from .. import functional as ops
from ..arguments import checked
from ..convert import as_value
from ..functional.apply import located_errors
from . import init
from .module import Buffer, Module, Parameter


class Sequential(Module):
    """Modules applied one after the other; their names are ``0``, ``1``, ..."""

    @checked
    def __init__(self, *modules: Module) -> None:
        for n, module in enumerate(modules):
            if not callable(module):
                raise ArgumentTypeError(
                    f"Sequential takes modules, not a {type(module).__name__}\n  remedy: Sequential(*modules)"
                )
            setattr(self, str(n), module)
        self._modules = len(modules)

    def forward(self, x: Any) -> Any:
        for n in range(self._modules):
            x = getattr(self, str(n))(x)
        return x


class Linear(Module):
    """``y = x @ weight.T + bias``; ``weight`` is ``[out_features, in_features]``."""

    @checked
    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        bound = 1 / math.sqrt(in_features) if in_features > 0 else 0.0
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter((out_features, in_features), init.Uniform(-bound, bound))
        self.bias = Parameter(out_features, init.Uniform(-bound, bound)) if bias else None

    def forward(self, x: Any) -> Any:
        return ops.linear(x, self.weight, self.bias)


class ReLU(Module):
    """``ops.relu``."""

    def forward(self, x: Any) -> Any:
        return ops.relu(x)


class Tanh(Module):
    """``ops.tanh``."""

    def forward(self, x: Any) -> Any:
        return ops.tanh(x)


class Sigmoid(Module):
    """``ops.sigmoid``."""

    def forward(self, x: Any) -> Any:
        return ops.sigmoid(x)


class SiLU(Module):
    """``ops.silu``."""

    def forward(self, x: Any) -> Any:
        return ops.silu(x)


class GELU(Module):
    """``ops.gelu``; ``approximate`` is ``"none"`` or ``"tanh"``."""

    @checked
    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        return ops.gelu(x, approximate=self.approximate)


class Dropout(Module):
    """In train mode ``ops.dropout`` with probability ``p``; the identity in eval mode."""

    @checked
    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ArgumentValueError(f"Dropout(p={p}); it is a probability")
        self.p = p

    def forward(self, x: Any) -> Any:
        return ops.dropout(x, self.p) if self.training else x


class LayerNorm(Module):
    """Normalisation over the last axes, then ``* weight + bias`` of shape ``normalized_shape``."""

    @checked
    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        self.normalized_shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.eps = eps
        self.weight = Parameter(self.normalized_shape, 1.0) if elementwise_affine else None
        self.bias = Parameter(self.normalized_shape, 0.0) if elementwise_affine and bias else None

    def forward(self, x: Any) -> Any:
        return ops.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class _BatchNorm(Module):
    """Batch normalisation of the second axis (Ioffe and Szegedy, arXiv:1502.03167).

    Train mode uses the batch's mean and biased variance and moves ``running_mean`` and ``running_var`` (unbiased) towards the
    batch's by ``momentum``; eval mode uses the running values.
    """

    shapes: ClassVar[tuple[str, ...]]
    """What may come in, by rank."""

    @checked
    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = Parameter(num_features, 1.0) if affine else None
        self.bias = Parameter(num_features, 0.0) if affine else None
        self.running_mean = Buffer(num_features, 0.0)
        self.running_var = Buffer(num_features, 1.0)

    def forward(self, x: Any) -> Any:
        type_, name = as_value(x).type, type(self).__name__
        ranks = [shape.count(",") + 1 for shape in self.shapes]
        if type_.rank not in ranks or type_.shape[1] != self.num_features:
            rule = " or ".join(shape.replace("C", str(self.num_features)) for shape in self.shapes)
            raise ShapeError(f"{name}({self.num_features}) of {type_}\n  rule: {rule}", here())
        axes = tuple(a for a in range(type_.rank) if a != 1)
        if self.training:
            count = type_.size // max(self.num_features, 1)
            if count < 2:
                raise ShapeError(f"{name} of {type_} in train mode\n  rule: more than one value per channel", here())
            mean, variance = ops.mean(x, axes), ops.var(x, axes)
            unbiased = variance * (count / (count - 1))
            self.running_mean.assign(self.running_mean * (1 - self.momentum) + mean * self.momentum)
            self.running_var.assign(self.running_var * (1 - self.momentum) + unbiased * self.momentum)
            return ops.batch_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        return ops.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.eps)


class BatchNorm1d(_BatchNorm):
    """Normalisation of each channel of ``[N, C]`` or ``[N, C, L]``, then ``* weight + bias``."""

    shapes = ("[N, C]", "[N, C, L]")


class BatchNorm2d(_BatchNorm):
    """Normalisation of each channel of ``[N, C, H, W]``, then ``* weight + bias``."""

    shapes = ("[N, C, H, W]",)


class Embedding(Module):
    """Rows of ``weight``, ``[num_embeddings, embedding_dim]``, at integer indices."""

    @checked
    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        self.weight = Parameter((num_embeddings, embedding_dim), init.Normal())

    def forward(self, x: Any) -> Any:
        return ops.embedding(x, self.weight)


class Flatten(Module):
    """Axes ``start_dim`` to ``end_dim`` as one."""

    @checked
    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        value = as_value(x)
        shape = value.type.shape
        with located_errors("flatten", value):
            first, last = (normalize_axis(a, len(shape)) for a in (self.start_dim, self.end_dim))
        if last < first:
            raise ShapeError(f"Flatten from axis {first} to {last}\n  rule: start_dim is not after end_dim", here())
        return ops.reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))
