// Two colour maps that stay readable for colour-blind eyes, and the legend that puts numbers on them.
// Lightness climbs evenly from dark blue to yellow; the signed map falls evenly to both sides of its pale middle.

const RISING = ["#001852", "#023959", "#05556a", "#0b737a", "#388f84", "#5dac8a", "#89c888", "#bee07e", "#fef46d"];
const READ = ["#4a1a7a", "#7545a6", "#a07dc6", "#cbb8e0", "#f3f1ed", "#b5d9b2", "#7bbb80", "#3f8f55", "#0f5f33"]; // signed, too
const SIGNED = ["#0052b4", "#2d7bd7", "#69a6e3", "#abccea", "#f3f1ed", "#e7c092", "#dc8c32", "#be5c00", "#913903"];

const parsed = (anchors) => anchors.map((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)));

/** 256 colours between the anchors. */
function ramp(anchors) {
  const points = parsed(anchors);
  return Array.from({ length: 256 }, (_, step) => {
    const place = (step / 255) * (points.length - 1);
    const left = Math.min(Math.floor(place), points.length - 2);
    return points[left].map((from, channel) => Math.round(from + (place - left) * (points[left + 1][channel] - from)));
  });
}

const RAMPS = { rising: ramp(RISING), adds: ramp(SIGNED), reads: ramp(READ) };

/** From numbers to colours: `low`…`high`, or symmetric about zero when `signed`, in the colours of `palette`. */
function scaleOf(range, signed, palette = "adds") {
  let { low, high } = range.empty ? { low: 0, high: 1 } : range;
  if (signed) {
    high = Math.max(Math.abs(low), Math.abs(high)) || 1;
    low = -high;
  } else if (low === high) {
    const room = Math.abs(low) * 0.5 || 0.5;
    [low, high] = [low - room, high + room];
  }
  const place = (value) => clamp((value - low) / (high - low), 0, 1);
  const colours = RAMPS[signed ? palette : "rising"];
  return {
    low,
    high,
    signed,
    holes: range.holes,
    empty: range.empty,
    place,
    colour: (value) => colours[Math.round(place(value) * 255)],
  };
}

const css = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const inkOn = ([red, green, blue]) => (red * 0.3 + green * 0.59 + blue * 0.11 > 140 ? "#000" : "#fff");

/** Diagonal lines on grey: "not measured". */
function hatch(context) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.fillStyle = "#c9c9c9";
  pen.fillRect(0, 0, 8, 8);
  pen.strokeStyle = "#8a8a8a";
  pen.lineWidth = 1.5;
  for (const shift of [-8, 0, 8]) {
    pen.moveTo(shift, 8);
    pen.lineTo(shift + 8, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

/** A bar of colours with numbers; `set(scale)` and `mark(value)`, which points at one of them. */
function legend(unit, holes) {
  const bar = make("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const pointer = make("i", { class: "pointer", hidden: true });
  const numbers = make("div", { class: "numbers" });
  const node = make(
    "div",
    { class: "legend" },
    make("div", { class: "unit", text: unit }),
    make("div", { class: "bar" }, bar, pointer),
    numbers,
    holes ? make("div", { class: "holes" }, make("i", { class: "hatched" }), "not measured") : null,
  );
  let scale;
  return {
    node,
    set(next) {
      scale = next;
      const context = bar.getContext("2d");
      for (let step = 0; step < 256; step++) {
        context.fillStyle = css(scale.colour(scale.low + (step / 255) * (scale.high - scale.low)));
        context.fillRect(step, 0, 1, 1);
      }
      numbers.replaceChildren(
        ...[scale.low, (scale.low + scale.high) / 2, scale.high].map((value) => make("span", { text: say(value, unit, sizeOf(scale)) })),
      );
      node.classList.toggle("unmeasured", scale.empty);
    },
    mark(value) {
      pointer.hidden = missing(value);
      if (!pointer.hidden) pointer.style.left = `${scale.place(value) * 100}%`;
    },
  };
}
