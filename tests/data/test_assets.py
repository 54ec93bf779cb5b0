"""What is shipped: complete, small, attributed, unchanged since it was built, and read without a network."""

import hashlib
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cutaway import data

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "src" / "cutaway" / "data" / "assets"
SOURCES = json.loads((ASSETS / "sources.json").read_text())


def test_the_package_stays_small() -> None:
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size < 6_000_000


@pytest.mark.parametrize("name", SOURCES["files"])
def test_files_are_as_built(name: str) -> None:
    built = hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()
    assert built == SOURCES["files"][name], f"{name} was changed by hand: rebuild it with scripts/build_sprites.py"


def test_every_source_is_pinned_and_attributed() -> None:
    text = (ASSETS / "ATTRIBUTION.md").read_text()
    script = (ROOT / "scripts" / "build_sprites.py").read_text()
    for source in SOURCES["packages"].values():
        assert re.fullmatch(r"[0-9a-f]{64}", source["sha256"])
        assert source["version"] in script and source["sha256"] in script
    for licence in ("Apache License 2.0", "MIT", "CC BY 4.0"):
        assert licence in text
    assert all(f"{artist}.safetensors" in text for artist in data.ARTISTS)
    pin = f'"resvg-py=={SOURCES["tools"]["resvg-py"]}"'
    assert pin in (ROOT / "pyproject.toml").read_text()


def test_concepts() -> None:
    every = data.concepts()
    assert 800 <= len(every) <= 860
    assert len(data.concepts("emojione")) > 600
    names = {concept.name for concept in every}
    assert len(names) == len(every)
    for concept in every:
        assert re.fullmatch(r"[a-z]+([ -][a-z]+)*", concept.name)
        assert len(concept.name.split()) <= 6
        assert set(data.SEEN_ARTISTS) <= set(concept.artists)
        assert concept.colours
        assert set(concept.colours) <= set(data.COLOURS)
        assert concept.name not in concept.kin
        assert concept.kin <= names
        assert all(concept.name in data.concept(other).kin for other in concept.kin)
    assert not {"people-body", "flags", "symbols"} & {concept.group for concept in every}


def test_phrases_are_unambiguous() -> None:
    for phrase in ("one", "many"):
        words = [getattr(concept, phrase) for concept in data.concepts()]
        assert len(set(words)) == len(words), sorted({word for word in words if words.count(word) > 1})


@pytest.mark.parametrize("artist", data.ARTISTS)
def test_every_sprite_fills_its_square(artist: str) -> None:
    for concept in data.concepts(artist)[::5]:
        opacity = np.asarray(data.sprite(concept.name, artist))[..., 3]
        assert opacity.shape == (96, 96)
        rows, columns = np.flatnonzero((opacity > 8).any(1)), np.flatnonzero((opacity > 8).any(0))
        assert max(np.ptp(rows), np.ptp(columns)) >= 91, concept.name
        assert (opacity > 127).mean() > 0.02, concept.name


def test_colour_words_of_things_whose_colour_everyone_knows() -> None:
    known = {"tomato": "red", "frog": "green", "elephant": "gray", "blue book": "blue", "flamingo": "pink",
             "basketball": "orange", "eggplant": "purple", "brown mushroom": "brown"}  # fmt: skip
    for name, colour in known.items():
        assert colour in data.concept(name).colours, name
    assert data.concept("tomato").colour("noto") == "red"


def test_nothing_reaches_for_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("EmojiWorld opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    data.contact_sheet(3, size=48)


def test_importing_data_loads_no_torch() -> None:
    code = (
        "import sys; from cutaway import data; data.pixels(data.scene_at('train', 0));"
        "print([name for name in ('torch', 'transformers', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_example_on_the_page_runs() -> None:
    page = (ROOT / "docs" / "emojiworld.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.S)
    assert code
    scope: dict[str, object] = {}
    exec(compile(code[1], "emojiworld.md", "exec"), scope)  # noqa: S102, the page is ours
    assert isinstance(scope["scene"], data.Scene)
