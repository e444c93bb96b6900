"""The tape: a recorder that computes each op as it records it.  A tape is a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir import Function, Instruction, Location, Mark, Op, Value
from ...ir.autodiff import reverse
from ...ir.build import Builder
from ...ir.print import Names, instruction
from ...ir.record import GraphBuilder
from ...ir.types import Array, TensorType
from .allocator import keep_freed_memory
from .interpret import HOST, Host


class Tape(GraphBuilder):
    """Records of computed ops, in order.

    Iterating gives the records (op, operands, results, location), each value holding its array; printing gives IR text;
    ``gradients`` walks it backwards; ``to_ir`` makes it a function.  ``read_by`` lists the lines that read a value in Python:
    where it is not empty, the recording depends on the data.  ``on`` is what computes: the host, or a device, whose arrays the values hold.
    The arrays go with the tape, but for those of values that somebody still holds.
    """

    def __init__(self, on: Host = HOST, after: Sequence[Instruction] = ()) -> None:
        super().__init__()
        keep_freed_memory()
        self.on = on
        self.instructions = list(after)
        self._begin = len(after)
        self.read_by: list[tuple[Location, ...]] = []
        self.layout: (
            tuple[str, list[tuple[Value, str | None]], list[tuple[Value, Mark | None]], dict[str, Any]] | None
        ) = None

    def __del__(self) -> None:
        # A value and the instruction that made it refer to each other: without this they wait for Python's cyclic collector.
        for i in self.instructions[self._begin :]:
            for value in i.results:
                value.owner = None

    @property
    def data_dependent(self) -> bool:
        """Whether Python code read a value while the tape was recorded."""
        return bool(self.read_by)

    def argument(self, type: TensorType, name: str | None = None, array: Any = None) -> Value:
        value = super().argument(type, name)
        value.array = self.on.array(array)
        return value

    def bind(self, op: Op, operands: tuple[Value, ...], attrs: Mapping[str, Any]) -> tuple[Value, ...]:
        results = super().bind(op, operands, attrs)
        with np.errstate(all="ignore"):
            arrays = self.on.run(self.instructions[-1], [o.array for o in operands])
        for value, array in zip(results, arrays, strict=True):
            value.array = array
        return results

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    def __len__(self) -> int:
        return len(self.instructions)

    def gradients(self, of: Value, wrt: Sequence[Value] | None = None) -> dict[str, Array]:
        """Arrays d ``of`` / d argument by argument name, for all floating arguments or those in ``wrt``.

        The walk is recorded on a copy, so the tape stays as it is.
        """
        inputs = [v for v in self.arguments if v.type.dtype.floating] if wrt is None else list(wrt)
        scratch = Tape(self.on, self.instructions)
        one = Builder(scratch).splat(1.0, of.type)
        found = reverse(scratch, list(self.instructions), [of], [one], inputs)
        return {
            v.name or f"arg{n}": np.zeros(v.type.shape, v.type.dtype.numpy) if g is None else np.array(g.array)
            for n, (v, g) in enumerate(zip(inputs, found, strict=True))
        }

    def _function(self) -> Function:
        """The recorded instructions themselves, with the arguments and results of the entry, if it is one."""
        if self.layout is not None:
            name, arguments, results, attrs = self.layout
            return self.function(name, arguments, results, attrs)
        last: list[tuple[Value, Mark | None]] = (
            [(r, None) for r in self.instructions[-1].results] if self.instructions else []
        )
        return self.function("tape", [(v, "input") for v in self.arguments], last)

    def to_ir(self) -> Function:
        """A copy as a function: of the runtime's entry if the tape recorded one, else of its arguments and last result."""
        return self._function().clone()

    def __str__(self) -> str:
        names = Names(self._function())
        return "\n".join(instruction(i, names) for i in self.instructions)
