"""The atlas: every cell comes from declarations, pages and works; what can be asked of it; its commands."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import cutaway
from cutaway.atlas import STATES, open_atlas, taxonomy
from cutaway.atlas.evidence import TABLES, addresses, evidence, filled, for_cell, sides
from cutaway.atlas.pages import grids, number_at
from cutaway.atlas.works import FAMILIES, USES, find, shipped
from cutaway.cli import app
from cutaway.errors import InputError
from cutaway.methods.method import ROWS
from cutaway.methods.result import Provenance, Result
from cutaway.methods.table import METHODS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ATLAS = open_atlas()


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_a_number_of_the_atlas_is_the_number_of_its_page(table: str) -> None:
    shipped_text = (Path(taxonomy.__file__).parent / "data" / table).read_text(encoding="utf-8")
    assert filled(table, page) == shipped_text, "a page was written anew: run scripts/atlas_numbers.py"
    assert sum(1 for _ in addresses(table)) > 20


def test_a_number_that_drifts_is_seen() -> None:
    def drifted(name: str) -> str:
        return page(name).replace("| answer | last |", "| answer | the end |")

    with pytest.raises(InputError, match="leads to 0 cells"):
        filled("evidence.tsv", drifted)
    moved = filled(
        "evidence.tsv", lambda name: page(name).replace("100 [100, 100] / 99 [95, 100]", "7 [1, 9] / 8 [1, 9]")
    )
    assert moved != filled("evidence.tsv", page)


def test_every_number_has_its_command_on_its_page_and_its_cell_a_method() -> None:
    for one in (*evidence(), *sides()):
        assert one.command in " ".join(page(one.page).split()), (one.id, one.command)
    names = {one.name for one in METHODS}
    for one in evidence():
        assert one.row in ROWS and one.family in FAMILIES and one.use in (*USES, "") and one.value, one.id
        assert bool(one.chance) is bool(one.chance_is), one.id
        assert ATLAS.cell(one.row, one.family).methods and one.method in {*names, ""}, one.id
    assert len({one.id for one in evidence()}) == len(evidence())


def test_an_address_is_one_cell() -> None:
    first = "| x | y | y |\n|:--|---|---|\n| **1** | `2` | 3 |\n| 4 | [5](x.md) | 6 |\n"
    text = f"## A b\n\n{first}\n| x | y |\n|---|---|\n| 1 | 7 |\n"
    assert [grid.columns for grid in grids(text)] == [("x", "y", "y"), ("x", "y")]
    assert number_at(text, "A [1] > #=1 > y") == "2" and number_at(text, "A b [2] > x=1 > y") == "7"
    assert number_at(text, "A [1] > x=1 +1 > y") == "5" and number_at(text, "A > x=4 > y [2]") == "6"
    for wrong in ("A > x=1 > y", "A > x=9 > y", "A > x=1 > z", "B > x=1 > y"):
        with pytest.raises(InputError, match="cells"):
            number_at(text, wrong)
    with pytest.raises(InputError, match="no address"):
        number_at(text, "A > x")


# --- cells ------------------------------------------------------------------------------------------------------------


def test_cells_are_what_the_declarations_say() -> None:
    """The families of a method are those of the table of docs/methods.md, which is made by asking models."""
    (table,) = (grid for grid in grids(page("methods.md")) if "contrastive" in grid.columns)
    for row in table.rows:
        said = dict(zip(table.columns, row, strict=True))
        known = {family for family in FAMILIES[:3] if said[family] == "yes"}
        for one in METHODS:
            if one.name == said["method"]:
                assert {*one.kinds} == known, one.name
                assert all(one in ATLAS.cell(one.row, family).methods for family in known)
    placed = {one.name for cell in ATLAS.cells for one in cell.methods}
    assert placed == {one.name for one in METHODS}


def test_an_empty_cell_says_whose_it_is() -> None:
    assert len(ATLAS.cells) == len(ROWS) * len(FAMILIES)
    for cell in ATLAS.cells:
        assert cell.state in STATES
        assert (cell.state in ("measured", "runs")) is bool(cell.methods), (cell.row, cell.family)
        assert cell.state != "elsewhere" or cell.works
        assert cell.state != "nobody" or not cell.works
        assert (cell.state == "measured") is bool(cell.methods and for_cell(cell.row, cell.family))
    assert ATLAS.cell("cross-attention", "contrastive").state == "never"
    assert {cell.row for cell in ATLAS.empty()} == {*ROWS}


def test_what_is_told_is_whole() -> None:
    assert tuple(row.name for row in taxonomy.rows()) == ROWS
    assert tuple(taxonomy.families()) == FAMILIES and tuple(use.name for use in taxonomy.uses()) == USES
    assert len(taxonomy.facets()) == 7 and {*taxonomy.opens()} <= {*FAMILIES}
    keys, ids = {work.key for work in shipped()}, {one.id for one in evidence()}
    for gap in taxonomy.gaps():
        assert {*gap.works} <= keys and {*gap.numbers} <= ids and gap.command.startswith("cutaway "), gap.name
    for one in taxonomy.contradictions():
        assert {*one.one_works, *one.other_works} <= keys and {*one.numbers} <= ids, one.name


# --- asking -----------------------------------------------------------------------------------------------------------


def test_search_wants_every_word_and_related_a_shared_cell() -> None:
    found = ATLAS.search("lens hallucination")
    assert found and all("hallucination" in str(work).lower() and "lens" in str(work).lower() for work in found)
    assert ATLAS.search("2410.07149") == (find("neo24", shipped()),) and ATLAS.search("") == ATLAS.search("zzz") == ()
    neo = ATLAS.find("neo24")
    for work, cells in ATLAS.related("neo24"):
        assert cells and {*cells} == neo.cells & work.cells and work != neo
    counts = [len(cells) for _, cells in ATLAS.related("neo24")]
    assert counts == sorted(counts, reverse=True)
    assert cutaway.atlas.open_atlas().cite("neo24", "ris").startswith("TY  - UNPB")


@pytest.fixture
def own(tmp_path: Path) -> tuple[Path, Path]:
    """A user's table, one line of it broken, and a folder of results, two files of it broken."""
    import xarray

    table, folder = tmp_path / "own.tsv", tmp_path / "results"
    folder.mkdir()
    table.write_text("key\ttitle\tmethods\tfamilies\nmine1\tMy work\tlogit lens\taudio\nbad key\tx\t\t\n")
    data = xarray.Dataset({"rank": ("layer", [1.0, 2.0])})
    Result(data, Provenance("word_lens", "me", model="zoo:emoji-llava")).save(folder / "lens.nc")
    Result(data, Provenance("activation_patching", "me", sites=("denoiser.1.out",))).save(folder / "patched.nc")
    Result(data, Provenance("guessing", "me")).save(folder / "other.nc")
    (folder / "broken.nc").write_text("nothing")
    return table, folder


def test_own_works_and_results_join(own: tuple[Path, Path]) -> None:
    made = open_atlas([own[0]], [own[1]])
    assert made.cell("logit lens", "audio").state == "elsewhere" and made.yours == {"mine1"}
    (lens,) = made.cell("logit lens", "generative").own
    assert lens.file == "lens.nc" and "layer 2" in lens.holds
    row = "causal tracing and circuits"
    assert made.cell(row, "diffusion").own and not made.cell(row, "generative").own  # its sites say so
    said = "\n".join(map(str, made.problems))
    assert "own.tsv:3: " in said and "broken.nc" in said and "'guessing'" in said and len(made.problems) == 3
    with pytest.raises(InputError, match="is no folder"):
        open_atlas(results=[own[0]])


def test_the_commands(own: tuple[Path, Path], tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = CliRunner().invoke(app, [*words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert "neo24  Neo 2024" in run("atlas", "search", "Interpreting", "Visual", "Information")
    assert "none of" in run("atlas", "search", "zzz")
    assert "logit lens, generative" in run("atlas", "related", "neo24")
    assert "mine1" in run("atlas", "search", "My", "work", "--works", str(own[0]))
    assert run("atlas", "cite", "neo24", "gandel23").count("@misc{") == 2
    assert "[partly]" in run("atlas", "gaps") and "$ cutaway findings" in run("atlas", "gaps")
    assert "eprint = {2502.04320}" in run("cite", "concept-attention")
    out = run("atlas", "--out", str(tmp_path / "page"), "--works", str(own[0]), "--results", str(own[1]))
    assert "left out" in out and "108 squares" in out and (tmp_path / "page" / "atlas.html").is_file()
    with pytest.raises(InputError, match="no folder to write"):
        CliRunner().invoke(app, ["atlas", "--works", str(own[0])], catch_exceptions=False)
    assert "related" in CliRunner().invoke(app, ["atlas"]).output
    with pytest.raises(InputError, match="already there"):
        CliRunner().invoke(app, ["atlas", "--out", str(tmp_path / "page")], catch_exceptions=False)
