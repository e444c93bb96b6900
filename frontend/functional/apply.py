"""What the ops of this package share: recording one op on converted operands, with errors at the user's line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.errors import ArgumentTypeError, IRError, shortened
from ...ir.graph import Value
from ...ir.record import blame, draw_key, here
from ...ir.types import Shape, bool_, static_shape
from ...ir.types import key as random_key
from ..convert import as_value, builder, cast, float_dtype, together
from ..tensor import Tensor

Axis = int | Sequence[int] | None


class located_errors:
    """Inside the block, an error of a type rule gets the user's line, the op's name and the operand types."""

    def __init__(self, name: str, *values: Value) -> None:
        self.name, self.values = name, values

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, IRError) and not error.locations:
            raise blame(error, self.name, tuple([v.type for v in self.values]), here()) from None


def binary(name: str, a: Any, b: Any, **options: Any) -> Tensor:
    """A two-operand op on operands promoted to one dtype and broadcast to one shape."""
    left, right = together(name, a, b, **options)
    return Tensor(getattr(builder(), name)(left, right))


def floating(x: Any) -> Value:
    """The value in a floating dtype: its own, else the frame's."""
    value = as_value(x)
    return value if value.type.dtype.floating else cast(value, float_dtype())


def unary(name: str, x: Any) -> Tensor:
    """A one-operand op on a floating value."""
    return Tensor(getattr(builder(), name)(floating(x)))


def as_bool(x: Any) -> Value:
    """The value as bool."""
    return cast(as_value(x), bool_)


def as_shape(shape: int | Sequence[int]) -> Shape:
    """A shape given as one size or several.  Raises ``ArgumentValueError`` for what is no size."""
    return static_shape((shape,) if isinstance(shape, int) else shape)


def chosen_key(key: Any) -> Value:
    """The random key that a draw is given, or by default that of its place in the model."""
    if key is None:
        return draw_key(builder())
    if not isinstance(key, Tensor) or key.dtype is not random_key:
        raise ArgumentTypeError(f"key = {shortened(repr(key), 80)}\n  rule: it is a tensor of type key[], or None")
    return key.value
