// Maps over a picture with all that one turns to read them: texts, layers, a scale, the film of all layers.

/**
 * The shared figure of Overlay, Lens, Strip and a folded Matrix.
 * data: picture, texts, layers (one without a name: no slider), layerName, first (layer shown), map(text, layer),
 * bounds(text, layer, at), unit, signed, palette, caption (whether the texts are words of one), shown (the text shown
 * first), describe(layer, row, column): more on a cell; pictures: one for each layer, where they are not all the same.
 */
function patchFigure(data, stage, onLayer = () => {}) {
  const { picture, pictures, texts, layers, rows, columns, unit, signed, palette, caption } = data;
  const many = layers.length > 1;
  const state = { text: data.shown ?? 0, layer: data.first ?? layers.length - 1, shared: true, cell: null };
  const measure = () => extent(...texts.flatMap((_, text) => layers.map((_, layer) => data.map(text, layer))));
  let all = measure();
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
  const strip = layers.map((_, index) => stamp(rows, columns, picture, pictures?.[index]));
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
          {
            chosen: state.text,
            ...(caption ? { kind: "caption" } : { decorate: (index) => stamps[index].node, kind: "stamps" }),
          },
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
    if (pictures) for (const each of [map, small]) each.lay(pictures[state.layer]);
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
        caption ? chooser : null,
        steps?.node ?? (layers[0] ? make("p", { class: "onetext", text: `${data.layerName} ${layers[0]}` }) : null),
        caption ? null : chooser,
        options,
      ),
    ),
    many ? film : "",
  );
  draw();
  const again = () => {
    all = measure();
    draw();
  };
  return { goTo, state, again };
}
