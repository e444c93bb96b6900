"""A tree of groups over the nodes of a function, and the rows in which each group's children are drawn.

A group is a run of consecutive nodes whose module paths share a prefix.  Nodes stand in topological order, so a group is an interval
of it and every edge between two children of one group goes from the earlier to the later: what a collapsed group hides is never a cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

ROW_LENGTH = 12
SWEEPS = 4
Path = tuple[str, ...]
Edge = tuple[int, int]


@dataclass
class Group:
    """The nodes ``start`` to ``stop`` below one module path.

    Items are numbered over a whole function: nodes first, then groups in the order of ``groups_of``, the function itself first.
    """

    path: Path
    label: str
    start: int
    stop: int
    parent: int
    children: list[int] = field(default_factory=list[int])
    rows: list[list[int]] = field(default_factory=list[list[int]])


def groups_of(paths: Sequence[Path]) -> list[Group]:
    """The groups of nodes with these paths, parents before children; a run of one node is not a group."""
    groups = [Group((), "", 0, len(paths), -1)]
    for number, group in enumerate(groups):  # grows while it is read
        depth = len(group.path)
        for start, stop in _runs(paths, group.start, group.stop, depth):
            if stop - start == 1:
                group.children.append(start)
                continue
            path = paths[start][: _shared(paths, start, stop, depth + 1)]
            group.children.append(len(paths) + len(groups))
            groups.append(Group(path, ".".join(path[depth:]), start, stop, number))
    return groups


def _runs(paths: Sequence[Path], start: int, stop: int, depth: int) -> list[tuple[int, int]]:
    """Maximal intervals of nodes whose paths have the same component at ``depth``; a node without one stands alone."""
    runs: list[tuple[int, int]] = []
    while start < stop:
        end = start + 1
        if len(paths[start]) > depth:
            while end < stop and paths[end][depth : depth + 1] == paths[start][depth : depth + 1]:
                end += 1
        runs.append((start, end))
        start = end
    return runs


def _shared(paths: Sequence[Path], start: int, stop: int, length: int) -> int:
    """How many components the paths of a run share; ``length`` is how many are known to be."""
    first = paths[start]
    while length < len(first) and all(
        len(paths[n]) > length and paths[n][length] == first[length] for n in range(start, stop)
    ):
        length += 1
    return length


def arrange(paths: Sequence[Path], edges: Sequence[Edge], inputs: Sequence[int] = ()) -> list[Group]:
    """The groups of a function, each with rows: an edge leads from an earlier to a later row where its ends part.

    Edges are sorted by their ends.  What does not depend on ``inputs``, such as constants and what is made of them, stands just above
    its first use.
    """
    groups = groups_of(paths)
    firm = _firm(len(paths), edges, inputs)
    inside: list[dict[Edge, None]] = [{} for _ in groups]
    parent, depth = _ancestry(groups, len(paths))
    for a, b in edges:
        while depth[a] > depth[b]:
            a = parent[a]
        while depth[b] > depth[a]:
            b = parent[b]
        while parent[a] != parent[b]:
            a, b = parent[a], parent[b]
        inside[parent[a] - len(paths)][a, b] = None
    for group, between in zip(groups, inside, strict=True):
        place = {item: n for n, item in enumerate(group.children)}
        local = [(place[a], place[b]) for a, b in between]
        free = [not any(firm[s] for s in _span(item, groups, len(paths))) for item in group.children]
        group.rows = [[group.children[n] for n in row] for row in rows_of(free, local)]
    return groups


def _span(item: int, groups: Sequence[Group], nodes: int) -> range:
    """The nodes of an item."""
    return range(item, item + 1) if item < nodes else range(groups[item - nodes].start, groups[item - nodes].stop)


def _firm(nodes: int, edges: Sequence[Edge], inputs: Sequence[int]) -> list[bool]:
    """For each node whether it depends on one of ``inputs``."""
    firm = [False] * nodes
    for node in inputs:
        firm[node] = True
    for a, b in edges:
        firm[b] |= firm[a]
    return firm


def _ancestry(groups: Sequence[Group], nodes: int) -> tuple[list[int], list[int]]:
    """For every item the group that holds it, and how deep it is."""
    parent, depth = [-1] * (nodes + len(groups)), [0] * (nodes + len(groups))
    for number, group in enumerate(groups):
        for item in group.children:
            parent[item], depth[item] = nodes + number, depth[nodes + number] + 1
    return parent, depth


def rows_of(free: Sequence[bool], edges: Sequence[Edge]) -> list[list[int]]:
    """The vertices of an acyclic graph in rows, ordered to keep edges short; a long row becomes several.

    Vertices are numbered in topological order; ``free`` are those that stand as low as they can.
    """
    count = len(free)
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        after[a].append(b)
        before[b].append(a)
    layer = _layers(count, edges)
    _pull_down(layer, free, before, after)
    rows: list[list[int]] = [[] for _ in range(max(layer, default=-1) + 1)]
    for vertex, n in enumerate(layer):
        rows[n].append(vertex)
    _order(rows, before, after)
    return [row[n : n + ROW_LENGTH] for row in rows for n in range(0, len(row), ROW_LENGTH)]


def _layers(count: int, edges: Sequence[Edge]) -> list[int]:
    """For each vertex the length of the longest path to it."""
    import networkx

    nx = cast(Any, networkx)
    graph = nx.DiGraph()
    graph.add_nodes_from(range(count))
    graph.add_edges_from(edges)
    layer = [0] * count
    for n, generation in enumerate(nx.topological_generations(graph)):
        for vertex in generation:
            layer[vertex] = n
    return layer


def _pull_down(
    layer: list[int], free: Sequence[bool], before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]
) -> None:
    """Move free vertices, sources and what only one source feeds to just above the first use.

    A longest path has no slack, so no row loses its last vertex.
    """
    light = [False] * len(layer)
    for vertex in range(len(layer)):
        light[vertex] = free[vertex] or all(light[p] and len(after[p]) == 1 for p in before[vertex])
    for vertex in reversed(range(len(layer))):
        if light[vertex] and after[vertex]:
            layer[vertex] = min(layer[u] for u in after[vertex]) - 1


def _order(rows: list[list[int]], before: Sequence[Sequence[int]], after: Sequence[Sequence[int]]) -> None:
    """Sort each row by the mean position of neighbours, downwards and upwards in turn."""
    position = [0.0] * len(before)

    def spread(row: list[int]) -> None:
        for n, vertex in enumerate(row):
            position[vertex] = n - (len(row) - 1) / 2

    for row in rows:
        spread(row)
    for sweep in range(SWEEPS):
        near = before if sweep % 2 == 0 else after
        for row in rows if sweep % 2 == 0 else reversed(rows):
            means = {v: sum(position[u] for u in near[v]) / len(near[v]) if near[v] else position[v] for v in row}
            row.sort(key=means.__getitem__)
            spread(row)
