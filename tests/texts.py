"""IR text that the tests of text share: a canonical module with everything in it, and functions around lines."""

from __future__ import annotations

from collections.abc import Callable

from tapeir.ir import Builder, GraphBuilder, Module, TensorType, Value
from tapeir.ir.types import f32

CANONICAL = """module @"my-model" {
  func @k0(
    %0: f32[48],
    %1: f32[]
  ) -> (f32[48], f32[48]) with {class = "update"} {
    %2 = broadcast_to %1 {shape = [48]} : f32[48]
    %3 = mul %0, %2 : f32[48]
    return %3, %0
  }

  func @forward_train(
    %x: f32[4, 12] at arena+0 input,
    %0.weight: f32[4, 12] at state(%0.weight) param,
    %"downsample-1.bias": f64[3] at state(%"downsample-1.bias") buffer,
    %key: key[] at arena+192 input,
    %optimizer/step: i64[] at state(%optimizer/step) optimizer
  ) -> (f32[48], f32[4, 12] grad(%0.weight), f64[3] update(%"downsample-1.bias")) with {mode = "train", arena = 448} {
    %0 = fold_in %key, %optimizer/step : key[] at arena+256
    %1 = fold_in %0 {site = "2:0"} : key[] at arena+320
    %"3" = mask %1 {p = 0.1, shape = [3], dtype = bool} : bool[3] at arena+320
    %flat = reshape %x {shape = [48]} : f32[48] at alias(%x)
    %s = constant {value = 2.0} : f32[]
    %h, %2 = fused %flat, %s {kernel = @k0} : f32[48] at arena+0, f32[48] at arena+192
    %3 = reshape %2 {shape = [4, 12]} : f32[4, 12] at alias(%2)
    %4 = constant {value = [1.0, -0.0, nan]} : f64[3]
    %5 = where %"3", %4, %"downsample-1.bias" : f64[3] at alias(%4)+8
    return %h, %3, %5
  }

  func @empty() -> () {
    return
  }
}
"""


def function_text(body: str, arguments: str = "%x: f32[4] input", results: str = "f32[4]") -> str:
    """A module of one function, an instruction a line from line 3 on."""
    return f"module @m {{\nfunc @f({arguments}) -> ({results}) {{\n{body}\n}}\n}}\n"


def recorded(build: Callable[[Builder, Value], Value], type: TensorType | None = None) -> Module:
    """A module of one function of one argument ``%x``."""
    recorder = GraphBuilder()
    recorder.at = ()
    x = recorder.argument(type or f32[4], "x")
    y = build(Builder(recorder), x)
    return Module("m", [recorder.function("f", [(x, "input")], [(y, None)])])
