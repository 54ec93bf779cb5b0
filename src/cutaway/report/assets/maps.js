// Overlay, Lens, Strip and Matrix: numbers over the patches of a picture, or over two named axes. And Gallery.

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

DRAW.Strip = (view, stage) => {
  const [, , , rows, columns] = view.values.shape;
  if (noCells(view.values.shape)) return stage.append(empty("Nothing was drawn."));
  let set = 0;
  const holder = make("div", {});
  const figure = patchFigure(
    {
      ...view,
      picture: view.pictures.at(-1),
      palette: "reads",
      caption: true,
      layers: view.frames,
      layerName: view.axis,
      rows,
      columns,
      map: (text, frame) => slice(view.values, text, set, frame),
      bounds: () => [],
    },
    holder,
  );
  if (view.sets.length > 1)
    stage.append(
      choose(
        view.within[0].toUpperCase() + view.within.slice(1),
        view.sets,
        (index) => {
          set = index;
          figure.again();
        },
        { kind: "inline" },
      ),
    );
  stage.append(holder);
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

DRAW.Gallery = (view, stage) => {
  if (!view.pictures.length) return stage.append(empty("There is no picture."));
  const sizes = view.columns.map((_, at) => Math.max(...view.cells.map((row) => Math.abs(row[at] ?? 0))));
  const told = (row) =>
    view.columns.map((name, at) =>
      make(
        "span",
        { class: "told" },
        make("span", { text: name }),
        make("b", { text: typeof row[at] === "number" ? say(row[at], view.units[at], sizes[at]) : (row[at] ?? "") }),
      ),
    );
  stage.append(
    make(
      "div",
      { class: "sidebyside" },
      view.pictures.map((picture, index) =>
        make(
          "figure",
          {},
          make("img", { src: picture.uri, alt: picture.alt, width: picture.width, height: picture.height }),
          make("figcaption", {}, make("b", { text: view.captions[index], dir: "auto" }), ...told(view.cells[index] ?? [])),
        ),
      ),
    ),
  );
};

TABLES.Gallery = (view) => [
  ["picture", ...view.columns],
  ...view.captions.map((name, index) => [name, ...(view.cells[index] ?? [])]),
];

TABLES.Strip = (view) => [
  ["text", view.within, view.axis, "row", "column", "value"],
  ...view.texts.flatMap((name, text) =>
    view.sets.flatMap((set, one) =>
      view.frames.flatMap((frame, at) =>
        [...patches(slice(view.values, text, one, at), view.values.shape[4])].map((cell) => [name, set, frame, ...cell]),
      ),
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
