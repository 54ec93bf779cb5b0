// One heat map: a canvas of cells, over a picture or alone, with a cursor that mouse, finger and keys can move.

/**
 * size: {rows, columns}; picture: laid under the cells, or null; label: what a screen reader calls it;
 * onMove(row, column) when a cell is looked at, onMove(null) when none is; onPick when a cell is pressed;
 * onPage(±1) for Page Up and Page Down. Cells of a map without a picture are `cell` pixels high.
 */
function heatmap({ rows, columns, picture, label, cell = 22, onMove, onPick = () => {}, onPage = () => {} }) {
  const canvas = make("canvas", { "aria-hidden": "true" });
  const ring = make("i", { class: "ring", hidden: true });
  const under =
    picture &&
    make("img", { src: picture.uri, alt: "", width: picture.width, height: picture.height, draggable: "false" });
  const node = make(
    "div",
    {
      class: picture ? "heatmap over" : "heatmap",
      tabindex: 0,
      role: "application",
      "aria-roledescription": "heat map",
      "aria-label": `${label}. ${rows} by ${columns} cells; arrow keys move.`,
    },
    under,
    canvas,
    ring,
  );
  const shape = make("div", { class: "frame" }, node);
  if (picture) node.style.aspectRatio = `${picture.width} / ${picture.height}`;
  else node.style.height = `${rows * cell}px`;

  let values = new Float32Array(rows * columns).fill(NaN),
    scale = scaleOf(extent(values), false);
  let opacity = 1,
    pinned = null,
    seen = null;

  function paint() {
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(node.clientWidth * ratio),
      height = Math.round(node.clientHeight * ratio);
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    const gap = !picture && width / columns > 6 * ratio ? ratio : 0;
    const holes = hatch(context);
    for (let row = 0; row < rows; row++) {
      const top = Math.round((row / rows) * height),
        bottom = Math.round(((row + 1) / rows) * height);
      for (let column = 0; column < columns; column++) {
        const left = Math.round((column / columns) * width),
          right = Math.round(((column + 1) / columns) * width);
        const value = values[row * columns + column];
        context.fillStyle = missing(value) ? holes : css(scale.colour(value));
        context.fillRect(left, top, right - left - gap, bottom - top - gap);
      }
    }
  }

  function fade() {
    canvas.style.opacity = opacity;
    if (under) under.style.filter = `grayscale(${Math.min(1, opacity * 1.6)})`;
  }

  function look(place) {
    seen = place;
    encircle(ring, place, rows, columns);
    onMove(...(place ?? [null]));
  }

  function pick(place) {
    pinned = place;
    ring.classList.toggle("pinned", Boolean(place));
    look(place);
  }

  const under_ = (event) => {
    const box = node.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const column = Math.floor(((event.clientX - box.left) / box.width) * columns);
    return [clamp(row, 0, rows - 1), clamp(column, 0, columns - 1)];
  };
  node.addEventListener("pointermove", (event) => look(under_(event)));
  node.addEventListener("pointerleave", () => look(pinned));
  node.addEventListener("click", (event) => {
    const place = under_(event);
    const same = pinned && pinned[0] === place[0] && pinned[1] === place[1] && event.pointerType === "mouse";
    pick(same ? null : place);
    if (!same) onPick(...place);
  });
  node.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") pick(null);
    else if (event.key === "PageUp" || event.key === "PageDown") onPage(event.key === "PageUp" ? -1 : 1);
    else if (event.key === "Enter" && pinned) onPick(...pinned);
    else {
      const [row, column] = pinned ?? seen ?? [0, 0];
      const target = {
        ArrowUp: [row - 1, column],
        ArrowDown: [row + 1, column],
        ArrowLeft: [row, column - 1],
        ArrowRight: [row, column + 1],
        Home: [row, 0],
        End: [row, columns - 1],
      }[event.key];
      if (!target) return;
      pick([clamp(target[0], 0, rows - 1), clamp(target[1], 0, columns - 1)]);
    }
    event.preventDefault();
  });
  node.addEventListener("focus", () => {
    if (!pinned && node.matches(":focus-visible")) pick([0, 0]);
  });
  onWidth(node, paint);
  fade();

  return {
    node: shape,
    draw(nextValues, nextScale) {
      [values, scale] = [nextValues, nextScale];
      paint();
    },
    fade(next) {
      opacity = next;
      fade();
    },
    lay(next) {
      under.src = next.uri;
    },
    pick, // also used by a table beside the map
    refresh: () => look(seen),
    place: () => seen,
  };
}

/** A map as small as a stamp: one pixel a cell, drawn by the browser at any size; the picture `under` stands above it. */
function stamp(rows, columns, picture, under) {
  const canvas = make("canvas", { width: columns, height: rows, class: "stamp", "aria-hidden": "true" });
  canvas.style.aspectRatio = picture ? `${picture.width} / ${picture.height}` : `${columns} / ${rows}`;
  const draw = (values, scale) => {
    const context = canvas.getContext("2d"),
      image = context.createImageData(columns, rows);
    for (let at = 0; at < values.length; at++) {
      const odd = (Math.floor(at / columns) + at) % 2 ? 175 : 205;
      image.data.set(missing(values[at]) ? [odd, odd, odd, 255] : [...scale.colour(values[at]), 255], at * 4);
    }
    context.putImageData(image, 0, 0);
  };
  const shown = under && make("img", { src: under.uri, alt: "", width: under.width, height: under.height });
  return { node: shown ? make("span", { class: "pressed" }, shown, canvas) : canvas, draw };
}

function encircle(ring, place, rows, columns) {
  ring.hidden = !place;
  if (!place) return;
  const [row, column] = place;
  Object.assign(ring.style, {
    top: `${(row / rows) * 100}%`,
    left: `${(column / columns) * 100}%`,
    width: `${100 / columns}%`,
    height: `${100 / rows}%`,
  });
}

/** The picture without a map, small, with the same cursor. */
function uncovered(picture, rows, columns) {
  const ring = make("i", { class: "ring", hidden: true });
  const shown = make("img", { src: picture.uri, alt: picture.alt, width: picture.width, height: picture.height });
  const node = make("div", { class: "uncovered" }, shown, ring);
  const lay = (next) => Object.assign(shown, { src: next.uri, alt: next.alt });
  return { node, lay, point: (place) => encircle(ring, place, rows, columns) };
}

/** The number under the cursor and where it is, or the strongest one; its place is kept free, so nothing moves. */
function readout() {
  const number = make("b"),
    where = make("span");
  const node = make("output", { class: "readout" }, number, where);
  const show = (text, place) => {
    number.textContent = text;
    where.textContent = place;
  };
  const hint = "Point, tap, or use the arrow keys.";
  return {
    node,
    show,
    rest: (value, place, ...how) =>
      missing(value) ? show("", hint) : show(say(value, ...how), `strongest: ${place}\n${hint}`),
  };
}

/** Where the number farthest from zero is. */
function strongest(values) {
  let best = 0;
  values.forEach((value, at) => {
    if (!missing(value) && (missing(values[best]) || Math.abs(value) > Math.abs(values[best]))) best = at;
  });
  return best;
}
