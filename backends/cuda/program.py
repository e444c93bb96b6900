"""The CUDA target: a planned function as kernels and the launches that run them in order."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import PurePath

from ...ir import Function, Instruction, Module, Value
from ...ir.escape import comment
from ...ir.op import Control, Layout, Scatter
from ...ir.types import u8
from ...passes.fuse import form_of
from ...passes.loops import Nest, grouped
from ..base import Sizes
from ..compiled.lowering import Lowering
from ..compiled.memory import Ref, span
from . import routines
from .attention import TENSOR_CORES
from .builder import HELPERS
from .calls import Call, KernelCall, ProductCall
from .device import ALIGNMENT, Launch
from .elements import WIDE_BYTES
from .lanes import EACH_LANE, Turn, in_lanes
from .nest import KernelWriter
from .whole import WHOLE

UNITS = 8
"""Sources into which the kernels of a program are parted at most."""
UNIT_TEXT = 6000
"""Characters of a source worth a compiler of its own."""
NUMBERED = re.compile(r"k\d{1,9}", re.ASCII)
"""The names that the compiler itself gives kernel functions."""


def _module(kernels: Sequence[str]) -> str:
    """Kernels behind what they call."""
    called = [TENSOR_CORES] if any(" mma(" in text for text in kernels) else []
    return "\n\n".join([HELPERS, *called, *kernels]) + "\n"


def _ops(kernel: Function) -> list[str]:
    return [i.op.name for i in kernel.instructions]


class CudaProgram(Lowering[Call]):
    """The kernels of one program, each once, and its calls in order.

    ``kernels`` maps names to text, ``calls`` has an instruction (None: new state is moved) with each of its calls, and ``source`` is what
    NVRTC compiles.
    """

    def __init__(self, function: Function, module: Module, fast: bool = False) -> None:
        super().__init__(function, module, fast)
        self.kernels: dict[str, str] = {}
        self.calls: list[tuple[Instruction | None, Call]] = []
        self.counters = self.scratch = self.rows = self.aligned = 0
        """Words and bytes that the kernel that needs most of them shares among its blocks, bytes that one leaves to the next, and bytes
        of a product's arrays that lie elsewhere at no multiple of ``ALIGNMENT``."""
        self._known: dict[object, tuple[str, Launch]] = {}
        self._inputs = {v: n for n, v in enumerate(function.inputs())}
        self._outputs = {v: n for n, v in reversed(list(enumerate(self.memory.outputs)))}
        self.results: list[Ref] = []
        """Where the results lie that are no new state, each in one piece."""
        self.lower()
        for n, v in enumerate(self.memory.outputs):
            ref = self.ref(v)
            if not ref.layout.is_contiguous and v.type.size:
                to = Ref(f"output {n}", 0, ref.dtype, Layout.contiguous(v.type.shape))
                self.step(None, [self.copy(to, ref, v.type.shape)])
                ref = to
            self.results.append(ref.started())
        self.may_commit &= not any(
            isinstance(c, ProductCall) and c.out.buffer.startswith("next") for _, c in self.calls
        )

    def argument(self, v: Value) -> Ref:
        """An input is an array of its own."""
        if v in self._inputs:
            return Ref(f"input {self._inputs[v]}", 0, v.type.dtype, Layout.contiguous(v.type.shape))
        return super().argument(v)

    def result(self, v: Value) -> Ref:
        """A result of the function that has memory of its own is an array of its own."""
        if v in self._outputs and v.place is not None and v.place.kind in ("arena", "caller"):
            return Ref(f"output {self._outputs[v]}", 0, v.type.dtype, Layout.contiguous(v.type.shape))
        return super().result(v)

    def is_callers(self, v: Value) -> bool:
        """Whether an input is never written, so that it may be the caller's own array."""
        return v in self.memory.caller

    @property
    def source(self) -> str:
        """The text of the whole module."""
        return _module(list(self.kernels.values()))

    @property
    def units(self) -> list[str]:
        """The kernels in sources of about equal size, which can be compiled at the same time."""
        count = max(1, min(UNITS, sum(map(len, self.kernels.values())) // UNIT_TEXT))
        parts: list[list[str]] = [[] for _ in range(count)]
        for text in sorted(self.kernels.values(), key=len, reverse=True):
            min(parts, key=lambda p: sum(map(len, p))).append(text)
        return [_module(part) for part in parts if part]

    @property
    def described(self) -> dict[str, list[str]]:
        """Kernels and products by name, each with the ops and the source lines in it."""
        found: dict[str, dict[str, None]] = {}
        for i, call in self.calls:
            if i is None:
                continue
            ops = [i.op.name] if not isinstance(i.op, Control) else _ops(self.module[i.attrs[i.op.bodies[0]]])
            lines = [f"{PurePath(place.file).name}:{place.line}" for place in i.location]
            found.setdefault(call.name, {}).update(dict.fromkeys([*ops, *lines]))
        return {name: list(said) for name, said in found.items()}

    @property
    def listing(self) -> str:
        """Source, and the calls as comments with the user's lines; those that run beside others are indented."""
        turns, _ = self.lanes
        beside = sum(turn.lane > 0 for turn in turns)
        lines = [
            f"// {self.launches} launches" + (f", {beside} of them (indented) on a second stream" if beside else "")
        ]
        for (i, call), turn in zip(self.calls, turns, strict=True):
            place = next(iter(i.location), None) if i is not None else None
            user = f"  {PurePath(place.file).name}:{place.line}" if place is not None else ""
            lines.append(f"// {'    ' * turn.lane}{comment(f'{call}{user}')}")
        return f"{self.source}\n" + "\n".join(lines) + "\n"

    def named(
        self,
        form: object,
        hint: str,
        reads: Sequence[Ref],
        writes: Sequence[Ref],
        make: routines.Maker,
        data: int | None = None,
    ) -> KernelCall:
        """A call of the kernel of a form, which is written at its first use."""
        if form not in self._known:
            name = hint
            while name in self.kernels:
                name = f"{hint}_{len(self.kernels)}"
            self.kernels[name], launch = make(name)
            self._known[form] = name, launch
        name, launch = self._known[form]
        self.counters, self.scratch = max(self.counters, launch.counters), max(self.scratch, launch.scratch)
        shared = [Ref(b, 0, u8, Layout.contiguous(())) for b in EACH_LANE] if launch.counters else []
        return KernelCall(name, launch, tuple(reads), (*writes, *shared), data)

    # Pieces

    def kernel(self, function: Function, operands: Sequence[Ref], results: Sequence[Ref]) -> Call:
        layouts, targets = tuple(r.layout for r in operands), tuple(r.layout for r in results)
        aligned = tuple(r.offset % WIDE_BYTES == 0 for r in (*operands, *results))
        apart = not any(span(a).meets(span(b)) for a in operands for b in results)
        form = (form_of(function), layouts, targets, aligned, apart)

        def make(name: str) -> tuple[str, Launch]:
            writer = KernelWriter(Nest(function, layouts, targets), name, aligned, self.fast, apart)
            return writer.text, writer.launch

        # A function of a text may have the name of anything in C.
        ours = NUMBERED.fullmatch(function.name) is not None
        hint = function.name if ours else "_".join(["k", *(i.op.name for i in function.instructions[-1:])])
        return self.named(form, hint, operands, results, make)

    def contract(self, i: Instruction, a: Ref, b: Ref, out: Ref, sizes: Sizes) -> Call:
        a, b, out = (r.started() for r in (a, b, out))
        if not sizes[2]:
            return self.fill(out, 0)
        if not out.dtype.floating:
            form = ("product", out.dtype, sizes)
            return self.named(form, "product", (a, b), (out,), lambda name: routines.product(out.dtype, sizes, name))
        return ProductCall(a, b, out, sizes)

    def scatter(self, op: Scatter, i: Instruction, part: Ref, index: Ref, out: Ref) -> Call:
        walk = op.walk(tuple([o.type for o in i.operands]), **i.attrs)
        form = ("scatter_add", part.dtype, index.dtype, walk)
        return self.named(
            form,
            "scatter_add",
            [part.started(), index.started()],
            [out.started()],
            lambda name: routines.scatter_add(part.dtype, index.dtype, walk, name),
        )

    def argmax(self, i: Instruction, x: Ref, out: Ref) -> Call:
        axes, layout = i.attrs["axes"], x.layout
        groups = grouped(len(layout.shape), axes)
        kept, over = (
            tuple((layout.shape[a], layout.strides[a]) for a in chosen) for chosen in ((*groups[0], *groups[2]), axes)
        )
        form = ("argmax", x.dtype, kept, over, layout.offset)
        return self.named(
            form,
            "argmax",
            (x,),
            (out.started(),),
            lambda name: routines.argmax(x.dtype, kept, over, layout.offset, name),
        )

    def key(self, out: Ref, source: Ref, data: int | Ref) -> Call:
        out, source = out.started(), source.started()
        if isinstance(data, Ref):
            dtype = data.dtype
            return self.named(
                ("fold_in", dtype),
                "fold_in",
                (source, data.started()),
                (out,),
                lambda name: routines.fold_in(name, dtype),
            )
        return self.named(
            ("fold_in", None), "fold_in", (source,), (out,), lambda name: routines.fold_in(name, None), data
        )

    def check(self, i: Instruction, ref: Ref, number: int) -> Call:
        rule, types = i.op.check, tuple([o.type for o in i.operands])
        assert rule is not None
        operand = types[rule.operand]
        form = ("check", number)
        return self.named(
            form, f"check_{i.op.name}", (ref,), (),
            lambda name: routines.check(rule, operand, types, i.attrs, ref.layout, number, name),
        )  # fmt: skip

    def whole(self, i: Instruction, operands: Sequence[Ref], results: Sequence[Ref]) -> list[Call]:
        return WHOLE[i.op.name].write(self, i, operands, results)

    def step(self, i: Instruction | None, pieces: Sequence[Call]) -> None:
        for piece in pieces:
            calls = self._aligned(piece) if isinstance(piece, ProductCall) else [piece]
            self.calls += [(i, call) for call in calls]

    def _aligned(self, call: ProductCall) -> list[Call]:
        """A product of arrays that all begin at multiples of ``ALIGNMENT``, as on the tape: libraries choose their kernels by that."""
        before: list[Call] = []
        after: list[Call] = []
        moved: dict[str, Ref] = {}
        end = 0
        for name in ("a", "b", "bias", "out"):
            ref: Ref | None = getattr(call, name)
            if ref is None or ref.offset % ALIGNMENT == 0:
                continue
            shape = ref.layout.shape
            moved[name] = to = Ref("aligned", end, ref.dtype, Layout.contiguous(shape))
            end += -(-math.prod(shape) * ref.dtype.numpy.itemsize // ALIGNMENT) * ALIGNMENT
            if name == "out":
                after.append(self.copy(ref, to, shape))
            else:
                before.append(self.copy(to, ref, shape))
        self.aligned = max(self.aligned, end)
        return [*before, replace(call, **moved), *after]

    # What it costs

    @cached_property
    def lanes(self) -> tuple[list[Turn], tuple[int, ...]]:
        """The lane of every call, what it waits for there, and what the end waits for."""
        return in_lanes([call for _, call in self.calls])

    @property
    def launches(self) -> int:
        """How many kernels and products a run launches."""
        return len(self.calls)
