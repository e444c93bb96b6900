"""How Python objects become values of the program: promotion, broadcasting, and tapes opened for a single call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeGuard, TypeVar
from typing import cast as typed

import numpy as np

from ..ir import types
from ..ir.build import Builder
from ..ir.errors import ArgumentTypeError, ArgumentValueError, DtypeError, IRError, TraceError
from ..ir.float_mode import standard_mode
from ..ir.graph import Value
from ..ir.memory import copy_of
from ..ir.record import Frame, blame, current_frame, default_recorder, frame, here
from ..ir.source import public, wraps
from ..ir.types import Array, DType, Shape, TensorType, bool_, broadcast_shapes, i64, type_of
from .arguments import NUMBERS, Signature
from .tensor import Operators, Tensor

P = ParamSpec("P")
R = TypeVar("R")


def builder() -> Builder:
    """A builder on the active recorder."""
    active = current_frame()
    if active is None:
        raise TraceError(
            "nothing is being recorded here\n  remedy: call it through tp.Runtime, tp.trace or tp.grad", here()
        )
    return Builder(active.recorder)


def float_dtype() -> DType:
    """The floating dtype of the active frame."""
    active = current_frame()
    return active.dtype if active else types.f32


def is_number(x: Any) -> TypeGuard[float]:
    """Whether ``x`` is weak: a Python number or a NumPy scalar."""
    return isinstance(x, NUMBERS)


def _on_the_host(x: Any) -> bool:
    """Whether something shares host memory by DLPack."""
    return hasattr(x, "__dlpack__") and x.__dlpack_device__()[0] == 1


def to_array(x: Any) -> Array:
    """A NumPy array of anything array-like, shared by DLPack where it speaks that."""
    if isinstance(x, np.ndarray):
        return typed(Array, x)
    try:
        return typed(Array, np.from_dlpack(x) if _on_the_host(x) else np.asarray(x))
    except ValueError:
        raise ArgumentValueError("a list with rows of different lengths is no array") from None


def as_value(x: Any) -> Value:
    """The value of a tensor, parameter, buffer, array or number, recording what is needed.

    Floating arrays take the frame's dtype.  Raises ``TypeError`` for anything else.
    """
    if isinstance(x, Tensor):
        return x.value
    if isinstance(x, Operators):
        active = current_frame()
        if active is None or active.state is None:
            raise TraceError(
                f"{type(x).__name__} {getattr(x, 'shape', '')} is a declaration and holds no array\n"
                "  remedy: run the module through tp.Runtime(model, ...)",
                here(),
            )
        return active.state.read(x)
    if is_number(x):
        kind = bool_ if isinstance(x, (bool, np.bool_)) else i64 if isinstance(x, (int, np.integer)) else float_dtype()
        return builder().splat(x, TensorType(kind, ()))
    if isinstance(x, (np.ndarray, list, tuple)) or hasattr(x, "__dlpack__"):
        if isinstance(x, (list, tuple)) and has_tensors(typed(Any, x)):
            from .functional import stack

            return stack(typed(Any, x)).value
        array = to_array(x)
        try:
            type_ = type_of(array)
        except TypeError:
            raise ArgumentTypeError(
                f"an array of {array.dtype} cannot enter a program; numbers and bools can"
            ) from None
        return builder().literal(array, float_dtype() if type_.dtype.floating else None)
    raise ArgumentTypeError(f"a {type(x).__name__} cannot enter a program; tensors, parameters, arrays and numbers can")


def promoted(dtypes: Sequence[DType], weak: str = "") -> DType:
    """The common dtype of tensors and, in ``weak``, the kinds (``b``, ``i``, ``f``) of Python numbers beside them.

    Raises ``DtypeError`` where no rule applies.
    """
    floats = [d for d in dtypes if d.floating]
    if floats:
        if len(set(floats)) == 1:
            return floats[0]
        widest = max(floats, key=lambda d: d.bits)
        return widest if widest.bits > 16 else types.f32
    if "f" in weak:
        return float_dtype()
    integers = [d for d in dtypes if d.integer]
    if integers:
        common = functools.reduce(np.promote_types, [d.numpy for d in integers])
        if common.kind == "f":
            raise DtypeError(
                f"{' and '.join(sorted({d.name for d in integers}))} have no common integer dtype\n  remedy: cast one with ops.astype"
            )
        return types.dtype(common)
    if any(d.kind == "k" for d in dtypes):
        raise DtypeError("random keys take no arithmetic")
    return i64 if "i" in weak else bool_


def weak_kind(x: Any) -> str:
    """The kind of a Python number: ``b``, ``i`` or ``f``."""
    return "b" if isinstance(x, (bool, np.bool_)) else "i" if isinstance(x, (int, np.integer)) else "f"


def cast(value: Value, dtype: DType) -> Value:
    """The value in a dtype, recording a cast only where it changes something."""
    return value if value.type.dtype is dtype else builder().cast(value, dtype=dtype)


def broadcast(value: Value, shape: Shape) -> Value:
    """The value with a shape, recording a broadcast only where it changes something."""
    return value if value.type.shape == shape else builder().broadcast_to(value, shape=shape)


def together(name: str, *operands: Any, dtype: DType | None = None, floating: bool = False) -> list[Value]:
    """Operands promoted to one dtype and broadcast to one shape; errors name the op ``name`` and the user's line."""
    typed = [None if is_number(x) else as_value(x) for x in operands]
    present = [v for v in typed if v is not None]
    try:
        if dtype is None:
            weak = "".join(weak_kind(x) for x, v in zip(operands, typed, strict=True) if v is None)
            dtype = promoted([v.type.dtype for v in present], weak)
            if floating and not dtype.floating:
                dtype = float_dtype()
        shape = broadcast_shapes(*[v.type.shape for v in present])
    except IRError as error:
        raise blame(error, name, tuple(v.type for v in present), here()) from None
    build, beside = builder(), [v.type for v in present]
    return [
        build.splat(x, TensorType(dtype, shape), name, beside) if v is None else broadcast(cast(v, dtype), shape)
        for x, v in zip(operands, typed, strict=True)
    ]


def has_tensors(items: Sequence[Any], around: tuple[Any, ...] = ()) -> bool:
    """Whether a tensor, parameter or buffer is somewhere in nested lists and tuples.

    Raises ``ArgumentValueError`` for a list that contains itself.
    """
    around = _entered(items, around)
    return any(
        isinstance(x, Operators) or (isinstance(x, (list, tuple)) and has_tensors(typed(Any, x), around)) for x in items
    )


def _entered(container: Any, around: tuple[Any, ...]) -> tuple[Any, ...]:
    if any(c is container for c in around):
        raise ArgumentValueError(f"a {type(container).__name__} contains itself\n  rule: arguments are finite trees")
    return (*around, container)


def _mapped(tree: Any, leaf: Callable[[Any], Any], around: tuple[Any, ...] = ()) -> Any:
    """``tree`` (lists, tuples and dicts) with ``leaf`` applied to everything else."""
    if isinstance(tree, (list, tuple, dict)):
        around = _entered(tree, around)
    if isinstance(tree, (list, tuple)):
        items = [_mapped(x, leaf, around) for x in typed(list[Any], tree)]
        return tuple(items) if isinstance(tree, tuple) else items
    if isinstance(tree, dict):
        return {k: _mapped(x, leaf, around) for k, x in typed(dict[Any, Any], tree).items()}
    return leaf(tree)


def leaves(tree: Any) -> list[Any]:
    """Everything in ``tree`` that is no list, tuple or dict, in order."""
    found: list[Any] = []
    _mapped(tree, found.append)
    return found


def lift(tree: Any, enter: Callable[[Array], Any]) -> Any:
    """``tree`` with every array in it, also that of a finished tape's tensor, replaced by ``enter(array)``."""

    def leaf(x: Any) -> Any:
        if isinstance(x, Tensor) and x.value.array is None:
            raise TraceError("a tensor of a trace holds no array, and its trace has ended", here())
        if isinstance(x, Tensor):
            return enter(x.value.array)
        return enter(typed(Array, x)) if isinstance(x, np.ndarray) else x

    return _mapped(tree, leaf)


def lower(tree: Any) -> Any:
    """``tree`` with every tensor in it replaced by its array."""
    return _mapped(tree, lambda x: copy_of(x.value) if isinstance(x, Tensor) else x)


def on_tape(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function of tensors one that, outside every frame, opens a tape for the call and takes and returns arrays."""

    own = function.__module__.startswith("tapeir.")  # what users annotate promises nothing to us
    signature = Signature(function) if own and Signature(function).kinds else None

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if signature is not None:
            args = signature.keep(args, kwargs)  # type: ignore[assignment]
        if current_frame() is not None:
            return function(*args, **kwargs)
        recorder = default_recorder[0]()

        def enter(array: Array) -> Tensor:
            return Tensor(recorder.argument(type_of(array), array=array))

        floating = [d for d in map(_float_of, leaves((args, kwargs))) if d is not None]
        with frame(Frame(recorder, dtype=floating[0] if floating else types.f32)), standard_mode():
            result: Any = function(*lift(args, enter), **lift(kwargs, enter))  # type: ignore[call-arg]
            return lower(result)

    return public(wraps(call))


def _float_of(x: Any) -> DType | None:
    return types.dtype(x.dtype) if isinstance(x, np.ndarray) and types.holds_floats(x) else None  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
