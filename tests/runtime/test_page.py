"""The pages of ``irc view`` and ``irc diff --html``: what they hold, and what a browser makes of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tapeir as tp
from tapeir.ir import Builder, Function, GraphBuilder, Location, Module, Value, parse
from tapeir.ir.diff import Diff, Difference, Side, diff
from tapeir.ir.print import Names, instruction
from tapeir.runtime.page import diff_page, view_page
from tapeir.runtime.page.content import hue
from tapeir.runtime.page.tree import ROW_LENGTH, arrange, groups_of

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=5000 --window-size=1400,900 --dump-dom"
)
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


def pages() -> list[str]:
    odd = module_of([NASTY, NASTY, "a"], [-1, -1, -1], NASTY)
    odd["main"].arguments[0].name = NASTY
    return [
        view_page(parse(KERNELS)),
        view_page(odd, base=NASTY),
        diff_page(odd, odd, Diff(), titles=(NASTY, "b.ir"), base=(NASTY, None)),
    ]


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


# In a browser


@dataclass
class Element:
    """An element of the page as it stands after its scripts ran."""

    tag: str
    attributes: dict[str, str]
    pieces: list[str] = field(default_factory=list[str])

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def classes(self) -> list[str]:
        return self.attributes.get("class", "").split()


@dataclass
class Dom(HTMLParser):
    """All elements in order, each with the text inside it."""

    elements: list[Element] = field(default_factory=list[Element])
    open: list[Element] = field(default_factory=list[Element])

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in ("meta", "input"):
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.pieces.append(data)

    def id(self, name: str) -> Element:
        return next(e for e in self.elements if e.attributes.get("id") == name)

    def with_attribute(self, name: str) -> list[Element]:
        return [e for e in self.elements if name in e.attributes]

    def with_class(self, name: str, tag: str = "g") -> list[Element]:
        return [e for e in self.elements if e.tag == tag and name in e.classes]

    def nodes(self) -> list[str]:
        return [e.attributes["data-node"] for e in self.with_attribute("data-node")]

    def selected(self) -> list[str]:
        return [e.attributes["data-node"] for e in self.with_class("selected")]


Open = Callable[..., Dom]


@pytest.fixture
def browse(tmp_path: Path) -> Open:
    """Opens a page at a hash in headless Chromium; ``script`` runs when the page has been drawn."""
    chromium = shutil.which("chromium")
    if chromium is None and os.environ.get("CI"):
        pytest.fail("chromium is not installed")
    if chromium is None:
        pytest.skip("chromium is not installed")

    def browse(page: str, hash: str = "", script: str = "") -> Dom:
        file = tmp_path / "page.html"
        file.write_text(page.replace("</body>", f"<script>{script}</script></body>"), "utf-8")
        command = [chromium, *FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}", f"{file.as_uri()}#{hash}"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        dom = Dom()
        dom.feed(done.stdout.decode("utf-8"))
        root = next(e for e in dom.elements if e.tag == "html")
        assert "data-error" not in root.attributes, root.attributes["data-error"]
        assert "data-ready" in root.attributes
        return dom

    return browse


@pytest.mark.browser
def test_a_browser_draws_every_node_and_edge(browse: Open) -> None:
    dom = browse(view_page(parse(KERNELS)))
    assert sorted(dom.nodes()) == sorted(["%x", "%w", "%0, %1", "%2", "%3", "%4", "return %4", "return %1"])
    assert len(dom.with_class("edge", "path")) == 7
    labels = {e.attributes["data-group"]: e.attributes["aria-expanded"] for e in dom.with_attribute("data-group")}
    assert labels == {"net": "true", "net.first": "true", "net.second": "true"}
    assert "control (2)" in dom.id("legend").text
    assert "@k0 · kernel, 2 ops" in dom.id("legend").text
    assert len([e for e in dom.with_class("kernel") if e.attributes["style"] == f"--hue: {hue('k0')}"]) == 1


@pytest.mark.browser
def test_selecting_a_node_shows_everything_about_it(browse: Open, tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("\n" * 6 + "y = self.first(x)\n", "utf-8")
    page = view_page(parse(KERNELS), base=str(tmp_path))
    dom = browse(page, "node=%1")  # the second result of the op
    assert dom.selected() == ["%0, %1"]
    text = dom.id("details").text
    for part in ("fused %x, %w {kernel = @k0}", "%1: f32[3]", "kernel = @k0", "net.first", "model.py:7"):
        assert part in text
    assert "y = self.first(x)" in text
    assert "%c = mul %a, %b : f32[3]\n" in text  # the kernel's body
    assert [e.attributes["data-to"] for e in dom.with_attribute("data-to")] == ["x", "w", "2", "return.1"]
    assert len(dom.with_class("into", "path")) == 2
    clicked = browse(page, "node=1", "document.querySelector('[data-to=\"2\"]').click()")
    assert clicked.selected() == ["%2"]
    assert browse(page, "node=return.1").selected() == ["return %1"]


@pytest.mark.browser
def test_a_kernel_has_a_page_of_its_own_in_its_colour(browse: Open) -> None:
    page = view_page(parse(KERNELS))
    for dom in (browse(page, "f=k0"), browse(page, "node=0", "document.querySelector('[data-kernel]').click()")):
        assert dom.nodes() == ["%a", "%b", "%c", "return %c", "%d", "return %d"]
        assert {e.attributes["style"] for e in dom.with_class("kernel")} == {f"--hue: {hue('k0')}"}
    assert "%b" in browse(page, "f=odd%20name").nodes()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("text", "count"),
    [("exp", 1), ("FUSED", 2), ("f32[3]", 8), ("kernel = @k0", 1), ("model.py:8", 2), ("net.first", 2), ("zzz", 0)],
)
def test_search_counts_names_ops_types_attributes_lines_and_modules(browse: Open, text: str, count: int) -> None:
    dom = browse(view_page(parse(KERNELS)), f"search={text}")
    assert dom.id("found").text == f"{count} match{'' if count == 1 else 'es'}"
    assert len(dom.with_class("match")) == count


ENTER = "document.getElementById('search').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', shiftKey: %s}));"


@pytest.mark.browser
def test_enter_goes_through_the_matches_and_opens_groups(browse: Open) -> None:
    page = view_page(parse(KERNELS))
    dom = browse(page, "expand=none&search=fused", ENTER % "false")
    assert (dom.selected(), dom.id("found").text) == (["%0, %1"], "1 of 2")
    dom = browse(page, "expand=none&search=fused", ENTER % "false" + ENTER % "false")
    assert (dom.selected(), dom.id("found").text) == (["%3"], "2 of 2")
    dom = browse(page, "expand=none&search=fused", ENTER % "true")
    assert (dom.selected(), dom.id("found").text) == (["%3"], "2 of 2")


TOGGLE = """
const group = document.querySelector('[data-group="net"]');
group.focus();
group.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
"""


@pytest.mark.browser
def test_groups_open_and_close(browse: Open) -> None:
    page = view_page(parse(KERNELS))
    closed = browse(page, "expand=none")
    assert sorted(closed.nodes()) == ["%x", "return %1", "return %4"]
    (label,) = closed.with_attribute("data-group")
    assert (label.attributes["aria-expanded"], label.text) == ("false", "▸ net4 ops")
    assert len(closed.with_class("edge", "path")) == 3
    opened = browse(page, "expand=none", TOGGLE)
    assert [e.attributes["data-group"] for e in opened.with_attribute("data-group")] == [
        "net",
        "net.first",
        "net.second",
    ]
    assert sorted(browse(page, "", TOGGLE).nodes()) == sorted(closed.nodes())


MOVE = """
const seen = [];
document.querySelector('[data-node="%x"]').focus();
for (const key of ["ArrowDown", "ArrowDown", "ArrowUp", "ArrowLeft", "Enter"]) {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  seen.push(document.activeElement.dataset.node);
}
document.documentElement.dataset.seen = seen.join(";");
"""


@pytest.mark.browser
def test_the_graph_can_be_walked_with_keys(browse: Open) -> None:
    dom = browse(view_page(parse(KERNELS)), "", MOVE)
    assert dom.with_attribute("data-seen")[0].attributes["data-seen"] == "%0, %1;%2;%0, %1;%w;%w"
    assert dom.selected() == ["%w"]


LOOK = """
const world = document.querySelector(".pane > svg > g");
const at = () => world.getAttribute("transform").match(/-?[0-9.]+/g).map(Number);
const pane = document.querySelector(".pane > svg");
const before = at();
pane.dispatchEvent(new WheelEvent("wheel", {deltaY: -200, clientX: 300, clientY: 300, bubbles: true, cancelable: true}));
const zoomed = at();
for (const [kind, x] of [["pointerdown", 300], ["pointermove", 340], ["pointerup", 340]])
  pane.dispatchEvent(new PointerEvent(kind, {clientX: x, clientY: 300, bubbles: true}));
const moved = at();
document.querySelector('.bar button[title^="Show everything"]').click();
document.documentElement.dataset.look = JSON.stringify([before, zoomed, moved, at()]);
"""


@pytest.mark.browser
def test_the_view_zooms_moves_and_comes_back(browse: Open) -> None:
    dom = browse(view_page(parse(KERNELS)), "", LOOK)
    before, zoomed, moved, after = json.loads(dom.with_attribute("data-look")[0].attributes["data-look"])
    assert zoomed[2] > before[2]
    assert moved == [pytest.approx(zoomed[0] + 40), zoomed[1], zoomed[2]]
    assert after == before


@pytest.mark.browser
def test_a_large_module_starts_small_and_can_be_drawn_whole(browse: Open) -> None:
    page = view_page(blocks(2000))
    assert len(browse(page).nodes()) < 150
    whole = browse(page, "expand=all")
    assert len(whole.nodes()) == 2004
    assert len(whole.with_class("edge", "path")) > 2600
    assert len(whole.with_attribute("data-group")) == 1 + 250 + 500
    assert browse(page, "node=%1234").selected() == ["%1234"]


@pytest.mark.browser
@pytest.mark.parametrize("page", pages())
def test_odd_names_are_shown_as_they_are(browse: Open, page: str) -> None:
    dom = browse(page, "expand=all")
    assert not [e for e in dom.elements if e.tag == "b"]
    if NASTY.split("\u2028")[0] in dom.id("title").text + dom.id("panes").text:
        assert any("</script><!--<b>" in name for name in dom.nodes())


@pytest.mark.browser
def test_a_page_without_functions_or_ops_opens(browse: Open) -> None:
    assert browse(view_page(Module("empty")), "expand=all&search=x").nodes() == []
    assert browse(view_page(Module("m", [Function("f")])), "expand=none").nodes() == []


# Differences in a browser


def two() -> tuple[Module, Module]:
    text = KERNELS.replace("%4 = neg %3", "%4 = abs %3")
    return parse(KERNELS), parse(text.replace("%d = add %c, %b", "%d = sub %c, %b"))


def by_hand(a: Module, b: Module) -> Diff:
    """A difference of each kind between the two modules."""

    def side(module: Module, function: str, n: int) -> Side:
        f = module[function]
        i = f.instructions[n]
        return Side(function, instruction(i, Names(f)), i.location, i)

    found = Diff(
        [
            Difference("changed", "argument", "f32[3] -> f64[3]", *[Side("main", "%x: f32[3] input")] * 2),
            Difference("removed", "op", "", side(a, "main", 3), None),
            Difference("added", "op", "", None, side(b, "main", 3)),
            Difference("changed", "result", "result 0 is another value", *[Side("main", "return %4: f32[3]")] * 2),
            Difference("changed", "op", "add -> sub", side(a, "k0", 1), side(b, "k0", 1)),
        ]
    )
    for name, count in (("main", 3), ("k0", 2), ("odd name", 1)):
        found.pairs |= dict(zip(a[name].instructions[:count], b[name].instructions[:count], strict=True))
    return found


def diff_of() -> str:
    a, b = two()
    return diff_page(a, b, by_hand(a, b), titles=("a.ir", "b.ir"))


def test_differences_and_pairs_are_places_in_the_two_graphs() -> None:
    data = data_of(diff_of())
    a, b = (side["functions"] for side in data["sides"])

    def texts(n: int) -> list[str | None]:
        ends = data["diff"]["differences"][n]["sides"]
        return [s and f[s["function"]]["nodes"][s["node"]]["text"] for s, f in zip(ends, (a, b), strict=True)]

    assert texts(0) == ["%x: f32[3] input"] * 2
    assert texts(1) == ["%4 = neg %3 : f32[3]", None]
    assert texts(2) == [None, "%4 = abs %3 : f32[3]"]
    assert texts(3) == ["return %4: f32[3]"] * 2
    assert texts(4) == ["%d = add %c, %b : f32[3]", "%d = sub %c, %b : f32[3]"]
    assert data["diff"]["pairs"]["functions"] == [[0, 0], [1, 1], [2, 2]]
    pairs = {(a[f]["nodes"][x]["text"], b[g]["nodes"][y]["text"]) for f, x, g, y in data["diff"]["pairs"]["nodes"]}
    assert ("%w: f32[3] param", "%w: f32[3] param") in pairs
    assert ("%d = add %c, %b : f32[3]", "%d = sub %c, %b : f32[3]") in pairs


def test_a_difference_without_a_node_still_has_a_function() -> None:
    a, b = two()
    lone = Diff([Difference("removed", "function", "2 ops", Side("k0", "func @k0"), None)])
    (entry,) = data_of(diff_page(a, b, lone, titles=("a", "b")))["diff"]["differences"]
    assert entry["sides"] == [{"function": 1, "node": -1, "text": "func @k0"}, None]


@pytest.mark.browser
def test_differences_are_listed_and_marked(browse: Open) -> None:
    dom = browse(diff_of())
    entries = dom.with_attribute("data-difference")
    assert [e.text[:2] for e in entries] == ["1~", "2−", "3+", "4~", "5~"]
    assert "op changed: add -> sub" in entries[4].text
    assert "4 differences in @main" in dom.id("differences").text
    assert "1 difference in @k0" in dom.id("differences").text
    marked = [(e.attributes["data-node"], e.classes[-1], e.text[-1]) for e in dom.with_class("differs")]
    assert marked == [
        ("%x", "changed", "~"),
        ("%4", "removed", "−"),
        ("return %4", "changed", "~"),
        ("%x", "changed", "~"),
        ("%4", "added", "+"),
        ("return %4", "changed", "~"),
    ]
    closed = [e for e in browse(diff_of(), "expand=none").with_class("differs") if "label" in e.classes]
    assert [e.text[-1] for e in closed] == ["1", "1"]


KEY = "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '%s', bubbles: true}));"
CLICK = """
const node = document.querySelector('[data-node="%2"]');
for (const kind of ["pointerdown", "pointerup"]) node.dispatchEvent(new PointerEvent(kind, {bubbles: true}));
"""


@pytest.mark.browser
@pytest.mark.parametrize(
    ("hash", "script", "selected"),
    [
        ("diff=1", "", ["%x", "%x"]),
        ("diff=2", "", ["%4"]),
        ("diff=5", "", ["%d", "%d"]),
        ("expand=none&diff=4", "", ["return %4", "return %4"]),
        ("", KEY % "n", ["%x", "%x"]),
        ("", KEY % "p", ["%d", "%d"]),
        ("diff=1", KEY % "n" + KEY % "n" + KEY % "p", ["%4"]),
        ("", CLICK, ["%2", "%2"]),
        ("f=k0&node=c", "", ["%c", "%c"]),
        ("node=4", "", ["%4"]),
    ],
)
def test_a_difference_and_a_matched_node_are_selected_on_both_sides(
    browse: Open, hash: str, script: str, selected: list[str]
) -> None:
    assert browse(diff_of(), hash, script).selected() == selected


@pytest.mark.browser
def test_equal_modules_say_so(browse: Open) -> None:
    a, b = parse(KERNELS), parse(KERNELS)
    dom = browse(diff_page(a, b, diff(a, b), titles=("a", "b")), "diff=1")
    assert "No differences" in dom.id("differences").text
    assert dom.with_class("differs") == []
