// Tables: sorted by their headings, filtered by words and comparisons, walked with the arrow keys.

const FIRST_ROWS = 10; // as many at first; of a column of numbers, the two ends

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
 * A table of `columns` ({name, get(row), show(row)?}) and `rows`; `unitOf(row)` is "share" where a row is one. Returns
 * choose(row), which marks one row.
 * onRow(row) is called when a row gets the focus.
 */
function dataGrid({ label, columns, rows, sorted, unitOf = () => "", onRow = () => {} }, stage) {
  const state = { sort: sorted ?? null, direction: -1, query: "", all: false, chosen: null, shown: [] };
  const numeric = columns.map(
    (column) => rows.length && rows.every((row) => ["number", "object", "undefined"].includes(typeof column.get(row))),
  );
  const whole = columns.map(({ get }) => rows.every((row) => missing(get(row)) || Number.isInteger(get(row))));
  const sizes = columns.map(({ get }, at) => (numeric[at] ? sizeOf(extent(rows.map(get))) : 0));
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
  const written = (value, row, at) =>
    whole[at] ? String(value).replace("-", "−") : say(value, unitOf(row) || columns[at].name, sizes[at] || undefined);
  function cellOf(column, row, at) {
    const value = column.get(row),
      numbers = numeric[at],
      content = column.show?.(row);
    const text = typeof value === "number" ? written(value, row, at) : typeof value === "boolean" ? (value ? "yes" : "no") : value;
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
    const ends = numeric[state.sort] && !state.all && found.length > FIRST_ROWS;
    const between = ends ? found.length - FIRST_ROWS : 0;
    state.shown = ends
      ? [...found.slice(0, FIRST_ROWS / 2), ...found.slice(-FIRST_ROWS / 2)]
      : state.all
        ? found
        : found.slice(0, FIRST_ROWS);
    body.replaceChildren(
      ...state.shown.map((row) =>
        make(
          "tr",
          { class: row === state.chosen ? "chosen" : null },
          columns.map((column, index) => cellOf(column, row, index)),
        ),
      ),
    );
    if (between)
      body.children[FIRST_ROWS / 2].before(
        make("tr", { class: "between" }, make("td", { colspan: columns.length, text: `… ${between} between …` })),
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
    more.textContent = !state.all ? `Show all ${found.length}` : numeric[state.sort] ? "Show both ends" : `Show the first ${FIRST_ROWS}`;
  }
  const linesOf = () => [...body.children].filter((line) => !line.classList.contains("between"));
  body.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td"),
      line = cell?.parentElement;
    if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
    const at = cell.cellIndex,
      lines = linesOf(),
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
  const rowOf = (event) => state.shown[linesOf().indexOf(event.target.closest("tr"))];
  for (const kind of ["focusin", "click"]) body.addEventListener(kind, (event) => rowOf(event) && onRow(rowOf(event)));
  draw();
  return {
    choose(row) {
      state.chosen = row;
      linesOf().forEach((line, index) =>
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
      unitOf: (row) => view.units[view.cells.indexOf(row)] ?? "",
      columns: view.columns.map((name, index) => ({ name, get: (row) => row[index] })),
    },
    stage,
  );
};

TABLES.Table = (view) => [view.columns, ...view.cells];
