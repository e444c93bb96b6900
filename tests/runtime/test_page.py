"""The pages of ``irc view`` and ``irc diff --html``: what they hold."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapeir as tp
from tapeir.ir import Builder, Function, GraphBuilder, Module, Value, parse
from tapeir.runtime.page import view_page
from tapeir.runtime.page.content import hue
from tapeir.runtime.page.tree import ROW_LENGTH, arrange, groups_of

from .pages import KERNELS, blocks, data_of, functions_of, module_of, pages

# The embedded data


def check_tree(function: dict[str, Any]) -> None:
    """Every promise of the tree: one place for every node, groups that are intervals, edges that lead down."""
    nodes, groups = function["nodes"], function["groups"]
    parent: dict[int, int] = {}
    row: dict[int, int] = {}
    for number, group in enumerate(groups):
        assert number == 0 or len([i for r in group["rows"] for i in r]) >= 1
        for r, items in enumerate(group["rows"]):
            assert 0 < len(items) <= ROW_LENGTH
            for item in items:
                assert item not in parent
                parent[item], row[item] = len(nodes) + number, r
    root = len(nodes)
    assert set(parent) == set(range(len(nodes) + len(groups))) - {root}

    def above(item: int) -> list[int]:
        return [item] if item == root else [item, *above(parent[item])]

    for group in range(root + 1, root + len(groups)):
        inside = [n for n in range(len(nodes)) if group in above(n)]
        assert inside == list(range(inside[0], inside[-1] + 1))
        assert len(inside) > 1
    for to, node in enumerate(nodes):
        for begin, _ in node["operands"]:
            assert begin < to
            a, b = above(begin)[::-1], above(to)[::-1]
            apart = next(n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
            assert row[a[apart]] < row[b[apart]]


PATHS = st.lists(st.sampled_from(["", "a", "b", "a.b", "a.b.c", "b.a", "a.a", "a..b", ".", "a.b.c.d.e"]), max_size=40)


@given(PATHS, st.data())
def test_groups_are_intervals_and_edges_lead_down(paths: list[str], data: st.DataObject) -> None:
    picks = data.draw(st.lists(st.integers(-1, 60), min_size=len(paths), max_size=len(paths)))
    (function,) = functions_of(view_page(module_of(paths, picks)))
    check_tree(function)
    assert [n["module"] for n in function["nodes"] if n["kind"] == "op"] == paths


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5).map(tuple), max_size=40))
def test_a_group_shares_a_path_and_is_worth_a_box(paths: list[tuple[str, ...]]) -> None:
    groups = groups_of(paths)
    for group in groups[1:]:
        assert all(p[: len(group.path)] == group.path for p in paths[group.start : group.stop])
        around = groups[group.parent]
        assert around.start <= group.start < group.stop <= around.stop
        assert len(group.path) > len(around.path)
        assert group.label == ".".join(group.path[len(around.path) :])
        assert len(group.children) > 1
    for before, group in pairwise(groups):
        assert before.parent <= group.parent  # parents come first


def test_what_depends_on_no_input_stands_just_above_its_first_use() -> None:
    paths: list[tuple[str, ...]] = [()] * 6  # x; constant, its cast; x1, x2; their sum with the cast
    edges = [(1, 2), (0, 3), (3, 4), (2, 5), (4, 5)]
    assert arrange(paths, edges, [0])[0].rows == [[0], [1, 3], [2, 4], [5]]
    assert arrange(paths, edges, [0, 1])[0].rows == [[0], [1, 3], [2, 4], [5]]
    fans_out = [*edges[:2], (1, 5), *edges[2:]]
    assert arrange(paths, fans_out, [0])[0].rows == [[0], [1, 3], [2, 4], [5]]


def test_a_row_is_never_longer_than_it_may_be() -> None:
    count = 3 * ROW_LENGTH + 1
    rows = arrange([()] * (count + 1), [(0, n) for n in range(1, count + 1)], [0])[0].rows
    assert [len(r) for r in rows] == [1, ROW_LENGTH, ROW_LENGTH, ROW_LENGTH, 1]


def test_very_deep_paths_need_no_deep_stack() -> None:
    paths = [".".join(["m"] * n) for n in range(1, 1500)]
    (function,) = functions_of(view_page(module_of(paths, [-1] * len(paths))))
    assert len(function["groups"]) > 1400


def test_a_parameter_is_drawn_in_the_module_that_reads_it() -> None:
    (function,) = functions_of(view_page(module_of(["", "net", "net"], [-1, 0, -1])))
    names = [n["values"][:1] for n in function["nodes"]]
    assert names == [["%x"], ["%0"], ["%w"], ["%1"], ["%2"], [], []]
    group = function["groups"][1]
    assert (group["path"], group["nodes"], group["ops"]) == ("net", 3, 2)
    assert sorted(i for r in group["rows"] for i in r) == [2, 3, 4]


def test_nodes_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("first\n" * 6 + "  y = self.first(x)\n", "utf-8")
    side = data_of(view_page(parse(KERNELS), base=str(tmp_path)))["sides"][0]
    main, k0, odd = side["functions"]
    assert [f["kernel"] for f in side["functions"]] == [False, True, True]
    fused = next(n for n in main["nodes"] if n["op"] == "fused")
    assert fused["text"] == "%0, %1 = fused %x, %w {kernel = @k0} : f32[3], f32[3]"
    assert fused["attrs"] == ["kernel = @k0"]
    assert (fused["types"], fused["family"], fused["kernel"]) == (["f32[3]", "f32[3]"], "control", "k0")
    assert side["places"][fused["places"][0]] == ["model.py", 7, "net.first", "y = self.first(x)"]
    assert [n["text"] for n in main["nodes"] if n["kind"] == "argument"] == ["%x: f32[3] input", "%w: f32[3] param"]
    results = [n for n in main["nodes"] if n["kind"] == "result"]
    assert [n["text"] for n in results] == ["return %4: f32[3]", "return %1: f32[3] update(%w)"]
    assert results[1]["operands"] == [[main["nodes"].index(fused), 1]]
    assert (k0["hue"], odd["label"]) == (hue("k0"), '@"odd name"')
    assert "\n".join(k0["head"]).startswith("func @k0(")


def test_text_without_source_lines_shows_its_own() -> None:
    text = "module @m {\n  func @f(\n    %x: f32[3] input\n  ) -> (f32[3]) {\n    %0 = exp %x : f32[3]\n    return %0\n  }\n}\n"
    side = data_of(view_page(parse(text, file="m.ir")))["sides"][0]
    nodes = side["functions"][0]["nodes"]
    assert [side["places"][p][:2] for n in nodes for p in n["places"]] == [["m.ir", 3], ["m.ir", 5]]


def test_kernels_keep_their_colours_and_neighbours_differ() -> None:
    assert hue("k0") == hue("k0") != hue("k1")
    assert min(abs(hue(f"k{a}") - hue(f"k{b}")) for a in range(6) for b in range(a)) > 15
    assert 0 <= hue("\ud800") < 360


def test_many_results_are_one_group_and_few_are_not() -> None:
    recorder = GraphBuilder()
    x = recorder.argument(tp.f32[2], "x")
    results: list[tuple[Value, None]] = [(Builder(recorder).tanh(x), None) for _ in range(13)]
    many = Module("m", [recorder.function("f", [(x, "input")], list(results))])
    few = Module("m", [recorder.function("f", [(x, "input")], list(results[:12]))])
    assert [g["label"] for g in functions_of(view_page(many))[0]["groups"]] == ["", "results"]
    assert [g["label"] for g in functions_of(view_page(few))[0]["groups"]] == [""]


def test_large_constants_are_cut() -> None:
    table = np.arange(4000, dtype=np.float32)
    page = view_page(tp.trace(lambda x: x + table, tp.f32[4000]))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    constant = next(n for n in functions_of(page)[0]["nodes"] if n["op"] == "constant")
    assert re.fullmatch(r'value = bytes "[A-Za-z0-9+/]{24}…" \(16,\d{3} bytes\)', constant["attrs"][0])
    assert len(constant["text"]) < 120


def test_modules_with_nothing_in_them_have_a_page() -> None:
    assert functions_of(view_page(Module("empty"))) == []
    check_tree(functions_of(view_page(Module("m", [Function("f")])))[0])


# The file


@pytest.mark.parametrize("page", pages())
def test_a_page_loads_nothing(page: str) -> None:
    assert set(re.findall(r"https?://[^\s\"'`)]*", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"""(\bsrc|\bhref)\s*=|@import|url\((?!#)""", page)
    assert "default-src 'none'" in page


@pytest.mark.parametrize("page", pages())
def test_odd_names_end_no_script_and_open_no_element(page: str) -> None:
    assert page.count("</script") == 2
    assert page.count("<script") == 2
    assert "<!--" not in page
    assert "\u2028" not in page
    assert page.count("<b>") == 0


def test_the_code_writes_no_markup() -> None:
    page = view_page(parse(KERNELS))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", page)


# Cost


def calls(act: Callable[[], object]) -> int:
    """How many Python and C functions ``act`` calls."""
    count = 0

    def see(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        act()
    finally:
        sys.setprofile(before)
    return count


def test_cost_grows_with_the_ops_and_no_faster() -> None:
    small, large = blocks(1000), blocks(2000)
    view_page(small)  # imports networkx
    few, many = calls(lambda: view_page(small)), calls(lambda: view_page(large))
    assert many < 2.2 * few
    assert many < 400 * 2000
    assert len(view_page(large)) < 100_000 + 500 * 2000
