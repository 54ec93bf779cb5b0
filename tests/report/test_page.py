"""The page as text: nothing leaves its place, nothing is fetched, nothing is overwritten."""

import base64
import hashlib
import html.parser
import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from cutaway.errors import InputError
from cutaway.report.page import SCRIPTS, page, write
from cutaway.views import kinds as views
from report import examples

ASSETS = Path(__import__("cutaway.report.page", fromlist=["page"]).__file__).parent / "assets"


class Reader(html.parser.HTMLParser):
    """What a browser would find: tags, and the insides of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and self.cdata_elem:
            tag, attrs, text = self.raw[-1]
            self.raw[-1] = (tag, attrs, text + data)


@pytest.fixture(scope="module")
def text() -> str:
    return page(f"Title {examples.EVIL}", examples.every(), summary=examples.EVIL, provenance={"evil": examples.EVIL})


def test_texts_stay_texts(text: str) -> None:
    reader = Reader(text)
    names = {tag for tag, _ in reader.tags}
    assert "img" not in names  # pictures are made by the page's own script
    assert not any(name.startswith("on") for _, attrs in reader.tags for name in attrs)
    kinds = [attrs.get("type") for tag, attrs, _ in reader.raw if tag == "script"]
    views_, mounts = len(examples.every()), kinds.count(None) - 1
    assert kinds.count("application/json") == views_ + 1  # and the pictures
    assert mounts == views_ + 1  # and the contents
    assert "window.hacked" not in "".join(
        inside for tag, attrs, inside in reader.raw if tag == "script" and not attrs.get("type")
    )


def test_an_opening_stays_text() -> None:
    made = page("t", [examples.words()], opening=examples.opening())
    reader = Reader(made)
    assert "img" not in {tag for tag, _ in reader.tags} and "<script>window" not in made
    assert made.index('class="verdict"') < made.index('class="lead"') < made.index("<section")
    assert 'href="#v-a-word-by-word" data-word="1">red<' in made


def test_the_data_comes_back(text: str) -> None:
    blocks = [json.loads(inside) for _, attrs, inside in Reader(text).raw if attrs.get("type") == "application/json"]
    pictures, *found = blocks
    assert len(pictures) == 2  # each picture once, however many views show it
    assert [block["$type"] for block in found] == [type(view).__name__ for view in examples.every()]
    assert found[0]["texts"] == list(examples.TEXTS)
    assert not re.search(r"[<>&\u2028\u2029]", next(i for _, a, i in Reader(text).raw if a.get("id") == "pictures"))


def test_nothing_points_outside(text: str) -> None:
    assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text.replace("http://www.w3.org/2000/svg", ""), re.I)
    assert not re.findall(r"@import|url\(|<link|<iframe|<base|fetch\(|XMLHttpRequest|sendBeacon|WebSocket\(", text)
    for tag, attrs in Reader(text).tags:
        assert "src" not in attrs, tag
        assert (attrs.get("href") or "#").startswith("#")


def test_the_policy_allows_these_scripts_only(text: str) -> None:
    reader = Reader(text)
    policy = next(a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "http" not in policy
    for tag, attrs, inside in reader.raw:
        if attrs.get("type") != "application/json":
            known = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"'sha256-{known}'" in policy, (tag, inside[:60])


def test_anchors_are_unique() -> None:
    one = examples.table()
    same = [one, one, views.Table(**examples.said("表"), columns=("a",), cells=())]
    found = re.findall(r'<section class="view table" id="([^"]+)"', page("t", same))
    assert found == ["v-table", "v-table-2", "v-view"]


def test_an_empty_report_says_so() -> None:
    assert "This report has no views." in page("Nothing", [])


def test_write_keeps_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.html", "One", examples.every())
    first = path.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="already there") as caught:
        write(path, "Two", [])
    assert "overwrite=True" in caught.value.do
    assert path.read_text(encoding="utf-8") == first
    assert "<title>Two</title>" in write(str(path), "Two", [], overwrite=True).read_text(encoding="utf-8")
    with pytest.raises(InputError, match="no folder"):
        write(tmp_path / "none" / "a.html", "Three", [])
    with pytest.raises(InputError, match="already there"):
        write(tmp_path, "Four", [], overwrite=True)


def large(layers: int, side: int, texts: int, heads: int) -> list[views.View]:
    rng = np.random.default_rng(0)
    names = tuple(f"text {n}" for n in range(texts))
    values = rng.normal(size=(texts, layers, side, side))
    rows = tuple(views.Head(layer, n, 0.123456789, 0.1) for layer in range(layers) for n in range(heads))
    square = rng.normal(size=(layers, side * side))
    pair = {"pictures": (examples.picture(224, 224),) * 2, "sides": ("Clean", "Counterfactual"), "captions": ("a", "b")}
    return [
        views.Lens(
            **examples.said("Lens"),
            picture=examples.picture(224, 224),
            texts=names,
            layers=tuple(map(str, range(layers))),
            values=values,
            unit="u",
        ),
        views.HeadTable(**examples.said("Heads"), heads=rows),
        views.Matrix(
            **examples.said("Patching"),
            **pair,
            unit="recovery",
            row_axis=views.Axis.count("layer", layers),
            column_axis=views.Axis.patches(side, side),
            values=square,
            low=square - 1,
            high=square + 1,
            grid=(side, side),
        ),
    ]


def test_reports_are_small() -> None:
    assert len(page("typical", large(6, 8, 8, 12)).encode()) < 400_000
    assert len(page("big", large(24, 24, 8, 16)).encode()) < 2_000_000


def test_assets_are_short() -> None:
    assert {path.name for path in ASSETS.glob("*.js")} == set(SCRIPTS)
    for path in ASSETS.iterdir():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path.name


def lightness(hexes: list[str]) -> np.ndarray:
    """CIE L* of colours."""
    rgb = np.array([[int(code[at : at + 2], 16) for at in (1, 3, 5)] for code in hexes]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)


def test_colours_climb_evenly() -> None:
    source = (ASSETS / "colour.js").read_text(encoding="utf-8")
    rising, signed = (
        re.findall(r"#[0-9a-f]{6}", re.search(rf"const {name} = (\[.*?\])", source, re.S)[1])
        for name in ("RISING", "SIGNED")
    )
    steps = np.diff(lightness(rising))
    assert steps.min() > 0.7 * steps.mean() and steps.max() < 1.3 * steps.mean()
    both = lightness(signed)
    assert np.all(np.diff(both[:5]) > 5) and np.all(np.diff(both[4:]) < -5)
    assert np.abs(both - both[::-1]).max() < 4  # as strong below zero as above


def test_the_kind_of_a_view_lays_out_nothing_of_its_section():
    """A section has its kind as a class: a rule of that name for something inside would make it a grid."""
    css = (files("cutaway.report") / "assets" / "page.css").read_text(encoding="utf-8")
    kinds = {type(view).__name__.lower() for view in examples.every()}
    rules = re.findall(r"^\.([\w-]+) \{ display: (?:grid|flex)", css, re.M)
    assert len(rules) > 5 and not kinds & set(rules)
