"""The page of the atlas in a real Chromium: at once there, quiet, by keys and by finger, nothing over anything."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cutaway.atlas import open_atlas
from report.browser import Page, chromium, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on this machine")

WIDE, PHONE = (1280, 900), (390, 844)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
OVER = """(() => {
  const box = (e) => e.getBoundingClientRect(), hits = [];
  const named = (e) => e.getAttribute('aria-label') ?? e.textContent;
  const aside = (a, b) => a.left >= b.right - 1 || a.top >= b.bottom - 2, apart = (a, b) => aside(a, b) || aside(b, a);
  const look = (one, two) => apart(box(one), box(two)) || hits.push(`${named(one)} / ${named(two)}`);
  const labels = [...document.querySelectorAll('.constellation text')], dots = document.querySelectorAll('.dot');
  labels.forEach((one, at) => labels.slice(at + 1).forEach((two) => look(one, two)));
  dots.forEach((dot) => labels.forEach((label) => look(dot, label)));
  const words = [...document.querySelectorAll('button.square')].filter((e) => e.scrollWidth > e.clientWidth + 1);
  return [...hits, ...words.map(named)];
})()"""
FOCUSED = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return open_atlas().write(tmp_path_factory.mktemp("atlas"))


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser.page()


def texts(page: Page, selector: str) -> list[str]:
    found: Any = page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
    return list(found)


def search(page: Page, words: str) -> None:
    field = "document.querySelector('.filters input')"
    page.run(f"{field}.value = {json.dumps(words)}; {field}.dispatchEvent(new Event('input'))")


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_is_there_at_once_and_fits(tab: Page, path: Path, size: tuple[int, int]) -> None:
    assert path.stat().st_size < 3_000_000
    tab.show(path, *size, touch=size == PHONE)
    assert tab.run("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 1000
    assert tab.complaints() == [] and tab.requests() == []
    assert tab.run(OVERFLOW) <= 0 and tab.run("window.shift") == 0
    assert "could not be drawn" not in tab.run("document.body.innerText")
    tab.run("document.querySelectorAll('.fold').forEach((fold) => (fold.open = true))")
    assert tab.run(OVERFLOW) <= 0


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_nothing_lies_over_anything(tab: Page, path: Path, size: tuple[int, int]) -> None:
    """Labels of lanes and years keep clear of one another, dots of labels and dots; words stay in their squares."""
    tab.show(path, *size, touch=size == PHONE)
    assert tab.run(OVER) == []


def test_a_square_opens_below_its_row_and_keys_walk_the_board(tab: Page, path: Path) -> None:
    tab.show(path, *WIDE)
    tab.run("document.querySelector('button.square').focus()")
    tab.key("ArrowDown")
    tab.key("ArrowRight")
    assert tab.run(FOCUSED).startswith("logit lens, generative: measured here")
    assert tab.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"  # the focus is seen
    tab.key("Enter")
    (panel,) = texts(tab, ".panel")
    for part in (
        "What is computed",
        "softmax(W_U",
        "before training",
        "word_lens",
        "It can not tell",
        "Neo 2024",
        "Open questions",
    ):
        assert part in panel, part
    row = "document.querySelector('.opened').previousElementSibling.querySelector('th').textContent"
    assert tab.run(row) == "logit lens" and tab.run("document.activeElement.ariaExpanded") == "true"
    assert tab.run("location.hash") == "#v-methods-and-models/1,1"  # what is open can be sent to somebody
    tab.key("Escape")
    assert texts(tab, ".panel") == [] and tab.run("location.hash") == "#v-methods-and-models"


def test_a_work_leads_to_its_squares_and_back(tab: Page, path: Path) -> None:
    tab.show(path, *WIDE)
    tab.click("button.square[aria-label^='logit lens, generative']")
    tab.click(".panel > .told > .paperlinks a[data-paper=neo24]")
    tab.wait("document.querySelector('.paper h3')")
    assert texts(tab, ".paper h3") == ["Towards Interpreting Visual Information Processing in Vision-Language Models"]
    assert tab.run("document.querySelectorAll('.tie').length") > 3
    assert "@misc{neo24" in texts(tab, ".paper pre")[0]
    tab.click(".paper a[data-square]")
    tab.wait("document.querySelector('.panel h3')?.textContent.startsWith('logit lens')")
    tab.run("location.hash = 'v-works/lin25'")
    tab.wait("document.querySelectorAll('.tie.cites').length > 9")
    assert "It is known to cite" in texts(tab, ".paper")[0]


def test_a_finger_beside_a_dot_chooses_it(tab: Page, path: Path) -> None:
    tab.show(path, *PHONE, touch=True)
    x, y = tab.centre(".dot")
    tab.run(f"document.elementFromPoint({x - 7}, {y}).dispatchEvent(new MouseEvent('click', "
            f"{{clientX: {x - 7}, clientY: {y}, bubbles: true}}))")  # fmt: skip
    (chosen,) = texts(tab, ".paper h3")
    assert chosen in tab.run("document.querySelector('.dot.chosen').getAttribute('aria-label')")
    assert tab.run("location.hash").startswith("#v-works/")


def test_the_list_says_what_the_dots_say(tab: Page, path: Path) -> None:
    """Filters hold for both; the keys go from dot to dot, and a dot that is chosen is told."""
    tab.show(path, *PHONE, touch=True)
    tab.run(
        "const [method] = document.querySelectorAll('.filters select'); method.value = '10';"
        " method.dispatchEvent(new Event('change'))"
    )
    listed = texts(tab, ".paperlist li")
    live = tab.run("document.querySelectorAll('.dot[role=button]').length")
    assert 12 < len(listed) <= live and all("training-data attribution" in one for one in listed)
    search(tab, "unlearning")
    assert 0 < len(texts(tab, ".paperlist li")) < len(listed)
    tab.run("document.querySelector('.dot[tabindex=\"0\"]').focus()")
    before = tab.run(FOCUSED)
    tab.key("ArrowRight")
    assert tab.run(FOCUSED) != before
    chosen = tab.run(FOCUSED)
    tab.key("Enter")
    assert texts(tab, ".paper h3")[0] in chosen
    search(tab, "grad-cam")
    assert texts(tab, ".paperlist li") == ["No work passes these filters."]


def test_the_dark_page_and_what_is_cited_by_a_report(tab: Page, path: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from cutaway.report.page import write
    from report import examples

    tab.show(path, *WIDE, dark=True)
    assert tab.complaints() == [] and tab.run(OVERFLOW) <= 0
    sourced = replace(examples.table(), provenance={"source": "Toker et al. 2024, arXiv 2403.05846 (Diffusion Lens)"})
    made = write(tmp_path / "report.html", "Cited", [sourced])
    tab.show(made, *WIDE)
    tab.run("document.querySelector('.cited').open = true")
    assert texts(tab, ".cited summary")[0] == "What to cite (1)" and "@misc{toker24," in texts(tab, ".cited pre")[0]
    tab.click(".cited [data-do=cite]")
    tab.wait("document.querySelector('.cited .said').textContent")
    assert texts(tab, ".cited .said") == ["copied"] and tab.complaints() == []
