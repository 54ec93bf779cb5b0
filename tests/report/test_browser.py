"""The page in a real Chromium: it draws, moves, sorts, answers keys and fingers, and asks no network for anything."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from cutaway.report.page import write
from report import examples
from report.browser import Page, chromium, find_chromium
from report.rows import rows
from report.test_page import large

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium on this machine")

WIDE, PHONE = (1280, 900), (390, 844)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    write(
        folder / "every.html", f"Every {examples.EVIL}", examples.every(), summary="A summary.", provenance={"seed": 0}
    )
    write(folder / "nothing.html", "Nothing", examples.nothing())
    opened = [examples.overlay(), examples.seeing_heads(), examples.words()]
    write(folder / "opening.html", "Opening", opened, opening=examples.opening())
    led = [examples.network(), replace(examples.seeing_heads(), tower="vision")]
    write(folder / "led.html", "Led", led)
    write(folder / "big.html", "Big", large(24, 24, 8, 16))
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser.page()


@pytest.fixture
def every(tab: Page, folder: Path) -> Page:
    """The report with all kinds of view, freshly opened on a wide screen."""
    tab.show(folder / "every.html", *WIDE)
    return tab


def texts(page: Page, selector: str) -> list[str]:
    found = page.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent)")
    assert isinstance(found, list)
    return found


def said(page: Page, view: str, part: str = "b") -> str:
    """The number (or, with span, the place) that a view's read-out shows; a hidden read-out is not asked."""
    shown = f"[...document.querySelectorAll('#v-{view} .readout {part}')].find((e) => e.offsetParent)"
    return str(page.run(f"{shown}.textContent"))


def ink(page: Page, selector: str) -> str:
    """What a canvas shows, as one text."""
    return str(page.run(f"document.querySelector({json.dumps(selector)}).toDataURL()"))


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("name", ["every", "nothing", "opening", "big"])
def test_it_is_whole_and_quiet(tab: Page, folder: Path, name: str, size: tuple[int, int]) -> None:
    tab.show(folder / f"{name}.html", *size, dark=name == "nothing", touch=size == PHONE)
    assert tab.complaints() == []
    assert tab.requests() == []
    assert tab.run(OVERFLOW) <= 0
    assert tab.run("window.shift") == 0  # nothing moved while it was drawn
    assert tab.run("[...document.querySelectorAll('.stage')].filter((e) => !e.children.length).length") == 0
    assert tab.run("window.hacked") is None
    assert "could not be drawn" not in tab.run("document.body.innerText")


def test_the_header_stays_while_the_page_grows(every: Page) -> None:
    """However little is below it yet: a table of contents longer than the page so far must not stretch it."""
    height = "document.querySelector('header').getBoundingClientRect().height"
    top = "document.querySelector('main').getBoundingClientRect().top"
    before = every.run(f"[{height}, {top}]")
    every.run("document.querySelectorAll('main > *').forEach((e) => e.remove())")
    assert every.run(f"[{height}, {top}]") == before


def test_the_verdict_and_a_picture_come_first_and_the_rest_is_folded(tab: Page, folder: Path) -> None:
    tab.show(folder / "opening.html", *PHONE, touch=True)
    below = "document.querySelector('.lead .heatmap').getBoundingClientRect().bottom"
    assert texts(tab, ".verdict") == ["The model takes this for a red dog."]
    assert tab.run(below) <= PHONE[1]  # seen without scrolling
    assert tab.run("[...document.querySelectorAll('.fold')].map((fold) => fold.open)") == [True, True, False]
    assert tab.run("document.querySelector('#v-a-word-by-word').offsetHeight") < 120
    assert texts(tab, "#v-a-word-by-word .gist") == ["This map contradicts another."]


def test_a_word_opens_its_map(tab: Page, folder: Path) -> None:
    tab.show(folder / "opening.html", *WIDE)
    assert texts(tab, ".texts a") == ["a", "red", "dog"]
    tab.click(".texts a:nth-of-type(2)")
    tab.wait("document.querySelector('#v-a-word-by-word .fold').open")
    assert tab.run("document.querySelector('#v-a-word-by-word :checked').parentElement.textContent") == "red"
    assert said(tab, "a-word-by-word") == "1.100"
    assert texts(tab, "#v-a-word-by-word .warning") == ["This map contradicts another."]
    tab.click("nav [data-do=all]")  # all are open now, so it folds them
    assert tab.run("document.querySelectorAll('.fold[open]').length") == 0


def test_a_head_opens_what_it_attends_to(tab: Page, folder: Path) -> None:
    tab.show(folder / "opening.html", *WIDE)
    assert texts(tab, "#v-seeing-heads h3")[0].startswith("Layer 0, head 1")  # the strongest
    before = ink(tab, "#v-seeing-heads .headpanel canvas")
    tab.click("#v-seeing-heads tbody tr:first-child td")
    assert texts(tab, "#v-seeing-heads h3")[0].startswith("Layer 0, head 0")
    assert ink(tab, "#v-seeing-heads .headpanel canvas") != before
    assert tab.run("document.querySelectorAll('#v-seeing-heads .moved img').length") == 3
    tab.click("#v-seeing-heads .matrix .heatmap", 0.9, 0.5)
    assert texts(tab, "#v-seeing-heads h3")[0].startswith("Layer 0, head 1")


def test_the_slider_changes_the_map(every: Page) -> None:
    before = ink(every, "#v-lens .heatmap canvas")
    every.run("document.querySelector('#v-lens input[type=range]').focus()")
    every.key("ArrowLeft", 2)
    assert ink(every, "#v-lens .heatmap canvas") != before
    assert said(every, "lens", "span").startswith("strongest: row 1, column 2")
    assert said(every, "lens") == "0.110"  # text 0, layer 1, the last patch
    assert texts(every, "#v-lens .film .now") == ["1"]
    assert texts(every, "#v-lens .where") == ["cosine at layer 1"]
    assert texts(every, "#v-lens .lines .number") == ["0.020", "0.100", "0.180"]


def test_the_chooser_changes_the_text(every: Page) -> None:
    before = ink(every, "#v-overlay .heatmap canvas")
    every.run("document.querySelector('#v-overlay .option input').focus()")
    every.key("ArrowRight")
    assert ink(every, "#v-overlay .heatmap canvas") != before
    assert said(every, "overlay") == "0.571"  # 11 / 7 - 1


def test_keys_walk_over_a_map(every: Page) -> None:
    every.run("document.querySelector('#v-overlay .heatmap').focus({focusVisible: true})")
    assert (said(every, "overlay"), said(every, "overlay", "span")) == ("−1.000", "row 0, column 0")
    every.key("ArrowRight")
    assert (said(every, "overlay"), said(every, "overlay", "span")) == ("−0.857", "row 0, column 1")
    every.key("ArrowDown")
    every.key("End")
    assert (said(every, "overlay"), said(every, "overlay", "span")) == ("not measured", "row 1, column 2")
    every.key("ArrowDown")  # there is nothing below
    assert said(every, "overlay", "span") == "row 1, column 2"
    every.key("Escape")
    assert said(every, "overlay", "span").startswith("strongest: row 0, column 0")
    every.run("document.querySelector('#v-lens .heatmap').focus({focusVisible: true})")
    every.key("PageUp")
    assert texts(every, "#v-lens .film .now") == ["2"]
    assert said(every, "lens") == "0.120"


def test_a_mouse_and_a_finger_show_numbers(tab: Page, folder: Path) -> None:
    tab.show(folder / "every.html", *WIDE)
    tab.hover("#v-overlay .heatmap", 0.5, 0.25)
    assert (said(tab, "overlay"), said(tab, "overlay", "span")) == ("−0.857", "row 0, column 1")
    tab.hover("#v-tokens .heatmap", 0.5, 0.5)
    assert said(tab, "tokens", "span") == "layer 1, token dog"
    tab.show(folder / "every.html", *PHONE, touch=True)
    tab.tap("#v-patching .mode:not([hidden]) .heatmap", 0.9, 0.9)
    tab.wait("document.querySelector('#v-patching .mode:not([hidden]) .readout').textContent.includes('row 1')")
    assert said(tab, "patching") == "0.900 [0.800, 1.000]"


def test_patches_unfold_to_a_matrix(every: Page) -> None:
    every.click("#v-patching .inline .option:nth-child(2)")
    every.run("document.querySelector('#v-patching .matrix .heatmap').focus({focusVisible: true})")
    every.key("ArrowRight")
    assert said(every, "patching", "span") == "layer 0, patch row 0, column 1"
    assert said(every, "patching") == "−0.135 [−0.235, −0.035]"


def test_tables_sort_and_filter(every: Page) -> None:
    first = "#v-heads tbody tr:first-child td"
    assert texts(every, first)[:3] == ["5", "3", "13.0%"]
    every.click("#v-heads th:nth-child(3) button")
    assert texts(every, first)[:3] == ["0", "0", "−10.0%"]
    assert every.run("document.querySelector('#v-heads th:nth-child(3)').getAttribute('aria-sort')") == "ascending"
    assert len(texts(every, "#v-heads tbody tr:not(.between)")) == 10
    assert texts(every, "#v-heads .between") == ["… 14 between …"]
    assert texts(every, "#v-heads tbody tr:last-child td")[:3] == ["5", "3", "13.0%"]  # both ends are shown
    every.click("#v-heads .more")
    assert len(texts(every, "#v-heads tbody tr")) == 24
    every.run("document.querySelector('#v-heads input[type=search]').focus()")
    every.call("Input.insertText", text="dogs layer>=3")
    assert texts(every, "#v-heads .count") == ["3 of 24 rows"]
    assert [row[:2] for row in texts(every, "#v-heads tbody tr")] == ["31", "41", "51"]
    every.call("Input.insertText", text=" !dogs")
    assert texts(every, "#v-heads tbody") == ["No row passes this filter."]
    every.click("#v-table th:nth-child(3) button")
    every.click("#v-table th:nth-child(3) button")  # small to large; what was not measured stays last
    assert texts(every, "#v-table td:nth-child(3)") == ["0.000", "0.123", "–", "–"]


def test_keys_walk_over_a_table(every: Page) -> None:
    every.run("document.querySelector('#v-heads td').focus()")
    every.key("ArrowDown")
    every.key("ArrowRight", 2)
    assert every.run("document.activeElement.textContent") == "12.0%"
    assert said(every, "heads").startswith("12.0% [−50.0%, 50.0%]")  # the map follows
    assert said(every, "heads", "span").startswith("layer 5, head 2\ncats (25.0%); </script>")
    assert every.run("document.querySelectorAll('#v-heads td[tabindex=\"0\"]').length") == 1


def test_a_cell_of_words_opens_its_list_and_keys_walk(every: Page) -> None:
    """Tokens that are no patch stand in the grid; patches say their words under the cursor."""
    box = "#v-grid"
    assert every.run(f"document.querySelectorAll('{box} .words tbody tr').length") == 3
    every.click(f"{box} .words tbody tr:nth-child(1) td:nth-child(2)")
    assert every.run(f"document.querySelector('{box} .wordlist p').textContent") == "what layer input"
    said = f"[...document.querySelectorAll('{box} .wordlist th')].map(one => one.textContent)"
    assert len(every.run(said)) == 2 and every.run(f"{said}[0]") == '"  "'
    every.key("ArrowDown")
    every.key("ArrowRight")
    assert every.run("window.hacked") is None
    assert every.run(f"document.querySelector('{box} .wordlist p').textContent").endswith("layer 0")
    assert every.run("document.activeElement.getAttribute('aria-selected')") == "true"
    every.hover(f"{box} .heatmap", 0.25, 0.5)
    assert "\ndog 0.900" in every.run(f"document.querySelector('{box} .readout span').textContent")


def test_bars_add_up(every: Page) -> None:
    facts = dict(zip(texts(every, "#v-bars .facts dt"), texts(every, "#v-bars .facts dd"), strict=True))
    assert facts == {
        "sum of the parts": "−1.250",
        "total": "1.000",
        "not explained": "2.250",
        "parts not measured": "1",
    }
    assert texts(every, "#v-bars .stage > table .number") == ["−1.000", "−0.250", "0.000"]
    assert texts(every, "#v-bars .stage > div table .number")[0].startswith("−1.9")
    every.click("#v-bars .inline:nth-of-type(2) .option:nth-child(2)")
    assert texts(every, "#v-bars .stage > div table .number")[0].startswith("0.000 ")


def test_a_mouse_reads_a_chart_and_leaves_it_as_it_was(every: Page) -> None:
    every.hover("#v-lens .chart", 0.1, 0.5)
    assert texts(every, "#v-lens .lines .number") == ["0.000", "0.080", "0.160"]
    assert texts(every, "#v-lens .film .now") == ["3"]
    every.hover("#v-lens h2")
    assert texts(every, "#v-lens .lines .number") == ["0.060", "0.140", "0.220"]
    every.click("#v-lens .chart", 0.1, 0.5)
    assert texts(every, "#v-lens .film .now") == ["0"]


def test_lines_can_be_switched_and_walked(every: Page) -> None:
    assert texts(every, "#v-curve .number") == ["0.900 [0.850, 0.950]", "0.500"]
    every.run("document.querySelector('#v-curve .chart').focus()")
    every.key("ArrowLeft")
    assert texts(every, "#v-curve .number") == ["not measured", "0.500"]
    paths = every.run("document.querySelectorAll('#v-curve .chart path').length")
    every.click("#v-curve .lines button")
    assert every.run("document.querySelectorAll('#v-curve .chart path').length") < paths
    assert every.run("document.querySelector('#v-curve .lines button').getAttribute('aria-pressed')") == "false"


def kinds(page: Page) -> list[str]:
    """How the links that are drawn in the network stand, in their order."""
    script = "[...document.querySelectorAll('#v-network .link[visibility=visible]')].map((e) => e.classList[1])"
    found = page.run(script)
    assert isinstance(found, list)
    return found


def test_a_slider_keeps_links_and_its_curve_follows(every: Page) -> None:
    """Of six links two are kept at first; of what is true, the others are missed."""
    count = "#v-network .side .count"
    assert kinds(every) == ["right", "right", "missed", "missed"]
    assert texts(every, count)[0] == "2 of 10 edges kept: 25.0% [12.5%, 37.5%] of the gap"
    every.run("document.querySelector('#v-network input[type=range]').focus()")
    every.key("ArrowRight")
    assert kinds(every) == ["right", "right", "false", "right", "missed"]
    assert texts(every, "#v-network .lines .number")[-2:] == ["90.0% [77.5%, 102.5%]", "22.5%"]
    every.click("#v-network .chart", 0.999, 0.5)
    assert every.run("document.querySelector('#v-network input[type=range]').value") == "3"
    assert texts(every, count)[0].startswith("10 of 10 edges kept, the best 6 drawn: 100.0%")
    every.click("#v-network .check input")  # colours of the sign
    assert kinds(every) == ["above", "above", "below", "above", "below", "above"]
    assert texts(every, "#v-network .signs span") == ["speaks for the answer", "speaks against it"]


def test_keys_and_mouse_tell_of_parts_and_links(every: Page) -> None:
    every.run("document.querySelector('#v-network .network').focus()")
    every.key("ArrowDown")
    assert said(every, "network") == "text, end"  # the highest that is used, by a true link that is missed
    every.key("ArrowDown", 2)
    assert said(every, "network") == f"connector, {examples.EVIL}"
    every.key("ArrowDown", 2)
    assert said(every, "network") == "vision, layer 0, head 0"
    assert said(every, "network", "span").startswith("reads along 1 of these edges, writes along 1")
    every.key("Enter")
    listed = texts(every, "#v-network .ofpart button")
    assert listed == ["fromvision, embedding (values)2.000", f"toconnector, {examples.EVIL}1.500"]
    every.run("document.querySelector('#v-network .ofpart button').focus()")
    assert (said(every, "network"), said(every, "network", "span")) == (
        "2.000", "vision, embedding → vision, layer 0, head 0 (values)\nrank 1 of 10",
    )  # fmt: skip
    assert every.run("document.querySelectorAll('#v-network .link.chosen').length") == 1
    every.run("document.querySelector('#v-network .network').focus()")
    every.key("Escape")
    assert texts(every, "#v-network .ofpart button") == []
    every.hover("#v-network [data-node='3'] rect")
    assert said(every, "network") == "vision, layer 0, MLP"
    every.click("#v-network tbody tr:nth-child(2) td")  # a row of the table stands out in the graph
    assert said(every, "network") == "1.500"


def test_a_chosen_head_leads_to_its_own_view(tab: Page, folder: Path) -> None:
    tab.show(folder / "led.html", *WIDE)
    tab.click("#v-network [data-node='1'] rect")
    assert texts(tab, "#v-network .ofpart a") == ["This head in “Seeing heads”"]
    tab.click("#v-network .ofpart a")
    assert texts(tab, "#v-seeing-heads h3")[0].startswith("Layer 0, head 0")
    assert tab.run("location.hash") == "#v-seeing-heads"
    tab.click("#v-network [data-node='6'] rect")  # of another tower
    assert texts(tab, "#v-network .ofpart a") == []


def test_a_chosen_unit_is_told_of_and_has_an_address(tab: Page, folder: Path) -> None:
    tab.show(folder / "every.html", *WIDE)
    heading = "#v-units .unit h3"
    assert texts(tab, heading) == [
        f"4 {examples.EVIL}"
    ]  # the one with the largest number of the column it is sorted by
    assert tab.run("document.querySelectorAll('#v-units .exemplar').length") == 2
    assert texts(tab, "#v-units .contexts .context") == [f"a {examples.EVIL} dog"]
    assert tab.run("window.hacked") is None
    tab.click("#v-units .near button")
    assert texts(tab, heading) == ["9"] and tab.run("location.hash") == "#v-units/9"
    assert texts(tab, "#v-units .lines .name") == ["unit 9", "random units"]
    tab.click("#v-units tbody tr:nth-child(3) td")
    assert texts(tab, heading) == ["2"] and not tab.run("document.querySelector('#v-units .lines')")
    tab.run("location.hash = '#v-units/4'")
    tab.wait("document.querySelector('#v-units .unit h3').textContent.startsWith('4')")


def test_a_word_lights_what_wrote_it_by_keyboard_by_touch_and_by_address(tab: Page, folder: Path) -> None:
    tab.show(folder / "every.html", *WIDE)
    heading = "#v-lit .chosen h3"
    assert texts(tab, heading) == ["dog"] and texts(tab, "#v-lit .chosen .onetext") == [examples.EVIL]
    assert not texts(tab, "#v-lit .wrote table")
    tab.run("document.querySelector('#v-lit .caption input:checked').focus()")
    tab.key("ArrowLeft")
    assert texts(tab, heading) == [examples.EVIL] and tab.run("location.hash") == "#v-lit/0"
    assert len(texts(tab, "#v-lit .wrote table")) == 2 and tab.run("window.hacked") is None
    tab.run("location.hash = '#v-lit/1'")
    tab.wait("document.querySelector('#v-lit .chosen h3').textContent === 'dog'")
    tab.show(folder / "every.html", 390, 800, touch=True)
    tab.tap("#v-lit .caption .option")
    assert texts(tab, heading) == [examples.EVIL]
    assert tab.run("document.documentElement.scrollWidth <= 390")


def test_the_csv_has_every_number(every: Page, tmp_path: Path) -> None:
    for view in examples.every():
        theirs = csv.reader(io.StringIO(every.run(f"cutaway.csv('v-{view.title.lower()}')")))
        for found, wanted in zip(theirs, rows(view), strict=True):
            for cell, want in zip(found, wanted, strict=True):
                numeric = isinstance(want, int | float)
                assert (float(cell) == pytest.approx(want, rel=1e-6)) if numeric else cell == want, view.title
    every.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    every.click("#v-table [data-do=csv]")
    every.wait("document.querySelector('#v-table .said').textContent === 'saved'")
    saved = tmp_path / "table.csv"
    for _ in range(500):  # ten seconds at most, in the browser's own time
        if saved.exists() and saved.stat().st_size:
            break
        every.run("new Promise((done) => setTimeout(() => done(true), 20))")
    assert saved.read_text(encoding="utf-8-sig").splitlines()[0] == "word,rank,value,right"


def test_python_can_be_copied(every: Page) -> None:
    every.run("navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }")
    every.click("#v-lens [data-do=copy]")
    every.wait("document.querySelector('#v-lens .said').textContent === 'copied'")
    assert every.run("window.copied") == examples.CODE


def test_everything_has_a_name_and_a_focus(every: Page) -> None:
    nameless = """[...document.querySelectorAll('button, input, [tabindex="0"]')].filter((e) => !e.closest('[hidden]'))
      .filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length))
      .map((e) => e.outerHTML.slice(0, 80))"""
    assert every.run(nameless) == []
    every.run("document.body.tabIndex = -1; document.body.focus()")
    seen = []
    for _ in range(12):
        every.key("Tab")
        seen.append(every.run("getComputedStyle(document.activeElement).outlineStyle"))
    assert all(style != "none" for style in seen)
    levels = every.run("[...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))


def test_it_prints(every: Page) -> None:
    every.call("Emulation.setEmulatedMedia", media="print")
    assert every.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert every.run("getComputedStyle(document.querySelector('.tools')).display") == "none"
    assert every.run("getComputedStyle(document.querySelector('#v-lens .heatmap')).display") != "none"
    every.call("Emulation.setEmulatedMedia", media="")
