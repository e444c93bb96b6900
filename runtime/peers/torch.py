"""Functions as PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ...ir import BackendError, Function, TensorType
from ...ir.scalar import Scalar
from ...ir.types import Array, DType, Shape, key, u16, u32, u64
from .writer import LOW, Code, Writer, tuple_of


class Number(str):
    """A constant written as a number."""

    __slots__ = ()


_STORED = {u16: "int32", u32: "int64", u64: "int64", key: "int64"}
"""Unsigned dtypes that torch computes little in are held in wider ones, or as the same 64 bits."""
_MASKED = {u16: 0xFFFF, u32: LOW}
_SIGN = -(1 << 63)


class TorchWriter(Writer):
    """``torch`` functions on tensors of the CPU."""

    namespace = "torch"
    functions = {
        "abs": "torch.abs({})", "sqrt": "torch.sqrt({})", "floor": "torch.floor({})", "rint": "torch.round({})",
        "select": "torch.where({}, {}, {})", "exp": "torch.exp({})", "log": "torch.log({})", "log1p": "torch.log1p({})",
        "expm1": "torch.expm1({})", "tanh": "torch.tanh({})", "sigmoid": "torch.sigmoid({})", "erf": "torch.erf({})",
        "sin": "torch.sin({})", "cos": "torch.cos({})",
    }  # fmt: skip

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        self.torch: Any = import_module("torch")

    def scope(self) -> dict[str, Any]:
        helpers = {"saturate": _torch_saturate, "shift_right": _torch_shift_right, "from_u64": _torch_from_u64}
        return {"torch": self.torch, "inf": math.inf, "nan": math.nan, **helpers}

    def dtype(self, dtype: DType) -> str:
        return f"torch.{_STORED.get(dtype, dtype.numpy.name)}"

    def hold(self, array: Array) -> Any:
        if array.dtype.name in ("uint16", "uint32", "uint64"):
            array = array.astype(np.int32 if array.itemsize == 2 else np.int64)
        return self.torch.from_numpy(np.array(array))

    def host(self, x: Any, type: TensorType) -> Array:
        return np.asarray(x.detach().numpy()).astype(type.dtype.numpy)

    # Numbers

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        return Scalar(dtype, Number(self._number(value, dtype)))

    def _number(self, value: Any, dtype: DType) -> str:
        number = np.asarray(value).astype(dtype.numpy).item()
        return repr(number - (1 << 64) if dtype is u64 and number >= 1 << 63 else number)

    def full(self, shape: Shape, value: Any, dtype: DType) -> Code:
        return self.line(f"torch.full({tuple(shape)}, {self._number(value, dtype)}, dtype={self.dtype(dtype)})")

    def tensor(self, a: Scalar) -> str:
        if not isinstance(a.code, Number):
            return a.code
        return self.line(f"torch.full((), {a.code!s}, dtype={self.dtype(a.dtype)})")

    def emit(self, primitive: str, arguments: tuple[Scalar, ...], dtype: DType) -> Scalar:
        if primitive in self.functions:  # tensors alone, but for a choice between a tensor and a number
            free = 2 if primitive == "select" and not isinstance(arguments[1].code, Number) else -1
            arguments = tuple(a if n == free else Scalar(a.dtype, self.tensor(a)) for n, a in enumerate(arguments))
        elif all(isinstance(a.code, Number) for a in arguments):
            arguments = (Scalar(arguments[0].dtype, self.tensor(arguments[0])), *arguments[1:])
        operand = arguments[-1].dtype
        if operand is u64:
            arguments = self._of_u64(primitive, arguments)
        made = super().emit(primitive, arguments, dtype)
        if dtype in _MASKED and primitive not in ("convert", "bits"):
            made = Scalar(dtype, self.line(f"{made.code} & {_MASKED[dtype]}"))
        return made

    def _of_u64(self, primitive: str, arguments: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
        """Operands whose order as signed integers is theirs as unsigned ones; raises ``BackendError`` where that does not help."""
        if primitive in ("floor_divide", "remainder", "pow", "abs"):
            raise BackendError(f"torch has no {primitive} of u64")
        if primitive not in ("lt", "le", "gt", "ge"):
            return arguments
        return tuple(Scalar(a.dtype, self.line(f"{self.tensor(a)} ^ {_SIGN}")) for a in arguments)

    def _shift_right(self, a: Scalar, b: Scalar, dtype: DType) -> str:
        return self.line(f"shift_right({a.code}, {b.code})" if dtype is u64 else f"{a.code} >> {b.code}")

    def _convert(self, a: Scalar, dtype: DType) -> str:
        x = self.tensor(a)
        if dtype.kind == "b":
            return self.line(f"{x} != 0")
        if a.dtype.floating and dtype.integer:
            info = np.iinfo(dtype.numpy)
            if dtype is u64:
                raise BackendError("torch has no conversion of floats to u64")
            return self.line(f"saturate({x}, {info.min}, {info.max}, {self.dtype(dtype)})")
        if a.dtype is u64 and dtype.floating:
            return self.line(f"from_u64({x}, {self.dtype(dtype)})")
        return self._cut(self.line(f"{x}.to({self.dtype(dtype)})"), dtype)

    def _cut(self, x: Code, dtype: DType) -> Code:
        return self.line(f"{x} & {_MASKED[dtype]}") if dtype in _MASKED else x

    def _bits(self, a: Scalar, dtype: DType) -> str:
        x, signed = self.tensor(a), f"torch.int{dtype.bits}"
        if a.dtype in _MASKED:
            x = self.line(f"{x}.to({signed})")
        if dtype in _STORED:
            return self._cut(self.line(f"{x}.view({signed}).to({self.dtype(dtype)})"), dtype)
        return self.line(f"{x}.view({self.dtype(dtype)})")

    # Arrays

    def wide(self, x: str) -> Code:
        return self.line(f"{x}.to(torch.int64)")

    def narrow(self, x: str, dtype: DType) -> Code:
        return Code(x, self)

    def transposed(self, x: Code) -> str:
        return f"{x!s}.mT"

    def reduction(self, combine: str, x: Code, axes: Shape, type: TensorType, keepdims: bool) -> Code:
        if combine == "sum":
            made = self.line(f"torch.sum({x}, dim={axes}, keepdim={keepdims}, dtype={self.dtype(type.dtype)})")
            return self._cut(made, type.dtype)
        if type.dtype is u64:
            raise BackendError(f"torch has no {combine} of u64")
        return self.line(f"torch.a{combine}({x}, dim={axes}, keepdim={keepdims})")

    def argmax(self, rows: Code) -> Code:
        return self.line(f"torch.argmax({rows}, dim=-1)")

    def chosen(self, x: Code, index: Code, shared: bool) -> Code:
        return self.line(f"torch.index_select({x}, 1, {index})" if shared else f"torch.gather({x}, 1, {index})")

    def added(self, shape: Shape, dtype: DType, index: Code, x: Code, shared: bool) -> Code:
        zeros = self.full(shape, 0, dtype)
        return self.line(f"{zeros!s}.{'index_add' if shared else 'scatter_add'}(1, {index}, {x})")

    def joined(self, parts: Sequence[Code], axis: int) -> Code:
        return self.line(f"torch.cat({tuple_of(parts)}, dim={axis})")

    def laid(self, out: Code, index: str, x: Code) -> Code:
        self.lines.append(f"{out!s}[{index}] = {x}")
        return out

    def counters(self, count: int) -> Code:
        return self.line(f"torch.arange({count})")


def _torch_saturate(x: Any, low: int, high: int, dtype: Any) -> Any:
    """Float to integer by TapeIR's rule: out of range saturates, NaN gives 0."""
    inside = x.where((x > float(low)) & (x < float(high)), 0).to(dtype)
    inside = inside.where(x < float(high), high).where(x > float(low), low)
    return inside.where(x == x, 0)


def _torch_shift_right(x: Any, n: Any) -> Any:
    """Unsigned 64 bits, held in int64, moved down by less than 64."""
    half = (x >> 1) & ((1 << 63) - 1)
    if isinstance(n, int):
        return half >> (n - 1) if n else x
    return (half >> (n - 1).clamp(min=0)).where(n != 0, x)


def _torch_from_u64(x: Any, dtype: Any) -> Any:
    """Unsigned 64 bits, held in int64, as floats; an odd last bit of large ones decides their rounding."""
    half = ((x >> 1) & ((1 << 63) - 1)) | (x & 1)
    return x.to(dtype).where(x >= 0, half.to(dtype) * 2)
