"""The builder: one method per op, made from the registry when an op registers.

Frontend, derivative rules, decompositions and rewrites all record ops through it: ``build.mul(x, 2.0)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import DtypeError
from .graph import Value
from .literal import Literal
from .record import blame, here
from .types import DType, TensorType

if TYPE_CHECKING:
    from .op import Op
    from .record import Recorder

NO_ATTRS: dict[str, Any] = {}


class Builder:
    """Records ops on one recorder.

    Every method takes operands (``Value``, or a Python number, which becomes a splat constant of the last value
    operand's type) and the op's attributes by keyword, and returns the result, or a tuple when there are several.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., Any]: ...

    def splat(self, value: Any, type: TensorType, op: str = "constant", operands: Sequence[TensorType] = ()) -> Value:
        """A constant of the given type, every element ``value`` rounded to its dtype.

        Raises ``DtypeError`` for a number that the dtype does not hold, with the user's line and the op that it is for.
        """
        try:
            made = Literal.splat(value, type)
        except DtypeError as error:
            raise blame(error, op, tuple(operands), self.recorder.at or here()) from None
        return self.constant(value=made)

    def literal(self, array: Any, dtype: DType | None = None) -> Value:
        """A constant with an array's elements."""
        return self.constant(value=Literal.of(np.asarray(array), dtype))


def install(op: Op) -> None:
    """Give ``Builder`` the method of a newly registered op.  Raises ``TypeError`` where it has one of its own of that name."""
    if hasattr(Builder, op.name):
        raise TypeError(f"op {op.name!r}: Builder.{op.name} is something else")

    def method(self: Builder, *operands: Any, **attrs: Any) -> Any:
        for operand in operands:
            if not isinstance(operand, Value):
                for o in operands:
                    if not isinstance(o, (Value, bool, int, float, np.number, np.bool_)):
                        raise TypeError(
                            f"{op.name}: {o!r} is neither a value nor a number; attributes are given by name"
                        )
                values = [o for o in operands if isinstance(o, Value)]
                if not values:
                    raise TypeError(f"{op.name}: none of its operands is a value, so numbers have no type")
                last = values[-1]
                types = [o.type for o in values]
                operands = tuple(
                    [o if isinstance(o, Value) else self.splat(o, last.type, op.name, types) for o in operands]
                )
                break
        results = self.recorder.bind(op, operands, op.attributes(attrs) if op.attrs else NO_ATTRS)
        return results[0] if op.results == 1 else results

    if not op.attrs:

        def bare(self: Builder, *operands: Any) -> Any:
            for operand in operands:
                if not isinstance(operand, Value):
                    return method(self, *operands)
            return self.recorder.bind(op, operands, NO_ATTRS)[0]

        if op.results == 1:
            setattr(Builder, op.name, bare)
            return
    setattr(Builder, op.name, method)
