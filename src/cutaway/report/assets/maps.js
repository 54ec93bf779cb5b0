// Overlay, Lens and Matrix: numbers over the patches of a picture, or over two named axes.

/**
 * The shared figure of Overlay, Lens and a folded Matrix.
 * data: picture, texts, layers (one without a name: no slider), layerName, first (layer shown), map(text, layer),
 * bounds(text, layer, at), unit, signed, palette, caption (whether the texts are words of one), describe(layer, row,
 * column): more on a cell.
 */
function patchFigure(data, stage, onLayer = () => {}) {
  const { picture, texts, layers, rows, columns, unit, signed, palette, caption } = data;
  const many = layers.length > 1;
  const state = { text: 0, layer: data.first ?? layers.length - 1, shared: true, cell: null };
  const all = extent(...texts.flatMap((_, text) => layers.map((_, layer) => data.map(text, layer))));
  const key = legend(unit, all.holes),
    out = readout();
  const small = uncovered(picture, rows, columns);

  const scale = () => scaleOf(state.shared ? all : extent(data.map(state.text, state.layer)), signed, palette);
  const how = [unit, sizeOf(all)];
  const place = (row, column) =>
    `row ${row}, column ${column}` + (data.describe ? `\n${data.describe(state.layer, row, column)}` : "");
  function tell(row, column) {
    if (row === null) state.cell = null;
    else state.cell = [row, column];
    small.point(state.cell);
    if (!state.cell) {
      const map = data.map(state.text, state.layer),
        at = strongest(map);
      out.rest(map[at], place(Math.floor(at / columns), at % columns), ...how);
      key.mark(null);
      return;
    }
    const at = row * columns + column,
      value = data.map(state.text, state.layer)[at];
    out.show(sayBetween(value, ...sides(data.bounds(state.text, state.layer, at)), ...how), place(row, column));
    key.mark(value);
  }
  const goTo = (layer) => {
    state.layer = clamp(layer, 0, layers.length - 1);
    if (steps) steps.set(state.layer);
    onLayer(state.layer, state.text);
    draw();
  };
  const map = heatmap({
    rows,
    columns,
    picture,
    label: `${unit} over the patches of the picture: ${picture.alt}`,
    onMove: tell,
    onPage: (step) => many && goTo(state.layer + step),
  });
  const stamps = texts.map(() => stamp(rows, columns, picture));
  const strip = layers.map(() => stamp(rows, columns, picture));
  const steps = many ? slider(data.layerName, layers, state.layer, goTo) : null;
  const chooser =
    texts.length > 1
      ? choose(
          caption ? "Word" : "Text",
          texts,
          (index) => {
            state.text = index;
            onLayer(state.layer, index);
            draw();
          },
          caption ? { kind: "caption" } : { decorate: (index) => stamps[index].node, kind: "stamps" },
        )
      : make("p", { class: "onetext", dir: "auto", text: texts[0] ?? "" });
  const cloth = slider(
    "Map over picture",
    Array.from({ length: 21 }, (_, step) => `${step * 5} %`),
    14,
    (step) => map.fade(step / 20),
  );
  map.fade(0.7);
  const film = make(
    "div",
    {
      class: "film",
      role: "group",
      "aria-label": `All ${data.layerName}s for this text`,
      tabindex: layers.length > 8 ? 0 : null,
    },
    layers.map((name, index) =>
      make(
        "button",
        { type: "button", tabindex: -1, "aria-label": `${data.layerName} ${name}`, onclick: () => goTo(index) },
        strip[index].node,
        make("span", { text: name }),
      ),
    ),
  );

  function draw() {
    const now = scale();
    key.set(now);
    map.draw(data.map(state.text, state.layer), now);
    stamps.forEach((each, index) => each.draw(data.map(index, state.layer), now));
    strip.forEach((each, index) => each.draw(data.map(state.text, index), now));
    [...film.children].forEach((frame, index) => frame.classList.toggle("now", index === state.layer));
    const frame = film.children[state.layer];
    film.scrollLeft = frame.offsetLeft - (film.clientWidth - frame.offsetWidth) / 2;
    map.refresh();
  }
  const options = make(
    "div",
    { class: "settings" },
    cloth.node,
    texts.length > 1 || many
      ? check("One scale for all maps", true, (on) => {
          state.shared = on;
          draw();
        })
      : null,
  );
  stage.append(
    make(
      "div",
      { class: "maps" },
      make("div", { class: "figure" }, map.node),
      make(
        "div",
        { class: "side" },
        make("div", { class: "beside" }, out.node, small.node),
        key.node,
        steps?.node ?? (layers[0] ? make("p", { class: "onetext", text: `${data.layerName} ${layers[0]}` }) : null),
        chooser,
        options,
      ),
    ),
    many ? film : "",
  );
  draw();
  return { goTo, state };
}

/** Two numbers, whatever is known of them. */
const sides = (bounds) => [bounds[0], bounds[1]];

const noCells = (shape) => shape.some((size) => size === 0);

/** The picture, and beside it the one map that a page begins with. */
function drawLead(view, stage) {
  const [, rows, columns] = view.values.shape,
    values = slice(view.values, 0),
    { picture } = view;
  const key = legend(view.unit, false),
    scale = scaleOf(extent(values), view.signed),
    small = uncovered(picture, rows, columns);
  const map = heatmap({
    rows,
    columns,
    picture,
    label: `${view.title}: ${view.texts[0]}`,
    onMove(row, column) {
      small.point(row === null ? null : [row, column]);
      key.mark(row === null ? null : values[row * columns + column]);
    },
  });
  map.fade(0.7);
  key.set(scale);
  map.draw(values, scale);
  stage.append(small.node, make("div", {}, map.node), key.node);
}

DRAW.Overlay = (view, stage) => {
  const [, rows, columns] = view.values.shape;
  if (noCells(view.values.shape)) return stage.append(empty("No text was measured on this picture."));
  patchFigure(
    {
      ...view,
      layers: [""],
      layerName: "layer",
      rows,
      columns,
      map: (text) => slice(view.values, text),
      bounds: () => [],
    },
    stage,
  );
};

DRAW.Lens = (view, stage) => {
  const [, , rows, columns] = view.values.shape;
  if (noCells(view.values.shape)) return stage.append(empty("No layer or no text was measured on this picture."));
  let chart;
  const figure = patchFigure(
    {
      ...view,
      palette: "reads",
      layerName: view.axis,
      rows,
      columns,
      map: (text, layer) => slice(view.values, text, layer),
      bounds: () => [],
    },
    stage,
    (layer, text) => chart?.mark(layer, text),
  );
  if (!view.pooled) return;
  const lines = view.texts.map((label, text) => ({ label, values: slice(view.pooled, text) }));
  stage.append(make("h3", { text: `At the ${view.reader}` }));
  chart = lineChart(
    { name: "layer", labels: view.layers, lines, unit: view.unit, at: figure.state.layer, onPick: figure.goTo },
    stage,
  );
  chart.mark(figure.state.layer, 0);
};

DRAW.Matrix = (view, stage) => {
  const { pictures, sides, captions, grid, values, low, high } = view;
  const shown = (picture, text, what) =>
    make(
      "figure",
      {},
      ...(picture
        ? [make("img", { src: picture.uri, alt: picture.alt, width: picture.width, height: picture.height })]
        : []),
      make("figcaption", {}, make("b", { text: what }), make("span", { text, dir: "auto" })),
    );
  stage.append(
    make(
      "div",
      { class: "pair" },
      ...pictures.map((picture, at) => shown(picture, captions[at], sides[at])),
    ),
  );
  if (noCells(values.shape)) return stage.append(empty("Nothing was measured."));
  const flat = make("div", { class: "mode", hidden: Boolean(grid) }),
    folded = make("div", { class: "mode", hidden: !grid });
  if (grid) {
    stage.append(
      choose(
        "Show",
        ["on the picture", "as a matrix"],
        (index) => {
          folded.hidden = index === 1;
          flat.hidden = index === 0;
        },
        { kind: "inline" },
      ),
    );
    const [rows, columns] = grid,
      width = rows * columns;
    patchFigure(
      {
        picture: pictures[0],
        texts: [captions[0]],
        layers: view.row_axis.labels,
        layerName: view.row_axis.name,
        first: Math.floor(strongest(values.data) / width),
        rows,
        columns,
        unit: view.unit,
        signed: view.signed,
        map: (_, row) => slice(values, row),
        bounds: (_, row, at) => [low?.data[row * width + at], high?.data[row * width + at]],
      },
      folded,
    );
  }
  stage.append(flat, folded);
  matrixFigure(
    { ...view, rows: view.row_axis, columns: view.column_axis, bounds: (at) => [low?.data[at], high?.data[at]] },
    flat,
  );
};

/** A matrix with named axes, its legend and the number under the cursor. */
function matrixFigure({ rows, columns, values, unit, signed, grid, bounds, describe, onPick }, stage) {
  const [height, width] = values.shape;
  const scale = scaleOf(extent(values.data), signed);
  const how = [unit, sizeOf(extent(values.data))];
  const key = legend(unit, scale.holes),
    out = readout();
  const cell = clamp(Math.round(300 / height), 16, 30);
  const map = heatmap({
    rows: height,
    columns: width,
    label: `${unit}: ${rows.name} by ${columns.name}`,
    cell,
    onPick,
    onMove: (row, column) => {
      if (row === null) {
        rest();
        return key.mark(null);
      }
      const at = row * width + column;
      out.show(
        sayBetween(values.data[at], ...sides(bounds(at)), ...how),
        `${rows.name} ${rows.labels[row]}, ${columns.name} ${columns.labels[column]}` +
          (describe ? `\n${describe(row, column)}` : ""),
      );
      key.mark(values.data[at]);
    },
  });
  function rest() {
    const at = strongest(values.data);
    out.rest(
      values.data[at],
      `${rows.name} ${rows.labels[Math.floor(at / width)]}, ${columns.name} ${columns.labels[at % width]}`,
      ...how,
    );
  }
  const places = (labels, step, name) =>
    labels.map((text, index) => {
      if (index % step) return null;
      const label = make("span", { text, title: text, dir: "auto" });
      label.style[name] = `${((index + 0.5) / labels.length) * 100}%`;
      return label;
    });
  const top = make("div", { class: "ticks across", "aria-hidden": "true" });
  const side = make(
    "div",
    { class: "ticks down", "aria-hidden": "true" },
    places(rows.labels, Math.ceil(height / 40), "top"),
  );
  side.style.height = `${height * cell}px`;
  side.style.width = `${clamp(Math.max(...rows.labels.map((text) => text.length)) * 0.6 + 0.8, 1.6, 9)}em`;
  const names = grid
    ? columns.labels.map((_, index) => (index % grid[1] ? "" : `row ${index / grid[1]}`))
    : columns.labels;
  const long = Math.max(...names.map((text) => text.length));
  top.style.height = long > 3 ? `${clamp(long * 0.55 + 0.6, 2, 8)}em` : "1.6em";
  const body = make("div", { class: "matrix" }, side, make("div", { class: "cells" }, map.node, top));
  body.style.minWidth = `${width * 3}px`;
  const scroller = make("div", { class: "scroller" }, body);
  onWidth(scroller, (room) => {
    const need = long > 3 ? 15 : long * 8 + 4,
      block = grid ? grid[1] : 1;
    const each = (Math.max(room - 60, width * 3) / width) * block;
    top.classList.toggle("upright", long > 3);
    top.replaceChildren(...places(names, block * Math.max(1, Math.ceil(need / each)), "left").filter(Boolean));
  });
  key.set(scale);
  map.draw(values.data, scale);
  rest();
  stage.append(
    make("div", { class: "over-matrix" }, out.node, key.node),
    make("div", { class: "axes", text: `${rows.name} ↓  ${columns.name} →` }),
    scroller,
  );
  return map;
}

const patches = function* (values, columns) {
  for (let at = 0; at < values.length; at++) yield [Math.floor(at / columns), at % columns, values[at]];
};

TABLES.Overlay = (view) => [
  ["text", "row", "column", "value"],
  ...view.texts.flatMap((name, text) =>
    [...patches(slice(view.values, text), view.values.shape[2])].map((cell) => [name, ...cell]),
  ),
];

TABLES.Lens = (view) => [
  ["text", "layer", "token", "row", "column", "value"],
  ...(view.pooled
    ? view.texts.flatMap((name, text) =>
        view.layers.map((layer, at) => [name, layer, view.reader, null, null, slice(view.pooled, text)[at]]),
      )
    : []),
  ...view.texts.flatMap((name, text) =>
    view.layers.flatMap((layer, at) =>
      [...patches(slice(view.values, text, at), view.values.shape[3])].map((cell) => [name, layer, "patch", ...cell]),
    ),
  ),
];

TABLES.Matrix = ({ row_axis: rows, column_axis: columns, values, low, high }) => [
  [rows.name, columns.name, "value", "low", "high"],
  ...[...patches(values.data, columns.labels.length)].map(([row, column, value], at) => [
    rows.labels[row],
    columns.labels[column],
    value,
    low?.data[at],
    high?.data[at],
  ]),
];
