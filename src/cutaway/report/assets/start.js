// Put the views on the page. Each is mounted by a one-line script right after its data, while the page is still being
// read: what is below it does not exist yet, so nothing ever moves.

const views = new Map();
let pictures;

function mount(script) {
  pictures ??= JSON.parse(document.getElementById("pictures").textContent);
  if (script.parentElement.matches("nav")) {
    script.parentElement.querySelector("details").open = matchMedia("(min-width: 1100px)").matches;
    return;
  }
  const view = unpack(JSON.parse(script.previousElementSibling.textContent), pictures);
  if (script.parentElement.matches(".lead")) return drawLead(view, script.parentElement.querySelector(".stage"));
  const section = script.closest("section"),
    stage = section.querySelector(".stage");
  views.set(section.id, view);
  try {
    DRAW[view.$type](view, stage);
  } catch (error) {
    stage.replaceChildren(empty(`This view could not be drawn: ${error.message}`));
    console.error(section.id, error);
  }
}

/** The numbers of a view as CSV, by the name of its section. */
const csvOf = (id) => csv(TABLES[views.get(id).$type](views.get(id)));

document.addEventListener("click", async ({ target }) => {
  const action = target.dataset?.do;
  if (!action) return;
  if (action === "all") {
    const folds = [...document.querySelectorAll(".fold")],
      open = folds.some((fold) => !fold.open);
    folds.forEach((fold) => (fold.open = open));
    target.textContent = open ? "Fold all views" : "Open all views";
    return;
  }
  const said = target.parentElement.querySelector(".said");
  if (action === "cite") {
    const done = await copy(target.parentElement.querySelector("pre").textContent);
    said.textContent = done ? "copied" : "this browser allows no copying; see BibTeX";
    return setTimeout(() => (said.textContent = ""), 2500);
  }
  const { id } = target.closest("section");
  if (action === "csv") save(`${id.replace(/^v-/, "")}.csv`, csvOf(id));
  const done = action === "csv" || (await copy(views.get(id).code));
  said.textContent = !done ? "this browser allows no copying; see Python" : action === "csv" ? "saved" : "copied";
  setTimeout(() => (said.textContent = ""), 2500);
});

/** What a link leads to is open: a view, or (behind a stroke) a place in it; a word of a text chooses its map there. */
function reveal(hash, word) {
  const [id, place] = decodeURIComponent(hash.slice(1)).split("/");
  const section = id && document.getElementById(id);
  const fold = section && section.querySelector(".fold");
  if (!fold) return;
  fold.open = true;
  if (word !== undefined) section.querySelectorAll(".caption input")[word]?.click();
  if (place !== undefined) PLACES.get(id)?.(place);
  const wide = matchMedia("(min-width: 761px)").matches;
  const inside = wide ? ".unit, .chosen, .constellation, .panel" : ".unit, .chosen, .paper, .panel";
  const shown = place === undefined ? null : section.querySelector(inside);
  (shown ?? section).scrollIntoView();
}

document.addEventListener("click", ({ target }) => {
  const link = target.closest?.('a[href^="#v-"]');
  if (link) reveal(link.hash, link.dataset.word);
});
addEventListener("hashchange", () => reveal(location.hash));
addEventListener("beforeprint", () => document.querySelectorAll(".fold").forEach((fold) => (fold.open = true)));

/** The table of contents says which view is being read. */
document.addEventListener("DOMContentLoaded", () => {
  reveal(location.hash);
  const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
  const sections = [...document.querySelectorAll("section.view")],
    inSight = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const { target, isIntersecting } of entries) inSight[isIntersecting ? "add" : "delete"](target);
      const first = sections.find((section) => inSight.has(section));
      for (const [id, link] of links) {
        if (first?.id === id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-10% 0px -55% 0px" },
  );
  sections.forEach((section) => watch.observe(section));
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint.forEach((draw) => draw()));

window.cutaway = Object.freeze({ mount, csv: csvOf });
