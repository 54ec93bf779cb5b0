"""The page of the atlas: its cells, the survey, findings side by side, gaps, contradictions, works."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from cutaway.atlas import taxonomy
from cutaway.atlas.atlas import STATES, Atlas, Cell
from cutaway.atlas.cite import cite
from cutaway.atlas.evidence import Evidence, Sides, evidence, sides
from cutaway.atlas.mentions import works_of
from cutaway.atlas.sources import sources_of, users_of
from cutaway.atlas.works import FAMILIES, USES, Work
from cutaway.errors import InputError
from cutaway.methods.method import ROWS, Method
from cutaway.questions.lacks import LACKS
from cutaway.report import page
from cutaway.views.boards import Board, Paper, Papers, Part, Remark, Remarks, Square
from cutaway.views.kinds import Table, View

FILE, TITLE = "atlas.html", "Ways into multi\u2011modal models: an atlas"
ORIGINS = {
    "language": "counted by the survey as brought over from language models",
    "multi-modal": "counted by the survey as methods of multi-modal models",
}
NUMBERS = ("what", "ours", "before training", "by chance", "unit")
BOTH = "Where two numbers stand with a stroke between them, the same was measured on two sets of inputs."
READING = (
    f"{BOTH} In square brackets stand intervals, in round ones what the page of the number says of it; “before "
    "training” is the same method on the model before it learnt anything."
)


def write(atlas: Atlas, folder: str | Path, *, overwrite: bool = False) -> Path:
    """Write the page of an atlas into a folder, which is made if it is not there, and return its path."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"'{folder}' is a file", expected="a folder for the page", do="choose another name")
    folder.mkdir(parents=True, exist_ok=True)
    return page.write(folder / FILE, TITLE, views(atlas), summary=_summary(atlas), overwrite=overwrite)


def views(atlas: Atlas) -> list[View]:
    """All that is on the page, in its order."""
    shown = [_board(atlas), _survey(), _sides(), _gaps(atlas), _contradictions(atlas), _uses(atlas), _papers(atlas)]
    return [*shown, _problems(atlas)] if atlas.problems else shown


def _summary(atlas: Atlas) -> str:
    counted = {state: sum(cell.state == state for cell in atlas.cells) for state in STATES}
    yours = f" {len(atlas.yours)} works and {len(atlas.own)} results on this page are yours."
    return (
        "Multi-modal models see, write and draw. This page lays out the ways to look inside them: twelve methods in "
        "rows, kinds of model in columns. A square tells what is computed, what it can not tell, what was measured "
        f"with this package, and who works on it.{yours if atlas.yours or atlas.own else ''}\n\n"
        f"Of {len(atlas.cells)} squares {counted['measured']} are measured here, {counted['runs']} can be run, and "
        f"{counted['elsewhere']} are known from the work of others alone; for {counted['nobody']} no work is among the "
        f"{len(atlas.works)} listed here. New to it? Begin with a square of the column “generative”."
    )


# --- the board --------------------------------------------------------------------------------------------------------


def _board(atlas: Atlas) -> Board:
    told = taxonomy.rows()
    groups = [ORIGINS[row.origin] for row in told]
    return Board(
        title="Methods and models",
        seen=(
            "Choose a square: it opens below its row. With the keyboard, arrow keys walk from square to square, Enter "
            "opens one, Escape closes it."
        ),
        limits=(
            "That no work is listed is no proof that there is none. What is measured here is measured on small models "
            f"of one drawn world, each trained once. {READING}"
        ),
        rows=ROWS, columns=FAMILIES,
        groups=tuple(name if at == 0 or name != groups[at - 1] else "" for at, name in enumerate(groups)),
        more=tuple(_more(atlas, row) for row in told), closed=("never",),
        about=tuple(
            (Part(text=row.asks), Part(title="What is computed", text=row.computes, formula=row.formula))
            for row in told
        ),
        heads=tuple(_family(name) for name in FAMILIES),
        squares=tuple(_square(cell, atlas) for cell in atlas.cells),
        states=tuple(STATES.items()),
    )  # fmt: skip


def _family(name: str) -> str:
    return " ".join(filter(None, (taxonomy.families()[name], taxonomy.opens().get(name, ""))))


def _square(cell: Cell, atlas: Atlas) -> Square:
    counts = ((len(cell.methods), "method"), (len(cell.works), "work"))
    mark = tuple(f"{count} {name}{'s' * (count != 1)}" for count, name in counts if count)
    return Square(ROWS.index(cell.row), FAMILIES.index(cell.family), cell.state, mark, tuple(_told(cell, atlas)))


def _told(cell: Cell, atlas: Atlas) -> Iterator[Part]:
    """What a square opens, between what its row and column tell."""
    if cell.state == "never":
        yield Part(title="Why", text=taxonomy.never(cell.row, cell.family))
    if cell.evidence:
        yield numbers("Measured here", cell.evidence)
    if cell.own:
        lines = (f"{one.file}: {one.method} of {one.model or 'an unnamed model'}, {one.holds}" for one in cell.own)
        yield Part(title="Your results", lines=tuple(lines))
    if cell.methods:
        yield Part(title="Methods here: what they need and can not tell, and whom they follow")
        yield from (_method(one, atlas) for one in cell.methods)
    if cell.works:
        yield Part(title=f"Works ({len(cell.works)})", papers=_by_year(cell.works))
    elif cell.state != "never":
        yield Part(title="Works", text="None is listed here. That is no proof that there is none.")


def _more(atlas: Atlas, row: taxonomy.Row) -> tuple[Part, ...]:
    """What stands behind every square of a row."""
    general = atlas.cell(row.name, FAMILIES[0]).general
    roots = Part(title="The method itself, and models of one modality", papers=_by_year(general))
    return (Part(title="Open questions", lines=row.open), *((roots,) if general else ()))


def _method(one: Method, atlas: Atlas) -> Part:
    named = dict.fromkeys(part.split(".")[0] for part in one.parts)
    needs = "; ".join(LACKS[part][0] for part in named if part in LACKS)
    listed = {work.key for work in atlas.works}
    sources = works_of(sources_of(one), atlas.works)
    other = tuple(f"It also names {work.said}." for work in sources if work.key not in listed)
    return Part(
        title=one.name, folded=True, text=one.line, command=f"cutaway run {one.name.replace('_', '-')} --help",
        lines=(f"It needs: {needs}.", f"It can not tell: {one.cannot[:1].lower()}{one.cannot[1:]}", *other),
        papers=tuple((work.key, _label(work)) for work in sources if work.key in listed),
    )  # fmt: skip


def numbers(title: str, found: Iterable[Evidence]) -> Part:
    """Numbers of ours with their floor and chance, and the commands that print them."""
    found = tuple(found)
    cells = tuple(
        (one.what, _apart(one.value), _apart(one.floor) or "not measured", _chance(one.chance, one.chance_is), one.unit)
        for one in found
    )
    commands = dict.fromkeys(f"{one.command}    # docs/{one.page}" for one in found)
    return Part(title=title, columns=NUMBERS, cells=cells, command="\n".join(commands))


def _chance(value: str, what: str) -> str:
    return f"{_apart(value)} ({what})" if value else "not measured"


def _apart(value: str) -> str:
    """Two numbers with room around their stroke."""
    return re.sub(r"\s*/\s*", " / ", value)


def _by_year(works: Iterable[Work]) -> tuple[tuple[str, str], ...]:
    return tuple((work.key, _label(work)) for work in sorted(works, key=lambda work: (-(work.year or 0), work.key)))


def _label(work: Work) -> str:
    return f"{work.author} {work.year or ''}".strip() if work.author else work.key


def _named(atlas: Atlas, keys: Iterable[str]) -> tuple[tuple[str, str], ...]:
    return tuple((key, _label(atlas.find(key))) for key in keys)


# --- what is told -----------------------------------------------------------------------------------------------------


def _survey() -> Remarks:
    facets = taxonomy.facets().items()
    return Remarks(
        title="The survey in seven facets",
        seen=(
            "A review of 2025 gave the field its rows and columns (Lin and others, arXiv 2502.17516): what it does, in "
            "our words."
        ),
        limits=taxonomy.known(),
        remarks=tuple(Remark(name[0].upper() + name[1:], (Part(text=text),)) for name, text in facets),
    )


def _sides() -> Remarks:
    def part(one: Sides) -> Part:
        measured = {
            "by picture": one.picture, "in words": one.words, "across": one.across,
            f"by chance: {one.chance_is}": one.chance,
        }  # fmt: skip
        kept = {name: _apart(value) for name, value in measured.items() if value}
        across = one.what.partition("; across: ")[2]
        said = f"Across: {across}." if across else ""
        return Part(
            text=said, columns=tuple(kept), cells=(tuple(kept.values()),), command=f"{one.command}    # docs/{one.page}"
        )

    return Remarks(
        title="By picture and in words",
        seen=(
            "One model, zoo:emoji-llava, asked the same by picture and in words: what holds for both forms, and what "
            f"goes over from one to the other. {BOTH}"
        ),
        limits=(
            "The forms differ in more than the modality: more words, other positions. One small model, trained once; a "
            "text-only twin of it was not trained."
        ),
        remarks=tuple(Remark(one.what.partition("; across: ")[0], (part(one),), one.unit) for one in sides()),
    )


def _gaps(atlas: Atlas) -> Remarks:
    found = {one.id: one for one in evidence()}
    return Remarks(
        title="What the survey says is missing",
        seen=f"Each gap as it is stated, how far it is closed here, and the command that shows it. {BOTH}",
        limits="Closed on small models is closed on small models: a model of full size may be unlike them.",
        remarks=tuple(
            Remark(gap.name, tuple(_shown(atlas, gap, [found[name] for name in gap.numbers])), gap.state)
            for gap in taxonomy.gaps()
        ),
    )


def _shown(atlas: Atlas, gap: taxonomy.Gap, found: list[Evidence]) -> Iterator[Part]:
    yield Part(text=gap.text)
    yield Part(title="Here", text=gap.here, command=gap.command)
    if found:
        yield numbers("", found)
    yield Part(title="Works", papers=_named(atlas, gap.works))


def _contradictions(atlas: Atlas) -> Remarks:
    found = {one.id: one for one in evidence()}

    def parts(one: taxonomy.Contradiction) -> Iterator[Part]:
        yield Part(title="Some find", text=one.one, papers=_named(atlas, one.one_works))
        yield Part(title="Others find", text=one.other, papers=_named(atlas, one.other_works))
        yield Part(title="Measured here", text=one.here)
        if one.numbers:
            yield numbers("", [found[name] for name in one.numbers])

    return Remarks(
        title="Where studies contradict each other",
        seen=f"Two findings that do not go together, and what was measured here about it. {BOTH}",
        limits="What others found is told from accounts of it, not measured again; our models are others, and small.",
        remarks=tuple(Remark(one.name, tuple(parts(one)), one.verdict) for one in taxonomy.contradictions()),
    )


def _uses(atlas: Atlas) -> Remarks:
    def parts(use: taxonomy.Use) -> Iterator[Part]:
        yield Part(text=f"{use.asks} Measured by: {use.measured[0].lower()}{use.measured[1:]}.")
        found = [one for one in evidence() if one.use == use.name]
        yield numbers("Measured here", found) if found else Part(text="Nothing on it is on a page of findings here.")
        for family in FAMILIES:
            works = [work for work in atlas.works if use.name in work.uses and family in work.families]
            if works:
                yield Part(title=family, papers=_by_year(works))

    return Remarks(
        title="What it is used for",
        seen="The eight applications of the survey and one more, with what was measured here and who works on them.",
        limits="Works are sorted by what they say they are about; one may do more than is written here.",
        remarks=tuple(Remark(use.name[0].upper() + use.name[1:], tuple(parts(use))) for use in taxonomy.uses()),
        folded=True,
    )


def _problems(atlas: Atlas) -> Table:
    return Table(
        title="What could not be read",
        seen="Lines and files of yours that are not on this page.",
        limits="Whether what could be read is right.",
        columns=("file", "line", "what is the matter"),
        cells=tuple((problem.file, problem.line, problem.what) for problem in atlas.problems),
    )


# --- the works --------------------------------------------------------------------------------------------------------


def _papers(atlas: Atlas) -> Papers:
    return Papers(
        title="Works",
        seen=(
            "Every work by its year and the rows it belongs to. Choose one: lines lead to works that share squares "
            "with it; of the survey, to works that it is known to cite."
        ),
        limits=(
            "A line between two works says that they share a square, not that one builds on the other. The "
            "survey cites more than is drawn: only what is attested is. A work whose number could not be checked says "
            "so."
        ),
        papers=tuple(_paper(work, work.key in atlas.yours) for work in atlas.works),
        rows=ROWS, columns=FAMILIES, uses=USES, centre=taxonomy.SURVEY,
        cited=tuple(work.key for work in atlas.works if work.cited and work.key != taxonomy.SURVEY),
    )  # fmt: skip


def _paper(work: Work, yours: bool) -> Paper:
    return Paper(
        key=work.key, title=work.title, author=work.author, year=work.year, number=work.arxiv, link=work.url,
        checked=work.checked, doubt=bool(work.arxiv) and work.trust == "unchecked",
        rows=tuple(ROWS.index(name) for name in work.methods),
        columns=tuple(FAMILIES.index(name) for name in work.families if name in FAMILIES),
        uses=tuple(USES.index(name) for name in work.uses), about=(*work.about, *(("yours",) if yours else ())),
        used_by=users_of(work), entry=cite(work),
    )  # fmt: skip
