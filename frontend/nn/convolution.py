"""Convolutions and pools as layers, under PyTorch's names and with its layouts, state names and default initialisers."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from ...ir.errors import ArgumentValueError
from ...ir.types import static_shape
from .. import functional as ops
from ..arguments import checked
from ..functional.apply import located_errors
from ..functional.convolution import Sizes, per_axis
from . import init
from .module import Module, Parameter


class _Conv(Module):
    rank: ClassVar[int]

    @checked
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentValueError(
                f"{type(self).__name__} of {in_channels} to {out_channels} channels in {groups} groups; the groups divide both"
            )
        with located_errors(type(self).__name__):
            size = static_shape(per_axis("kernel size", kernel_size, self.rank))
            static_shape((in_channels, out_channels))
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        terms = in_channels // groups * math.prod(size)
        bound = 1 / math.sqrt(terms) if terms else 0.0
        self.weight = Parameter((out_channels, in_channels // groups, *size), init.Uniform(-bound, bound))
        self.bias = Parameter(out_channels, init.Uniform(-bound, bound)) if bias else None

    def forward(self, x: Any) -> Any:
        return ops.conv(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv1d(_Conv):
    """``ops.conv`` of ``[N, in_channels, L]``; ``weight`` is ``[out_channels, in_channels / groups, k]``."""

    rank = 1


class Conv2d(_Conv):
    """``ops.conv`` of ``[N, in_channels, H, W]``; ``weight`` is ``[out_channels, in_channels / groups, kh, kw]``."""

    rank = 2


class _Pool(Module):
    rank: ClassVar[int]

    @checked
    def __init__(self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0) -> None:
        with located_errors(type(self).__name__):
            self.kernel_size = per_axis("kernel size", kernel_size, self.rank)
        self.stride: Sizes | None = stride
        self.padding = padding


class _MaxPool(_Pool):
    @checked
    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.dilation = dilation

    def forward(self, x: Any) -> Any:
        return ops.max_pool(x, self.kernel_size, self.stride, self.padding, self.dilation)


class MaxPool1d(_MaxPool):
    """``ops.max_pool`` over the last axis."""

    rank = 1


class MaxPool2d(_MaxPool):
    """``ops.max_pool`` over the last two axes."""

    rank = 2


class _AvgPool(_Pool):
    @checked
    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, count_include_pad: bool = True
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.count_include_pad = count_include_pad

    def forward(self, x: Any) -> Any:
        return ops.avg_pool(x, self.kernel_size, self.stride, self.padding, self.count_include_pad)


class AvgPool1d(_AvgPool):
    """``ops.avg_pool`` over the last axis."""

    rank = 1


class AvgPool2d(_AvgPool):
    """``ops.avg_pool`` over the last two axes."""

    rank = 2
