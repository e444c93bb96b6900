// App: what the panes share, namely search, details, differences and the address.

const app = {
  panes: [],
  found: [],
  at: -1,
  difference: null,
  byDifference: false,
  expanded: null,
  partners: [new Map(), new Map()], // "function:node" of one pane -> [function, node] of the other
  counterparts: [new Map(), new Map()],

  start() {
    this.panes = DATA.sides.map((side, n) => new Pane(side, n));
    byId("panes").append(...this.panes.map((pane) => pane.root));
    byId("title").textContent = DATA.diff ? "irc diff" : `module @${DATA.sides[0].title}`;
    if (DATA.diff) this.mark();
    byId("search").addEventListener("input", () => this.search(byId("search").value));
    byId("search").addEventListener("keydown", (event) => event.key === "Enter" && this.step(event.shiftKey ? -1 : 1));
    byId("next").addEventListener("click", () => this.step(1));
    byId("previous").addEventListener("click", () => this.step(-1));
    byId("expand").addEventListener("click", () => this.expand("all"));
    byId("collapse").addEventListener("click", () => this.expand("none"));
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("hashchange", () => this.follow());
    this.panes.forEach((pane, n) => pane.show(n ? this.counterparts[0].get(0) ?? 0 : 0));
    this.follow();
    this.describe();
    document.documentElement.dataset.ready = "";
  },

  key(event) {
    if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const zoom = (factor) => this.panes.forEach((pane) => pane.zoom(factor));
    const act = {
      "/": () => byId("search").focus(),
      n: () => this.showDifference((this.difference ?? -1) + 1),
      p: () => this.showDifference((this.difference ?? 0) - 1),
      "+": () => zoom(1.3),
      "=": () => zoom(1.3),
      "-": () => zoom(1 / 1.3),
      0: () => this.panes.forEach((pane) => pane.fit(0)),
      Escape: () => this.select(this.panes[0], null, false),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  },

  // The other pane follows to the matched function.
  showFunction(pane, number) {
    for (const other of this.panes) {
      const index = other === pane ? number : this.counterparts[pane.number].get(number);
      if (index !== undefined && other.graphs[index] !== other.graph) other.show(index);
    }
    this.search(byId("search").value);
    this.describe();
    this.remember();
  },

  select(pane, node, centred) {
    this.byDifference = false;
    pane.select(node, centred);
    for (const other of this.panes) if (other !== pane) this.selectPartner(pane, other, node);
    this.describe();
    this.remember();
  },

  partner(pane, node) {
    return this.partners[pane.number].get(`${pane.graphs.indexOf(pane.graph)}:${node}`);
  },

  selectPartner(pane, other, node) {
    const partner = node === null ? undefined : this.partner(pane, node);
    if (!partner) return other.select(null, false);
    if (other.graphs[partner[0]] !== other.graph) other.show(partner[0]);
    other.select(partner[1], true);
  },

  // Where a node without a partner would stand: at the partner of what it uses or of what uses it.
  lookNear(pane, other, node) {
    const near = [...pane.graph.nodes[node].operands.map(([n]) => n), ...pane.graph.users[node]];
    const partner = near.map((n) => this.partner(pane, n)).find((found) => found && other.graphs[found[0]] === other.graph);
    if (partner) other.center(other.graph.visible(partner[1]), false);
  },

  search(text) {
    const wanted = text.trim().toLowerCase();
    this.found = this.panes.map((pane) =>
      wanted ? [...pane.graph.nodes.keys()].filter((n) => pane.graph.matches(n, wanted)) : []);
    this.at = -1;
    this.panes.forEach((pane) => pane.refresh());
    this.count(wanted);
    this.remember();
  },

  count(wanted) {
    const total = this.found.flat().length;
    byId("found").textContent = !wanted ? "" : this.at < 0 ? `${total.toLocaleString("en")} match${total === 1 ? "" : "es"}` : `${this.at + 1} of ${total}`;
    for (const id of ["next", "previous"]) byId(id).disabled = total === 0;
  },

  step(by) {
    const all = this.found.flatMap((list, n) => list.map((node) => [this.panes[n], node]));
    if (!all.length) return;
    this.at = this.at < 0 && by < 0 ? all.length - 1 : (this.at + by + all.length) % all.length;
    this.select(...all[this.at], true);
    this.count(true);
  },

  expand(how) {
    this.expanded = how;
    for (const pane of this.panes) {
      if (how === "all") pane.graph.openAll();
      else pane.graph.open = new Set([pane.graph.root]);
      pane.draw();
      pane.fit(0.75);
      if (pane.selected !== null) pane.center(pane.graph.visible(pane.selected), false);
    }
    this.remember();
  },

  // Differences

  mark() {
    const { differences, pairs } = DATA.diff;
    for (const [fa, a, fb, b] of pairs.nodes) {
      this.partners[0].set(`${fa}:${a}`, [fb, b]);
      this.partners[1].set(`${fb}:${b}`, [fa, a]);
    }
    for (const [f, g] of [...pairs.functions].reverse()) {
      this.counterparts[0].set(f, g);
      this.counterparts[1].set(g, f);
    }
    for (const { kind, sides } of differences) {
      sides.forEach((side, n) => {
        const graph = side && this.panes[n].graphs[side.function];
        if (!graph) return;
        if (side.node >= 0) graph.note(side.node, kind);
        else graph.mark = kind;
      });
    }
    this.panes.forEach((pane) => [...pane.choice.options].forEach((option, n) => (option.text = functionLabel(pane.graphs[n]))));
    this.list(differences);
  },

  list(differences) {
    const parts = [];
    for (const name of new Set(differences.map((d) => d.function))) {
      const own = [...differences.entries()].filter(([, d]) => d.function === name);
      parts.push(html("h2", {}, `${counted(own.length, "difference")} in @${name}`));
      parts.push(html("ol", {}, ...own.map(([n, d]) => html("li", {}, this.entry(n, d)))));
    }
    byId("differences").hidden = false;
    byId("differences").append(...(parts.length ? parts : [html("p", { class: "hint" }, "No differences between the two modules.")]));
  },

  entry(n, { kind, what, detail, sides }) {
    const lines = sides.filter(Boolean).map((side) => side.text);
    return html("button", { type: "button", class: kind, "data-difference": n + 1, title: lines.join("\n"), click: () => this.showDifference(n) },
      html("span", { class: "number" }, String(n + 1)), html("span", { class: "sign" }, SIGNS[kind] || "~"),
      html("span", {}, `${what} ${kind}${detail ? `: ${detail}` : ""}`), html("span", { class: "line" }, lines[0] || ""));
  },

  showDifference(n) {
    const all = DATA.diff ? DATA.diff.differences : [];
    if (!all.length) return;
    this.difference = (n + all.length) % all.length;
    this.byDifference = true;
    const { sides } = all[this.difference];
    sides.forEach((side, number) => {
      const pane = this.panes[number];
      if (side && side.function >= 0 && pane.graphs[side.function] !== pane.graph) this.showFunction(pane, side.function);
    });
    sides.forEach((side, number) => this.panes[number].select(side && side.node >= 0 ? side.node : null, true));
    const alone = sides.findIndex((side, number) => side && side.node >= 0 && !sides[1 - number]);
    if (alone >= 0) this.lookNear(this.panes[alone], this.panes[1 - alone], sides[alone].node);
    for (const button of document.querySelectorAll("[data-difference]")) {
      const current = Number(button.dataset.difference) === this.difference + 1;
      button.setAttribute("aria-current", current);
      if (current) button.scrollIntoView({ block: "nearest" });
    }
    this.describe();
    this.remember();
  },

  // Details and legend

  describe() {
    const shown = this.panes.filter((pane) => pane.selected !== null);
    byId("details").replaceChildren(...(shown.length ? shown.flatMap((pane) => this.details(pane)) : [
      html("p", { class: "hint" }, DATA.diff ? "Choose a difference, or click a node to see its partner." : "Click a node to see what it is; click a group to open or close it."),
    ]));
    this.legend();
  },

  details(pane) {
    const { graph } = pane;
    const node = graph.nodes[pane.selected];
    const row = (name, lines) => (lines.length ? [html("dt", {}, name), html("dd", {}, ...lines.map((line) => html("div", {}, line)))] : []);
    const link = (n, text) => html("button", { type: "button", class: "link", "data-to": graph.id(n), click: () => this.select(pane, n, true) }, text);
    const places = node.places.flatMap((p) => {
      const [file, line, , source] = graph.places[p];
      return source ? [`${file}:${line}`, html("code", {}, source)] : [`${file}:${line}`];
    });
    const typed = node.values.length > 1 ? node.types.map((type, n) => `${node.values[n]}: ${type}`) : node.types;
    return [
      DATA.diff && html("h2", {}, pane.title),
      html("h3", {}, node.kind === "op" ? `${graph.called(node)} = ${node.op}` : graph.called(node)),
      html("pre", {}, node.text),
      html("dl", {}, ...row("type", typed), ...row("attributes", node.attrs), ...row("family", node.family ? [node.family] : []),
        ...row("module", node.module ? [node.module] : []), ...row("source", places),
        ...row("operands", node.operands.map(([n, value]) => link(n, graph.nodes[n].values[value]))),
        ...row("users", [...graph.users[pane.selected]].map((n) => link(n, short(graph, n))))),
      ...(node.kernel ? this.kernel(pane, node.kernel) : []),
    ].filter(Boolean);
  },

  kernel(pane, name) {
    const number = pane.graphs.findIndex((g) => g.name === name);
    if (number < 0) return [];
    const graph = pane.graphs[number];
    const body = graph.nodes.filter((node) => node.kind === "op").map((node) => `  ${node.text}`);
    const go = html("button", { type: "button", class: "link", "data-kernel": name, click: () => this.showFunction(pane, number) }, `kernel ${graph.label}`);
    return [html("h2", {}, go), html("pre", { class: "kernel" }, [...graph.head, ...body, graph.return, "}"].join("\n"))];
  },

  legend() {
    const [pane] = this.panes;
    const families = new Map();
    for (const each of this.panes) for (const node of each.graph?.nodes || []) if (node.family) families.set(node.family, (families.get(node.family) || 0) + 1);
    const colours = [...families].map(([family, n]) => html("li", {}, html("span", { class: "swatch", "data-family": family }), `${family} (${n})`));
    const kernels = pane.graphs.flatMap((graph, n) => (graph.kernel ? [html("li", {}, html("span", { class: "swatch kernel", style: `--hue: ${graph.hue}` }),
      html("button", { type: "button", class: "link", click: () => this.showFunction(pane, n) }, functionLabel(graph)))] : []));
    const keys = [["/", "search"], ["← →", "previous, next node"], ["↑ ↓", "operand, user"], ["Enter", "select, open or close"], ["+ − 0", "zoom, show everything"]];
    if (DATA.diff) keys.push(["n p", "next, previous difference"]);
    byId("legend").replaceChildren(...(colours.length ? [html("h2", {}, "Ops by family"), html("ul", {}, ...colours)] : []),
      ...(kernels.length ? [html("h2", {}, "Kernels"), html("ul", {}, ...kernels)] : []),
      html("h2", {}, "Keys"), html("div", { class: "keys" }, ...keys.flatMap(([key, what]) => [html("kbd", {}, key), html("span", {}, what)])));
  },

  // The address: what is shown, so that a link shows it again.

  follow() {
    const wanted = Object.fromEntries(location.hash.slice(1).split("&").map((part) => [part.split("=")[0], part.slice(part.indexOf("=") + 1)]));
    if (location.hash.slice(1) === this.written) return;
    const [pane] = this.panes;
    for (const each of [...this.panes].reverse()) {
      const number = wanted.f === undefined ? -1 : each.graphs.findIndex((g) => [wanted.f, decoded(wanted.f)].includes(g.name));
      if (number >= 0) this.showFunction(each, number);
    }
    if (wanted.expand) this.expand(wanted.expand);
    if (wanted.search !== undefined) {
      byId("search").value = decoded(wanted.search);
      this.search(byId("search").value);
    }
    const node = wanted.node === undefined ? undefined : pane.graph.find(wanted.node);
    if (node !== undefined) this.select(pane, node, true);
    if (wanted.diff) this.showDifference(Number(wanted.diff) - 1);
  },

  remember() {
    const [pane] = this.panes;
    const parts = [];
    if (pane.graphs.length > 1) parts.push(`f=${encodeURIComponent(pane.graph.name)}`);
    if (this.expanded) parts.push(`expand=${this.expanded}`);
    if (byId("search").value) parts.push(`search=${encodeURIComponent(byId("search").value)}`);
    if (this.byDifference) parts.push(`diff=${this.difference + 1}`);
    else if (pane.selected !== null) parts.push(`node=${encodeURIComponent(pane.graph.id(pane.selected))}`);
    this.written = parts.join("&");
    history.replaceState(null, "", `#${this.written}`);
  },
};

function short(graph, n) {
  const node = graph.nodes[n];
  return node.kind === "op" ? `${graph.called(node)} = ${node.op}` : node.text;
}

app.start();
