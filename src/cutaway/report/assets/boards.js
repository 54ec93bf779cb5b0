// Board: squares that open below their row. Remarks: things told under headings. Both are made of the same parts.

/** Papers as links to where they are shown, with their titles where these are known by now. */
function paperLinks(papers) {
  const all = new Map([...views.values()].filter((view) => view.$type === "Papers").flatMap((view) => view.papers.map((one) => [one.key, one])));
  return make(
    "ul",
    { class: "paperlinks" },
    papers.map(([key, said]) => {
      const title = all.get(key)?.title;
      return make("li", {}, make("a", { href: `#${key}`, "data-paper": key, title }, make("b", { text: said }), title ? make("span", { text: ` ${title}` }) : null));
    }),
  );
}

/** One part: only what it has. */
function partOf({ title, text, lines, formula, command, columns, cells, papers, folded }) {
  const inside = [
    folded || !title ? null : make("h4", { text: title }),
    folded || !text ? null : make("p", { text }),
    !formula ? null : make("p", { class: "formula" }, make("code", { text: formula })),
    lines.length ? make("ul", { class: "lines" }, lines.map((line) => make("li", { text: line }))) : null,
    cells.length
      ? make(
          "table",
          { class: "small" },
          make("thead", {}, make("tr", {}, columns.map((name) => make("th", { scope: "col", text: name })))),
          make("tbody", {}, cells.map((row) => make("tr", {}, row.map((value, at) => make("td", { "data-column": columns[at], text: value }))))),
        )
      : null,
    command ? make("pre", { class: "command" }, make("code", { text: command })) : null,
    papers.length ? paperLinks(papers) : null,
  ];
  const shown = folded ? make("details", {}, make("summary", {}, make("b", { text: title }), text), inside) : inside;
  return make("div", { class: "told" }, shown);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-paper]");
  const section = link && document.querySelector("section.papers");
  if (!section) return;
  event.preventDefault();
  location.hash = `${section.id}/${link.dataset.paper}`;
});

DRAW.Board = (view, stage) => {
  const at = new Map(view.squares.map((square) => [`${square.row},${square.column}`, square]));
  const words = new Map(view.states);
  const body = make("tbody"),
    id = stage.closest("section").id;
  let open = null; // the square that is open, and its line
  const close = () => {
    open?.line.remove();
    open?.button.setAttribute("aria-expanded", "false");
    if (open) history.replaceState(null, "", `#${id}`);
    open = null;
  };
  const buttons = view.rows.map(() => []);
  function show(row, column, leap) {
    const button = buttons[row][column],
      square = at.get(`${row},${column}`),
      again = open?.button === button;
    close();
    if (again && !leap) return;
    const heading = make("h3", {}, `${view.rows[row]} `, make("small", { text: view.columns[column] }));
    const panel = make(
      "div",
      { class: "panel" },
      heading,
      make("p", { class: "standing", text: words.get(square.state) }),
      (view.about[row] ?? []).map(partOf),
      view.heads[column] ? partOf({ ...NOTHING, title: view.columns[column], text: view.heads[column] }) : null,
      square.parts.map(partOf),
      view.closed.includes(square.state) ? null : (view.more[row] ?? []).map(partOf),
      make("button", { type: "button", class: "quiet", text: "Close", onclick: () => (close(), button.focus()) }),
    );
    const line = make("tr", { class: "opened" }, make("td", { colspan: view.columns.length + 1 }, panel));
    button.closest("tr").after(line);
    button.setAttribute("aria-expanded", "true");
    open = { button, line };
    history.replaceState(null, "", `#${id}/${row},${column}`);
    if (leap) heading.scrollIntoView({ block: "center" });
  }
  view.rows.forEach((name, row) => {
    if (view.groups[row]) body.append(make("tr", { class: "group" }, make("th", { colspan: view.columns.length + 1, scope: "colgroup", text: view.groups[row] })));
    const cells = view.columns.map((column, place) => {
      const square = at.get(`${row},${place}`);
      if (!square) return make("td");
      const button = make(
        "button",
        {
          type: "button",
          class: `square ${square.state}`,
          "aria-expanded": "false",
          "aria-label": `${name}, ${column}: ${[words.get(square.state), ...square.mark].join("; ")}`,
          title: words.get(square.state),
          tabindex: row || place ? -1 : 0,
          onclick: () => show(row, place),
        },
        make("i", { "aria-hidden": "true" }),
        make("span", { class: "of", text: column }),
        make("span", { class: "mark" }, square.mark.map((word) => make("span", { text: word }))),
      );
      buttons[row][place] = button;
      return make("td", {}, button);
    });
    body.append(make("tr", {}, make("th", { scope: "row", text: name }), cells));
  });
  body.addEventListener("keydown", (event) => {
    const row = buttons.findIndex((line) => line.includes(event.target));
    if (row < 0) return;
    const place = buttons[row].indexOf(event.target);
    if (event.key === "Escape") return close();
    const [down, across] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -place], End: [0, view.columns.length - 1 - place] }[event.key] ?? [];
    const next = down === undefined ? null : buttons[row + down]?.[place + across];
    if (down === undefined) return;
    event.preventDefault();
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
  stage.append(
    make("ul", { class: "states" }, view.states.map(([name, said]) => make("li", {}, make("i", { class: `square ${name}`, "aria-hidden": "true" }), said))),
    make(
      "table",
      { class: "board", "aria-label": view.title },
      make("thead", {}, make("tr", {}, make("td"), view.columns.map((name) => make("th", { scope: "col", text: name })))),
      body,
    ),
  );
  PLACES.set(id, (place) => {
    const [row, column] = place.split(",").map(Number);
    if (!buttons[row]?.[column]) return;
    show(row, column, true);
    buttons[row][column].focus({ preventScroll: true });
  });
};

const NOTHING = { title: "", text: "", lines: [], formula: "", command: "", columns: [], cells: [], papers: [], folded: false };

TABLES.Board = (view) => [["row", "column", "state", "on it"], ...view.squares.map((one) => [view.rows[one.row], view.columns[one.column], one.state, one.mark.join("; ")])];

DRAW.Remarks = (view, stage) => {
  stage.append(
    make(
      "div",
      { class: "notelist" },
      view.remarks.map(({ title, badge, parts }) =>
        make("article", {}, make("h3", {}, title, badge && make("span", { class: "badge", text: badge })), make("div", { class: "parts" }, parts.map(partOf))),
      ),
    ),
  );
};

TABLES.Remarks = (view) => [
  ["remark", "state", "part", "text"],
  ...view.remarks.flatMap(({ title, badge, parts }) => parts.map((part) => [title, badge, part.title, [part.text, ...part.lines, ...part.cells.map((row) => row.join("; "))].filter(Boolean).join(" ")])),
];
