"""CUDA kernels that are no nest of loops: scatter-add, argmax, keys, and the search for an element that an op does not take.

All begin as every kernel does: ``status`` is a word that a failed check has set, and then nothing is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...ir.op import Check, IndexWalk, Layout
from ...ir.scalar import Scalar
from ...ir.types import DType, TensorType, bool_
from .builder import CBuilder, loaded, memory_type, number, register_type, stored
from .device import Launch
from .nest import BLOCK, GUARD, HEAD, MOST_THREADS

Maker = Callable[[str], tuple[str, Launch]]
"""Writes a kernel under a name."""


def scatter_add(dtype: DType, index: DType, walk: IndexWalk, name: str) -> tuple[str, Launch]:
    """``(part, index, out)``: each slice of ``out`` is the sum, from zero and in order, of the parts that go there."""
    kind, word, value = memory_type(dtype), memory_type(index), register_type(dtype)
    add = "sum + x" if dtype.floating else f"({kind})((unsigned long long)sum + (unsigned long long)x)"
    head = f'extern "C" __global__ void __launch_bounds__({BLOCK}) {name}({HEAD}, const {kind} *part, const {word} *index, {kind} *out) {{'
    if walk.shared:  # a block takes one slice, its threads the slice's elements
        body = f"""
{GUARD}
  const long long slice = blockIdx.x % {walk.size}, outer = blockIdx.x / {walk.size};
  for (long long first = 0; first < {walk.inner}; first += {BLOCK}) {{
    const long long lane = first + threadIdx.x;
    {value} sum = {number(0, dtype)};
    for (long long base = 0; base < {walk.count}; base += {BLOCK}) {{
      const long long mine = base + threadIdx.x;
      const int met = mine < {walk.count} && (long long)index[mine] == slice;
      if (!__syncthreads_or(met)) continue;
      for (long long j = base; j < {walk.count} && j < base + {BLOCK}; ++j) {{
        if ((long long)index[j] != slice || lane >= {walk.inner}) continue;
        const {value} x = {loaded(f"part[(outer * {walk.count} + j) * {walk.inner} + lane]", dtype)};
        sum = {add};
      }}
    }}
    if (lane < {walk.inner}) out[(outer * {walk.size} + slice) * {walk.inner} + lane] = {stored("sum", dtype)};
  }}
}}"""
        return head + body, Launch(walk.outer * walk.size, (BLOCK, 1))
    total = walk.outer * walk.size * walk.inner
    body = f"""
{GUARD}
  const long long n = (long long)blockIdx.x * {BLOCK} + threadIdx.x;
  if (n >= {total}) return;
  const long long lane = n % {walk.inner}, slice = n / {walk.inner} % {walk.size}, outer = n / {walk.inner * walk.size};
  {value} sum = {number(0, dtype)};
  for (long long j = 0; j < {walk.count}; ++j) {{
    const long long at = (outer * {walk.count} + j) * {walk.inner} + lane;
    if ((long long)index[at] != slice) continue;
    const {value} x = {loaded("part[at]", dtype)};
    sum = {add};
  }}
  out[n] = {stored("sum", dtype)};
}}"""
    return head + body, Launch(-(-total // BLOCK), (BLOCK, 1))


def product(dtype: DType, sizes: tuple[int, int, int, int, bool, bool], name: str) -> tuple[str, Launch]:
    """``(a, b, out)``: a product of integers, which wraps, or of bools; a thread for each element of ``out``."""
    batches, m, k, n, ta, tb = sizes
    kind = memory_type(dtype)
    left = f"a[(batch * {k} + j) * {m} + row]" if ta else f"a[(batch * {m} + row) * {k} + j]"
    right = f"b[(batch * {n} + column) * {k} + j]" if tb else f"b[(batch * {k} + j) * {n} + column]"
    term = (
        f"sum |= {left} & {right};"
        if dtype is bool_
        else f"sum += (unsigned long long){left} * (unsigned long long){right};"
    )
    total = batches * m * n
    return (
        f"""extern "C" __global__ void __launch_bounds__({BLOCK}) {name}({HEAD}, const {kind} *a, const {kind} *b, {kind} *out) {{
{GUARD}
  const long long at = (long long)blockIdx.x * {BLOCK} + threadIdx.x;
  if (at >= {total}) return;
  const long long column = at % {n}, row = at / {n} % {m}, batch = at / {n * m};
  unsigned long long sum = 0;
  for (long long j = 0; j < {k}; ++j) {term}
  out[at] = ({kind})sum;
}}""",
        Launch(-(-total // BLOCK), (BLOCK, 1)),
    )


def argmax(
    dtype: DType, kept: Sequence[tuple[int, int]], over: Sequence[tuple[int, int]], offset: int, name: str
) -> tuple[str, Launch]:
    """``(x, out)``: along ``over`` the position of the first largest element, or of the first NaN; a thread for each of ``kept``.

    Both are sizes with their strides in ``x``.
    """
    kind, value = memory_type(dtype), register_type(dtype)
    total, count = math.prod(n for n, _ in kept), math.prod(n for n, _ in over)
    better = "best == best && (x > best || x != x)" if dtype.floating else "x > best"
    return (
        f"""extern "C" __global__ void __launch_bounds__({BLOCK}) {name}({HEAD}, const {kind} *x0, long long *out) {{
{GUARD}
  const long long n = (long long)blockIdx.x * {BLOCK} + threadIdx.x;
  if (n >= {total}) return;
  const {kind} *row = x0 + {_position("n", kept, offset)};
  {value} best = {loaded("row[0]", dtype)};
  long long at = 0;
  for (long long j = 1; j < {count}; ++j) {{
    const {value} x = {loaded(f"row[{_position(chr(106), over)}]", dtype)};
    if ({better}) {{ best = x; at = j; }}
  }}
  out[n] = at;
}}""",
        Launch(-(-total // BLOCK), (BLOCK, 1)),
    )


def _position(flat: str, sizes: Sequence[tuple[int, int]], offset: int = 0) -> str:
    """The position of an element, given its row-major number."""
    moving = [(n, stride) for n, stride in sizes if n != 1]
    terms = [str(offset)] if offset else []
    inner = 1
    for k, (n, stride) in reversed(list(enumerate(moving))):
        index = f"{flat} / {inner}" if inner > 1 else flat
        index = f"{index} % {n}" if k else index
        terms.append(f"{index} * {stride}" if stride != 1 else index)
        inner *= n
    return " + ".join(terms) or "0"


def fold_in(name: str, number_type: DType | None) -> tuple[str, Launch]:
    """``(key, number, out)``: a key folded with a number in memory, or without ``number_type`` with the argument ``data``."""
    given = "unsigned long long data" if number_type is None else f"const {memory_type(number_type)} *number"
    word = "data" if number_type is None else "(unsigned long long)(long long)number[0]"
    if number_type is not None and number_type.kind == "u":
        word = "(unsigned long long)number[0]"
    return (
        f"""extern "C" __global__ void __launch_bounds__(1) {name}({HEAD}, const unsigned *key, {given}, unsigned *out) {{
{GUARD}
  const unsigned long long word = {word};
  unsigned c[4] = {{(unsigned)word, (unsigned)(word >> 32), 0u, 1u}};
  philox(c, key[0], key[1]);
  out[0] = c[0];
  out[1] = c[1];
}}""",
        Launch(1, (1, 1)),
    )


def check(
    rule: Check,
    operand: TensorType,
    types: tuple[TensorType, ...],
    attrs: Mapping[str, Any],
    layout: Layout,
    code: int,
    name: str,
) -> tuple[str, Launch]:
    """``(x)``: where an element fails, the status becomes ``code``, and the word behind it the first such element."""
    dtype, size = operand.dtype, operand.size
    c = CBuilder()
    c.depth = 2
    at = _position("j", list(zip(layout.shape, layout.strides, strict=True)), layout.offset)
    x = c.name(loaded(f"x0[{at}]", dtype), dtype)
    good: Scalar = rule.holds(c, x, types, attrs)
    lines = "\n".join(c.lines)
    kind = memory_type(dtype)
    return (
        f"""extern "C" __global__ void __launch_bounds__({MOST_THREADS}) {name}(long long *status, const {kind} *x0) {{
  __shared__ unsigned long long first;
  if (*status) return;
  if (threadIdx.x == 0) first = ~0ull;
  __syncthreads();
  for (long long j = threadIdx.x; j < {size}; j += {MOST_THREADS}) {{
{lines}
    if (!({good.code})) {{
      atomicMin(&first, (unsigned long long)j);
      break;
    }}
  }}
  __syncthreads();
  if (threadIdx.x != 0 || first == ~0ull) return;
  const long long j = (long long)first;
  *({kind} *)(status + 1) = x0[{at}];
  *status = {code};
}}""",
        Launch(1, (MOST_THREADS, 1)),
    )
