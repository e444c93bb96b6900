"""Attention and its gradient as kernels that never hold the ``T x S`` matrix of weights: for fast numerics.

A block takes ``ROWS`` rows, a warp 16 of them, and walks over the other side in tiles that it keeps in shared memory.  The maximum and
the sum of a row's weights are brought up to date from tile to tile (online softmax: Milakov and Gimelshein, arXiv:1805.02867; here as
in FlashAttention-2, arXiv:2307.08691).  The gradient is two kernels: one walks over keys, for ``dq``, and leaves of every row the
logarithm of its sum and ``sum(p * dp)``; the other walks over queries, for ``dk`` and ``dv``.  No two blocks write one element, and
nothing is added atomically.

Products are ``mma.m16n8k8`` on TF32.  Of a thread, with ``g = lane / 4`` and ``t = lane % 4``, the fragments hold of A the elements
``(g, t) (g+8, t) (g, t+4) (g+8, t+4)``, of B ``(t, g) (t+4, g)``, and of C ``(g, 2t) (g, 2t+1) (g+8, 2t) (g+8, 2t+1)``.  Weights go
from C to A without a move: that sums over columns ``2t, 2t+1`` where A has ``t, t+4``, so B's rows are taken in that order, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.op import Layout
from ...ir.types import DType, bool_, f32
from .builder import loaded, memory_type, number, stored
from .device import Launch
from .nest import GUARD, HEAD

ROWS = 64
WARPS = 4
THREADS = 32 * WARPS
MOST_COLUMNS = 128
"""The widest queries and values: what a warp keeps of them has to fit its registers."""
PAD = 4
"""Floats between rows of a tile, so that no two threads of a warp read one bank."""

TENSOR_CORES = """\
// Tensor cores: numbers of 10 bits behind the point, and c += a @ b on fragments of them.
__device__ __forceinline__ float tf32(float x) {
  unsigned y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return __uint_as_float(y);
}

__device__ __forceinline__ void mma(float (&c)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(__float_as_int(a0)), "r"(__float_as_int(a1)), "r"(__float_as_int(a2)), "r"(__float_as_int(a3)),
        "r"(__float_as_int(b0)), "r"(__float_as_int(b1)));
}
"""


@dataclass(frozen=True)
class _Array:
    """An operand or result ``[..., rows, columns]`` in memory."""

    name: str
    dtype: DType
    layout: Layout

    @property
    def rows(self) -> int:
        return self.layout.shape[-2]

    @property
    def columns(self) -> int:
        return self.layout.shape[-1]

    @property
    def padded(self) -> int:
        """Columns in whole fragments."""
        return -(-self.columns // 8) * 8

    def start(self) -> str:
        """A statement that moves the pointer to the block's own matrix."""
        terms, inner = [str(self.layout.offset)] if self.layout.offset else [], 1
        for n, stride in reversed(list(zip(self.layout.shape[:-2], self.layout.strides[:-2], strict=True))):
            if n > 1:
                terms.append(f"batch / {inner} % {n} * {stride}")
            inner *= n
        return f"  {self.name} += {' + '.join(terms)};\n" if terms else ""

    def at(self, row: str, column: str) -> str:
        """An element's expression."""
        down, along = self.layout.strides[-2:]
        return f"{self.name}[(long long)({row}) * {down} + ({column}) * {along}]"

    def parameter(self) -> str:
        return f"{memory_type(self.dtype)} *{self.name}"


class _Writer:
    """The parts that the kernels share; ``q``, ``k``, ``v`` are the operands, ``dy`` the result's cotangent."""

    def __init__(self, layouts: Sequence[Layout], dtype: DType, mask: DType | None, causal: bool, scale: float) -> None:
        """``layouts`` are those of q, k, v and perhaps a mask, of dtype ``mask``."""
        self.q, self.k, self.v = (_Array(n, dtype, x) for n, x in zip("qkv", layouts, strict=False))
        self.mask = _Array("mask", mask, layouts[3]) if mask is not None else None
        self.dtype, self.causal, self.scale = dtype, causal, number(scale, f32)
        self.batches = math.prod(self.q.layout.shape[:-2])
        self.queries, self.keys = self.q.rows, self.k.rows
        self.wide = max(self.q.padded, self.v.padded) > 64

    def kernel(
        self, name: str, given: Sequence[_Array], taken: Sequence[str], rows: int, body: str, last_first: bool = True
    ) -> tuple[str, Launch]:
        """A kernel whose blocks take ``ROWS`` of so many rows of a batch; ``tile`` and ``batch`` say which.

        The last queries see most keys, and the first keys are seen by most queries: what takes longest is to begin first.
        """
        arrays = [*given, *([self.mask] if self.mask is not None else [])]
        parameters = ", ".join([HEAD, *(f"const {a.parameter()}" for a in arrays), *taken])
        tiles = -(-rows // ROWS)
        tile = f"{tiles - 1} - (int)(blockIdx.x % {tiles})" if last_first else f"blockIdx.x % {tiles}"
        text = f"""extern "C" __global__ void __launch_bounds__({THREADS}) {name}({parameters}) {{
{GUARD}
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int tile = {tile}, first = tile * {ROWS} + (int)threadIdx.x / 32 * 16;
  const long long batch = blockIdx.x / {tiles};
{"".join(a.start() for a in arrays)}{body}}}"""
        return text, Launch(self.batches * tiles, (THREADS, 1))

    def fragments(self, name: str, array: _Array, rows: int) -> str:
        """The warp's 16 rows as fragments of A."""
        row, column = "first + g + r % 2 * 8", "8 * c + t + r / 2 * 4"
        return f"""  float {name}[{array.padded // 8}][4];
#pragma unroll
  for (int c = 0; c < {array.padded // 8}; ++c)
    for (int r = 0; r < 4; ++r)
      {name}[c][r] = {self._element(array, row, column, rows)};
"""

    def _element(self, array: _Array, row: str, column: str, rows: int) -> str:
        conditions = [f"{row} < {rows}"] + ([f"{column} < {array.columns}"] if array.columns % 8 else [])
        return f"{' && '.join(conditions)} ? tf32({loaded(array.at(row, column), self.dtype)}) : 0.0f"

    def tile(self, name: str, array: _Array, count: int, rows: int) -> str:
        """Rows ``base`` to ``base + count`` into shared memory."""
        columns = array.padded
        return f"""    for (int n = threadIdx.x; n < {count * columns}; n += {THREADS}) {{
      const int row = base + n / {columns}, column = n % {columns};
      {name}[n / {columns} * {columns + PAD} + column] = {self._element(array, "row", "column", rows)};
    }}
"""

    def along(self, into: str, left: str, right: str, array: _Array, count: int) -> str:
        """``into = left @ right^T``: fragments of rows against a tile of rows of ``array``'s columns."""
        step = array.padded + PAD
        return f"""    float {into}[{count // 8}][4] = {{}};
#pragma unroll
    for (int n = 0; n < {count // 8}; ++n)
#pragma unroll
      for (int c = 0; c < {array.padded // 8}; ++c) {{
        const float *const other = {right} + (8 * n + g) * {step} + 8 * c + t;
        mma({into}[n], {", ".join(f"{left}[c][{r}]" for r in range(4))}, other[0], other[4]);
      }}
"""

    def across(self, into: str, left: str, right: str, array: _Array, count: int) -> str:
        """``into += left @ right``: weights against a tile of rows of ``array``."""
        step = array.padded + PAD
        return f"""#pragma unroll
    for (int n = 0; n < {count // 8}; ++n) {{
      const float a0 = tf32({left}[n][0]), a1 = tf32({left}[n][2]), a2 = tf32({left}[n][1]), a3 = tf32({left}[n][3]);
#pragma unroll
      for (int c = 0; c < {array.padded // 8}; ++c) {{
        const float *const other = {right} + (8 * n + 2 * t) * {step} + 8 * c + g;
        mma({into}[c], a0, a1, a2, a3, other[0], other[{step}]);
      }}
    }}
"""

    def each(self, count: int, body: str) -> str:
        """``body`` for every weight ``[n][r]`` that a thread holds: those of row ``r / 2``."""
        return f"""#pragma unroll
    for (int n = 0; n < {count // 8}; ++n)
#pragma unroll
      for (int r = 0; r < 4; ++r) {{
{body}      }}
"""

    def allowed(self, query: str, key: str) -> str:
        """Whether a query may see a key; both may lie behind the end."""
        conditions = [f"{key} < {self.keys}"]
        if self.causal:
            conditions.append(f"{key} <= {query}")
        if self.mask is not None:
            conditions.append(f"{query} < {self.queries}")
            if self.mask.dtype is bool_:
                conditions.append(loaded(self.mask.at(query, key), bool_))
        return " && ".join(conditions)

    def masked(self, query: str, key: str, condition: str) -> str:
        """The score of a query and a key that meet a condition, else minus infinity."""
        added = self.mask if self.mask is not None and self.mask.dtype is not bool_ else None
        score = f"score[n][r] * {self.scale}"
        if added is not None:
            score = f"{score} + {loaded(added.at(query, key), added.dtype)}"
        return f"({condition} ? {score} : {MINUS_INFINITY})"

    def scores(self, count: int) -> str:
        """Scores of a tile of keys, those that are not allowed minus infinity."""
        key, query = "base + 8 * n + 2 * t + r % 2", "first + g + r / 2 * 8"
        body = f"        score[n][r] = {self.masked(query, key, self.allowed(query, key))};\n"
        return self.along("score", "query", "keys", self.q, count) + self.each(count, body)

    def online(self, count: int, shrunk: str, added: str) -> str:
        """Take a tile of scores into the maxima and sums of rows, and make them weights by the maxima so far."""
        larger = "        top[r / 2] = fmaxf(top[r / 2], score[n][r]);\n"
        weight = f"""        score[n][r] = expf(score[n][r] - least[r / 2]);
        sum[r / 2] += score[n][r];
{added}"""
        return f"""    float top[2] = {{most[0], most[1]}};
{self.each(count, larger)}    for (int h = 0; h < 2; ++h) {{
      top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 1));
      top[h] = fmaxf(top[h], __shfl_xor_sync(~0u, top[h], 2));
      least[h] = top[h] == {MINUS_INFINITY} ? 0.0f : top[h];
      const float shrink = expf(most[h] - least[h]);
      most[h] = top[h];
      sum[h] *= shrink;
{shrunk}    }}
{self.each(count, weight)}"""

    def folded(self, name: str) -> str:
        """A row's four threads add up what each has."""
        return f"""    {name}[h] += __shfl_xor_sync(~0u, {name}[h], 1);
    {name}[h] += __shfl_xor_sync(~0u, {name}[h], 2);
"""

    def sums(self) -> str:
        """A row's sum; 1 where the row may see nothing, so that its weights are 0."""
        return f"""{self.folded("sum")}    if (sum[h] == 0.0f) sum[h] = 1.0f;
"""

    def store(self, to: _Array, name: str, rows: int, over: str = "") -> str:
        """Write a warp's 16 rows of a result."""
        row, column = "first + g + r / 2 * 8", "8 * c + 2 * t + r % 2"
        conditions = [f"{row} < {rows}"] + ([f"{column} < {to.columns}"] if to.columns % 8 else [])
        return f"""#pragma unroll
  for (int c = 0; c < {to.padded // 8}; ++c)
#pragma unroll
    for (int r = 0; r < 4; ++r)
      if ({" && ".join(conditions)}) {to.at(row, column)} = {stored(f"{name}[c][r]{over}", self.dtype)};
"""

    def shared(self, name: str, array: _Array, count: int) -> str:
        return f"  __shared__ float {name}[{count * (array.padded + PAD)}];\n"

    @property
    def end(self) -> str:
        """Behind the last key that a block of queries may see."""
        return f"min({self.keys}, (tile + 1) * {ROWS})" if self.causal else str(self.keys)


MINUS_INFINITY = number(-math.inf, f32)
_SUMS = f"  float most[2] = {{{MINUS_INFINITY}, {MINUS_INFINITY}}}, sum[2] = {{}}, least[2];\n"


def attention(
    layouts: Sequence[Layout],
    out: Layout,
    dtype: DType,
    mask: DType | None,
    causal: bool,
    scale: float,
    name: str,
) -> tuple[str, Launch]:
    """``(q, k, v[, mask], y)``."""
    w = _Writer(layouts, dtype, mask, causal, scale)
    y, count, columns = _Array("y", dtype, out), 32 if w.wide else 64, w.v.padded // 8
    shrunk = f"      for (int c = 0; c < {columns}; ++c) result[c][2 * h] *= shrink, result[c][2 * h + 1] *= shrink;\n"
    tiles = w.shared("keys", w.k, count) + w.shared("values", w.v, count)
    body = f"""{y.start()}{tiles}{w.fragments("query", w.q, w.queries)}{_SUMS}  float result[{columns}][4] = {{}};
  for (int base = 0; base < {w.end}; base += {count}) {{
    __syncthreads();
{w.tile("keys", w.k, count, w.keys)}{w.tile("values", w.v, count, w.keys)}    __syncthreads();
{w.scores(count)}{w.online(count, shrunk, "")}{w.across("result", "score", "values", w.v, count)}  }}
  for (int h = 0; h < 2; ++h) {{
{w.sums()}  }}
{w.store(y, "result", w.queries, " / sum[r / 2]")}"""
    return w.kernel(name, [w.q, w.k, w.v], [y.parameter()], w.queries, body)


def query_gradient(
    layouts: Sequence[Layout],
    dy_layout: Layout,
    out: Layout,
    dtype: DType,
    mask: DType | None,
    causal: bool,
    scale: float,
    name: str,
) -> tuple[str, Launch]:
    """``(dy, q, k, v[, mask], dq, stats)``; ``stats`` gets of every row the logarithm of its sum, and of every row ``sum(p * dp)``."""
    w = _Writer(layouts, dtype, mask, causal, scale)
    dy, dq, count = _Array("dy", dtype, dy_layout), _Array("dq", dtype, out), 16 if w.wide else 32
    pull = w.along("pull", "slope", "values", w.v, count)
    tiles = f"""    __syncthreads();
{w.tile("keys", w.k, count, w.keys)}{w.tile("values", w.v, count, w.keys)}    __syncthreads();
{w.scores(count)}{pull}"""
    shrunk, added = "      total[h] *= shrink;\n", "        total[r / 2] += score[n][r] * pull[n][r];\n"
    key, query = "base + 8 * n + 2 * t + r % 2", "first + g + r / 2 * 8"
    change = f"""        const float weight = expf(score[n][r] - least[r / 2]);
        score[n][r] = {w.allowed(query, key)} ? weight * (pull[n][r] - total[r / 2]) * {w.scale} : 0.0f;
"""
    body = f"""{dq.start()}{w.shared("keys", w.k, count)}{w.shared("values", w.v, count)}\
{w.fragments("query", w.q, w.queries)}{w.fragments("slope", dy, w.queries)}{_SUMS}  float total[2] = {{}};
  for (int base = 0; base < {w.end}; base += {count}) {{
{tiles}{w.online(count, shrunk, added)}  }}
  for (int h = 0; h < 2; ++h) {{
{w.sums()}{w.folded("total")}    total[h] /= sum[h];
    least[h] += logf(sum[h]);
    const int row = first + g + h * 8;
    if (t == 0 && row < {w.queries}) {{
      stats[batch * {w.queries} + row] = least[h];
      stats[{w.batches * w.queries} + batch * {w.queries} + row] = total[h];
    }}
  }}
  float result[{w.q.padded // 8}][4] = {{}};
  for (int base = 0; base < {w.end}; base += {count}) {{
{tiles}{w.each(count, change)}{w.across("result", "score", "keys", w.k, count)}  }}
{w.store(dq, "result", w.queries)}"""
    return w.kernel(name, [dy, w.q, w.k, w.v], [dq.parameter(), "float *stats"], w.queries, body)


def key_gradient(
    layouts: Sequence[Layout],
    dy_layout: Layout,
    outs: tuple[Layout, Layout],
    dtype: DType,
    mask: DType | None,
    causal: bool,
    scale: float,
    name: str,
) -> tuple[str, Launch]:
    """``(dy, q, k, v[, mask], dk, dv, stats)``, with what ``query_gradient`` left in ``stats``."""
    w = _Writer(layouts, dtype, mask, causal, scale)
    dy, count = _Array("dy", dtype, dy_layout), 16 if w.wide else 32
    dk, dv = (_Array(n, dtype, x) for n, x in zip(("dk", "dv"), outs, strict=True))
    first_base = f"tile * {ROWS}" if w.causal else "0"  # queries before see none of these keys
    query, key = "base + 8 * n + 2 * t + r % 2", "first + g + r / 2 * 8"
    change = f"""        const int column = 8 * n + 2 * t + r % 2;
        const bool allowed = {query} < {w.queries} && {w.allowed(query, key)};
        score[n][r] = expf({w.masked(query, key, "allowed")} - logs[column]);
        pull[n][r] = allowed ? score[n][r] * (pull[n][r] - totals[column]) * {w.scale} : 0.0f;
"""
    body = f"""{dk.start()}{dv.start()}{w.shared("queries", w.q, count)}{w.shared("slopes", w.v, count)}\
  __shared__ float logs[{count}], totals[{count}];
{w.fragments("key", w.k, w.keys)}{w.fragments("value", w.v, w.keys)}\
  float to_key[{w.q.padded // 8}][4] = {{}}, to_value[{w.v.padded // 8}][4] = {{}};
  for (int base = {first_base}; base < {w.queries}; base += {count}) {{
    __syncthreads();
{w.tile("queries", w.q, count, w.queries)}{w.tile("slopes", dy, count, w.queries)}    if (threadIdx.x < {count}) {{
      const int row = base + (int)threadIdx.x;
      logs[threadIdx.x] = row < {w.queries} ? stats[batch * {w.queries} + row] : 0.0f;
      totals[threadIdx.x] = row < {w.queries} ? stats[{w.batches * w.queries} + batch * {w.queries} + row] : 0.0f;
    }}
    __syncthreads();
{w.along("score", "key", "queries", w.q, count)}{w.along("pull", "value", "slopes", w.v, count)}{w.each(count, change)}\
{w.across("to_value", "score", "slopes", w.v, count)}{w.across("to_key", "pull", "queries", w.q, count)}  }}
{w.store(dk, "to_key", w.keys)}{w.store(dv, "to_value", w.keys)}"""
    taken = [dk.parameter(), dv.parameter(), "const float *stats"]
    return w.kernel(name, [dy, w.q, w.k, w.v], taken, w.keys, body, last_first=False)
