// Line charts with bands, and bars that add up.

/** Round numbers that part low…high into about `wanted` pieces. */
function ticksOf(low, high, wanted = 5) {
  const rough = (high - low) / wanted || 1,
    power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const out = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step)
    out.push(Math.abs(tick) < step * 1e-6 ? 0 : tick);
  return out;
}

/** A tick is a round number: written whole, without what rounding left behind it. */
const tickText = (tick, unit) => (isShare(unit) ? `${plain(tick * 100, 12)}%` : plain(tick, 12)).replace("-", "−");

const HUES = 8,
  DASHES = ["", "7 3", "2 3"],
  GREYS = ["9 4", "1 4", "4 2 1 2"]; // baselines

/** Pieces of a line or band between the places that were not measured. */
function pieces(values) {
  const out = [];
  values.forEach((value, at) => {
    if (missing(value)) return;
    if (at && !missing(values[at - 1])) out[out.length - 1].push(at);
    else out.push([at]);
  });
  return out;
}

/**
 * A chart of {label, values, low, high, baseline} over `labels`. The list beside it is its legend, switches the lines, and
 * shows their numbers at the cursor. Returns mark(at, strong): put the cursor somewhere, and make one line stand out.
 */
function lineChart({ name, labels, lines, unit, at, onPick = () => {} }, stage) {
  const arrays = (line) => [line.values, line.low, line.high].map((array) => array?.data ?? array);
  const size = sizeOf(extent(...lines.flatMap(arrays)));
  const hidden = new Set(),
    height = 260,
    pad = { left: 52, right: Math.max(10, (labels.at(-1) ?? "").slice(0, 14).length * 4), top: 12, bottom: 40 };
  const state = { at: at ?? labels.length - 1, picked: at ?? labels.length - 1, strong: null };
  const drawing = make("svg", { "aria-hidden": "true", height });
  const node = make(
    "div",
    {
      class: "chart",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "line chart",
      "aria-label": `${unit} by ${name}, ${lines.length} lines. Left and right arrow keys move along ${name}.`,
    },
    drawing,
  );
  const where = make("div", { class: "where" });
  let colour = 0,
    grey = 0;
  const greys = new Map(lines.map((line, index) => [index, line.baseline ? GREYS[grey++ % GREYS.length] : ""]));
  const styles = lines.map((line) => (line.baseline ? "base" : `hue-${colour++ % HUES}`));
  const dash = (index) => (lines[index].baseline ? greys.get(index) : DASHES[Math.floor(Number(styles[index].slice(4)) / 4) % 3]);
  const numbers = lines.map(() => make("span", { class: "number" }));
  const list = make(
    "ul",
    { class: "lines" },
    lines.map((line, index) =>
      make(
        "li",
        {},
        make(
          "button",
          {
            type: "button",
            "aria-pressed": "true",
            class: styles[index],
            title: `Show or hide: ${line.label}`,
            onclick: (event) => {
              if (!hidden.delete(index)) hidden.add(index);
              event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(index)));
              draw();
            },
          },
          make(
            "svg",
            { width: 26, height: 12, "aria-hidden": "true" },
            line.low && line.high ? make("rect", { x: 0, y: 0, width: 26, height: 12, class: "band" }) : null,
            make("line", { x1: 0, x2: 26, y1: 6, y2: 6, class: "stroke", "stroke-dasharray": dash(index) }),
          ),
          make("span", { text: line.label, class: "name", dir: "auto" }),
          numbers[index],
        ),
      ),
    ),
  );
  const said = make("div", { class: "values", role: "status" }, where, list);
  stage.append(make("div", { class: "lineplot" }, node, said));

  let width = 0;
  const x = (place) =>
    pad.left + (labels.length < 2 ? 0.5 : place / (labels.length - 1)) * (width - pad.left - pad.right);
  function draw() {
    if (!width) return;
    const shown = lines.map((_, index) => index).filter((index) => !hidden.has(index));
    const range = extent(...shown.flatMap((index) => arrays(lines[index])));
    let { low, high } = range.empty ? { low: 0, high: 1 } : range;
    const room = (high - low) * 0.06 || Math.abs(high) * 0.2 || 0.5;
    [low, high] = [low >= 0 && low < (high - low) * 0.5 ? 0 : low - room, high + room];
    const y = (value) => pad.top + (1 - (value - low) / (high - low)) * (height - pad.top - pad.bottom);
    const parts = ticksOf(low, high).flatMap((tick) => [
      make("line", {
        x1: pad.left,
        x2: width - pad.right,
        y1: y(tick),
        y2: y(tick),
        class: tick === 0 ? "zero" : "rule",
      }),
      make("text", { x: pad.left - 7, y: y(tick) + 4, "text-anchor": "end", text: tickText(tick, unit) }),
    ]);
    const widest = Math.max(1, ...labels.map((text) => text.length)) * 7 + 10;
    const every = Math.max(1, Math.ceil((labels.length * widest) / (width - pad.left - pad.right)));
    labels.forEach(
      (text, place) =>
        place % every ||
        parts.push(
          make("text", { x: x(place), y: height - pad.bottom + 17, "text-anchor": "middle", text: text.slice(0, 14) }),
        ),
    );
    parts.push(
      make("text", { x: (width + pad.left) / 2, y: height - 5, "text-anchor": "middle", class: "axis", text: name }),
    );
    const order = [...shown].sort((a, b) => Number(b === state.strong) * -1 + Number(a === state.strong));
    for (const index of order) parts.push(drawLine(index, y));
    parts.push(
      make("line", { x1: x(state.at), x2: x(state.at), y1: pad.top, y2: height - pad.bottom, class: "cursor" }),
    );
    if (range.empty)
      parts.push(
        make("text", {
          x: width / 2,
          y: height / 2,
          "text-anchor": "middle",
          text: shown.length ? "not measured" : "every line is switched off",
        }),
      );
    drawing.setAttribute("width", width);
    drawing.replaceChildren(...parts);
    tell();
  }
  function drawLine(index, y) {
    const [values, low, high] = arrays(lines[index]).map((array) => array && [...array]);
    const group = make("g", {
      class: `${styles[index]}${state.strong === index ? " strong" : ""}${state.strong !== null && state.strong !== index ? " weak" : ""}`,
    });
    const trace = (places, of) =>
      places.map((place, step) => `${step ? "L" : "M"}${x(place).toFixed(1)} ${y(of[place]).toFixed(1)}`).join("");
    if (low && high) {
      for (const run of pieces(low.map((value, place) => value + high[place]))) {
        group.append(
          make("path", { class: "band", d: `${trace(run, high)}${trace([...run].reverse(), low).replace("M", "L")}Z` }),
        );
        if (run.length === 1)
          group.append(
            make("line", { class: "stroke", x1: x(run[0]), x2: x(run[0]), y1: y(low[run[0]]), y2: y(high[run[0]]) }),
          );
      }
    }
    for (const run of pieces(values)) {
      group.append(make("path", { class: "stroke", d: trace(run, values), "stroke-dasharray": dash(index) }));
      if (run.length === 1) group.append(make("circle", { class: "dot", cx: x(run[0]), cy: y(values[run[0]]), r: 3 }));
    }
    if (!missing(values[state.at]))
      group.append(make("circle", { class: "dot", cx: x(state.at), cy: y(values[state.at]), r: 4 }));
    return group;
  }
  function tell() {
    where.textContent = `${unit} at ${name} ${labels[state.at] ?? "–"}`;
    lines.forEach((line, index) => {
      const [values, low, high] = arrays(line);
      numbers[index].textContent = sayBetween(values[state.at], low?.[state.at], high?.[state.at], unit, size);
    });
  }
  const move = (place, picked) => {
    const next = clamp(place, 0, labels.length - 1);
    if (next === state.at && !picked) return;
    state.at = next;
    if (picked) state.picked = next;
    draw();
    if (picked) onPick(next);
  };
  const nearest = (event) =>
    Math.round(
      ((event.clientX - node.getBoundingClientRect().left - pad.left) / (width - pad.left - pad.right)) *
        (labels.length - 1),
    );
  node.addEventListener("pointermove", (event) => move(nearest(event)));
  node.addEventListener("pointerleave", () => move(state.picked));
  node.addEventListener("click", (event) => move(nearest(event), true));
  node.addEventListener("keydown", (event) => {
    const next = { ArrowLeft: state.at - 1, ArrowRight: state.at + 1, Home: 0, End: labels.length - 1 }[event.key];
    if (next === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    move(next, true);
    event.preventDefault();
  });
  onWidth(node, (room) => {
    width = room;
    draw();
  })();
  tell();
  return {
    mark(place, strong = null) {
      Object.assign(state, { at: place, picked: place, strong });
      draw();
    },
  };
}

DRAW.Curve = (view, stage) => {
  if (!view.lines.length || !view.x.labels.length) return stage.append(empty("No line was measured."));
  lineChart({ name: view.x.name, labels: view.x.labels, lines: view.lines, unit: view.unit }, stage);
};

TABLES.Curve = (view) => [
  ["line", "baseline", view.x.name, "value", "low", "high"],
  ...view.lines.flatMap((line) =>
    view.x.labels.map((label, at) => [
      line.label,
      line.baseline,
      label,
      line.values.data[at],
      line.low?.data[at],
      line.high?.data[at],
    ]),
  ),
];

const FIRST_BARS = 16;
const total = (bars) => bars.reduce((sum, bar) => sum + (bar.value ?? 0), 0);

/** A part of a bar between two places in percent. */
function piece(name, from, to) {
  const node = make("i", { class: name });
  Object.assign(node.style, { left: `${Math.min(from, to)}%`, width: `${Math.abs(to - from)}%` });
  return node;
}

/** Rows of label, bar and number on one axis; `bars` are {label, note, value, low, high}. */
function barRows(caption, bars, unit) {
  const range = extent(
    bars.flatMap((bar) => [bar.value, bar.low, bar.high].filter((value) => !missing(value))),
    [0],
  );
  const low = range.low,
    span = range.high - range.low || 1;
  const place = (value) => ((value - low) / span) * 100,
    size = sizeOf(range);
  const rows = bars.map((bar) =>
    make(
      "tr",
      { role: "row" },
      make(
        "th",
        { scope: "row", role: "rowheader" },
        make("span", { text: bar.label, dir: "auto" }),
        bar.note ? make("small", { text: bar.note }) : null,
      ),
      make(
        "td",
        { class: "track", "aria-hidden": "true" },
        missing(bar.value)
          ? piece("hatched", 0, 100)
          : [
              piece(bar.value < 0 ? "fill below" : "fill", place(0), place(bar.value)),
              missing(bar.low) || missing(bar.high) ? null : piece("whisker", place(bar.low), place(bar.high)),
              piece("zero", place(0), place(0)),
            ],
      ),
      make(
        "td",
        { class: "number", role: "cell" },
        make("span", { text: say(bar.value, unit, size) }),
        missing(bar.low) || missing(bar.high)
          ? null
          : make("small", { text: ` [${say(bar.low, unit, size)}, ${say(bar.high, unit, size)}]` }),
      ),
    ),
  );
  return make("table", { class: "bars", role: "table" }, make("caption", { text: caption }), make("tbody", {}, rows));
}

DRAW.Bars = (view, stage) => {
  if (!view.bars.length) return stage.append(empty("There is nothing to add up."));
  const groups = [...new Set(view.bars.map((bar) => bar.group))];
  const sums = groups.map((group) => {
    const members = view.bars.filter((bar) => bar.group === group);
    return { label: group, note: members.length > 1 ? ` ${members.length} parts` : "", value: total(members) };
  });
  const sum = total(view.bars),
    lost = view.bars.filter((bar) => missing(bar.value)).length;
  const facts = [
    ["sum of the parts", say(sum, view.unit)],
    ...(missing(view.total)
      ? []
      : [
          ["total", say(view.total, view.unit)],
          ["not explained", say(view.total - sum, view.unit, Math.max(Math.abs(view.total), Math.abs(sum)))],
        ]),
    ...(lost ? [["parts not measured", String(lost)]] : []),
  ];
  stage.append(
    make(
      "dl",
      { class: "facts" },
      facts.map(([term, number]) => make("div", {}, make("dt", { text: term }), make("dd", { text: number }))),
    ),
  );
  if (groups.length > 1) stage.append(barRows(`${view.unit}, by group`, sums, view.unit));
  const state = { group: null, order: 0, all: false };
  const place = make("div");
  function draw() {
    const bars = view.bars
      .filter((bar) => state.group === null || bar.group === state.group)
      .map((bar) => ({ ...bar, note: groups.length > 1 ? ` ${bar.group}` : "" }));
    if (!state.order) bars.sort((a, b) => Math.abs(b.value ?? 0) - Math.abs(a.value ?? 0));
    const kept = state.all ? bars : bars.slice(0, FIRST_BARS),
      rest = bars.slice(kept.length);
    const table = barRows(
      `${view.unit}, ${state.order ? "in order" : "largest first"}`,
      rest.length ? [...kept, { label: `${rest.length} others together`, value: total(rest) }] : kept,
      view.unit,
    );
    place.replaceChildren(
      table,
      bars.length > FIRST_BARS
        ? make("button", {
            type: "button",
            class: "quiet more",
            text: state.all ? `Show the first ${FIRST_BARS}` : `Show all ${bars.length}`,
            onclick: () => {
              state.all = !state.all;
              draw();
              place.querySelector("button").focus();
            },
          })
        : "",
    );
  }
  const pick =
    groups.length > 1
      ? choose(
          "Group",
          ["all", ...groups],
          (index) => {
            state.group = index ? groups[index - 1] : null;
            draw();
          },
          { kind: "inline" },
        )
      : null;
  const order = choose(
    "Order",
    ["largest first", "as in the model"],
    (index) => {
      state.order = index;
      draw();
    },
    { kind: "inline" },
  );
  stage.append(make("div", { class: "settings" }, pick, order), place);
  draw();
};

TABLES.Bars = (view) => [
  ["group", "label", "value", "low", "high"],
  ...view.bars.map((bar) => [bar.group, bar.label, bar.value, bar.low, bar.high]),
];
