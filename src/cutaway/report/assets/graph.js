// Layered: a graph that grows upwards, tower over tower. A slider keeps its best links; parts and links say their numbers.

const HEADS = []; // views of heads that other views lead to: {tower, id, has(layer, head), show(layer, head)}
const STEP = 26, // pixels from level to level
  BEGUN = 14, // more of them above where a tower begins
  BAND = 26; // and above a tower, for its name

/** Where every node stands: {spots, bands, height} for a width; towers side by side where nothing leads across. */
function placed(view, width) {
  const towers = [...new Set(view.nodes.map((node) => node.tower))];
  const across = view.links.some((link) => view.nodes[link.start].tower !== view.nodes[link.end].tower);
  const beside = !across && width > 640;
  const room = beside ? width / towers.length : width;
  const spots = [],
    bands = [];
  let bottom = 0;
  towers.forEach((tower, number) => {
    const own = view.nodes.map((node, at) => ({ ...node, at })).filter((node) => node.tower === tower);
    const top = Math.max(...own.map((node) => node.level));
    const tall = own.length > 1 ? BAND + (top + 1) * STEP + BEGUN + 4 : 38;
    const left = beside ? number * room : 0,
      side = own.length > 1 ? 34 : 0;
    bands.push({ tower: own.length > 1 ? tower : "", left, width: room - (beside ? 10 : 0), bottom, tall });
    const inner = room - side - (beside ? 10 : 0);
    const heads = own.filter((node) => node.kind === "head");
    const most = Math.max(1, ...heads.map((node) => heads.filter((one) => one.level === node.level).length));
    const cell = inner / (most + 1.6);
    for (const node of own) {
      const row = own.filter((one) => one.level === node.level && one.kind === node.kind);
      const at = row.findIndex((one) => one.at === node.at);
      const from = left + side + cell * 0.2,
        span = cell * most;
      const x = {
        MLP: from + span + cell * 0.7,
        begin: from + span / 2,
        end: from + span / 2,
      }[node.kind];
      spots[node.at] = {
        x: own.length === 1 ? left + room / 2 : (x ?? from + ((at + 0.5) / row.length) * span),
        y: bottom + (own.length > 1 ? 16 + node.level * STEP + (node.level ? BEGUN : 0) : 19),
        r: clamp(cell * 0.36, 5, 10),
      };
    }
    if (!beside) bottom += tall + 6;
  });
  const height = Math.max(...bands.map((band) => band.bottom + band.tall));
  for (const spot of spots) spot.y = height - spot.y;
  return { spots, bands, height };
}

const shortened = (label) => (label.length > 24 ? `${label.slice(0, 23)}…` : label);
const ROLES = { queries: -0.7, keys: 0, values: 0.7 };
const called = ({ tower, layer, head, label, kind }) =>
  [tower === label ? "" : tower, layer === null ? "" : `layer ${layer}`, kind === "head" ? `head ${head}` : label]
    .filter(Boolean)
    .join(", ");

/** How a link stands to what is kept and to what is known. */
function standing(link, kept) {
  const inside = link.rank < kept;
  if (missing(link.true)) return inside ? "kept" : "";
  return link.true ? (inside ? "right" : "missed") : inside ? "false" : "";
}

DRAW.Layered = (view, stage) => {
  if (!view.nodes.length || !view.sizes.length) return stage.append(empty("The graph has no parts."));
  const { nodes, links, sizes, total } = view;
  const most = Math.max(1e-30, ...links.map((link) => Math.abs(link.score ?? 0)));
  const known = links.some((link) => !missing(link.true));
  const state = { size: view.shown, node: null, seen: null, link: null, truth: known };
  const drawing = make("svg", { "aria-hidden": "true" });
  const field = make(
    "div",
    {
      class: "network",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "graph",
      "aria-label": `${view.title}: ${nodes.length} parts. Arrow keys go from part to part, Enter shows the edges of one, Escape all. The table below has every edge that is drawn.`,
    },
    drawing,
  );
  const out = readout(),
    count = make("p", { class: "count", role: "status" }),
    panel = make("div", { class: "ofpart" });
  const name = (at) => called(nodes[at]);
  const words = (link) => `${name(link.start)} → ${name(link.end)}${link.role ? ` (${link.role})` : ""}`;
  const kept = () => sizes[state.size];
  const live = () => links.filter((link) => (state.truth ? standing(link, kept()) : link.rank < kept()));
  const of = (at) => live().filter((link) => link.start === at || link.end === at);
  const how = [view.score, most];
  let plan = null,
    parts = [],
    lines = [];

  function build(width) {
    plan = placed(view, width);
    Object.entries({ width, height: plan.height }).forEach((pair) => drawing.setAttribute(...pair));
    const text = (x, y, said, kind, anchor = "start") => make("text", { x, y, class: kind, "text-anchor": anchor, text: said });
    const bands = plan.bands.flatMap(({ tower, left, width: wide, bottom, tall }) => [
      make("rect", { x: left, y: plan.height - bottom - tall, width: wide, height: tall, rx: 6, class: "band" }),
      text(left + 8, plan.height - bottom - tall + 17, tower, "tower"),
    ]);
    const layers = nodes.flatMap((node, at) => {
      const first = nodes.findIndex((one) => one.tower === node.tower && one.layer === node.layer);
      return node.layer === null || first !== at
        ? []
        : [text(plan.bands.find((band) => band.tower === node.tower)?.left + 12, plan.spots[at].y + 4, String(node.layer), "layer", "middle")];
    });
    lines = links.map((link, at) => {
      const d = curve(link);
      return make("g", { class: "link" }, make("path", { d, class: "hit", "data-link": at }), make("path", { d, class: "wire" }));
    });
    parts = nodes.map((node, at) => {
      const { x, y, r } = plan.spots[at];
      const round = node.kind === "head",
        half = round ? r : Math.max(r, shortened(node.label).length * 3.6 + 6);
      return make(
        "g",
        { class: "part", "data-node": at },
        make("rect", { x: x - half, y: y - r, width: 2 * half, height: 2 * r, rx: round ? r : 5 }),
        r > 6 || !round ? text(x, y + 4, round ? String(node.head ?? node.label) : shortened(node.label), "label", "middle") : null,
      );
    });
    drawing.replaceChildren(make("g", {}, bands, layers), make("g", {}, lines), make("g", {}, parts));
    paint();
  }
  function curve(link) {
    const [from, to] = [plan.spots[link.start], plan.spots[link.end]];
    const x = to.x + (ROLES[link.role] ?? 0) * to.r,
      [low, high] = [from.y - from.r, to.y + to.r];
    const far = (low - high) / STEP,
      bend = far > 3 ? (link.rank % 2 ? 1 : -1) * Math.min(46, far * 3) : 0;
    const pull = Math.max(10, (low - high) * 0.45);
    return `M${from.x.toFixed(1)} ${low.toFixed(1)}C${(from.x + bend).toFixed(1)} ${(low - pull).toFixed(1)} ${(x + bend).toFixed(1)} ${(high + pull).toFixed(1)} ${x.toFixed(1)} ${high.toFixed(1)}`;
  }
  function paint() {
    if (!plan) return;
    const touched = new Set(live().flatMap((link) => [link.start, link.end]));
    const near = state.seen ?? state.node;
    links.forEach((link, at) => {
      const stands = standing(link, kept()),
        shown = state.truth ? stands : link.rank < kept();
      const strength = Math.max(Math.sqrt(Math.abs(link.score ?? 0) / most), stands === "missed" ? 0.25 : 0);
      const chosen = state.link === link || (state.link === null && near !== null && (link.start === near || link.end === near));
      const weak = (state.link !== null || near !== null) && !chosen;
      const kind = state.truth ? stands : link.score < 0 ? "below" : "above";
      lines[at].setAttribute("class", `link ${kind}${weak ? " dim" : ""}${chosen ? " chosen" : ""}`);
      lines[at].setAttribute("visibility", shown ? "visible" : "hidden");
      const wire = lines[at].lastChild;
      wire.setAttribute("stroke-width", (0.7 + 5 * strength + (chosen ? 0.8 : 0)).toFixed(2));
      wire.setAttribute("stroke-opacity", (weak ? 0.07 : chosen ? 1 : 0.3 + 0.7 * strength).toFixed(2));
    });
    parts.forEach((part, at) => {
      part.setAttribute("class", `part${touched.has(at) ? "" : " out"}${at === near ? " now" : ""}${at === state.node ? " picked" : ""}`);
    });
  }
  function tell() {
    const shown = live().length,
      carried = view.carried.data[state.size];
    const drawn = links.filter((link) => link.rank < kept()).length;
    count.textContent =
      `${kept()} of ${total} edges kept${drawn < kept() ? `, the best ${drawn} drawn` : ""}: ` +
      sayBetween(carried, view.low?.data[state.size], view.high?.data[state.size], view.unit) +
      (isShare(view.unit) ? view.unit.slice(5) : ` ${view.unit}`);
    if (state.link) return out.show(say(state.link.score, ...how), `${words(state.link)}\nrank ${state.link.rank + 1} of ${total}`);
    const at = state.seen ?? state.node;
    if (at === null) {
      const best = live().reduce((one, link) => (one === null || Math.abs(link.score) > Math.abs(one.score) ? link : one), null);
      return shown ? out.rest(best.score, words(best), ...how) : out.show("", "No edge is kept.");
    }
    const own = of(at),
      strong = own.reduce((one, link) => (one === null || Math.abs(link.score) > Math.abs(one.score) ? link : one), null);
    const heard = own.filter((link) => link.end === at).length;
    out.show(
      name(at),
      `reads along ${heard} of these edges, writes along ${own.length - heard}` +
        (strong ? `\nstrongest: ${say(strong.score, ...how)}, ${words(strong)}` : ""),
    );
  }
  /** The edges of the chosen part as a list, and where else the page shows it. */
  function list() {
    panel.replaceChildren();
    if (state.node === null) return;
    const node = nodes[state.node];
    const own = of(state.node).sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
    const others = HEADS.filter((view) => view.tower === node.tower && node.kind === "head" && view.has(node.layer, node.head));
    panel.append(
      make("h3", { text: name(state.node) }),
      ...others.map((other) =>
        make("p", {}, make("a", { href: `#${other.id}`, text: `This head in “${other.title}”`, onclick: () => other.show(node.layer, node.head) })),
      ),
      own.length ? "" : make("p", { class: "count", text: "None of its edges is kept." }),
      make(
        "ul",
        { class: "lines" },
        own.slice(0, 12).map((link) => {
          const look = (which) => () => ((state.link = which), refresh());
          return make(
            "li",
            {},
            make(
              "button",
              { type: "button", onfocus: look(link), onblur: look(null), onpointerenter: look(link), onpointerleave: look(null) },
              make("span", { text: link.end === state.node ? "from" : "to" }),
              make("span", { text: `${name(link.end === state.node ? link.start : link.end)}${link.role ? ` (${link.role})` : ""}` }),
              make("span", { class: "number", text: say(link.score, ...how) }),
            ),
          );
        }),
      ),
      own.length > 12 ? make("p", { class: "count", text: `and ${own.length - 12} weaker ones` }) : "",
    );
  }
  const refresh = () => {
    paint();
    tell();
  };
  const choose = (at) => {
    Object.assign(state, { node: at, seen: null, link: null });
    refresh();
    list();
  };
  const goTo = (size) => {
    state.size = size;
    state.link = null;
    steps.set(size);
    chart?.mark(size);
    refresh();
    list();
  };
  const under = ({ target }) => {
    const at = target.closest?.("[data-node]")?.dataset.node,
      link = target.dataset?.link;
    return [at === undefined ? null : Number(at), link === undefined ? null : links[link]];
  };
  field.addEventListener("pointermove", (event) => {
    const [seen, link] = under(event);
    if (seen === state.seen && link === state.link) return;
    Object.assign(state, { seen, link });
    refresh();
  });
  field.addEventListener("pointerleave", () => {
    Object.assign(state, { seen: null, link: null });
    refresh();
  });
  field.addEventListener("click", (event) => {
    const [at, link] = under(event);
    if (link) {
      state.link = link;
      return refresh();
    }
    choose(at === state.node ? null : at);
  });
  field.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (event.key === "Escape") choose(null);
    else if (event.key === "Enter") choose(state.seen ?? state.node);
    else if (way) {
      const now = state.seen ?? state.node;
      state.seen = now === null ? first() : nearest(now, ...way);
      state.link = null;
      refresh();
    } else return;
    event.preventDefault();
  });
  const inUse = () => {
    const touched = new Set(live().flatMap((link) => [link.start, link.end]));
    return touched.size ? [...touched] : nodes.map((_, at) => at);
  };
  const first = () => inUse().reduce((best, at) => (plan.spots[at].y < plan.spots[best].y ? at : best));
  /** The next part that is used in a direction: the next row up or down, the next in the row; else the same. */
  function nearest(now, across, down) {
    const from = plan.spots[now];
    let best = now,
      least = Infinity;
    for (const at of inUse()) {
      const [dx, dy] = [plan.spots[at].x - from.x, plan.spots[at].y - from.y];
      const far = down ? Math.abs(dy) * 1e4 + Math.abs(dx) : Math.abs(dy) * 3 + Math.abs(dx);
      if (dx * across + dy * down > 1 && far < least) [best, least] = [at, far];
    }
    return best;
  }

  const steps = slider("Edges kept", sizes.map(String), state.size, goTo);
  const sample = (kind, said) =>
    make(
      "span",
      {},
      make("svg", { width: 30, height: 12, "aria-hidden": "true" }, make("g", { class: `link ${kind}` }, make("line", { x1: 1, x2: 29, y1: 6, y2: 6, class: "wire", "stroke-width": 4 }))),
      said,
    );
  const signs = () =>
    state.truth
      ? [sample("right", "kept, and in the true circuit"), sample("missed", "in it, and not kept"), sample("false", "kept, and not in it")]
      : [sample("above", "speaks for the answer"), sample("below", "speaks against it")];
  const key = make("div", { class: "signs" }, signs());
  const truth = known
    ? check("Colours say what is true", true, (on) => {
        state.truth = on;
        key.replaceChildren(...signs());
        refresh();
        list();
      })
    : null;
  const scale = make("p", { class: "count", text: `The thickest line: ${say(most, ...how)}, ${view.score}.` });
  stage.append(
    make(
      "div",
      { class: "network-side" },
      make("div", { class: "scroller" }, field),
      make("div", { class: "side" }, steps.node, count, out.node, key, scale, truth, panel),
    ),
  );
  const line = (label, values, extra = {}) => ({ label, values, ...extra });
  const curves = [line("best edges", view.carried, { low: view.low, high: view.high })];
  if (view.chance) curves.push(line("as many by chance", view.chance, { baseline: true }));
  const chart = lineChart({ name: "edges kept", labels: sizes.map(String), lines: curves, unit: view.unit, at: state.size, onPick: goTo }, stage);
  const score = extent(links.map((link) => link.score), [0]);
  dataGrid(
    {
      label: `${view.title}: edges`,
      columns: [
        { name: "from", get: (link) => nodes[link.start].name },
        { name: "to", get: (link) => nodes[link.end].name },
        { name: "score", get: (link) => link.score, show: (link) => numberBar(link.score, score, view.score) },
        { name: "rank", get: (link) => link.rank + 1 },
        ...(links.some((link) => link.role) ? [{ name: "read as", get: (link) => link.role }] : []),
        ...(known ? [{ name: "true", get: (link) => link.true }] : []),
      ],
      rows: links,
      sorted: 2,
      onRow: (link) => {
        state.link = link;
        refresh();
      },
    },
    stage,
  );
  onWidth(field, (width) => build(Math.max(width, 300)))();
  refresh();
};

TABLES.Layered = (view) => [
  ["what", "from", "to", "as", "rank", view.score, "true", "edges", view.unit, "low", "high", "by chance"],
  ...view.links.map((link) => [
    "edge", view.nodes[link.start].name, view.nodes[link.end].name, link.role, link.rank + 1, link.score, link.true,
    null, null, null, null, null,
  ]),
  ...view.sizes.map((size, at) => [
    "size", null, null, null, null, null, null, size,
    view.carried.data[at], view.low?.data[at], view.high?.data[at], view.chance?.data[at],
  ]),
];
