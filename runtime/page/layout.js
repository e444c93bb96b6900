"use strict";
window.onerror = (message, source, line, column) => {
  document.documentElement.dataset.error = `${message} (${line}:${column})`;
};

const SHOWN_AT_FIRST = 150;
const GAP = { x: 22, y: 34, lane: 5 };
const PAD = 28; // also room for the lanes of far edges
const NODE_HEIGHT = 40;
const LABEL_HEIGHT = 24;
const TEXT = { title: 7.25, note: 6.65, longest: 38 }; // widths of a character of the two monospaced sizes
const FAR_ROWS = 30;

const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
const counted = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

function push(lists, key, value) {
  if (lists.has(key)) lists.get(key).push(value);
  else lists.set(key, [value]);
}

function clip(text) {
  const keep = TEXT.longest - 1;
  return text.length <= TEXT.longest ? text : `${text.slice(0, keep >> 1)}…${text.slice(-(keep - (keep >> 1)))}`;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a bare % such as in %7
  }
}

// Graph: a function, the tree of its groups, and who uses what.  Items are nodes, then groups; the first group is the whole.

class Graph {
  constructor(data, places) {
    Object.assign(this, data);
    this.places = places;
    this.root = this.nodes.length;
    this.parent = [];
    this.row = [];
    this.depth = { [this.root]: 0 };
    this.groups.forEach((group, n) => this.addRows(group, this.root + n));
    this.users = this.nodes.map(() => new Set());
    this.links = this.groups.map(() => new Map());
    this.named = new Map();
    this.nodes.forEach((node, n) => this.addNode(node, n));
    this.marks = new Map();
    this.hay = [];
    this.open = this.firstOpen();
  }

  addRows(group, number) {
    group.rows.forEach((row, r) => {
      for (const item of row) {
        this.parent[item] = number;
        this.row[item] = r;
        this.depth[item] = this.depth[number] + 1;
      }
    });
  }

  addNode(node, n) {
    for (const name of node.values) this.named.set(name, n);
    for (const [from] of node.operands) {
      this.users[from].add(n);
      const [group, a, b] = this.part(from, n);
      const links = this.links[group - this.root];
      push(links, a, b);
      push(links, b, a);
    }
  }

  group(item) {
    return item >= this.root ? this.groups[item - this.root] : null;
  }

  // Where two items part: the group that holds both, and its children above each.
  part(a, b) {
    while (this.depth[a] > this.depth[b]) a = this.parent[a];
    while (this.depth[b] > this.depth[a]) b = this.parent[b];
    while (this.parent[a] !== this.parent[b]) [a, b] = [this.parent[a], this.parent[b]];
    return [this.parent[a], a, b];
  }

  // All groups down to the depth at which the graph is still easy to take in.
  firstOpen() {
    const shown = [];
    for (const item of this.parent.keys()) {
      if (item === this.root) continue;
      const last = item < this.root ? Infinity : this.depth[item];
      shown.push([this.depth[item], last]);
    }
    const deepest = Math.max(1, ...this.groups.map((_, n) => this.depth[this.root + n] + 1));
    let depth = deepest;
    while (depth > 1 && shown.filter(([from, to]) => from <= depth && depth <= to).length > SHOWN_AT_FIRST) depth--;
    return new Set(this.groups.map((_, n) => this.root + n).filter((g) => this.depth[g] < depth));
  }

  openAll() {
    this.open = new Set(this.groups.map((_, n) => this.root + n));
  }

  // Note a difference at a node, and at every group that may hide it.
  note(node, kind) {
    this.marks.set(node, [kind]);
    for (let g = this.parent[node]; g !== undefined; g = this.parent[g]) push(this.marks, g, kind);
  }

  reveal(item) {
    for (let g = this.parent[item]; g !== undefined; g = this.parent[g]) this.open.add(g);
  }

  // The node itself, or the closed group that hides it.
  visible(item) {
    let shown = item;
    for (let g = this.parent[item]; g !== undefined; g = this.parent[g]) if (!this.open.has(g)) shown = g;
    return shown;
  }

  called(node) {
    return node.values.length ? node.values.join(", ") : node.text.split(": ")[0];
  }

  find(text) {
    for (const name of [text, `%${text}`, decoded(text), `%${decoded(text)}`]) {
      if (this.named.has(name)) return this.named.get(name);
    }
    const number = /^return\.(\d+)$/.exec(text);
    const results = this.nodes.flatMap((node, n) => (node.kind === "result" ? [n] : []));
    return number ? results[Number(number[1])] : undefined;
  }

  id(n) {
    const node = this.nodes[n];
    if (node.values.length) return node.values[0].slice(1);
    return `return.${this.nodes.slice(0, n).filter((other) => other.kind === "result").length}`;
  }

  matches(n, text) {
    if (this.hay[n] === undefined) {
      const node = this.nodes[n];
      const places = node.places.map((p) => `${this.places[p][0]}:${this.places[p][1]}`);
      const all = [...node.values, node.op, node.module, ...node.types, ...node.attrs, ...places];
      this.hay[n] = (node.kind === "op" ? all : [...all, node.note]).join("\n").toLowerCase();
    }
    return this.hay[n].includes(text);
  }
}

// Layout: box arithmetic.  Rows come from the data; a box stands near the middle of what it is linked to.

class Layout {
  constructor(graph) {
    this.graph = graph;
    this.boxes = new Map();
    this.all = this.measure(graph.root);
    this.place(this.all, 0, 0);
  }

  measure(item) {
    const group = this.graph.group(item);
    const box = { item, x: 0, y: 0, w: 0, h: NODE_HEIGHT, rows: null };
    this.boxes.set(item, box);
    if (group === null) {
      const node = this.graph.nodes[item];
      box.title = [clip(this.graph.called(node)), node.kind === "op" ? node.op : ""];
      box.note = clip(node.note);
    } else {
      box.title = [clip(group.label || "everything"), ""];
      box.note = counted(group.ops || group.nodes, group.ops ? "op" : group.label === "results" ? "result" : "node");
      if (this.graph.open.has(item)) return this.measureGroup(box, group);
    }
    const letters = box.title.join(" ").trim().length;
    box.w = Math.max(70, letters * TEXT.title, box.note.length * TEXT.note) + (group || this.graph.nodes[item].kind !== "op" ? 36 : 22);
    return box;
  }

  measureGroup(box, group) {
    box.rows = group.rows.map((row) => row.map((item) => this.measure(item)));
    let y = box.item === this.graph.root ? 0 : LABEL_HEIGHT + 14;
    for (const row of box.rows) {
      const height = Math.max(...row.map((b) => b.h));
      for (const b of row) b.y = y + (height - b.h) / 2;
      y += height + GAP.y;
    }
    this.settle(box);
    const inside = box.rows.flat();
    const left = Math.min(...inside.map((b) => b.x));
    for (const b of inside) b.x += PAD - left;
    const label = (box.title[0].length + box.note.length + 6) * TEXT.title;
    box.w = Math.max(label, Math.max(...inside.map((b) => b.x + b.w)) + PAD);
    box.h = y - GAP.y + 14;
    return box;
  }

  settle(box) {
    const links = this.graph.links[box.item - this.graph.root];
    const rowOf = this.graph.row;
    const wish = (b, both) => {
      const near = (links.get(b.item) || []).filter((other) => both || rowOf[other] < rowOf[b.item]);
      return near.length ? mean(near.map((other) => this.boxes.get(other)).map((o) => o.x + o.w / 2)) : null;
    };
    for (const row of box.rows) spread(row, row.map((b) => wish(b, false)));
    for (let n = 0; n < 2; n++) {
      for (const row of [...box.rows].reverse()) spread(row, row.map((b) => wish(b, true)));
      for (const row of box.rows) spread(row, row.map((b) => wish(b, true)));
    }
  }

  place(box, x, y) {
    box.x += x;
    box.y += y;
    for (const row of box.rows || []) for (const b of row) this.place(b, box.x, box.y);
  }

  // The ways of an edge through rows that it only passes: out of its groups, across, and into the groups of its end.
  passes(from, to) {
    const graph = this.graph;
    const [group, a, b] = graph.part(from, to);
    const found = [];
    const rows = (g, start, stop) => this.boxes.get(g).rows.slice(start, stop);
    for (let i = from; i !== a; i = graph.parent[i]) found.push(rows(graph.parent[i], graph.row[i] + 1));
    found.push(rows(group, graph.row[a] + 1, graph.row[b]));
    const into = [];
    for (let i = to; i !== b; i = graph.parent[i]) into.push(rows(graph.parent[i], 0, graph.row[i]));
    return [...found, ...into.reverse()].filter((band) => band.length);
  }
}

function spread(row, wishes) {
  const known = wishes.filter((w) => w !== null);
  const middle = known.length ? mean(known) : 0;
  let edge = -Infinity;
  let shift = 0;
  row.forEach((box, n) => {
    const want = (wishes[n] ?? middle) - box.w / 2;
    box.x = Math.max(want, edge);
    edge = box.x + box.w + GAP.x;
    shift += want - box.x;
  });
  for (const box of row) box.x += shift / row.length;
}

// An x at which nothing in the rows is crossed, nearest to a wished one; far edges go round everything in lanes.
function clearing(rows, wish, lane) {
  const far = rows.length > FAR_ROWS;
  const spans = rows.flatMap((row) =>
    far ? [[row[0].x - 8, row.at(-1).x + row.at(-1).w + 8]] : row.map((b) => [b.x - 8, b.x + b.w + 8]));
  if (far) return aside(Math.min(...spans.map((s) => s[0])), Math.max(...spans.map((s) => s[1])), wish, lane);
  spans.sort((a, b) => a[0] - b[0]);
  let [start, end] = spans[0];
  for (const [from, to] of [...spans.slice(1), [Infinity, Infinity]]) {
    if (wish <= start) return wish;
    if (from > end) {
      if (wish < end) return aside(start, end, wish, lane);
      [start, end] = [from, to];
    } else end = Math.max(end, to);
  }
  return wish;
}

function aside(start, end, wish, lane) {
  if (wish <= start || wish >= end) return wish;
  return wish - start < end - wish ? start - lane : end + lane;
}

function route(layout, from, to, x0, x1) {
  const [a, b] = [layout.boxes.get(from), layout.boxes.get(to)];
  const lane = (from % 4) * GAP.lane;
  const bands = layout.passes(from, to);
  let [x, y] = [x0, a.y + a.h];
  let path = `M${x.toFixed(1)} ${y.toFixed(1)}`;
  const bendTo = (nx, ny) => {
    const bend = (ny - y) / 2;
    path += `C${x.toFixed(1)} ${(y + bend).toFixed(1)} ${nx.toFixed(1)} ${(ny - bend).toFixed(1)} ${nx.toFixed(1)} ${ny.toFixed(1)}`;
    [x, y] = [nx, ny];
  };
  for (const band of bands) {
    const top = Math.min(...band[0].map((box) => box.y)) - 4;
    const bottom = Math.max(...band.at(-1).map((box) => box.y + box.h)) + 4;
    bendTo(clearing(band, Math.abs(x - x1) < 400 ? x1 : x, lane), top);
    path += `V${bottom.toFixed(1)}`;
    y = bottom;
  }
  bendTo(x1, b.y - 5);
  return { path, far: bands.length > 0 };
}

// For each edge the x of its end (0 the first, 1 the second), in the order in which the other ends stand.
function ports(layout, edges, end) {
  const at = new Map();
  edges.forEach((edge, n) => push(at, edge[end], n));
  const xs = [];
  for (const [item, list] of at) {
    const box = layout.boxes.get(item);
    const middle = (n) => {
      const other = layout.boxes.get(edges[n][1 - end]);
      return other.x + other.w / 2;
    };
    list.sort((a, b) => middle(a) - middle(b));
    list.forEach((n, place) => (xs[n] = box.x + box.w * (0.2 + (0.6 * (place + 1)) / (list.length + 1))));
  }
  return xs;
}
