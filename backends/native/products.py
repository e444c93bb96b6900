"""The code of matrix products: own loops where a product is small or of integers, else calls of BLAS, cut into blocks by shape.

``void tapeir_contract_T(ptr a, ptr b, ptr out, i64 batches, i64 m, i64 k, i64 n, i64 transpose_a, i64 transpose_b)`` for T in f32, f64,
i8 to i64, u8 to u64: ``out[i] = a[i] @ b[i]``, all row-major contiguous, ``a`` being ``[batches, m, k]`` or, transposed,
``[batches, k, m]``, and ``b`` likewise.  Which routine computes what and how a product is cut into blocks depends on the shape and the
flags alone, so the bits do not depend on the number of threads.
"""

from __future__ import annotations

from string import Template

SMALL = 1 << 13
"""Multiply-adds up to which our own loops are quicker than a call of BLAS."""
SMALL_VECTOR = 1 << 9
"""The same where an operand is a vector."""
SMALL_PANEL = 1 << 10
"""Elements of ``b``, its rows padded to whole vectors, up to which our own loops are used."""
SHARE = 1 << 18
"""Multiply-adds from which batches are shared between threads, and a matrix is cut in two where the other operand is a vector."""
SPLIT = 1 << 19
"""Multiply-adds from which a product of matrices is two blocks: each packs its own panels, so that smaller ones gain nothing."""
SPLIT_FOUR = 1 << 28
SPLIT_EIGHT = 1 << 31
SMALLEST_BLOCK = 32
"""Rows or columns a block has at least."""
WHOLE_BATCH = 8
"""So many products are shared out whole."""
MOST_CHUNKS = 16
LANES = 8
_ROWS = 4

_DRIVER = """
%job_$T = type { ptr, ptr, ptr, i64, i64, i64, i64, i64, i64 }

; Block %part of %parts along the longer of m and n.
define internal void @block_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb, i64 %part, i64 %parts) {
entry:
  %tall = icmp uge i64 %m, %n
  %long = select i1 %tall, i64 %m, i64 %n
  %low = mul i64 %long, %part
  %low_share = udiv i64 %low, %parts
  %begin = and i64 %low_share, -16
  %next = add i64 %part, 1
  %high = mul i64 %long, %next
  %high_share = udiv i64 %high, %parts
  %high_cut = and i64 %high_share, -16
  %last = icmp eq i64 %next, %parts
  %end = select i1 %last, i64 %long, i64 %high_cut
  %i0 = select i1 %tall, i64 %begin, i64 0
  %i1 = select i1 %tall, i64 %end, i64 %m
  %j0 = select i1 %tall, i64 0, i64 %begin
  %j1 = select i1 %tall, i64 %n, i64 %end
  call void @product_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb, i64 %i0, i64 %i1, i64 %j0, i64 %j1)
  ret void
}

define internal void @units_$T(ptr %job, i64 %begin, i64 %end) {
entry:
  %a = load ptr, ptr %job
  %pb = getelementptr %job_$T, ptr %job, i64 0, i32 1
  %b = load ptr, ptr %pb
  %po = getelementptr %job_$T, ptr %job, i64 0, i32 2
  %out = load ptr, ptr %po
  %pm = getelementptr %job_$T, ptr %job, i64 0, i32 3
  %m = load i64, ptr %pm
  %pk = getelementptr %job_$T, ptr %job, i64 0, i32 4
  %k = load i64, ptr %pk
  %pn = getelementptr %job_$T, ptr %job, i64 0, i32 5
  %n = load i64, ptr %pn
  %pta = getelementptr %job_$T, ptr %job, i64 0, i32 6
  %ta = load i64, ptr %pta
  %ptb = getelementptr %job_$T, ptr %job, i64 0, i32 7
  %tb = load i64, ptr %ptb
  %pp = getelementptr %job_$T, ptr %job, i64 0, i32 8
  %parts = load i64, ptr %pp
  %mk = mul i64 %m, %k
  %kn = mul i64 %k, %n
  %mn = mul i64 %m, %n
  br label %loop
loop:
  %unit = phi i64 [ %begin, %entry ], [ %unit1, %loop ]
  %batch = udiv i64 %unit, %parts
  %part = urem i64 %unit, %parts
  %oa = mul i64 %batch, %mk
  %ob = mul i64 %batch, %kn
  %oo = mul i64 %batch, %mn
  %ai = getelementptr $element, ptr %a, i64 %oa
  %bi = getelementptr $element, ptr %b, i64 %ob
  %outi = getelementptr $element, ptr %out, i64 %oo
  call void @block_$T(ptr %ai, ptr %bi, ptr %outi, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb, i64 %part, i64 %parts)
  %unit1 = add i64 %unit, 1
  %more = icmp ult i64 %unit1, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

define internal void @split_$T(ptr %a, ptr %b, ptr %out, i64 %batches, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb,
    i64 %work, i64 %total) noinline {
entry:
  %job = alloca %job_$T
  %a_row = icmp eq i64 %m, 1
  %a_column = icmp eq i64 %n, 1
  %thin = or i1 %a_row, %a_column
  %least = select i1 %thin, i64 $share, i64 $split
  %from_two = icmp uge i64 %work, %least
  %from_four = icmp uge i64 %work, $split_four
  %from_eight = icmp uge i64 %work, $split_eight
  %w1 = select i1 %from_two, i64 2, i64 1
  %w2 = select i1 %from_four, i64 4, i64 %w1
  %wished = select i1 %from_eight, i64 8, i64 %w2
  %tall = icmp uge i64 %m, %n
  %long = select i1 %tall, i64 %m, i64 %n
  %blocks = udiv i64 %long, $smallest
  %fits = icmp ule i64 %wished, %blocks
  %single = icmp ult i64 %batches, $whole
  %cut = and i1 %fits, %single
  %parts = select i1 %cut, i64 %wished, i64 1
  store ptr %a, ptr %job
  %pb = getelementptr %job_$T, ptr %job, i64 0, i32 1
  store ptr %b, ptr %pb
  %po = getelementptr %job_$T, ptr %job, i64 0, i32 2
  store ptr %out, ptr %po
  %pm = getelementptr %job_$T, ptr %job, i64 0, i32 3
  store i64 %m, ptr %pm
  %pk = getelementptr %job_$T, ptr %job, i64 0, i32 4
  store i64 %k, ptr %pk
  %pn = getelementptr %job_$T, ptr %job, i64 0, i32 5
  store i64 %n, ptr %pn
  %pta = getelementptr %job_$T, ptr %job, i64 0, i32 6
  store i64 %ta, ptr %pta
  %ptb = getelementptr %job_$T, ptr %job, i64 0, i32 7
  store i64 %tb, ptr %ptb
  %pp = getelementptr %job_$T, ptr %job, i64 0, i32 8
  store i64 %parts, ptr %pp
  %units = mul i64 %batches, %parts
  %per = lshr i64 %total, $chunk_bits
  %c1 = call i64 @llvm.umin.i64(i64 %per, i64 $most)
  %chunks = call i64 @llvm.umin.i64(i64 %c1, i64 %units)
  call void @tapeir_parallel(ptr @units_$T, ptr %job, i64 %units, i64 %chunks)
  ret void
}

define void @tapeir_contract_$T(ptr %a, ptr %b, ptr %out, i64 %batches, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb) {
entry:
  %mk = mul i64 %m, %k
  %kn = mul i64 %k, %n
  %mn = mul i64 %m, %n
  %work = mul i64 %mk, %n
  %total = mul i64 %work, %batches
  %large = icmp uge i64 %total, $share
  br i1 %large, label %split, label %direct
split:
  tail call void @split_$T(ptr %a, ptr %b, ptr %out, i64 %batches, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb, i64 %work, i64 %total)
  ret void
direct:
  %nothing = icmp eq i64 %total, 0
  br i1 %nothing, label %zeros, label %loop
zeros:
  %elements = mul i64 %mn, %batches
  %bytes = mul i64 %elements, $size
  call void @llvm.memset.p0.i64(ptr %out, i8 0, i64 %bytes, i1 false)
  ret void
loop:
  %i = phi i64 [ 0, %direct ], [ %next, %loop ]
  %ai = phi ptr [ %a, %direct ], [ %a1, %loop ]
  %bi = phi ptr [ %b, %direct ], [ %b1, %loop ]
  %outi = phi ptr [ %out, %direct ], [ %out1, %loop ]
  call void @product_$T(ptr %ai, ptr %bi, ptr %outi, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb, i64 0, i64 %m, i64 0, i64 %n)
  %a1 = getelementptr $element, ptr %ai, i64 %mk
  %b1 = getelementptr $element, ptr %bi, i64 %kn
  %out1 = getelementptr $element, ptr %outi, i64 %mn
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %batches
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""

# Called by Python with the addresses of three NumPy arrays: their data and shapes are read where NumPy's ABI keeps them.
_ARRAYS = """
define void @arrays_$T(ptr %a, ptr %b, ptr %out, i64 %ta, i64 %tb) {
entry:
  %pa = getelementptr i8, ptr %a, i64 $data
  %da = load ptr, ptr %pa
  %pb = getelementptr i8, ptr %b, i64 $data
  %db = load ptr, ptr %pb
  %po = getelementptr i8, ptr %out, i64 $data
  %do = load ptr, ptr %po
  %pr = getelementptr i8, ptr %out, i64 $rank
  %rank32 = load i32, ptr %pr
  %rank = zext i32 %rank32 to i64
  %last = sub i64 %rank, 1
  %second = sub i64 %rank, 2
  %pshape = getelementptr i8, ptr %out, i64 $shape
  %shape = load ptr, ptr %pshape
  %pm = getelementptr i64, ptr %shape, i64 %second
  %m = load i64, ptr %pm
  %pn = getelementptr i64, ptr %shape, i64 %last
  %n = load i64, ptr %pn
  %pashape = getelementptr i8, ptr %a, i64 $shape
  %ashape = load ptr, ptr %pashape
  %straight = icmp eq i64 %ta, 0
  %axis = select i1 %straight, i64 %last, i64 %second
  %pk = getelementptr i64, ptr %ashape, i64 %axis
  %k = load i64, ptr %pk
  br label %loop
loop:
  %batches = phi i64 [ 1, %entry ], [ %more, %body ]
  %d = phi i64 [ 0, %entry ], [ %d1, %body ]
  %is = icmp ult i64 %d, %second
  br i1 %is, label %body, label %run
body:
  %ps = getelementptr i64, ptr %shape, i64 %d
  %s = load i64, ptr %ps
  %more = mul i64 %batches, %s
  %d1 = add i64 %d, 1
  br label %loop
run:
  tail call void @tapeir_contract_$T(ptr %da, ptr %db, ptr %do, i64 %batches, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb)
  ret void
}
"""

_FLOAT = """
declare void @tapeir_gemm_$T(i32, i32, i32, $int, $int, $int, $element, ptr, $int, ptr, $int, $element, ptr, $int)
declare void @tapeir_gemv_$T(i32, i32, $int, $int, $element, ptr, $int, ptr, $int, $element, ptr, $int)
declare <$lanes x $element> @llvm.masked.load.v${lanes}$T.p0(ptr, i32, <$lanes x i1>, <$lanes x $element>)
declare void @llvm.masked.store.v${lanes}$T.p0(<$lanes x $element>, ptr, i32, <$lanes x i1>)

; out = the given matrix, row-major, times a vector; with %trans its transpose.
define internal void @vector_$T(i1 %trans, ptr %w, i64 %rows, i64 %columns, i64 %stride, ptr %x, ptr %y) {
entry:
  %length = select i1 %trans, i64 %columns, i64 %rows
  %bytes = mul i64 %length, $size
  call void @llvm.memset.p0.i64(ptr %y, i8 0, i64 %bytes, i1 false)
  %flag = select i1 %trans, i32 112, i32 111
  %r = $cast i64 %rows to $int
  %c = $cast i64 %columns to $int
  %ld = $cast i64 %stride to $int
  call void @tapeir_gemv_$T(i32 101, i32 %flag, $int %r, $int %c, $element 1.0,
    ptr %w, $int %ld, ptr %x, $int 1, $element 1.0, ptr %y, $int 1)
  ret void
}

define internal void @product_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb, i64 %i0, i64 %i1, i64 %j0, i64 %j1) {
entry:
  %rounded = add i64 %n, $lanes_less
  %columns = and i64 %rounded, -$lanes
  %panel = mul i64 %columns, %k
  %mk = mul i64 %m, %k
  %work = mul i64 %mk, %n
  %a_row = icmp eq i64 %m, 1
  %a_column = icmp eq i64 %n, 1
  %thin = or i1 %a_row, %a_column
  %most = select i1 %thin, i64 $small_vector, i64 $small
  %little = icmp ule i64 %work, %most
  %fits = icmp ule i64 %panel, $small_panel
  %own = and i1 %little, %fits
  br i1 %own, label %small, label %library
small:
  call void @small_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb)
  ret void
library:
  %trans_a = icmp ne i64 %ta, 0
  %trans_b = icmp ne i64 %tb, 0
  %lda = select i1 %trans_a, i64 %m, i64 %k
  %ldb = select i1 %trans_b, i64 %k, i64 %n
  %row = mul i64 %i0, %k
  %oa = select i1 %trans_a, i64 %i0, i64 %row
  %column = mul i64 %j0, %k
  %ob = select i1 %trans_b, i64 %column, i64 %j0
  %line = mul i64 %i0, %n
  %oo = add i64 %line, %j0
  %pa = getelementptr $element, ptr %a, i64 %oa
  %pb = getelementptr $element, ptr %b, i64 %ob
  %po = getelementptr $element, ptr %out, i64 %oo
  %mm = sub i64 %i1, %i0
  %nn = sub i64 %j1, %j0
  br i1 %a_column, label %matrix_vector, label %other
matrix_vector:
  %ar = select i1 %trans_a, i64 %k, i64 %mm
  %ac = select i1 %trans_a, i64 %mm, i64 %k
  call void @vector_$T(i1 %trans_a, ptr %pa, i64 %ar, i64 %ac, i64 %lda, ptr %b, ptr %po)
  ret void
other:
  br i1 %a_row, label %vector_matrix, label %matrices
vector_matrix:
  %turned = xor i1 %trans_b, true
  %br = select i1 %trans_b, i64 %nn, i64 %k
  %bc = select i1 %trans_b, i64 %k, i64 %nn
  call void @vector_$T(i1 %turned, ptr %pb, i64 %br, i64 %bc, i64 %ldb, ptr %a, ptr %po)
  ret void
matrices:
  %fa = select i1 %trans_a, i32 112, i32 111
  %fb = select i1 %trans_b, i32 112, i32 111
  %M = $cast i64 %mm to $int
  %N = $cast i64 %nn to $int
  %K = $cast i64 %k to $int
  %LA = $cast i64 %lda to $int
  %LB = $cast i64 %ldb to $int
  %LC = $cast i64 %n to $int
  call void @tapeir_gemm_$T(i32 101, i32 %fa, i32 %fb, $int %M, $int %N, $int %K, $element 1.0,
    ptr %pa, $int %LA, ptr %pb, $int %LB, $element 0.0, ptr %po, $int %LC)
  ret void
}

; Each element is the sum over k in order, from zero, of rounded products.  A transposed %b is turned first.
define internal void @small_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb) {
entry:
  %straight_a = icmp eq i64 %ta, 0
  %row = select i1 %straight_a, i64 %k, i64 1
  %step = select i1 %straight_a, i64 1, i64 %m
  %straight_b = icmp eq i64 %tb, 0
  br i1 %straight_b, label %direct, label %turn
direct:
  call void @tiles_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step)
  ret void
turn:
  call void @turned_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step)
  ret void
}

define internal void @turned_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step) noinline {
entry:
  %panel = alloca [$small_panel x $element], align 64
  br label %rows
rows:
  %j = phi i64 [ 0, %entry ], [ %j1, %row_done ]
  %from = mul i64 %j, %k
  %source = getelementptr $element, ptr %b, i64 %from
  %target = getelementptr $element, ptr %panel, i64 %j
  br label %copy
copy:
  %p = phi i64 [ 0, %rows ], [ %p1, %copy ]
  %s = getelementptr $element, ptr %source, i64 %p
  %v = load $element, ptr %s
  %to = mul i64 %p, %n
  %t = getelementptr $element, ptr %target, i64 %to
  store $element %v, ptr %t
  %p1 = add i64 %p, 1
  %more = icmp ult i64 %p1, %k
  br i1 %more, label %copy, label %row_done
row_done:
  %j1 = add i64 %j, 1
  %again = icmp ult i64 %j1, %n
  br i1 %again, label %rows, label %done
done:
  call void @tiles_$T(ptr %a, ptr %panel, ptr %out, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step)
  ret void
}

define internal void @tiles_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step) {
entry:
  br label %loop
loop:
  %j = phi i64 [ 0, %entry ], [ %j1, %next ]
  %left = sub i64 %n, %j
  %bj = getelementptr $element, ptr %b, i64 %j
  %outj = getelementptr $element, ptr %out, i64 %j
  %whole = icmp uge i64 %left, $lanes
  br i1 %whole, label %full, label %part
full:
  call void @full_$T(ptr %a, ptr %bj, ptr %outj, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step, i64 %left)
  br label %next
part:
  call void @part_$T(ptr %a, ptr %bj, ptr %outj, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step, i64 %left)
  br label %next
next:
  %j1 = add i64 %j, $lanes
  %more = icmp ult i64 %j1, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


def _rows_loop(name: str, element: str, rows: int, after: str, masked: bool) -> str:
    """A loop over groups of ``rows`` rows of a tile, from ``%i_{name}`` on while so many are left."""
    vector, lanes, which = f"<{LANES} x {element}>", range(rows), "f32" if element == "float" else "f64"
    if masked:
        load = f"call {vector} @llvm.masked.load.v{LANES}{which}.p0(ptr %pb{name}, i32 1, <{LANES} x i1> %mask, {vector} zeroinitializer)"
    else:
        load = f"load {vector}, ptr %pb{name}, align 1"
    lines = [
        f"group{name}:",
        f"  %i{name} = phi i64 [ %first{name}, %enter{name} ], [ %next{name}, %stored{name} ]",
        f"  %next{name} = add i64 %i{name}, {rows}",
        f"  %enough{name} = icmp ule i64 %next{name}, %m",
        f"  br i1 %enough{name}, label %begin{name}, label %{after}",
        f"begin{name}:",
        f"  %ra{name} = mul i64 %i{name}, %row",
        f"  %a0{name} = getelementptr {element}, ptr %a, i64 %ra{name}",
        f"  br label %k{name}",
        f"k{name}:",
        f"  %p{name} = phi i64 [ 0, %begin{name} ], [ %p1{name}, %k{name} ]",
        f"  %ap{name} = phi ptr [ %a0{name}, %begin{name} ], [ %an{name}, %k{name} ]",
        f"  %pb{name} = phi ptr [ %b, %begin{name} ], [ %bn{name}, %k{name} ]",
    ]
    lines += [
        f"  %s{r}{name} = phi {vector} [ zeroinitializer, %begin{name} ], [ %t{r}{name}, %k{name} ]" for r in lanes
    ]
    lines += [f"  %vb{name} = {load}"]
    for r in lanes:
        lines += [
            f"  %o{r}{name} = mul i64 %row, {r}",
            f"  %q{r}{name} = getelementptr {element}, ptr %ap{name}, i64 %o{r}{name}",
            f"  %x{r}{name} = load {element}, ptr %q{r}{name}",
            f"  %y{r}{name} = insertelement {vector} poison, {element} %x{r}{name}, i64 0",
            f"  %z{r}{name} = shufflevector {vector} %y{r}{name}, {vector} poison, <{LANES} x i32> zeroinitializer",
            f"  %w{r}{name} = fmul {vector} %z{r}{name}, %vb{name}",
            f"  %t{r}{name} = fadd {vector} %s{r}{name}, %w{r}{name}",
        ]
    lines += [
        f"  %p1{name} = add i64 %p{name}, 1",
        f"  %an{name} = getelementptr {element}, ptr %ap{name}, i64 %step",
        f"  %bn{name} = getelementptr {element}, ptr %pb{name}, i64 %n",
        f"  %more{name} = icmp ult i64 %p1{name}, %k",
        f"  br i1 %more{name}, label %k{name}, label %stored{name}",
        f"stored{name}:",
    ]
    for r in lanes:
        lines += [
            f"  %l{r}{name} = add i64 %i{name}, {r}",
            f"  %m{r}{name} = mul i64 %l{r}{name}, %n",
            f"  %to{r}{name} = getelementptr {element}, ptr %out, i64 %m{r}{name}",
        ]
        if masked:
            lines.append(
                f"  call void @llvm.masked.store.v{LANES}{which}.p0({vector} %t{r}{name}, ptr %to{r}{name}, i32 1, <{LANES} x i1> %mask)"
            )
        else:
            lines.append(f"  store {vector} %t{r}{name}, ptr %to{r}{name}, align 1")
    return "\n".join([*lines, f"  br label %group{name}"])


def _tile(element: str, masked: bool) -> str:
    """Up to ``LANES`` columns of a small product, ``%left`` of them where masked: rows by fours, then one by one."""
    kind, which = "part" if masked else "full", "f32" if element == "float" else "f64"
    numbers = ", ".join(f"i64 {lane}" for lane in range(LANES))
    return f"""
define internal void @{kind}_{which}(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %row, i64 %step, i64 %left) noinline {{
enterA:
  %firstA = add i64 0, 0
  %number = insertelement <{LANES} x i64> poison, i64 %left, i64 0
  %numbers = shufflevector <{LANES} x i64> %number, <{LANES} x i64> poison, <{LANES} x i32> zeroinitializer
  %mask = icmp ult <{LANES} x i64> <{numbers}>, %numbers
  br label %groupA
{_rows_loop("A", element, _ROWS, "enterB", masked)}
enterB:
  %firstB = add i64 %iA, 0
  br label %groupB
{_rows_loop("B", element, 1, "finish", masked)}
finish:
  ret void
}}
"""


_INTEGER = """
define internal void @product_$T(ptr %a, ptr %b, ptr %out, i64 %m, i64 %k, i64 %n, i64 %ta, i64 %tb, i64 %i0, i64 %i1, i64 %j0, i64 %j1) {
entry:
  %straight_a = icmp eq i64 %ta, 0
  %row = select i1 %straight_a, i64 %k, i64 1
  %step_a = select i1 %straight_a, i64 1, i64 %m
  %straight_b = icmp eq i64 %tb, 0
  %column = select i1 %straight_b, i64 1, i64 %k
  %step_b = select i1 %straight_b, i64 %n, i64 1
  br label %rows
rows:
  %i = phi i64 [ %i0, %entry ], [ %i_next, %row_done ]
  %oa = mul i64 %i, %row
  %ai = getelementptr $element, ptr %a, i64 %oa
  %oo = mul i64 %i, %n
  %outi = getelementptr $element, ptr %out, i64 %oo
  br label %columns
columns:
  %j = phi i64 [ %j0, %rows ], [ %j_next, %store ]
  %ob = mul i64 %j, %column
  %bj = getelementptr $element, ptr %b, i64 %ob
  br label %inner
inner:
  %p = phi i64 [ 0, %columns ], [ %p_next, %inner ]
  %pa = phi ptr [ %ai, %columns ], [ %pa_next, %inner ]
  %pb = phi ptr [ %bj, %columns ], [ %pb_next, %inner ]
  %sum = phi $element [ 0, %columns ], [ %sum_next, %inner ]
  %x = load $element, ptr %pa
  %y = load $element, ptr %pb
  %xy = mul $element %x, %y
  %sum_next = add $element %sum, %xy
  %pa_next = getelementptr $element, ptr %pa, i64 %step_a
  %pb_next = getelementptr $element, ptr %pb, i64 %step_b
  %p_next = add i64 %p, 1
  %more = icmp ult i64 %p_next, %k
  br i1 %more, label %inner, label %store
store:
  %to = getelementptr $element, ptr %outi, i64 %j
  store $element %sum_next, ptr %to
  %j_next = add i64 %j, 1
  %more_columns = icmp ult i64 %j_next, %j1
  br i1 %more_columns, label %columns, label %row_done
row_done:
  %i_next = add i64 %i, 1
  %more_rows = icmp ult i64 %i_next, %i1
  br i1 %more_rows, label %rows, label %done
done:
  ret void
}
"""

_COMMON = """
declare void @tapeir_parallel(ptr, ptr, i64, i64)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare i64 @llvm.umin.i64(i64, i64)
"""

FLOATS = {"f32": "float", "f64": "double"}
INTEGERS = ("i8", "i16", "i32", "i64")
RULES = f"small {SMALL}/{SMALL_VECTOR}/{SMALL_PANEL}, split {SHARE}/{SPLIT}/{SPLIT_FOUR}/{SPLIT_EIGHT}/{SMALLEST_BLOCK}/{WHOLE_BATCH}"
"""The sizes that choose who computes what, for cache keys and reports."""

_HEAD = object.__basicsize__
DATA, RANK, SHAPE = _HEAD, _HEAD + 8, _HEAD + 16


def source(dtype: str, wide: bool) -> str:
    """The LLVM text of the products of a dtype (an unsigned one's are its signed one's); ``wide`` if BLAS takes sizes as i64."""
    values = {
        "share": SHARE, "split": SPLIT, "split_four": SPLIT_FOUR, "split_eight": SPLIT_EIGHT, "smallest": SMALLEST_BLOCK,
        "whole": WHOLE_BATCH, "most": MOST_CHUNKS, "chunk_bits": SHARE.bit_length() - 2,
        "small": SMALL, "small_vector": SMALL_VECTOR, "small_panel": SMALL_PANEL, "lanes": LANES, "lanes_less": LANES - 1,
        "int": "i64" if wide else "i32", "cast": "bitcast" if wide else "trunc",
        "data": DATA, "rank": RANK, "shape": SHAPE,
        "T": dtype, "element": FLOATS.get(dtype, dtype), "size": int(dtype[1:]) // 8,
    }  # fmt: skip
    parts = [_FLOAT if dtype in FLOATS else _INTEGER, _DRIVER, _ARRAYS]
    tiles = [_tile(FLOATS[dtype], masked) for masked in (False, True)] if dtype in FLOATS else []
    return "\n".join([_COMMON, *(Template(part).substitute(values) for part in parts), *tiles])
