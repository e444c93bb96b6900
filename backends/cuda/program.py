"""The CUDA target: a planned function as kernels and the launches that run them in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ...ir import Function, Instruction, Module
from ...ir.op import Layout, Scatter
from ...passes.fuse import form_of
from ...passes.loops import Nest, grouped
from ..compiled.lowering import Lowering
from ..compiled.memory import Ref
from . import routines
from .builder import HELPERS
from .nest import KernelWriter, Launch


@dataclass(frozen=True)
class KernelCall:
    """One kernel launch: its name, the arrays whose addresses it takes after the status, and a number behind those where it takes one."""

    name: str
    launch: Launch
    refs: tuple[Ref, ...]
    data: int | None = None

    def __str__(self) -> str:
        x, y = self.launch.threads
        threads = str(x) if y == 1 else f"{x}x{y}"
        places = ", ".join(map(_place, self.refs))
        return (
            f"{self.name}<<<{self.launch.blocks}, {threads}>>>({places}{'' if self.data is None else f', {self.data}'})"
        )


@dataclass(frozen=True)
class ProductCall:
    """A matrix product by cuBLAS: ``out = a @ b`` of ``(batches, m, k, n, a is transposed, b is transposed)``."""

    a: Ref
    b: Ref
    out: Ref
    sizes: tuple[int, int, int, int, bool, bool]

    def __str__(self) -> str:
        batches, m, k, n, ta, tb = self.sizes
        flags = f"{'T' if ta else 'N'}{'T' if tb else 'N'}"
        return f"gemm {flags} {batches} x [{m}, {k}, {n}] ({_place(self.a)}, {_place(self.b)}, {_place(self.out)})"


Call = KernelCall | ProductCall


def _started(ref: Ref) -> Ref:
    """The same elements from an address of their own."""
    layout = ref.layout
    return ref._replace(
        offset=ref.offset + layout.offset * ref.dtype.numpy.itemsize, layout=Layout(layout.shape, layout.strides, 0)
    )


def _place(ref: Ref) -> str:
    return f"{ref.buffer}+{ref.offset}"


class CudaProgram(Lowering[Call]):
    """The kernels of one program, each once, and its calls in order.

    ``kernels`` maps names to text, ``calls`` has an instruction (None: new state is moved) with each of its calls, and ``source`` is what
    NVRTC compiles.
    """

    def __init__(self, function: Function, module: Module, fast: bool = False) -> None:
        super().__init__(function, module, fast)
        self.kernels: dict[str, str] = {}
        self.calls: list[tuple[Instruction | None, Call]] = []
        self._known: dict[object, tuple[str, Launch]] = {}
        self.lower()

    @property
    def source(self) -> str:
        """The text of the whole module."""
        return "\n\n".join([HELPERS, *self.kernels.values()]) + "\n"

    @property
    def listing(self) -> str:
        """Source, and the calls as comments with the user's lines."""
        lines = [f"// {self.launches} launches"]
        for i, call in self.calls:
            place = next(iter(i.location), None) if i is not None else None
            lines.append(f"// {call}" + (f"  {PurePath(place.file).name}:{place.line}" if place is not None else ""))
        return f"{self.source}\n" + "\n".join(lines) + "\n"

    def _named(
        self, form: object, hint: str, refs: Sequence[Ref], make: routines.Maker, data: int | None = None
    ) -> KernelCall:
        """A call of the kernel of a form, which is written at its first use."""
        if form not in self._known:
            name = hint
            while name in self.kernels:
                name = f"{hint}_{len(self.kernels)}"
            self.kernels[name], launch = make(name)
            self._known[form] = name, launch
        name, launch = self._known[form]
        return KernelCall(name, launch, tuple(refs), data)

    # Pieces

    def kernel(self, function: Function, operands: Sequence[Ref], results: Sequence[Ref]) -> Call:
        layouts, targets = tuple(r.layout for r in operands), tuple(r.layout for r in results)
        form = (form_of(function), layouts, targets)

        def make(name: str) -> tuple[str, Launch]:
            writer = KernelWriter(Nest(function, layouts, targets), name)
            return writer.text, writer.launch

        hint = (
            function.name if function.name != "k" else "_".join(["k", *(i.op.name for i in function.instructions[-1:])])
        )
        return self._named(form, hint, (*operands, *results), make)

    def contract(self, i: Instruction, a: Ref, b: Ref, out: Ref, sizes: tuple[int, int, int, int, bool, bool]) -> Call:
        return ProductCall(_started(a), _started(b), _started(out), sizes)

    def scatter(self, op: Scatter, i: Instruction, part: Ref, index: Ref, out: Ref) -> Call:
        walk = op.walk(tuple([o.type for o in i.operands]), **i.attrs)
        form = ("scatter_add", part.dtype, index.dtype, walk)
        return self._named(
            form,
            "scatter_add",
            [_started(r) for r in (part, index, out)],
            lambda name: routines.scatter_add(part.dtype, index.dtype, walk, name),
        )

    def argmax(self, i: Instruction, x: Ref, out: Ref) -> Call:
        axes, layout = i.attrs["axes"], x.layout
        groups = grouped(len(layout.shape), axes)
        kept, over = (
            tuple((layout.shape[a], layout.strides[a]) for a in chosen) for chosen in ((*groups[0], *groups[2]), axes)
        )
        form = ("argmax", x.dtype, kept, over, layout.offset)
        return self._named(
            form, "argmax", (x, _started(out)), lambda name: routines.argmax(x.dtype, kept, over, layout.offset, name)
        )

    def key(self, out: Ref, source: Ref, data: int | Ref) -> Call:
        out, source = _started(out), _started(source)
        if isinstance(data, Ref):
            dtype = data.dtype
            return self._named(
                ("fold_in", dtype), "fold_in", (source, _started(data), out), lambda name: routines.fold_in(name, dtype)
            )
        return self._named(("fold_in", None), "fold_in", (source, out), lambda name: routines.fold_in(name, None), data)

    def check(self, i: Instruction, ref: Ref, number: int) -> Call:
        rule, types = i.op.check, tuple([o.type for o in i.operands])
        assert rule is not None
        operand = types[rule.operand]
        form = ("check", number)
        return self._named(
            form, f"check_{i.op.name}", (ref,),
            lambda name: routines.check(rule, operand, types, i.attrs, ref.layout, number, name),
        )  # fmt: skip

    def step(self, i: Instruction | None, pieces: Sequence[Call]) -> None:
        self.calls += [(i, piece) for piece in pieces]

    # What it costs

    @property
    def launches(self) -> int:
        """How many kernels and products a run launches."""
        return len(self.calls)
