"""What a CUDA program does, in order: kernels and products over the memory of the program."""

from __future__ import annotations

from dataclasses import dataclass

from ..base import Sizes
from ..compiled.memory import Ref
from .device import Launch


@dataclass(frozen=True)
class KernelCall:
    """One kernel launch: its name, the arrays that it reads and writes, in the order of its arguments, and a number before the last."""

    name: str
    launch: Launch
    reads: tuple[Ref, ...]
    writes: tuple[Ref, ...]
    data: int | None = None

    @property
    def checks(self) -> bool:
        """Whether it writes nothing but the status."""
        return not self.writes

    @property
    def refs(self) -> tuple[Ref, ...]:
        """The arrays whose addresses it takes after the status."""
        return (*self.reads, *self.writes)

    def __str__(self) -> str:
        x, y = self.launch.threads
        threads = str(x) if y == 1 else f"{x}x{y}"
        places = ", ".join(map(_place, self.refs))
        return (
            f"{self.name}<<<{self.launch.blocks}, {threads}>>>({places}{'' if self.data is None else f', {self.data}'})"
        )


@dataclass(frozen=True)
class ProductCall:
    """A matrix product by cuBLAS: ``out = a @ b`` of ``(batches, m, k, n, a is transposed, b is transposed)``.

    With a ``bias``, one matrix by cuBLASLt: ``out = activation(a @ b + bias)``.
    """

    a: Ref
    b: Ref
    out: Ref
    sizes: Sizes
    bias: Ref | None = None
    activation: str = "none"

    @property
    def name(self) -> str:
        """What stands for the library's kernel."""
        return "gemm" if self.bias is None else "gemm_bias"

    @property
    def reads(self) -> tuple[Ref, ...]:
        """The arrays that it reads."""
        return (self.a, self.b) if self.bias is None else (self.a, self.b, self.bias)

    @property
    def writes(self) -> tuple[Ref, ...]:
        """The array that it writes."""
        return (self.out,)

    def __str__(self) -> str:
        batches, m, k, n, ta, tb = self.sizes
        flags = f"{'T' if ta else 'N'}{'T' if tb else 'N'}"
        places = ", ".join(_place(r) for r in (self.a, self.b, self.out, self.bias) if r is not None)
        epilogue = "" if self.bias is None else f" bias {self.activation}"
        return f"gemm {flags} {batches} x [{m}, {k}, {n}]{epilogue} ({places})"


Call = KernelCall | ProductCall


def _place(ref: Ref) -> str:
    return f"{ref.buffer}+{ref.offset}"
