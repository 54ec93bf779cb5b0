// Papers: by year and row, with filters; one that is chosen shows what is known of it. The list below says the same.

const DOT = 11, // pixels from dot to dot
  FINGER = 14, // the same on a phone
  SHOWN_AT_FIRST = 25,
  DRAWN_TO = 12; // lines from a chosen paper at most

/** Squares of a paper as "row,column". */
const squaresOf = (paper) => paper.rows.flatMap((row) => paper.columns.map((column) => `${row},${column}`));
const calledPaper = ({ author, year, key }) => (author ? `${author}${year ? ` ${year}` : ""}` : key);

/** Papers that share squares with one, those that share most first: [paper, how many]. */
function relatedTo(paper, papers) {
  const own = new Set(squaresOf(paper));
  return papers
    .filter((other) => other !== paper)
    .map((other) => [other, squaresOf(other).filter((square) => own.has(square)).length])
    .filter(([, shared]) => shared)
    .sort(([a, m], [b, n]) => n - m || (b.year ?? 0) - (a.year ?? 0) || a.key.localeCompare(b.key));
}

/** A list of names to choose from, with "any" in front. */
function selectOf(label, names, onChange) {
  const id = newId("select");
  const field = make("select", { id, onchange: () => onChange(field.value === "" ? null : Number(field.value)) });
  field.append(make("option", { value: "", text: "any" }), ...names.map((name, at) => make("option", { value: at, text: name })));
  return make("div", { class: "select" }, make("label", { for: id, text: label }), field);
}

/** Where every dot stands, for a width: {dots: [{paper, row, x, y}], lanes, years, height}. */
function laidOut(view, papers, width) {
  const years = [...new Set(papers.map((paper) => Math.max(paper.year ?? 2018, 2018)))].sort();
  const narrow = width < 640,
    left = narrow ? 0 : 178,
    room = (width - left) / Math.max(1, years.length),
    pitch = narrow ? FINGER : DOT,
    across = Math.max(1, Math.floor((room - 8) / pitch));
  const lanes = [...view.rows.map((name, row) => ({ name, row })), { name: "surveys, tools and others", row: -1 }];
  const dots = [];
  let y = 22;
  for (const lane of lanes) {
    const own = papers.filter((paper) => (lane.row < 0 ? !paper.rows.length : paper.rows.includes(lane.row)));
    lane.top = y;
    let tall = 1;
    years.forEach((year, at) => {
      const here = own.filter((paper) => Math.max(paper.year ?? 2018, 2018) === year);
      here.sort((a, b) => hueOf(a) - hueOf(b) || a.key.localeCompare(b.key));
      tall = Math.max(tall, Math.ceil(here.length / across));
      here.forEach((paper, n) =>
        dots.push({ paper, row: lane.row, x: left + at * room + 8 + (n % across) * pitch, y: y + (narrow ? 27 : 12) + Math.floor(n / across) * pitch }),
      );
    });
    lane.tall = (narrow ? 27 : 12) + tall * pitch + 2;
    y += lane.tall;
  }
  return { dots, lanes, years, left, room, narrow, height: y + 4 };
}

/** Which colour a paper has: its one column among the first three, 3 for several or others, 4 for none. */
const hueOf = (paper) => (paper.columns.length === 1 && paper.columns[0] < 3 ? paper.columns[0] : paper.columns.length ? 3 : 4);

/** All that is known of a paper. */
function paperPanel(view, paper, choose) {
  const related = relatedTo(paper, view.papers);
  const said = make("span", { class: "said", role: "status" });
  const squares = paper.rows.flatMap((row) =>
    paper.columns.map((column) =>
      make("li", {}, make("a", { href: "#", "data-square": `${row},${column}`, text: `${view.rows[row]}, ${view.columns[column]}` })),
    ),
  );
  const more = [
    ...(paper.columns.length ? [] : paper.rows.map((row) => view.rows[row])),
    ...(paper.rows.length ? [] : paper.columns.map((column) => view.columns[column])),
    ...paper.uses.map((use) => view.uses[use]),
    ...paper.about,
  ];
  const toPaper = (other) => make("button", { type: "button", class: "link", onclick: () => choose(other) }, make("b", { text: calledPaper(other) }), ` ${other.title}`);
  const listed = (title, papers, behind = "") =>
    papers.length ? make("div", { class: "told" }, make("h4", { text: title }), make("ul", { class: "paperlinks" }, papers.map((other) => make("li", {}, toPaper(other)))), behind && make("p", { class: "count", text: behind })) : null;
  const cited = paper.key === view.centre ? view.papers.filter((other) => view.cited.includes(other.key)) : [];
  const first = related.slice(0, DRAWN_TO).map(([other]) => other);
  return [
    make("h3", { dir: "auto", text: paper.title }),
    make("p", {}, `${calledPaper(paper)} · `, paper.link ? make("a", { href: paper.link, rel: "noreferrer", text: `arXiv ${paper.number}` }) : "no arXiv number", make("small", { class: paper.doubt ? "doubt" : null, text: ` ${paper.checked}` })),
    view.cited.includes(paper.key) ? make("p", { class: "count", text: "The survey cites it." }) : null,
    squares.length ? make("div", { class: "told" }, make("h4", { text: "Its squares" }), make("ul", { class: "tags" }, squares)) : null,
    more.length ? make("p", { class: "count", text: `About: ${more.join("; ")}.` }) : null,
    paper.used_by.length ? make("p", {}, "Methods here that name it as a source: ", paper.used_by.flatMap((name, at) => [at ? ", " : "", make("code", { text: name })])) : null,
    listed(`It is known to cite (${cited.length})`, cited),
    listed(`Shares squares with (${related.length})`, first, related.length > first.length ? `and ${related.length - first.length} more that share as many or fewer: see its squares` : ""),
    make(
      "div",
      { class: "tools" },
      make("button", { type: "button", class: "quiet", onclick: async () => (said.textContent = (await copy(paper.entry)) ? "copied" : "this browser allows no copying"), text: "Copy BibTeX" }),
      make("details", {}, make("summary", { text: "BibTeX" }), make("pre", {}, make("code", { text: paper.entry }))),
      said,
    ),
  ].filter(Boolean);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-square]");
  const section = link && document.querySelector("section.board");
  if (!link) return;
  event.preventDefault();
  if (section) location.hash = `${section.id}/${link.dataset.square}`;
});

DRAW.Papers = (view, stage) => {
  const state = { words: "", from: null, to: null, row: null, column: null, use: null, all: false, chosen: null };
  const years = [...new Set(view.papers.map((paper) => paper.year).filter(Boolean))].sort();
  const id = stage.closest("section").id;
  const text = new Map(
    view.papers.map((paper) => [
      paper,
      [paper.key, paper.title, paper.author, paper.year, paper.number, ...paper.about, ...paper.rows.map((at) => view.rows[at]), ...paper.columns.map((at) => view.columns[at]), ...paper.uses.map((at) => view.uses[at])].join(" ").toLowerCase(),
    ]),
  );
  const passes = (paper) =>
    state.words.split(/\s+/).every((word) => text.get(paper).includes(word)) &&
    (state.from === null || (paper.year ?? 0) >= years[state.from]) &&
    (state.to === null || (paper.year ?? 9999) <= years[state.to]) &&
    (state.row === null || paper.rows.includes(state.row)) &&
    (state.column === null || paper.columns.includes(state.column)) &&
    (state.use === null || paper.uses.includes(state.use));
  const change = (name) => (value) => {
    state[name] = value;
    draw();
  };
  const field = make("input", { type: "search", placeholder: "Search: title, author, number, …", "aria-label": "Search the works", autocomplete: "off", spellcheck: "false", oninput: () => change("words")(field.value.toLowerCase().trim()) });
  const count = make("span", { class: "count", role: "status" });
  const picture = make("div", { class: "constellation" }),
    pointed = make("p", { class: "pointed count", "aria-hidden": "true", text: "Point at a dot, or walk with the arrow keys." }),
    panel = make("div", { class: "paper", tabindex: -1 }),
    list = make("ul", { class: "paperlist" }),
    more = make("button", { type: "button", class: "quiet more", onclick: () => change("all")(!state.all) });
  const hues = [...view.columns.slice(0, 3), "several, or another", "language, vision, or any"];
  stage.append(
    make(
      "div",
      { class: "filters" },
      field,
      selectOf("Method", view.rows, change("row")),
      selectOf("Model", view.columns, change("column")),
      selectOf("Used for", view.uses, change("use")),
      selectOf("From", years, change("from")),
      selectOf("to", years, change("to")),
      count,
    ),
    make("ul", { class: "hues" }, hues.map((name, hue) => make("li", {}, make("i", { class: `hue${hue}`, "aria-hidden": "true" }), name))),
    picture,
    pointed,
    panel,
    make("h3", { text: "As a list" }),
    list,
    more,
  );

  let spots = [];
  const spotsOf = (paper) => spots.filter((spot) => spot.paper === paper);
  function choose(paper, leap = true) {
    state.chosen = paper;
    history.replaceState(null, "", `#${id}/${paper.key}`);
    panel.replaceChildren(...paperPanel(view, paper, choose));
    draw();
    if (leap) panel.scrollIntoView({ block: "nearest" });
    if (leap) panel.focus({ preventScroll: true });
  }
  function lines(paper, found, svg) {
    const from = spotsOf(paper)[0];
    if (!from) return;
    const to = new Map();
    if (paper.key === view.centre) found.filter((other) => view.cited.includes(other.key)).forEach((other) => to.set(other, "cites"));
    relatedTo(paper, found).slice(0, DRAWN_TO).forEach(([other]) => to.set(other, "shares"));
    if (view.cited.includes(paper.key)) found.filter((other) => other.key === view.centre).forEach((other) => to.set(other, "cites"));
    for (const [other, kind] of to) {
      const own = new Set(paper.rows);
      const end = spotsOf(other).find((spot) => own.has(spot.row)) ?? spotsOf(other)[0];
      const start = spotsOf(paper).find((spot) => spot.row === end?.row) ?? from;
      if (!end) continue;
      const bend = Math.abs(start.x - end.x) < 30 ? 26 : 0;
      svg.append(make("path", { class: `tie ${kind}`, d: `M${start.x},${start.y} Q${(start.x + end.x) / 2 + bend},${(start.y + end.y) / 2 - (bend ? 0 : 18)} ${end.x},${end.y}` }));
    }
  }
  function paint(found, width) {
    const { dots, lanes, years: marks, left, room, narrow, height } = laidOut(view, view.papers, width);
    const inside = new Set(found);
    spots = dots;
    const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${found.length} works by year and row; arrow keys go from one to the next` });
    marks.forEach((year, at) => svg.append(make("text", { x: left + at * room + 4, y: 13, text: at || year > 2018 ? year : narrow ? "≤18" : "to 2018" })));
    for (const { name, top, tall } of lanes) {
      svg.append(make("line", { class: "lane", x1: 0, x2: width, y1: top, y2: top }), make("text", { class: "lanename", x: narrow ? 2 : 0, y: top + 16, text: name }));
      void tall;
    }
    if (state.chosen && inside.has(state.chosen)) lines(state.chosen, found, svg);
    const near = state.chosen ? new Set(relatedTo(state.chosen, found).slice(0, DRAWN_TO).map(([other]) => other)) : new Set();
    const shown = dots.filter(({ paper }) => inside.has(paper));
    const first = shown.find(({ paper }) => paper === state.chosen) ?? shown[0];
    for (const dot of dots) {
      const { paper, x, y } = dot,
        live = inside.has(paper);
      const kind = ["dot", `hue${hueOf(paper)}`, live ? "" : "faint", paper === state.chosen ? "chosen" : "", near.has(paper) ? "near" : "", paper.key === view.centre ? "centre" : ""].filter(Boolean).join(" ");
      const node = make("circle", {
        class: kind,
        cx: x,
        cy: y,
        r: (paper === state.chosen || paper.key === view.centre ? 5.5 : 4) + (narrow ? 1 : 0),
        ...(live ? { role: "button", tabindex: dot === first ? 0 : -1, "aria-label": `${calledPaper(paper)}: ${paper.title}` } : { "aria-hidden": "true" }),
        onclick: () => live && choose(paper, width < 640),
        onpointerenter: () => live && (pointed.textContent = `${calledPaper(paper)}: ${paper.title}`),
        onfocus: () => (pointed.textContent = `${calledPaper(paper)}: ${paper.title}`),
      });
      dot.node = node;
      svg.append(node);
    }
    svg.addEventListener("click", (event) => {
      if (event.target.closest(".dot")) return;
      const box = svg.getBoundingClientRect(),
        far = (dot) => Math.hypot(dot.x - event.clientX + box.left, dot.y - event.clientY + box.top);
      const [next] = [...shown].sort((a, b) => far(a) - far(b));
      if (next && far(next) < FINGER) choose(next.paper, narrow);
    });
    svg.addEventListener("keydown", (event) => {
      const here = shown.find((dot) => dot.node === event.target);
      if (!here) return;
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        return choose(here.paper);
      }
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      const ahead = shown.filter((dot) => (step[0] ? (dot.x - here.x) * step[0] > 1 && dot.row === here.row : (dot.y - here.y) * step[1] > 1));
      const far = (dot) => (step[0] ? Math.abs(dot.x - here.x) + 3 * Math.abs(dot.y - here.y) : Math.abs(dot.y - here.y) + Math.abs(dot.x - here.x) / 2);
      const next = ahead.sort((a, b) => far(a) - far(b))[0];
      if (!next) return;
      here.node.setAttribute("tabindex", -1);
      next.node.setAttribute("tabindex", 0);
      next.node.focus();
    });
    const focused = picture.contains(document.activeElement);
    picture.replaceChildren(svg);
    if (focused) first?.node.focus({ preventScroll: true });
  }
  let width = 0;
  function draw() {
    const found = view.papers.filter(passes);
    count.textContent = found.length === view.papers.length ? `${found.length} works` : `${found.length} of ${view.papers.length} works`;
    const sorted = [...found].sort((a, b) => (b.year ?? 0) - (a.year ?? 0) || calledPaper(a).localeCompare(calledPaper(b)));
    list.replaceChildren(
      ...sorted.slice(0, state.all ? sorted.length : SHOWN_AT_FIRST).map((paper) =>
        make(
          "li",
          { class: paper === state.chosen ? "chosen" : null },
          make("button", { type: "button", class: "link", onclick: () => choose(paper) }, make("b", { text: calledPaper(paper) }), ` ${paper.title}`),
          paper.doubt ? make("small", { class: "doubt", text: " number not checked" }) : null,
          make("small", { text: ` ${[...paper.rows.map((at) => view.rows[at]), ...paper.columns.map((at) => view.columns[at])].join(" · ")}` }),
        ),
      ),
    );
    if (!sorted.length) list.replaceChildren(make("li", { class: "empty", text: "No work passes these filters." }));
    more.hidden = sorted.length <= SHOWN_AT_FIRST;
    more.textContent = state.all ? `Show the first ${SHOWN_AT_FIRST}` : `Show all ${sorted.length}`;
    if (width) paint(found, width);
  }
  onWidth(picture, (now) => {
    width = now;
    draw();
  })();
  if (!width) draw();
  PLACES.set(id, (key) => {
    const paper = view.papers.find((one) => one.key === key);
    if (paper) choose(paper);
  });
};

TABLES.Papers = (view) => [
  ["key", "title", "first author", "year", "arXiv", "checked", "rows", "columns", "uses", "about"],
  ...view.papers.map((one) => [one.key, one.title, one.author, one.year, one.number, one.checked, one.rows.map((at) => view.rows[at]).join("; "), one.columns.map((at) => view.columns[at]).join("; "), one.uses.map((at) => view.uses[at]).join("; "), one.about.join("; ")]),
];
