// Units of a site: a table to search, and under it all that is known of the chosen one.

const PLACES = new Map(); // by the id of a section: what opens a place in it, as an address says it

/** A picture with the activation of a unit over it; `top` is the largest activation of the unit. */
function exemplar(picture, rows, columns, values, top, caption) {
  const canvas = make("canvas", { width: columns, height: rows, "aria-hidden": "true" }),
    context = canvas.getContext("2d"),
    image = context.createImageData(columns, rows);
  values.forEach((value, at) => {
    const share = missing(value) || top <= 0 ? 0 : clamp(value / top, 0, 1);
    image.data.set([0, 0, 0, Math.round(200 * (1 - Math.sqrt(share)))], at * 4); // dark where the unit is off
  });
  context.putImageData(image, 0, 0);
  const { uri, width, height, alt } = picture;
  return make(
    "figure",
    { class: "exemplar" },
    make("span", { class: "lit" }, make("img", { src: uri, width, height, alt, title: alt }), canvas),
    make("figcaption", { text: caption }),
  );
}

/** How many rows lie in each bin, as bars of their logarithm. */
function histogram(bins, counts) {
  const top = Math.log1p(Math.max(...counts, 1));
  return make(
    "div",
    { class: "histogram", role: "img", "aria-label": bins.map((bin, at) => `${bin}: ${counts[at]}`).join("; ") },
    make(
      "div",
      { class: "columns" },
      bins.map((bin, at) => {
        const bar = make("i", { title: `from ${bin} on: ${counts[at]} rows` });
        bar.style.height = `${(100 * Math.log1p(counts[at])) / top}%`;
        return bar;
      }),
    ),
    make("div", { class: "ends" }, make("span", { text: bins[0] }), make("span", { text: "rows, on a logarithmic scale" }), make("span", { text: bins.at(-1) })),
  );
}

/** A heading with what stands under it; nothing for nothing. */
const part = (title, ...content) => (content.flat().some(Boolean) ? make("div", { class: "part" }, make("h4", { text: title }), ...content) : null);

/** All that is known of one unit; `open(number)` leads to another one. */
function unitPanel(view, first, open) {
  const [, rows, columns] = view.maps?.shape ?? [0, 0, 0];
  return (unit, at, address) => {
    const top = Math.max(...unit.values, 0);
    const shown = unit.pictures.map((place, k) =>
      exemplar(view.pictures[place], rows, columns, view.maps ? slice(view.maps, first[at] + k) : [], top, say(unit.values[k], view.unit, top)),
    );
    const contexts = unit.contexts.map(({ before, token, after, value }) =>
      make("li", {}, make("span", { class: "context", dir: "auto" }, before, make("mark", { text: token }), after), make("small", { text: ` ${say(value, view.unit)}` })),
    );
    const numbers = Object.keys(unit.numbers)
      .filter((name) => !missing(unit.numbers[name]))
      .map((name) => make("div", {}, make("dt", { text: name }), make("dd", { text: say(unit.numbers[name], name) })));
    const near = unit.near.map(([number, cosine]) =>
      make("button", { type: "button", class: "quiet", onclick: () => open(number), text: `${number} (${say(cosine)})` }),
    );
    const curve = make("div");
    if (view.curves && !missing(slice(view.curves, at)[0])) {
      const lines = [{ label: `unit ${unit.number}`, values: slice(view.curves, at) }];
      if (view.chance)
        lines.push({ label: "random units", baseline: true, low: slice(view.chance, 0), values: slice(view.chance, 1), high: slice(view.chance, 2) });
      lineChart({ name: view.points.name, labels: view.points.labels, lines, unit: view.effect }, curve);
    }
    const steering = curve.childElementCount ? part("What setting it does to the first text that it writes", curve) : null;
    return [
      make(
        "h3",
        { "aria-live": "polite" },
        make("a", { href: `#${address}`, title: "the address of this unit", text: `${unit.number}` }),
        unit.name ? make("span", { text: ` ${unit.name}`, dir: "auto" }) : null,
      ),
      part("Where it is largest", shown.length ? make("div", { class: "exemplars" }, shown) : null),
      part("Words where it is largest", contexts.length ? make("ul", { class: "contexts" }, contexts) : null),
      part("Numbers", numbers.length ? make("dl", { class: "numbers-of" }, numbers) : null),
      part("How large it is", view.counts ? histogram(view.bins, [...slice(view.counts, at)]) : null),
      part("What it writes", unit.writes.length ? spansCell({ phrases: unit.writes }) : null),
      part("Nearest by direction", near.length ? make("div", { class: "near" }, near) : null),
      steering,
    ].filter(Boolean);
  };
}

DRAW.Units = (view, stage) => {
  const { units } = view;
  if (!units.length) return stage.append(empty("No unit was measured."));
  const first = [];
  units.reduce((sum, unit) => (first.push(sum), sum + unit.pictures.length), 0);
  const byNumber = new Map(units.map((unit, at) => [unit.number, at]));
  const id = stage.closest("section").id;
  const panel = make("div", { class: "unit" });
  let grid;
  const open = (number, scroll = true) => {
    const at = byNumber.get(number);
    if (at === undefined) return;
    panel.replaceChildren(...draw(units[at], at, `${id}/${number}`));
    grid?.choose(units[at]);
    if (scroll) history.replaceState(null, "", `#${id}/${number}`);
  };
  const draw = unitPanel(view, first, open);
  const columns = [
    { name: "unit", get: (unit) => unit.number },
    ...(units.some((unit) => unit.name) ? [{ name: "description", get: (unit) => unit.name || null }] : []),
    ...view.columns.map((name) => ({ name, get: (unit) => unit.numbers[name] })),
    ...(units.some((unit) => unit.writes.length)
      ? [{ name: "writes", get: (unit) => unit.writes[0]?.text ?? null }]
      : []),
  ];
  const sorted = columns.findIndex((column) => column.name === view.sorted);
  grid = dataGrid({ label: view.title, columns, rows: units, sorted, onRow: (unit) => open(unit.number) }, stage);
  stage.append(panel);
  PLACES.set(id, (place) => open(Number(place), false));
  const best = [...units].sort(compareBy((unit) => unit.numbers[view.sorted], -1))[0];
  open(best.number, false);
};

TABLES.Units = (view) => [
  ["unit", "description", ...view.columns, "writes", "near"],
  ...view.units.map((unit) => [
    unit.number,
    unit.name,
    ...view.columns.map((name) => unit.numbers[name]),
    unit.writes.map((one) => one.text).join("; "),
    unit.near.map(([number]) => number).join(" "),
  ]),
];
