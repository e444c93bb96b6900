"""What a browser makes of the pages of ``irc view`` and ``irc diff --html``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tapeir.ir import Function, Module, parse
from tapeir.ir.diff import Diff, Difference, Side, diff
from tapeir.ir.print import Names, instruction
from tapeir.runtime.page import diff_page, view_page
from tapeir.runtime.page.content import hue

from .pages import KERNELS, NASTY, blocks, data_of, pages

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --virtual-time-budget=5000 --window-size=1400,900 --dump-dom"
)


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
