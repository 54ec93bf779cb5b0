// WordGrid: the words that each token reads as, by layer: patches on the picture, the other tokens as a grid.

const LISTED = 3; // words of a patch under the cursor

/** The words of one token after one layer, the first in front: [{word, value}]. */
function wordsAt(view, token, layer) {
  const values = slice(view.values, token, layer);
  return [...slice(view.ranked, token, layer)].map((place, rank) => ({ word: view.words[place], value: values[rank] }));
}

const said = (word) => word.trim() || JSON.stringify(word);

/** The tokens that are no part of the picture. */
function loose(view) {
  const patched = new Set(view.patches?.data ?? []);
  return view.tokens.map((_, token) => token).filter((token) => !patched.has(token));
}

/** The chosen cell in full: its place, and its words with their numbers as bars. */
function wordList(view) {
  const where = make("p", { class: "onetext" }),
    body = make("tbody");
  const table = make("table", { class: "bars" }, make("caption", { class: "offscreen", text: "Words of the chosen cell" }), body);
  return {
    node: make("div", { class: "wordlist", role: "status" }, where, table),
    show(token, layer) {
      where.replaceChildren(make("b", { text: view.tokens[token], dir: "auto" }), ` layer ${view.layers[layer]}`);
      body.replaceChildren(
        ...wordsAt(view, token, layer).map(({ word, value }) => {
          const fill = make("i", { class: "fill" });
          fill.style.left = "0";
          fill.style.width = `${100 * clamp(value || 0, 0, 1)}%`;
          return make(
            "tr",
            {},
            make("th", { scope: "row", dir: "auto", text: said(word) }),
            make("td", { class: "track" }, fill),
            make("td", { class: "number", text: say(value, view.unit, 1) }),
          );
        }),
      );
    },
  };
}

/** Tokens down, layers across, in each cell the first word; its number is the depth of its colour. */
function wordTable(view, stage) {
  const tokens = loose(view),
    layers = view.layers.map((_, layer) => layer);
  const list = wordList(view),
    cells = tokens.map(() => []);
  let at = [tokens.length - 1, layers.length - 1];
  function pick(row, column, focus) {
    const before = cells[at[0]][at[1]];
    before.tabIndex = -1;
    before.removeAttribute("aria-selected");
    at = [clamp(row, 0, tokens.length - 1), clamp(column, 0, layers.length - 1)];
    const cell = cells[at[0]][at[1]];
    cell.tabIndex = 0;
    cell.setAttribute("aria-selected", "true");
    if (focus) cell.focus();
    list.show(tokens[at[0]], at[1]);
  }
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const body = make(
    "tbody",
    {
      onkeydown(event) {
        const move = moves[event.key];
        if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        pick(at[0] + move[0], at[1] + move[1], true);
      },
    },
    tokens.map((token, row) =>
      make(
        "tr",
        {},
        make("th", { scope: "row", text: view.tokens[token], title: view.tokens[token], dir: "auto" }),
        layers.map((layer) => {
          const [{ word, value }] = wordsAt(view, token, layer);
          const cell = make("td", {
            tabindex: -1,
            dir: "auto",
            text: said(word),
            title: `${said(word)}: ${say(value, view.unit, 1)}`,
            onclick: () => pick(row, layer, true),
          });
          cell.style.setProperty("--depth", `${Math.round(65 * clamp(value || 0, 0, 1))}%`);
          cells[row].push(cell);
          return cell;
        }),
      ),
    ),
  );
  const head = make(
    "thead",
    {},
    make("tr", {}, make("th", { scope: "col", text: "token" }), view.layers.map((name) => make("th", { scope: "col", text: name }))),
  );
  const table = make("table", { class: "words", role: "grid", "aria-label": "First word of each token by layer; arrow keys move" }, head, body);
  stage.append(
    make("p", { class: "axes", text: "token ↓  layer →  (choose a cell for its words)" }),
    make("div", { class: "wordcells" }, make("div", { class: "scroller" }, table), list.node),
  );
  pick(...at, false);
}

DRAW.WordGrid = (view, stage) => {
  if (noCells(view.values.shape)) return stage.append(empty("No token was read."));
  if (view.picture) {
    const [rows, columns] = view.patches.shape;
    const token = (row, column) => view.patches.data[row * columns + column];
    const first = view.layers.map((_, layer) =>
      Float32Array.from(view.patches.data, (place) => (missing(place) ? NaN : slice(view.values, place, layer)[0])),
    );
    patchFigure(
      {
        picture: view.picture,
        texts: [`the first word of each patch: its ${view.unit}`],
        layers: view.layers,
        layerName: "layer",
        first: 0,
        rows,
        columns,
        unit: view.unit,
        signed: false,
        map: (_, layer) => first[layer],
        bounds: () => [],
        describe: (layer, row, column) =>
          missing(token(row, column))
            ? ""
            : wordsAt(view, token(row, column), layer)
                .slice(0, LISTED)
                .map(({ word, value }) => `${said(word)} ${say(value, view.unit, 1)}`)
                .join("\n"),
      },
      stage,
    );
  }
  if (loose(view).length) wordTable(view, stage);
};

TABLES.WordGrid = (view) => [
  ["token", "layer", "rank", "word", "value"],
  ...view.tokens.flatMap((name, token) =>
    view.layers.flatMap((layer, at) =>
      wordsAt(view, token, at).map(({ word, value }, rank) => [name, layer, rank + 1, word, value]),
    ),
  ),
];
