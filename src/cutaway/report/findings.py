"""A page of findings about a model of the zoo: measured, kept section by section, and written with its figures."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import xarray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cutaway.errors import InputError
from cutaway.methods.result import Provenance, Result
from cutaway.model.fingerprint import fingerprint
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.questions.given import check_folder
from cutaway.report import (
    findings_answers,
    findings_attributed,
    findings_circuits,
    findings_drawings,
    findings_drawn,
    findings_featured,
    findings_features,
    findings_heads,
    findings_layers,
    findings_lens,
    findings_looks,
    findings_made,
    findings_networks,
    findings_pixels,
    findings_scenes,
    findings_spots,
    findings_strips,
    findings_traced,
    findings_word,
    findings_writes,
)
from cutaway.report.findings_page import About, page
from cutaway.report.findings_plots import draw_all
from cutaway.report.findings_stores import OF_MATCH, Reads, Stores
from cutaway.source import Source
from cutaway.zoo.dictionaries import SHIPPED
from cutaway.zoo.spec import Spec
from cutaway.zoo.trained import TRAINED, spec_of

WRITER = "zoo:emoji-llava"  # whose maps stand beside those of a model that matches
SMALLEST = 48  # scenes: fewer leave a class without items
SETS = 2  # of scenes: what is said must hold in both, and heads picked on one are tried on the other
SAYING = {  # these measure nothing
    f"findings_{name}"
    for name in (
        "answers", "attributed", "claims", "drawings", "featured", "inside", "networks", "page", "plots", "strips",
        "tables", "worded", "words",
    )
}  # fmt: skip
Found = dict[str, xarray.Dataset]
Steps = dict[str, tuple[Model, Callable[..., xarray.Dataset]]]


def write_findings(
    model: Source | str, out: str | Path, n: int = 640, seed: int = 0, *, about: str = "",
    work: str | Path | None = None, store: str | Path | None = None, console: Console | None = None,
) -> Path:  # fmt: skip
    """Measure a model of the zoo and its untrained floor, and write a Markdown page with figures beside it.

    What it is about follows from what the model is asked: which text a picture matches, an answer in words, a drawing;
    `about` names another page: `circuits`, for a model that answers, of one question in two forms and of planted
    worlds; `features`, the dictionaries that come with the package, of other families too; `attribution`, which data,
    which pixels and which picture, held against truth, of all families.
    Everything is measured on two sets of scenes, of `seed` and `seed` + 1. `n` is the number of scenes of each; pairs
    are n / 4 to n / 16 for each factor. `work` keeps each section as netCDF, so that an interrupted call goes on where
    it was (by default the user's cache folder); the page is written anew each time. `store` is a folder of activation
    stores, one for each section and set of scenes that reads activations of many scenes: those that lie there are read,
    missing ones are harvested, and the numbers are the same. StoreError, before anything is run, where one of them is
    of another model or other scenes, or lacks a site.
    """
    out = Path(out)
    if n < SMALLEST:
        raise InputError(
            f"{n} scenes leave a class without items", expected=f"{SMALLEST} at least", do=f"--n {SMALLEST} or more"
        )
    if out.suffix != ".md":
        raise InputError(
            f"'{out}' does not end in .md",
            expected="a path of a Markdown page",
            do=f"call it '{out.with_suffix('.md')}'",
        )
    source = model if isinstance(model, Source) else Source(model)
    model_name = source.name
    spec = spec_of(model_name)
    if spec is None or spec.floor is None:
        raise InputError(
            f"'{model_name}' has no untrained floor", expected="a trained model of the zoo, which has a floor",
            exists=", ".join(one.title for one in TRAINED.values()), do="name one of these",
        )  # fmt: skip
    asked = {"answer": ANSWER, "match": MATCH, "draw": DRAW}.get(spec.asked)
    if asked is None or spec.name == findings_drawings.JOINT:
        raise InputError(
            f"there is no page of findings for '{model_name}'",
            expected="a model that matches, answers or draws; joint attention is on the page of the UNet",
            exists=", ".join(one.title for one in TRAINED.values() if one.asked != "nothing" and one != spec),
            do="name one of these",
        )  # fmt: skip
    if about:
        asked = _told(about, spec)
    if store is not None and not asked.reads:
        raise InputError(
            "no section of this page reads a store", expected="a page whose sections read many scenes as they are",
            exists=f"that of a model that matches, which reads one in {', '.join(MATCH.reads)}", do="leave out --store",
        )  # fmt: skip
    check_folder(out.parent)
    opened, floor = load(source), load(replace(source, name=spec.floor))
    return write(opened, floor, out, n, seed, asked, work=work, store=store, console=console)


def _told(about: str, spec: Spec) -> Asked:
    """The page of that name, if it begins at such a model."""
    pages = {"circuits": (CIRCUITS, "answer", "answers"), "features": (FEATURES, "", ""),
             "attribution": (ATTRIBUTION, "match", "matches")}  # fmt: skip
    if about not in pages:
        raise InputError(f"no page of findings is about '{about}'", expected="one of these", exists=", ".join(pages))
    asked, kind, does = pages[about]
    if kind and spec.asked != kind:
        raise InputError(
            f"the page about {about} does not begin at 'zoo:{spec.name}'", expected=f"a model that {does}",
            exists=", ".join(one.title for one in TRAINED.values() if one.asked == kind), do="name one of these",
        )  # fmt: skip
    return asked


def write(
    model: Model, floor: Model, out: Path, n: int, seed: int, asked: Asked | None = None, *,
    work: str | Path | None = None, store: str | Path | None = None, console: Console | None = None,
) -> Path:  # fmt: skip
    """The page about an opened model and the same one before training, of the kind of question it is asked."""
    asked, folder = asked or MATCH, Path(work) if work else _cache()
    folder.mkdir(parents=True, exist_ok=True)
    (out.parent / "img").mkdir(parents=True, exist_ok=True)
    stores = None if store is None else Stores(Path(store), asked.reads, n)
    console = console or Console(emoji=False, stderr=True)
    found, seconds = measure(model, floor, n, seed, folder, console, asked, stores)
    figures = asked.draw(found, out.parent / "img", out.stem)
    about = About(model.name, n, seed, _said(out), seconds)
    out.write_text(asked.page(found, about, figures), encoding="utf-8")
    return out


def measure(
    model: Model, floor: Model, n: int, seed: int, folder: Path, console: Console, asked: Asked,
    stores: Stores | None = None,
) -> tuple[Found, dict[str, float]]:  # fmt: skip
    """Every section on every set of scenes (dimension `set`), from the folder where it is there, and its seconds."""
    found: Found = {}
    seconds: dict[str, float] = {}
    seeds = [seed + one for one in range(SETS)]

    marks: dict[int, str] = {}
    code = _code()

    def mark(of: Model) -> str:
        """What a model is by content, found once."""
        if id(of) not in marks:
            marks[id(of)] = fingerprint(of)
        return marks[id(of)]

    steps = asked.steps(model, floor, found, seeds, lambda of: folder / f"lens-{fingerprint(code, mark(of))[:12]}")
    if stores is not None:
        stores.check(((name, of) for name, (of, _) in steps.items()), seeds)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("opening", total=len(steps) * SETS)
        for name, (of, step) in steps.items():
            made = []
            for own in seeds:
                key = fingerprint(code, mark(model), mark(of), n, seed, own, *asked.beside())[:12]
                make = partial(_made, step, stores, name, of, n, own)
                made.append(_kept(folder / f"{name}-{key}.nc", make, bar, task, name, of))
                bar.advance(task)
            sets = xarray.DataArray(seeds, dims="set", name="set")
            found[name] = xarray.concat([one.data for one in made], sets, join="outer")
            seconds[name] = sum(one.provenance.seconds for one in made)
    return found, seconds


# --- what is measured of models that match, and of those that answer --------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A kind of page: its sections, each with the model it is measured on; its figures; its words.

    `steps` takes the model, its floor, what is found so far (filled as the sections are made), the seeds of the sets,
    and where what is fitted on a model is kept. `beside`: what else the numbers depend on, by content. `reads`: which
    sections read activations of scenes that a store can hold.
    """

    steps: Callable[[Model, Model, Found, list[int], Callable[[Model], Path]], Steps]
    draw: Callable[[Found, Path, str], dict[str, str]]
    page: Callable[[Found, About, dict[str, str]], str]
    beside: Callable[[], tuple[str, ...]] = tuple
    reads: Mapping[str, Reads] = field(default_factory=dict)


def _match(model: Model, floor: Model, found: Found, seeds: list[int], _: Callable[[Model], Path]) -> Steps:
    def ablation(of: Model, n: int, own: int, told: Callable[[str], None], **rows: Any) -> xarray.Dataset:
        """Heads are named on the other set."""
        return findings_layers.ablation(of, found["heads"].isel(set=1 - seeds.index(own)), n, own, told, **rows)

    return {
        "known": (model, findings_scenes.known),
        "known_floor": (floor, findings_scenes.known),
        "heads": (model, findings_heads.heads),
        "heads_floor": (floor, findings_heads.heads),
        "direct": (model, findings_heads.direct),
        "direct_floor": (floor, findings_heads.direct),
        "layers_floor": (floor, partial(findings_layers.layers, with_erasure=False)),
        "layers": (model, findings_layers.layers),
        "ablation": (model, ablation),
    }


def _answer(model: Model, floor: Model, _: Found, __: list[int], kept: Callable[[Model], Path]) -> Steps:
    made: dict[int, findings_lens.Lenses] = {}

    def lenses(of: Model, told: Callable[[str], None]) -> findings_lens.Lenses:
        if id(of) not in made:
            made[id(of)] = findings_lens.Lenses(of, kept(of), told)
        return made[id(of)]

    def maps(of: Model, n: int, own: int, told: Callable[[str], None]) -> xarray.Dataset:
        return findings_lens.maps(lenses(of, told), n, own, told)

    def hallucinated(of: Model, n: int, own: int, told: Callable[[str], None]) -> xarray.Dataset:
        """What the trained model says, read in both."""
        readers = {"trained": lenses(of, told), "untrained": lenses(floor, told)}
        return findings_lens.hallucinated(of, readers, n, own, told)

    in_pictures = partial(findings_looks.looks, forms=findings_looks.FORMS[:1])
    return {
        "maps": (model, maps),
        "maps_floor": (floor, maps),
        "hallucinated": (model, hallucinated),
        "writes": (model, findings_writes.writes),
        "writes_floor": (floor, findings_writes.writes),
        "looks": (model, findings_looks.looks),
        "looks_floor": (floor, in_pictures),
        "spots": (model, findings_spots.spots),
        "spots_floor": (floor, findings_spots.spots),
    }


def _draw(model: Model, floor: Model, _: Found, __: list[int], ___: Callable[[Model], Path]) -> Steps:
    """The UNet that was opened, and beside it joint attention."""
    name = f"zoo:{findings_drawings.JOINT}"
    other, before = load(name), load(f"{name}@untrained")
    made: Steps = {}
    for end, of, under in (("", model, floor), ("_joint", other, before)):
        made |= {
            f"maps{end}": (of, findings_drawn.maps),
            f"maps{end}_floor": (under, partial(findings_drawn.maps, drawer=of)),
            f"places{end}": (of, findings_drawn.places),
            f"lens{end}": (of, findings_drawn.lens),
            f"edits{end}": (of, findings_drawn.edits),
            f"shown{end}": (of, findings_drawn.shown),
        }
    return {**made, "layers": (model, findings_drawn.layers)}


def _circuits(model: Model, _: Model, __: Found, ___: list[int], ____: Callable[[Model], Path]) -> Steps:
    return {
        "worlds": (model, findings_circuits.worlds),
        "circuits": (model, findings_circuits.circuits),
        "flow": (model, findings_circuits.flow),
        "back": (model, findings_circuits.back),
        "word": (model, findings_word.word),
    }


def _features(model: Model, _: Model, __: Found, ___: list[int], ____: Callable[[Model], Path]) -> Steps:
    """The model that was opened and those of the other families, each with its floor."""
    made: Steps = {}
    for name, step in findings_features.STEPS.items():
        of = SHIPPED[name.removesuffix("_floor")].model
        end = "@untrained" if name.endswith("_floor") else ""
        made[name] = (model if of == model.name and not end else load(f"{of}{end}"), step)
    return made


def _attribution(model: Model, floor: Model, _: Found, __: list[int], ___: Callable[[Model], Path]) -> Steps:
    """The retrained worlds, each a model of its own; maps of the model that was opened and of a LLaVA; pictures."""
    other, before = load(WRITER), load(f"{WRITER}@untrained")
    data = {f"data_{name}": (model, partial(findings_traced.traced, name=name)) for name in findings_traced.WORLDS}
    return {
        **data,
        "pixels_clip": (model, findings_pixels.pixels),
        "pixels_clip_floor": (floor, findings_pixels.pixels),
        "pixels_llava": (other, findings_pixels.pixels),
        "pixels_llava_floor": (before, findings_pixels.pixels),
        "pictures": (model, findings_made.made_for_words),
        "pictures_floor": (floor, findings_made.made_for_words),
    }


MATCH = Asked(_match, draw_all, page, reads=OF_MATCH)
ANSWER = Asked(_answer, findings_answers.draw_all, findings_answers.page)
DRAW = Asked(_draw, findings_strips.draw_all, findings_drawings.page)
CIRCUITS = Asked(_circuits, findings_networks.draw_all, findings_networks.page)
ATTRIBUTION = Asked(_attribution, findings_attributed.draw_all, findings_attributed.page)
FEATURES = Asked(_features, findings_featured.draw_all, findings_featured.page, findings_features.contents)


# --- what is kept -----------------------------------------------------------------------------------------------------


def _made(
    step: Callable[..., xarray.Dataset], stores: Stores | None, name: str, of: Model, n: int, own: int,
    told: Callable[[str], None],
) -> xarray.Dataset:  # fmt: skip
    """The section measured, of a store where it reads one."""
    rows = None if stores is None else stores.rows(name, of, own)
    return step(of, n, own, told, **({} if rows is None else {"rows": rows}))


def _kept(path: Path, make: Callable[..., xarray.Dataset], bar: Any, task: Any, name: str, model: Model) -> Result:
    """The section in the file, or made now and kept there."""
    if path.is_file():
        return Result.load(path)
    started = time.perf_counter()
    section = name.replace("_", " of the ")
    data = make(lambda what: bar.update(task, description=f"{section}: {what}"))
    result = Result(data, Provenance.of(f"findings: {section}", "this page", started=started, model=model))
    result.save(path)
    return result


def _code() -> str:
    """What the package's own code is, so that a kept section never stands for another way to measure.

    Other words for the same numbers are no other way.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        if file.stem not in SAYING:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cutaway" / "findings"


def _said(out: Path) -> str:
    """The path as a command would have it: relative, or its name alone."""
    here = Path.cwd()
    absolute = out.resolve()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else out.name
