"""Functions as ``jax.numpy``."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from ...ir import Function, TensorType
from ...ir.scalar import Scalar
from ...ir.types import Array, DType, Shape
from .writer import Code, Writer, tuple_of


class JaxWriter(Writer):
    """``jax.numpy``; the text is jitted whole."""

    namespace = "jnp"
    functions = {
        "abs": "jnp.abs({})", "sqrt": "jnp.sqrt({})", "floor": "jnp.floor({})", "rint": "jnp.rint({})",
        "select": "jnp.where({}, {}, {})", "exp": "jnp.exp({})", "log": "jnp.log({})", "log1p": "jnp.log1p({})",
        "expm1": "jnp.expm1({})", "tanh": "jnp.tanh({})", "sigmoid": "jax.nn.sigmoid({})", "erf": "jax.lax.erf({})",
        "sin": "jnp.sin({})", "cos": "jnp.cos({})", "pow": "jnp.power({}, {})",
    }  # fmt: skip

    def __init__(self, function: Function) -> None:
        super().__init__(function)
        self.jax: Any = import_module("jax")
        self.jax.config.update("jax_enable_x64", True)
        self.jnp: Any = import_module("jax.numpy")

    def scope(self) -> dict[str, Any]:
        return {"jax": self.jax, "jnp": self.jnp, "np": np, "saturate": _saturate}

    def constant(self, value: float | bool, dtype: DType) -> Scalar:
        return Scalar(dtype, self.keep(np.asarray(value).astype(dtype.numpy)[()], "k"))

    def dtype(self, dtype: DType) -> str:
        return f'"{dtype.numpy.name}"'

    def full(self, shape: Shape, value: Any, dtype: DType) -> Code:
        number = self.keep(np.asarray(value).astype(dtype.numpy)[()], "k")
        return self.line(f"jnp.full({tuple(shape)}, {number}, {self.dtype(dtype)})")

    def hold(self, array: Array) -> Any:
        return self.jnp.asarray(array)

    def host(self, x: Any, type: TensorType) -> Array:
        return np.asarray(x)

    def wide(self, x: str) -> Code:
        return self.line(f'{x}.astype("int64")')

    def narrow(self, x: str, dtype: DType) -> Code:
        return self.line(f"{x}.astype({self.dtype(dtype)})")

    def _convert(self, a: Scalar, dtype: DType) -> str:
        if a.dtype.floating and dtype.integer:
            return self.line(f"saturate(jnp, {a.code}, np.{dtype.numpy.name})")
        zero = f"{a.code} != 0" if dtype.kind == "b" else f"{a.code}.astype({self.dtype(dtype)})"
        return self.line(zero)

    def _bits(self, a: Scalar, dtype: DType) -> str:
        return self.line(f"jax.lax.bitcast_convert_type({a.code}, {self.dtype(dtype)})")

    def transpose(self, x: str, axes: Shape) -> Code:
        return self.line(f"jnp.transpose({x}, {tuple(axes)})")

    def transposed(self, x: Code) -> str:
        return f"{x!s}.swapaxes(-1, -2)"

    def reduction(self, combine: str, x: Code, axes: Shape, type: TensorType, keepdims: bool) -> Code:
        dtype = f", dtype={self.dtype(type.dtype)}" if combine == "sum" else ""
        return self.line(f"jnp.{combine}({x}, axis={axes}, keepdims={keepdims}{dtype})")

    def argmax(self, rows: Code) -> Code:
        return self.line(f"jnp.argmax({rows}, axis=-1)")

    def chosen(self, x: Code, index: Code, shared: bool) -> Code:
        return self.line(f"jnp.take({x}, {index}, axis=1)" if shared else f"jnp.take_along_axis({x}, {index}, axis=1)")

    def added(self, shape: Shape, dtype: DType, index: Code, x: Code, shared: bool) -> Code:
        zeros = self.full(shape, 0, dtype)
        if shared:
            return self.line(f"{zeros!s}.at[:, {index}, :].add({x})")
        outer, inner = (
            self.keep(np.arange(shape[a]).reshape(form), "c") for a, form in ((0, (-1, 1, 1)), (2, (1, 1, -1)))
        )
        return self.line(f"{zeros!s}.at[{outer}, {index}, {inner}].add({x})")

    def joined(self, parts: Sequence[Code], axis: int) -> Code:
        return self.line(f"jnp.concatenate({tuple_of(parts)}, axis={axis})")

    def laid(self, out: Code, index: str, x: Code) -> Code:
        return self.line(f"{out!s}.at[{index}].set({x})")

    def counters(self, count: int) -> Code:
        return self.line(f'jnp.arange({count}, dtype="int64")')


def _saturate(xp: Any, x: Any, dtype: Any) -> Any:
    """Float to integer by TapeIR's rule: out of range saturates, NaN gives 0."""
    info = np.iinfo(dtype)
    inside = xp.where((x > float(info.min)) & (x < float(info.max)), x, 0).astype(dtype)
    low, high = dtype(info.min), dtype(info.max)
    return xp.where(x != x, dtype(0), xp.where(x >= float(info.max), high, xp.where(x <= float(info.min), low, inside)))
