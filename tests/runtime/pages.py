"""Modules and pages that tests look at."""

from __future__ import annotations

import json
import re
from typing import Any

import tapeir as tp
from tapeir.ir import Builder, GraphBuilder, Location, Module, parse
from tapeir.ir.diff import Diff
from tapeir.runtime.page import diff_page, view_page

NASTY = "</script><!--<b>\u2028&amp;"

KERNELS = """\
module @m {
  func @main(
    %x: f32[3] input,
    %w: f32[3] param
  ) -> (f32[3], f32[3] update(%w)) {
    %0, %1 = fused %x, %w {kernel = @k0} : f32[3], f32[3] loc("model.py":7 in "net.first")
    %2 = exp %0 : f32[3] loc("model.py":7 in "net.first")
    %3 = fused %2 {kernel = @"odd name"} : f32[3] loc("model.py":8 in "net.second")
    %4 = neg %3 : f32[3] loc("model.py":8 in "net.second")
    return %4, %1
  }

  func @k0(
    %a: f32[3],
    %b: f32[3]
  ) -> (f32[3], f32[3]) {
    %c = mul %a, %b : f32[3]
    %d = add %c, %b : f32[3]
    return %c, %d
  }

  func @"odd name"(
    %a: f32[3]
  ) -> (f32[3]) {
    %b = tanh %a : f32[3]
    return %b
  }
}
"""


def data_of(page: str) -> dict[str, Any]:
    """The JSON that a page embeds."""
    found = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def functions_of(page: str) -> list[dict[str, Any]]:
    return data_of(page)["sides"][0]["functions"]


def module_of(paths: list[str], picks: list[int], name: str = "m") -> Module:
    """A chain of ops with these module paths; each op also uses the earlier value that its pick names."""
    recorder = GraphBuilder()
    build = Builder(recorder)
    x = recorder.argument(tp.f32[2], "x")
    w = recorder.argument(tp.f32[2], "w")
    values = [w, x]
    for n, (path, pick) in enumerate(zip(paths, picks, strict=True)):
        recorder.at = (Location("model.py", n + 1, path),) if path else ()
        if pick < 0:
            values.append(build.tanh(values[-1]))
        else:
            values.append(build.add(values[-1], values[pick % len(values)]))
    return Module(name, [recorder.function("main", [(x, "input"), (w, "param")], [(values[-1], None), (w, None)])])


def blocks(ops: int) -> Module:
    """A module of nested blocks, eight ops each."""
    paths = [f"net.{n // 8}.{'attention' if n % 8 < 5 else 'mlp'}" for n in range(ops)]
    return module_of(paths, [n - 3 if n % 3 == 0 else -1 for n in range(ops)], "blocks")


def pages() -> list[str]:
    odd = module_of([NASTY, NASTY, "a"], [-1, -1, -1], NASTY)
    odd["main"].arguments[0].name = NASTY
    return [
        view_page(parse(KERNELS)),
        view_page(odd, base=NASTY),
        diff_page(odd, odd, Diff(), titles=(NASTY, "b.ir"), base=(NASTY, None)),
    ]
