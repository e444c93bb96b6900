"""Transforms of plain functions: tracing and derivatives.

A derivative runs the function under the active recorder and walks what was recorded, so transforms compose, nest inside
``forward`` and can be dumped.  Outside every frame each opens an eager tape for the call and takes and returns arrays.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..ir import types
from ..ir.autodiff import forward, reverse
from ..ir.build import Builder
from ..ir.errors import ArgumentTypeError, ArgumentValueError, DtypeError, ShapeError
from ..ir.float_mode import standard_mode
from ..ir.graph import Instruction, Mark, Module, Value
from ..ir.record import Frame, GraphBuilder, Recorder, current_frame, frame, here
from ..ir.source import public
from ..ir.types import DType, TensorType, type_of
from .arguments import called, checked
from .convert import as_value, builder, is_number, on_tape
from .tensor import Tensor


def _run(
    function: Callable[..., Any], args: Sequence[Any], wrt: Sequence[int], options: Mapping[str, Any] | None = None
) -> tuple[Any, list[Instruction], list[Value], Recorder]:
    """Run ``function`` with tensors for the arguments at ``wrt``; returns its result and what it recorded."""
    recorder = builder().recorder
    given = list(args)
    inputs: list[Value] = []
    for n in wrt:
        if not -len(given) <= n < len(given):
            raise ArgumentTypeError(f"argument {n}: the function is called with {len(given)}, counted from 0")
        value = as_value(given[n])
        if not value.type.dtype.floating:
            raise DtypeError(f"derivative with respect to argument {n}, {value.type}\n  rule: it is floating", here())
        # A value of its own: the function may also reach the argument through its closure, as a constant.
        value = builder().reshape(value, shape=value.type.shape)
        given[n] = Tensor(value)
        inputs.append(value)
    begin = len(recorder.instructions)
    result = called(function, given, options)
    return result, recorder.instructions[begin:], inputs, recorder


def _outputs(result: Any) -> list[Value]:
    """The values a function returned: one, or a flat tuple or list of them."""
    if not isinstance(result, (tuple, list)):
        return [as_value(result)]
    items: list[Any] = list(result)  # pyright: ignore[reportUnknownArgumentType]
    if any(isinstance(item, (tuple, list, dict)) for item in items):
        raise ArgumentTypeError("a traced function returns a value or a flat tuple of values, not nested ones")
    return [as_value(item) for item in items]


def returned_attrs(result: Any) -> dict[str, Any]:
    """The attributes of a function for what its Python function returned: ``tuple`` for a tuple or list of one."""
    return {"tuple": True} if isinstance(result, (tuple, list)) and len(result) == 1 else {}  # pyright: ignore[reportUnknownArgumentType]


def _or_zeros(found: Sequence[Value | None], like: Sequence[Value]) -> list[Tensor]:
    build = builder()
    return [Tensor(build.splat(0.0, v.type) if g is None else g) for g, v in zip(found, like, strict=True)]


@checked
def value_and_grad(function: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns ``(value, gradient)`` of a scalar function; a tuple of gradients for several ``argnums``."""

    @on_tape
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        wrt = (argnums,) if isinstance(argnums, int) else tuple(argnums)
        result, recorded, inputs, recorder = _run(function, args, wrt, options)
        loss = as_value(result)
        if loss.type.shape or not loss.type.dtype.floating:
            raise ShapeError(
                f"gradient of a function that returns {loss.type}\n  rule: the result is a floating scalar", here()
            )
        one = Builder(recorder).splat(1.0, loss.type)
        grads = tuple(_or_zeros(reverse(recorder, recorded, [loss], [one], inputs), inputs))
        return Tensor(loss), grads[0] if isinstance(argnums, int) else grads

    return call


@checked
def grad(function: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """A function that returns the gradient of a scalar function."""
    both = value_and_grad(function, argnums)

    @on_tape
    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return both(*args, **options)[1]

    return call


@checked
def vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """``(function(*primals), pullback)``; ``pullback(*cotangents)`` gives one cotangent per primal."""
    if current_frame() is None:
        # The tape must outlive this call, so the pullback runs the function again on a tape of its own.
        def again(*cotangents: Any) -> Any:
            def both(p: Sequence[Any], c: Sequence[Any]) -> Any:
                return vjp(function, *p)[1](*c)

            return on_tape(both)(primals, cotangents)

        return on_tape(partial(called, function))(primals), public(again)
    result, recorded, inputs, recorder = _run(function, primals, range(len(primals)))
    outputs = _outputs(result)

    def pullback(*cotangents: Any) -> tuple[Tensor, ...]:
        if len(cotangents) != len(outputs):
            raise ShapeError(f"{len(cotangents)} cotangents for {len(outputs)} results\n  rule: one each", here())
        given = [
            builder().splat(c, y.type, "the cotangent") if is_number(c) else as_value(c)
            for c, y in zip(cotangents, outputs, strict=True)
        ]
        for value, cotangent in zip(outputs, given, strict=True):
            if value.type != cotangent.type:
                raise ShapeError(
                    f"cotangent {cotangent.type} of a result {value.type}\n  rule: types are equal", here()
                )
        return tuple(_or_zeros(reverse(recorder, recorded, outputs, given, inputs), inputs))

    return result, public(pullback)


@checked
def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """``(function(*primals), its derivative along tangents)`` by forward mode."""
    for name, given in (("primals", primals), ("tangents", tangents)):
        if not isinstance(given, (tuple, list)):
            raise ArgumentTypeError(f"{name} are a tuple, one for each argument: jvp(f, (x,), (t,))")
    if len(primals) != len(tangents):
        raise ArgumentValueError(
            f"{len(primals)} primals and {len(tangents)} tangents\n  rule: one tangent for each primal"
        )

    @on_tape
    def call(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        given = [as_value(t) for t in tangents]
        result, recorded, inputs, recorder = _run(function, primals, range(len(primals)))
        for value, tangent in zip(inputs, given, strict=True):
            if value.type != tangent.type:
                raise ShapeError(f"tangent {tangent.type} of a primal {value.type}\n  rule: types are equal", here())
        outputs = _outputs(result)
        derivative = _or_zeros(forward(recorder, recorded, outputs, inputs, given), outputs)
        return result, type(result)(derivative) if isinstance(result, (tuple, list)) else derivative[0]  # pyright: ignore[reportUnknownArgumentType]

    return call(primals, tangents)


@checked
def hvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """The Hessian of a scalar function times a vector: forward mode over the gradient."""
    several = len(primals) > 1
    return jvp(grad(function, tuple(range(len(primals))) if several else 0), primals, tangents)[1]


def stop_gradient(x: Any) -> Any:
    """``x``, through which no gradient passes."""
    from .functional import stop_gradient as op

    return op(x)


def argument_names(function: Callable[..., Any], count: int) -> list[str | None]:
    """Names of a function's first ``count`` positional parameters, None beyond those it names."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return [None] * count
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names, *[None] * count][:count]


def argument_type(x: Any) -> TensorType:
    """The type that a traced argument is given by, or that of an array.  Raises ``TypeError`` for anything else."""
    if isinstance(x, TensorType):
        return x
    if isinstance(x, DType):
        raise ArgumentTypeError(f"{x} is a dtype; a type has a shape too: {x}[64, 10], of a number {x}[()]")
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        raise ArgumentTypeError(
            f"a {type(x).__name__} stands for no argument; types such as tp.f32[64, 10] and arrays do"
        )
    return type_of(x)


@checked
def trace(function: Callable[..., Any], *arguments: Any, mode: str | None = None, dtype: DType = types.f32) -> Module:
    """The IR of ``function`` for arguments of the given types (``tp.f32[64, 10]``) or like the given arrays.

    The module holds one function of the Python function's name.  Raises the errors of the ops met, with their lines.
    """
    if mode not in (None, "train", "eval"):
        raise ArgumentValueError(f"mode {mode!r} is not known; train or eval")
    types_ = list(map(argument_type, arguments))
    recorder = GraphBuilder()
    name = getattr(function, "__name__", "main")
    name = name if name != "<lambda>" else "main"
    with frame(Frame(recorder, dtype=types.dtype(dtype), mode=mode)), standard_mode():
        names = argument_names(function, len(types_))
        given = [recorder.argument(t, n) for t, n in zip(types_, names, strict=True)]
        result = called(function, list(map(Tensor, given)))
        outputs = _outputs(result)
    pairs: list[tuple[Value, Mark | None]] = [(v, None) for v in outputs]
    inputs: list[tuple[Value, str | None]] = [(v, "input") for v in recorder.arguments]
    return Module(name, [recorder.function(name, inputs, pairs, returned_attrs(result)).closed()])
