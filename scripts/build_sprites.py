"""Rebuild the sprites and concepts that cutaway ships: `pip install -e ".[sprites]"`, then run this file.

It downloads the packages of SOURCES with `npm pack` into a temporary folder, checks their hashes, draws every emoji
that Noto, Fluent and Twemoji share (Emojione too, where it has it), and writes `src/cutaway/data/assets/`. Drawing
takes a few minutes on two cores. `--check` writes to a temporary folder and compares the hashes instead.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import logging
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
import sprite_words as words
from PIL import Image
from safetensors.numpy import save_file
from sprite_colours import colours

log = logging.getLogger("build_sprites")
ASSETS = Path(__file__).resolve().parents[1] / "src" / "cutaway" / "data" / "assets"

SIDE = 96  # pixels of a tile: its longest side is filled by the drawing
DRAWN = 4 * SIDE  # pixels at which the vector picture is drawn before it is cut to its edges
PALETTE = 56  # colours (with opacity) in a tile
COMMON_TAG = 8  # a keyword of more concepts than this says nothing about what two of them share
SOLID = 8  # opacity of 255 below which a pixel is outside the drawing

# artist or table: (npm package, version, SHA-256 of the packed file)
SOURCES = {
    "noto": ("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "fluent": (
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "emojione": ("@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "emojibase": ("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
}
ARTISTS = ("noto", "fluent", "twemoji", "emojione")
EVERYONE = ARTISTS[:3]  # who must draw a concept for it to be taken

Json = dict[str, Any]


def main() -> int:
    """Build, or with `--check` build elsewhere and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the shipped files instead of writing them")
    check = parser.parse_args().check
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as folder:
        packages = {key: fetch(*source, Path(folder)) for key, source in SOURCES.items()}
        target = Path(folder) / "assets" if check else ASSETS
        target.mkdir(parents=True, exist_ok=True)
        build(packages, target)
        if not check:
            return 0
        shipped, built = (json.loads((place / "sources.json").read_text())["files"] for place in (ASSETS, target))
        different = [name for name in built if built[name] != shipped.get(name)]
        log.info("differs: %s", ", ".join(different)) if different else log.info("identical to the shipped files")
        return bool(different)


def fetch(package: str, wanted: str, sha256: str, folder: Path) -> Path:
    """Download one npm package, check its hash, unpack it; the folder of its files."""
    done = subprocess.run(
        ["npm", "pack", "--silent", f"{package}@{wanted}"], cwd=folder, capture_output=True, text=True, check=True
    )
    packed = folder / done.stdout.split()[-1]
    found = hashlib.sha256(packed.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(
            f"{package}@{wanted} has SHA-256 {found}, expected {sha256}: do not use it before you know why"
        )
    where = folder / packed.stem
    with tarfile.open(packed) as archive:
        archive.extractall(where, filter="data")
    return where / "package"


def build(packages: dict[str, Path], target: Path) -> None:
    """Write the tiles of every artist, the concepts and the hashes into `target`."""
    icons = {artist: json.loads((packages[artist] / "icons.json").read_text()) for artist in ARTISTS}
    chosen = choose(packages, icons)
    log.info("%d concepts", len(chosen))
    with ProcessPoolExecutor(max_workers=2) as pool:
        for artist in ARTISTS:
            drawings = [svg(icons[artist], entry["icon"][artist]) for entry in chosen if artist in entry["icon"]]
            tiles = iter(list(pool.map(tile, drawings, chunksize=16)))
            blobs = []
            for entry in chosen:
                blob, shades = next(tiles) if artist in entry["icon"] else (b"", [])
                blobs.append(blob)
                if blob:
                    entry["colours"][artist] = shades
            start = np.cumsum([0, *map(len, blobs)]).astype(np.int64)
            package, release, _ = SOURCES[artist]
            arrays = {"start": start, "webp": np.frombuffer(b"".join(blobs), np.uint8)}
            path = target / f"{artist}.safetensors"
            save_file(arrays, path, {"source": f"{package}@{release}"})
            path.chmod(0o644)
            log.info("%s: %d tiles, %.2f MB", artist, sum(map(bool, blobs)), start[-1] / 1e6)
    kin(chosen)
    for entry in chosen:
        del entry["icon"]
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in chosen)
    (target / "concepts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    sources(target)


def sources(target: Path) -> None:
    """Record what the files were made from and their hashes."""
    files = [*(f"{artist}.safetensors" for artist in ARTISTS), "concepts.json"]
    record = {
        "packages": {key: {"name": n, "version": v, "sha256": h} for key, (n, v, h) in SOURCES.items()},
        "tools": {tool: version(tool) for tool in ("resvg-py", "pillow", "numpy")},
        "side": SIDE,
        "files": {name: hashlib.sha256((target / name).read_bytes()).hexdigest() for name in files},
    }
    (target / "sources.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def choose(packages: dict[str, Path], icons: dict[str, Json]) -> list[Json]:
    """The concepts, in the order of the Unicode chart, with the icon of each artist who draws it."""
    table = packages["emojibase"]
    groups = json.loads((table / "meta" / "groups.json").read_text())
    codes = [json.loads(path.read_text()) for path in sorted((table / "en" / "shortcodes").glob("*.json"))]
    charts = {artist: _chart(packages[artist]) for artist in EVERYONE}
    chosen = []
    for emoji in json.loads((table / "en" / "data.json").read_text()):
        label, code = emoji["label"], _code(emoji["hexcode"])
        group = groups["groups"].get(str(emoji.get("group")))
        wanted = (group in words.GROUPS or label in words.EXTRA) and not any(w in label for w in words.SKIP_WORDS)
        if not wanted or any(code not in charts[artist] for artist in EVERYONE):
            continue
        name = words.RENAMED.get(label, label).lower().replace("’", "")
        icon = {artist: charts[artist][code] for artist in EVERYONE}
        other = _old_icon(emoji, [*icon.values()], codes, icons["emojione"])
        if other and ("emojione", name) not in words.NOT_THE_SAME:
            icon["emojione"] = other
        chosen.append(
            {
                "name": name,
                "one": words.one(name),
                "many": words.many(name),
                "plural": name in words.PLURAL,
                "hexcode": emoji["hexcode"],
                "group": group,
                "subgroup": groups["subgroups"][str(emoji["subgroup"])],
                "keywords": sorted({tag.lower() for tag in emoji.get("tags", [])} - {name}),
                "colours": {},
                "icon": icon,
            }
        )
    names = [entry["name"] for entry in chosen]
    twice = {name for name in names if names.count(name) > 1}
    odd = [name for name in names if not re.fullmatch(r"[a-z]+([ -][a-z]+)*", name)]
    if twice or odd:
        raise SystemExit(
            f"names used twice: {sorted(twice)}; names that are not plain words: {odd}: see sprite_words.py"
        )
    return chosen


def _code(hexcode: str) -> str:
    """A code point sequence as iconify writes it: lower case, no leading zeros, no variation selector."""
    return "-".join(part.lower().lstrip("0") for part in hexcode.split("-") if part.upper() != "FE0F")


def _chart(package: Path) -> dict[str, str]:
    return {_code(code): icon for code, icon in json.loads((package / "chars.json").read_text()).items()}


def _old_icon(emoji: Json, icons: list[str], codes: list[Json], old: Json) -> str | None:
    """The icon of Emojione, which lists no code points: found by label, then newer icon names, then shortcodes."""
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"[’']", "", emoji["label"].lower())).strip("-")
    tried = [slug, words.OLD_NAMES.get(emoji["label"], slug), *icons]
    for table in codes:
        found = table.get(emoji["hexcode"], [])
        tried += [name.replace("_", "-") for name in ([found] if isinstance(found, str) else found)]
    return next((name for name in tried if name in old["icons"] or name in old.get("aliases", {})), None)


def svg(icons: Json, name: str) -> str:
    """One icon as an SVG document; an alias gives its parent's, mirrored where it says so."""
    alias = icons.get("aliases", {}).get(name, {})
    icon = icons["icons"][alias.get("parent", name)]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    body = icon["body"]
    if alias.get("hFlip"):
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def tile(drawing: str) -> tuple[bytes, list[list[Any]]]:
    """Draw one icon, cut it to its edges, centre it in a square, reduce it to a palette: WebP bytes and its colours."""
    options: Any = {"svg_string": drawing, "width": DRAWN, "height": DRAWN, "skip_system_fonts": True}
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(**options)))).convert("RGBA")
    box = picture.getchannel("A").point(lambda value: 255 * (value >= SOLID)).getbbox()
    if box is None:
        raise SystemExit(f"an icon draws nothing: {drawing[:200]}")
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height)
    square = Image.new("RGBA", (side, side))
    square.paste(picture.crop(box), ((side - width) // 2, (side - height) // 2))
    small = square.convert("RGBa").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    few = reduce_palette(np.asarray(small))
    final = Image.frombytes("RGBa", (SIDE, SIDE), few.tobytes()).convert("RGBA")
    file = io.BytesIO()
    final.save(file, "WEBP", lossless=True, quality=100, method=6)
    return file.getvalue(), colours(np.asarray(final))


def reduce_palette(pixels: np.ndarray, rounds: int = 10) -> np.ndarray:
    """k-means over premultiplied colours, started at common ones far apart; almost clear becomes clear."""
    pixels = pixels.copy()
    pixels[pixels[..., 3] < SOLID] = 0
    flat, where, count = np.unique(pixels.reshape(-1, 4), axis=0, return_inverse=True, return_counts=True)
    points, where = flat.astype(np.float64), where.reshape(-1)
    if len(points) > PALETTE:
        centres = points[[count.argmax()]]
        gap = ((points - centres[0]) ** 2).sum(1)
        for _ in range(PALETTE - 1):
            centres = np.vstack([centres, points[(gap * np.sqrt(count)).argmax()]])
            gap = np.minimum(gap, ((points - centres[-1]) ** 2).sum(1))
        for _ in range(rounds):
            nearest = _nearest(points, centres)
            mass = np.bincount(nearest, count, PALETTE)
            sums = np.stack([np.bincount(nearest, count * points[:, k], PALETTE) for k in range(4)], axis=1)
            centres = np.where(mass[:, None] > 0, sums / np.maximum(mass, 1)[:, None], centres)
        points = np.rint(centres)[_nearest(points, centres)]
    few = points[where].astype(np.uint8).reshape(pixels.shape)
    few[few[..., 3] < SOLID] = 0
    few[..., 3][few[..., 3] > 255 - SOLID] = 255
    few[..., :3] = np.minimum(few[..., :3], few[..., 3:])
    return few


def _nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return ((centres**2).sum(1) - 2 * points @ centres.T).argmin(1)


def kin(chosen: list[Json]) -> None:
    """Mark concepts that one word may name alike, so that neither is used to make a caption of the other false."""
    used = Counter(tag for entry in chosen for tag in entry["keywords"])
    telling = {e["name"]: {tag for tag in e["keywords"] if used[tag] <= COMMON_TAG} for e in chosen}
    meaning = {e["name"]: set(re.split(r"[ -]", e["name"])) - words.EMPTY_WORDS for e in chosen}
    kinds, tags = ({e["name"]: e[key] for e in chosen} for key in ("subgroup", "keywords"))

    def alike(one: str, other: str) -> bool:
        if meaning[one] & meaning[other]:
            return True
        if kinds[one] != kinds[other]:
            return False
        return other in tags[one] or one in tags[other] or len(telling[one] & telling[other]) >= 2

    for entry in chosen:
        name = entry["name"]
        entry["kin"] = [other for other in telling if other != name and alike(name, other)]


if __name__ == "__main__":
    sys.exit(main())
