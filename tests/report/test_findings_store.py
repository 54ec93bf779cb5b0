"""Sections of findings that read many scenes read them from a store as well, with the same numbers."""

import numpy as np
import pytest
import xarray
from rich.console import Console

from cutaway import store
from cutaway.errors import InputError, StoreError
from cutaway.report import findings, findings_heads, findings_layers, findings_scenes
from cutaway.report.findings_scenes import FACTORS
from cutaway.report.findings_stores import OF_MATCH, Reads, Stores
from cutaway.store.stored import Store
from world import opened

N = 24


def quiet(_: str) -> None:
    """Nobody is told."""


def unpatched(model, given, **options):
    """In the place of patching, which reads no store."""
    axes = ("layer", "head") if "head" in options["over"] else ("layer",)
    names = ("mean", "low", "high", "random", "random_high")
    return xarray.Dataset({name: (axes, np.zeros((3, 4)[: len(axes)])) for name in names}).assign(used=0)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Fewer draws than a page has, some shufflings at a time."""
    for module, name, many in ((findings_layers, "RANDOM_SETS", 2), (findings_layers, "ERASURES", 1),
                               (findings_heads, "SHUFFLES", 5), (findings_heads, "DRAWS", 2),
                               (findings_heads, "HELD", 2**17), (findings_heads, "patching", unpatched),
                               (findings_layers, "patching", unpatched)):  # fmt: skip
        monkeypatch.setattr(module, name, many)


def ablation(of, *more, **rows):
    named = xarray.Dataset({"named": (("factor", "layer", "head"), np.ones((len(FACTORS), 3, 4))),
                            "variance": (("layer", "head"), np.arange(12.0).reshape(3, 4))})  # fmt: skip
    return findings_layers.ablation(of, named.assign_coords(factor=list(FACTORS)), *more, **rows)


SECTIONS = {"heads": findings_heads.heads, "direct": findings_heads.direct, "layers": findings_layers.layers,
            "ablation": ablation}  # fmt: skip


@pytest.mark.parametrize("name", OF_MATCH)
def test_a_section_of_a_store_is_that_of_its_scenes(name, tmp_path, monkeypatch):
    model, stores = opened("clip"), Stores(tmp_path, OF_MATCH, N)
    rows = stores.rows(name, model, 0)
    assert rows.complete and len(rows) == N and stores.rows("known", model, 0) is None
    one, other = SECTIONS[name](model, N, 0, quiet), SECTIONS[name](model, N, 0, quiet, rows=rows)
    xarray.testing.assert_equal(one, other)


def test_a_page_harvests_what_is_missing_and_reads_what_is_there(tmp_path):
    model, given = opened("clip"), []

    def step(of, n, own, told, rows=None):
        given.append(rows)
        return xarray.Dataset({"own": own})

    steps = {"known": (model, step), "layers": (model, step), "layers_floor": (model, step)}
    asked = findings.Asked(lambda *_: steps, dict, str, reads={"layers": Reads(2, ("vision.1.resid_post",))})
    stores = Stores(tmp_path / "s", asked.reads, N)
    for work, some in (("a", stores), ("b", stores), ("c", None)):
        (tmp_path / work).mkdir()
        findings.measure(model, model, N, 0, tmp_path / work, Console(quiet=True), asked, some)
    assert [None if rows is None else rows.path.name for rows in given[:6]] == [
        None, None, "layers-0", "layers-1", "layers_floor-0", "layers_floor-1"
    ]  # fmt: skip
    assert [type(rows) for rows in given[8:]] == [Store] * 4 + [type(None)] * 6
    assert given[2].spec.keep == ("'cls'",) and given[2].count("vision") == N


@pytest.mark.parametrize(
    ("scenes", "sites", "where", "said"),
    [
        (48, ["vision.1.resid_post"], "cls", r"lacks vision\.0\.resid_post.*vision\.2\.resid_post.*section 'layers'"),
        (40, ["vision.*.resid_post"], None, r"holds other scenes.*48 scenes.*40 scenes.*--n"),
        (48, ["vision.*.resid_post"], "image", r"keeps other positions.*cls.*'image'"),
    ],
)
def test_a_store_that_will_not_do_is_told_before_anything_is_run(scenes, sites, where, said, tmp_path, monkeypatch):
    model = opened("clip")
    store.harvest(model, findings_scenes.lone(scenes, 1, 2), sites, tmp_path / "layers-1", where=where, progress=False)
    for module, name in ((findings_scenes, "known"), (findings_heads, "heads")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("measured"))
    with pytest.raises(StoreError, match=said):
        findings.write(
            model, model, tmp_path / "page.md", 48, 0, work=tmp_path / "w", store=tmp_path, console=Console(quiet=True)
        )


def test_a_page_that_reads_no_store_says_so(tmp_path):
    with pytest.raises(InputError, match=r"No section of this page reads a store.*heads, direct, layers, ablation"):
        findings.write_findings("zoo:emoji-sd", tmp_path / "p.md", store=tmp_path)
