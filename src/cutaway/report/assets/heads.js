// Heads: a map and a table side by side, and what one chosen head attends to and which pictures move it.

const spanText = (span) => span.text + (missing(span.variance) ? "" : ` (${say(span.variance, "share")})`);
const extrasOf = (heads) => [...new Set(heads.flatMap((head) => Object.keys(head.extra)))];

/** A number over a bar that starts at zero, as long as the number is large among its column. */
function numberBar(value, { low, high }, unit) {
  if (missing(value)) return null;
  const place = (number) => ((number - low) / (high - low || 1)) * 100;
  return make(
    "span",
    { class: "numberbar" },
    make("span", { text: say(value, unit, Math.max(-low, high)) }),
    make(
      "span",
      { class: "track", "aria-hidden": "true" },
      piece(value < 0 ? "fill below" : "fill", place(0), place(value)),
      piece("zero", place(0), place(0)),
    ),
  );
}

const spansCell = (head) =>
  head.phrases.length
    ? make(
        "span",
        { class: "spans" },
        head.phrases.map((span) =>
          make(
            "span",
            {},
            make("span", { text: span.text, dir: "auto" }),
            missing(span.variance) ? null : make("small", { text: ` ${say(span.variance, "share")}` }),
          ),
        ),
      )
    : null;

/** What one head looks at, and the pictures in which it adds most and least; show(head) changes it. */
function headPanel(view, stage) {
  if (!view.patterns && !view.pictures.length) return () => {};
  const [, , rows, columns] = view.patterns?.shape ?? [0, 0, 0, 0];
  const title = make("h3", { "aria-live": "polite" }),
    moved = make("div", { class: "moved" });
  const all = view.patterns ? extent(view.patterns.data) : null;
  const key = all && legend("attention", all.holes),
    out = readout();
  let now;
  const patternOf = () => slice(view.patterns, now.layer, now.head);
  const map =
    all &&
    heatmap({
      rows,
      columns,
      picture: view.picture,
      label: `what the ${view.reader} attends to in this head`,
      onMove(row, column) {
        const values = patternOf(),
          at = row === null ? strongest(values) : row * columns + column;
        const where = `row ${Math.floor(at / columns)}, column ${at % columns}`;
        if (row === null) out.rest(values[at], where);
        else out.show(say(values[at]), where);
        key.mark(row === null ? null : values[at]);
      },
    });
  map?.fade(0.7);
  const row = (label, places) =>
    places.length
      ? make(
          "figure",
          {},
          make(
            "div",
            { class: "thumbs" },
            places.map((place) => {
              const { uri, width, height, alt } = view.pictures[place];
              return make("img", { src: uri, width, height, alt, title: alt });
            }),
          ),
          make("figcaption", { text: label }),
        )
      : null;
  stage.append(
    make(
      "div",
      { class: "headpanel" },
      title,
      map ? make("div", { class: "figure" }, map.node) : null,
      make("div", { class: "side" }, map ? out.node : null, key?.node, moved),
    ),
  );
  return (head) => {
    now = head;
    title.textContent = `Layer ${head.layer}, head ${head.head}: what the ${view.reader} attends to, and what moves it`;
    if (map) {
      const scale = scaleOf(extent(patternOf()), false);
      key.set(scale);
      map.draw(patternOf(), scale);
      map.refresh();
    }
    moved.replaceChildren(
      ...[row("It adds most in these pictures.", head.most), row("It adds least in these, or speaks against.", head.least)].filter(
        Boolean,
      ),
    );
  };
}

DRAW.HeadTable = (view, stage) => {
  const { heads } = view;
  if (!heads.length) return stage.append(empty("No head was measured."));
  const width = Math.max(...heads.map((head) => head.head)) + 1,
    height = Math.max(...heads.map((head) => head.layer)) + 1;
  const data = new Float32Array(width * height).fill(NaN),
    at = new Map();
  for (const head of heads) {
    data[head.layer * width + head.head] = head.effect ?? NaN;
    at.set(head.layer * width + head.head, head);
  }
  const range = (name) =>
    extent(
      heads.map((head) => head[name]).filter((value) => !missing(value)),
      [0],
    );
  const sizes = { effect: range("effect"), direct: range("direct") };
  let grid,
    show = () => {};
  const choose = (head) => {
    if (!head) return;
    grid?.choose(head);
    show(head);
  };
  const count = (name, size) => ({ name, labels: Array.from({ length: size }, (_, index) => String(index)) });
  const map = matrixFigure(
    {
      rows: count("layer", height),
      columns: count("head", width),
      values: { data, shape: [height, width] },
      unit: view.effect,
      signed: true,
      bounds: (place) => [at.get(place)?.low, at.get(place)?.high],
      describe: (row, column) =>
        at
          .get(row * width + column)
          ?.phrases.slice(0, 2)
          .map(spanText)
          .join("; ") ?? "",
      onPick: (row, column) => choose(at.get(row * width + column)),
    },
    stage,
  );
  show = headPanel(view, stage);
  const bar = (name, title) => ({
    name: title,
    get: (head) => head[name],
    show: (head) => numberBar(head[name], sizes[name], title),
  });
  const columns = [
    { name: "layer", get: (head) => head.layer },
    { name: "head", get: (head) => head.head },
    bar("effect", view.effect),
    ...(heads.some((head) => !missing(head.direct)) ? [bar("direct", view.direct)] : []),
    ...extrasOf(heads).map((name) => ({ name, get: (head) => head.extra[name] })),
    ...(heads.some((head) => head.phrases.length)
      ? [{ name: "texts", get: (head) => head.phrases.map(spanText).join("; ") || null, show: spansCell }]
      : []),
  ];
  grid = dataGrid(
    {
      label: `${view.title}: heads`,
      columns,
      rows: heads,
      sorted: 2,
      onRow: (head) => {
        choose(head);
        map.pick([head.layer, head.head]);
      },
    },
    stage,
  );
  choose(at.get(strongest(data)));
  HEADS.push({
    tower: view.tower,
    title: view.title,
    id: stage.closest("section").id,
    has: (layer, head) => at.has(layer * width + head) && head < width,
    show(layer, head) {
      choose(at.get(layer * width + head));
      map.pick([layer, head]);
    },
  });
};

TABLES.HeadTable = (view) => {
  const extras = extrasOf(view.heads);
  const plainText = (span) => span.text + (missing(span.variance) ? "" : ` (${plain(span.variance, 3)})`);
  return [
    ["layer", "head", view.effect, "low", "high", view.direct, ...extras, "texts"],
    ...view.heads.map((head) => [
      head.layer,
      head.head,
      head.effect,
      head.low,
      head.high,
      head.direct,
      ...extras.map((name) => head.extra[name]),
      head.phrases.map(plainText).join("; "),
    ]),
  ];
};
