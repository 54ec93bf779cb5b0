// Tables: sorted by their headings, filtered by words and comparisons, walked with the arrow keys.

const FIRST_ROWS = 20;

/** "dog layer>3 !cat" as a test of a row; `columns` are {name, get}. */
function filterOf(query, columns) {
  const tests = query
    .toLowerCase()
    .split(/\s+/)
    .filter(Boolean)
    .map((word) => {
      const [, name, sign, number] = word.match(/^(.+?)(<=|>=|<|>|=)([-−]?[\d.]+(?:e-?\d+)?)$/) ?? [];
      const column = name && columns.find((one) => one.name.toLowerCase().replaceAll(" ", "").startsWith(name));
      if (column) {
        const wanted = Number(number.replace("−", "-"));
        const compare = {
          "<": (value) => value < wanted,
          ">": (value) => value > wanted,
          "<=": (value) => value <= wanted,
          ">=": (value) => value >= wanted,
          "=": (value) => Math.abs(value - wanted) <= 1e-6 * Math.max(1, Math.abs(wanted)),
        }[sign];
        return (row) => typeof column.get(row) === "number" && compare(column.get(row));
      }
      const without = word.startsWith("!") && word.length > 1,
        part = without ? word.slice(1) : word;
      return (row) =>
        columns.some((one) =>
          String(one.get(row) ?? "")
            .toLowerCase()
            .includes(part),
        ) !== without;
    });
  return (row) => tests.every((test) => test(row));
}

/** Numbers by size, words by alphabet, what was not measured always last. */
function compareBy(get, direction) {
  return (left, right) => {
    const [a, b] = [get(left), get(right)];
    if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
    if (typeof a === "string" && typeof b === "string")
      return direction * a.localeCompare(b, undefined, { numeric: true });
    return direction * (typeof a === typeof b ? Number(a) - Number(b) : String(typeof a).localeCompare(typeof b));
  };
}

/**
 * A table of `columns` ({name, get(row), show(row)?}) and `rows`. Returns choose(row), which marks one row.
 * onRow(row) is called when a row gets the focus.
 */
function dataGrid({ label, columns, rows, sorted, onRow = () => {} }, stage) {
  const state = { sort: sorted ?? null, direction: -1, query: "", all: false, chosen: null, shown: [] };
  const numeric = columns.map(
    (column) => rows.length && rows.every((row) => ["number", "object", "undefined"].includes(typeof column.get(row))),
  );
  const count = make("span", { class: "count", role: "status" });
  const field = make("input", {
    type: "search",
    placeholder: `Filter: word, ${columns.find((_, at) => numeric[at])?.name.split(" ")[0] ?? "column"}>1, !word`,
    "aria-label": `Filter: ${label}`,
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => {
      state.query = field.value;
      draw();
    },
  });
  const heads = columns.map((column, index) =>
    make(
      "th",
      { scope: "col", class: numeric[index] ? "number" : null },
      make(
        "button",
        { type: "button", onclick: () => sortBy(index) },
        make("span", { text: column.name }),
        make("i", { "aria-hidden": "true" }),
      ),
    ),
  );
  const body = make("tbody"),
    more = make("button", {
      type: "button",
      class: "quiet more",
      onclick: () => {
        state.all = !state.all;
        draw();
      },
    });
  const table = make(
    "table",
    { class: "grid", role: "grid", "aria-label": label },
    make("thead", {}, make("tr", {}, heads)),
    body,
  );
  stage.append(make("div", { class: "settings" }, field, count), make("div", { class: "scroller" }, table), more);

  function sortBy(index) {
    state.direction = state.sort === index ? -state.direction : numeric[index] ? -1 : 1;
    state.sort = index;
    draw();
  }
  function cellOf(column, row, numbers) {
    const value = column.get(row),
      content = column.show?.(row);
    const text = typeof value === "number" ? say(value) : typeof value === "boolean" ? (value ? "yes" : "no") : value;
    const cell = make("td", { tabindex: -1, class: numbers ? "number" : null, dir: numbers ? null : "auto" });
    if (missing(value) && !content) cell.append(make("span", { class: "hole", title: "not measured", text: "–" }));
    else cell.append(content ?? text);
    return cell;
  }
  function draw() {
    const passes = filterOf(state.query, columns);
    const found = rows.filter(passes);
    if (state.sort !== null) found.sort(compareBy(columns[state.sort].get, state.direction));
    heads.forEach((head, index) =>
      head.setAttribute("aria-sort", index !== state.sort ? "none" : state.direction < 0 ? "descending" : "ascending"),
    );
    state.shown = state.all ? found : found.slice(0, FIRST_ROWS);
    body.replaceChildren(
      ...state.shown.map((row) =>
        make(
          "tr",
          { class: row === state.chosen ? "chosen" : null },
          columns.map((column, index) => cellOf(column, row, numeric[index])),
        ),
      ),
    );
    if (!found.length)
      body.append(
        make(
          "tr",
          {},
          make("td", {
            colspan: columns.length,
            class: "empty",
            text: rows.length ? "No row passes this filter." : "There are no rows.",
          }),
        ),
      );
    body.querySelector("td")?.setAttribute("tabindex", 0);
    count.textContent =
      found.length === rows.length
        ? `${rows.length} ${rows.length === 1 ? "row" : "rows"}`
        : `${found.length} of ${rows.length} rows`;
    more.hidden = found.length <= FIRST_ROWS;
    more.textContent = state.all ? `Show the first ${FIRST_ROWS}` : `Show all ${found.length}`;
  }
  body.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td"),
      line = cell?.parentElement;
    if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
    const at = cell.cellIndex,
      lines = [...body.children],
      row = lines.indexOf(line);
    const [down, across] =
      {
        ArrowUp: [row - 1, at],
        ArrowDown: [row + 1, at],
        ArrowLeft: [row, at - 1],
        ArrowRight: [row, at + 1],
        Home: [row, 0],
        End: [row, columns.length - 1],
        PageUp: [Math.max(row - 10, 0), at],
        PageDown: [Math.min(row + 10, lines.length - 1), at],
      }[event.key] ?? [];
    if (down === undefined) return;
    event.preventDefault();
    const next = lines[down]?.cells[across];
    if (!next) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  const rowOf = (event) => state.shown[[...body.children].indexOf(event.target.closest("tr"))];
  for (const kind of ["focusin", "click"]) body.addEventListener(kind, (event) => rowOf(event) && onRow(rowOf(event)));
  draw();
  return {
    choose(row) {
      state.chosen = row;
      [...body.children].forEach((line, index) =>
        line.classList.toggle("chosen", Boolean(row) && state.shown[index] === row),
      );
    },
  };
}

DRAW.Table = (view, stage) => {
  if (!view.columns.length) return stage.append(empty("This table has no columns."));
  dataGrid(
    {
      label: view.title,
      rows: view.cells,
      columns: view.columns.map((name, index) => ({ name, get: (row) => row[index] })),
    },
    stage,
  );
};

TABLES.Table = (view) => [view.columns, ...view.cells];

const spanText = (span) => span.text + (missing(span.variance) ? "" : ` (${plain(span.variance, 3)})`);
const extrasOf = (heads) => [...new Set(heads.flatMap((head) => Object.keys(head.extra)))];

/** A number over a bar that starts at zero, as long as the number is large among its column. */
function numberBar(value, { low, high }) {
  if (missing(value)) return null;
  const place = (number) => ((number - low) / (high - low || 1)) * 100;
  return make(
    "span",
    { class: "numberbar" },
    make("span", { text: say(value) }),
    make(
      "span",
      { class: "track", "aria-hidden": "true" },
      piece(value < 0 ? "fill below" : "fill", place(0), place(value)),
      piece("zero", place(0), place(0)),
    ),
  );
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
  let grid;
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
          ?.spans.slice(0, 2)
          .map(spanText)
          .join("; ") ?? "",
      onPick: (row, column) => grid.choose(at.get(row * width + column)),
    },
    stage,
  );
  const columns = [
    { name: "layer", get: (head) => head.layer },
    { name: "head", get: (head) => head.head },
    { name: view.effect, get: (head) => head.effect, show: (head) => numberBar(head.effect, sizes.effect) },
    ...(heads.some((head) => !missing(head.direct))
      ? [{ name: view.direct, get: (head) => head.direct, show: (head) => numberBar(head.direct, sizes.direct) }]
      : []),
    ...extrasOf(heads).map((name) => ({ name, get: (head) => head.extra[name] })),
    ...(heads.some((head) => head.spans.length)
      ? [
          {
            name: "texts",
            get: (head) => head.spans.map(spanText).join("; ") || null,
            show: (head) =>
              head.spans.length
                ? make(
                    "span",
                    { class: "spans" },
                    head.spans.map((span) =>
                      make(
                        "span",
                        {},
                        make("span", { text: span.text, dir: "auto" }),
                        missing(span.variance) ? null : make("small", { text: ` ${plain(span.variance * 100, 3)} %` }),
                      ),
                    ),
                  )
                : null,
          },
        ]
      : []),
  ];
  grid = dataGrid(
    {
      label: `${view.title}: heads`,
      columns,
      rows: heads,
      sorted: 2,
      onRow: (head) => {
        grid?.choose(head);
        map.pick([head.layer, head.head]);
      },
    },
    stage,
  );
};

TABLES.HeadTable = (view) => {
  const extras = extrasOf(view.heads);
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
      head.spans.map(spanText).join("; "),
    ]),
  ];
};
