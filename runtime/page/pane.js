const DATA = JSON.parse(document.getElementById("data").textContent);
// What a module without functions shows.
const NO_FUNCTION = { name: "", label: "no functions", nodes: [], groups: [{ label: "", path: "", rows: [], ops: 0, nodes: 0 }] };
const SIGNS = { added: "+", removed: "−", changed: "~" };

// Data reaches the page only as text nodes and attribute values, never as markup.
function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const html = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const byId = (id) => document.getElementById(id);

// Pane: one module drawn, with its selection and its view.

class Pane {
  constructor(side, number) {
    this.number = number;
    this.title = side.title;
    this.graphs = (side.functions.length ? side.functions : [NO_FUNCTION]).map((f) => new Graph(f, side.places));
    this.graph = this.graphs[0];
    this.selected = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.world = svg("g");
    this.svg = svg("svg", { role: "group", "aria-label": `Graph of ${side.title}` }, arrowhead(number), this.world);
    this.choice = html("select", { "aria-label": "Function", change: () => app.showFunction(this, this.choice.selectedIndex) },
      ...this.graphs.map((g) => html("option", {}, functionLabel(g))));
    const button = (text, label, act) => html("button", { type: "button", title: label, "aria-label": label, click: act }, text);
    this.root = html("section", { class: "pane", "aria-label": side.title },
      html("div", { class: "bar" },
        DATA.diff && html("span", { class: "title", title: side.title }, side.title),
        this.graphs.length > 1 ? this.choice : html("code", {}, functionLabel(this.graph)), html("span", { class: "space" }),
        button("−", "Zoom out (-)", () => this.zoom(1 / 1.3)), button("+", "Zoom in (+)", () => this.zoom(1.3)),
        button("Fit", "Show everything (0)", () => this.fit(0))),
      this.svg);
    this.listen();
  }

  listen() {
    let drag = null;
    this.svg.addEventListener("pointerdown", (event) => {
      drag = { x: event.clientX, y: event.clientY, view: { ...this.view }, moved: false };
    });
    window.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const [dx, dy] = [event.clientX - drag.x, event.clientY - drag.y];
      drag.moved ||= Math.abs(dx) + Math.abs(dy) > 4;
      this.svg.classList.toggle("dragging", drag.moved);
      if (drag.moved) this.look(drag.view.x + dx, drag.view.y + dy, drag.view.scale);
    });
    window.addEventListener("pointerup", (event) => {
      const item = drag && !drag.moved ? event.target.closest?.("[data-item]") : null;
      drag = null;
      this.svg.classList.remove("dragging");
      if (item) this.activate(Number(item.dataset.item));
    });
    this.svg.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = this.svg.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), event.clientX - box.x, event.clientY - box.y);
    }, { passive: false });
    this.svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const item = Number(event.target.dataset?.item ?? NaN);
    if (Number.isNaN(item)) return;
    const shown = [...this.items.keys()];
    const at = shown.indexOf(item);
    const near = (step) => shown[clamp(at + step, 0, shown.length - 1)];
    const node = this.graph.nodes[item];
    const go = {
      ArrowLeft: () => this.focus(near(-1)),
      ArrowRight: () => this.focus(near(1)),
      ArrowUp: () => this.focus(node?.operands.length ? this.graph.visible(node.operands[0][0]) : near(-1)),
      ArrowDown: () => this.focus(node && this.graph.users[item].size ? this.graph.visible([...this.graph.users[item]][0]) : near(1)),
      Enter: () => this.activate(item),
      " ": () => this.activate(item),
    }[event.key];
    if (!go) return;
    event.preventDefault();
    go();
  }

  focus(item) {
    const shape = this.items.get(item);
    this.items.forEach((other) => other.setAttribute("tabindex", -1));
    shape.setAttribute("tabindex", 0);
    shape.focus({ preventScroll: true });
    this.center(item, true);
  }

  activate(item) {
    if (item >= this.graph.root) this.toggle(item);
    else app.select(this, item, false);
  }

  toggle(group) {
    const before = this.layout.boxes.get(group);
    const { open } = this.graph;
    open.has(group) ? open.delete(group) : open.add(group);
    this.draw();
    const after = this.layout.boxes.get(group);
    const { x, y, scale } = this.view;
    this.look(x + (before.x + before.w / 2 - after.x - after.w / 2) * scale, y + (before.y - after.y) * scale, scale);
    if (this.items.has(group)) this.items.get(group).focus({ preventScroll: true });
  }

  show(number) {
    this.graph = this.graphs[number];
    this.choice.selectedIndex = number;
    this.selected = null;
    this.draw();
    this.fit(0.75);
  }

  draw() {
    this.layout = new Layout(this.graph);
    this.items = new Map();
    const [groups, edges, nodes] = [svg("g"), svg("g"), svg("g")];
    this.drawBox(this.layout.all, groups, nodes);
    this.edges = this.drawEdges();
    edges.append(...this.edges.map((edge) => edge.shape));
    this.edgeLayer = edges;
    this.world.replaceChildren(groups, edges, nodes);
    this.refresh();
  }

  drawBox(box, groups, nodes) {
    const whole = box.item === this.graph.root;
    if (box.rows && !whole) groups.append(svg("g", { class: "group" }, svg("rect", { x: box.x, y: box.y, width: box.w, height: box.h, rx: 8 })));
    if (!(whole && box.rows)) {
      const shape = this.graph.group(box.item) ? drawLabel(this.graph, box) : drawNode(this.graph, box, kernelHue(this, box.item));
      this.items.set(box.item, shape);
      nodes.append(shape);
    }
    for (const row of box.rows || []) for (const inner of row) this.drawBox(inner, groups, nodes);
  }

  drawEdges() {
    const seen = new Map();
    this.graph.nodes.forEach((node, to) => {
      for (const [from] of node.operands) {
        const [a, b] = [this.graph.visible(from), this.graph.visible(to)];
        if (a !== b) seen.set(`${a} ${b}`, [a, b]);
      }
    });
    const ends = [...seen.values()];
    const enter = ports(this.layout, ends, 1);
    const leave = ports(this.layout, ends, 0);
    return ends.map(([from, to], n) => {
      const { path, far } = route(this.layout, from, to, leave[n], enter[n]);
      const shape = svg("path", { class: far ? "edge far" : "edge", d: path, "marker-end": `url(#arrow${this.number})` });
      return { from, to, shape };
    });
  }

  // Classes follow the selection and the search without drawing anew.
  refresh() {
    const chosen = this.selected === null ? null : this.graph.visible(this.selected);
    const found = new Set((app.found[this.number] || []).map((n) => this.graph.visible(n)));
    this.items.forEach((shape, item) => {
      shape.classList.toggle("selected", item === chosen);
      shape.classList.toggle("match", found.has(item));
      shape.setAttribute("tabindex", -1);
    });
    for (const { from, to, shape } of this.edges) {
      shape.classList.toggle("into", to === chosen);
      shape.classList.toggle("outof", from === chosen);
      if (to === chosen || from === chosen) this.edgeLayer.append(shape);
    }
    (this.items.get(chosen) || this.items.values().next().value)?.setAttribute("tabindex", 0);
  }

  select(node, centred) {
    this.selected = node;
    if (node !== null && this.graph.visible(node) !== node) {
      this.graph.reveal(node);
      this.draw();
    } else this.refresh();
    if (node !== null && centred) this.center(node, false);
  }

  look(x, y, scale) {
    this.view = { x, y, scale };
    this.world.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${scale.toFixed(4)})`);
  }

  zoom(factor, x = this.svg.clientWidth / 2, y = this.svg.clientHeight / 2) {
    const scale = clamp(this.view.scale * factor, 0.02, 4);
    const ratio = scale / this.view.scale;
    this.look(x - (x - this.view.x) * ratio, y - (y - this.view.y) * ratio, scale);
  }

  // Everything, but not smaller than ``least``: then the top, with what stands in the first row in the middle.
  fit(least) {
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    const box = this.layout.all;
    const whole = Math.min(1, (width - 60) / (box.w + 60), (height - 40) / box.h);
    const scale = Math.max(least, whole, 0.02);
    const first = box.rows?.[0] ?? [box];
    const middle = box.w * scale <= width ? box.x + box.w / 2 : (first[0].x + first.at(-1).x + first.at(-1).w) / 2;
    this.look(width / 2 - middle * scale, Math.max(20, (height - box.h * scale) / 2), scale);
  }

  center(item, onlyIfOutside) {
    const box = this.layout.boxes.get(item);
    const scale = onlyIfOutside ? this.view.scale : Math.max(this.view.scale, 0.8);
    const [x, y] = [box.x + box.w / 2, box.y + Math.min(box.h, NODE_HEIGHT) / 2];
    const [width, height] = [this.svg.clientWidth, this.svg.clientHeight];
    const [sx, sy] = [x * scale + this.view.x, y * scale + this.view.y];
    if (onlyIfOutside && sx > 60 && sx < width - 60 && sy > 40 && sy < height - 40) return;
    this.look(width / 2 - x * scale, height / 2 - y * scale, scale);
  }
}

// Shapes

function arrowhead(number) {
  const marker = { id: `arrow${number}`, viewBox: "0 0 6 6", refX: 1, refY: 3, markerWidth: 6, markerHeight: 6, orient: "auto", markerUnits: "userSpaceOnUse" };
  return svg("defs", {}, svg("marker", marker, svg("path", { class: "arrow", d: "M0 0L6 3L0 6z" })));
}

function drawNode(graph, box, hue) {
  const node = graph.nodes[box.item];
  const [kind] = graph.marks.get(box.item) || [];
  const classes = ["node", node.kind, hue === null ? "" : "kernel", kind ? `differs ${kind}` : ""].filter(Boolean).join(" ");
  const [x, y] = [11, 17];
  return svg("g", {
    class: classes, transform: `translate(${box.x} ${box.y})`, role: "button", "aria-label": node.text, "data-item": box.item,
    "data-node": graph.called(node), "data-family": node.kind === "op" ? node.family || "other" : null, style: hue === null ? null : `--hue: ${hue}`,
  },
    svg("rect", { class: "body", width: box.w, height: box.h, rx: node.kind === "op" ? 5 : box.h / 2 }),
    node.kind === "op" ? svg("rect", { class: "strip", width: 4, height: box.h, rx: 2 }) : null,
    svg("text", { x: x + (node.kind === "op" ? 0 : 4), y },
      svg("tspan", {}, box.title[0]), node.kind === "op" ? svg("tspan", { class: "op", dx: 7 }, node.op) : null),
    svg("text", { class: "note", x: x + (node.kind === "op" ? 0 : 4), y: y + 15 }, box.note),
    kind ? badge(box.w, SIGNS[kind]) : null);
}

// The title bar of an open group, or all of a closed one.
function drawLabel(graph, box) {
  const group = graph.group(box.item);
  const open = box.rows !== null;
  const kinds = graph.marks.get(box.item) || [];
  const kind = open || !kinds.length ? null : kinds.every((k) => k === kinds[0]) ? kinds[0] : "changed";
  const text = svg("text", { x: 10, y: open ? 16 : 17 }, svg("tspan", {}, `${open ? "▾" : "▸"} ${box.title[0]}`));
  const note = open ? svg("tspan", { class: "note", dx: 8 }, box.note) : svg("text", { class: "note", x: 26, y: 32 }, box.note);
  if (open) text.append(note);
  const width = open ? (box.title[0].length + 3) * TEXT.title + box.note.length * TEXT.note + 22 : box.w;
  return svg("g", {
    class: ["label", open ? "" : "closed", kind ? `differs ${kind}` : ""].filter(Boolean).join(" "), transform: `translate(${box.x} ${box.y})`,
    role: "button", "aria-expanded": String(open), "aria-label": `${group.path}, ${box.note}`, "data-item": box.item, "data-group": group.path,
  },
    open ? null : svg("rect", { x: 4, y: 4, width, height: box.h, rx: 8 }),
    svg("rect", { width, height: open ? LABEL_HEIGHT : box.h, rx: 8 }), text, open ? null : note,
    kind ? badge(width, kinds.length) : null);
}

function badge(x, text) {
  return svg("g", { class: "badge" }, svg("circle", { cx: x, cy: 0, r: 9 }), svg("text", { x, y: 4.5 }, String(text)));
}

function kernelHue(pane, item) {
  const node = pane.graph.nodes[item];
  if (pane.graph.kernel && node?.kind === "op") return pane.graph.hue;
  return node?.kernel ? pane.graphs.find((g) => g.name === node.kernel)?.hue ?? null : null;
}

function functionLabel(graph) {
  const sign = graph.mark ? `${SIGNS[graph.mark]} ` : "";
  return `${sign}${graph.label} · ${graph.kernel ? "kernel, " : ""}${counted(graph.groups[0].ops, "op")}`;
}
