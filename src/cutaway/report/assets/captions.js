// WordMaps: a text over a picture, in which a word lights what wrote it.

/** What is known of the chosen word: what its numbers are about, and a list of bars for each group of parts. */
function wordPanel(view, word, address) {
  const groups = [...new Set(view.bars[word].map((bar) => bar.group))];
  return [
    make("h3", {}, make("a", { href: `#${address}`, title: "the address of this word", text: said(view.words[word]), dir: "auto" })),
    make("p", { class: "onetext", role: "status", dir: "auto", text: view.told[word] }),
    make(
      "div",
      { class: "wrote" },
      groups.map((group) => {
        const bars = view.bars[word].filter((bar) => bar.group === group);
        return make("div", {}, barRows(`${group}, ${view.unit}`, bars, view.unit));
      }),
    ),
  ];
}

DRAW.WordMaps = (view, stage) => {
  const [, , rows, columns] = view.values.shape;
  if (noCells(view.values.shape)) return stage.append(empty("No word was written."));
  const id = stage.closest("section").id,
    panel = make("div", { class: "chosen" }),
    holder = make("div");
  const show = (word, moved = true) => {
    panel.replaceChildren(...wordPanel(view, word, `${id}/${word}`));
    if (moved) history.replaceState(null, "", `#${id}/${word}`);
  };
  patchFigure(
    {
      ...view,
      texts: view.words,
      caption: true,
      signed: true,
      layers: view.ways,
      layerName: "way",
      first: 0,
      rows,
      columns,
      map: (word, way) => slice(view.values, word, way),
      bounds: () => [],
    },
    holder,
    (_, word) => show(word),
  );
  stage.append(holder, panel);
  show(view.shown, false);
  PLACES.set(id, (place) => holder.querySelectorAll(".caption input")[Number(place)]?.click());
};

TABLES.WordMaps = (view) => [
  ["word", "part", "row", "column", "value"],
  ...view.words.flatMap((word, at) => [
    ...view.ways.flatMap((way, index) =>
      [...patches(slice(view.values, at, index), view.values.shape[3])].map((cell) => [word, way, ...cell]),
    ),
    ...view.bars[at].map((bar) => [word, `${bar.group}: ${bar.label}`, null, null, bar.value]),
  ]),
];
