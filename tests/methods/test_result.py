"""Results keep, open, tabulate and draw themselves."""

import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

import cutaway
from cutaway.errors import MethodError
from cutaway.methods.result import Provenance, Result, ResultError, full_name, load

TOLD = Provenance("demo", "nobody, 2026", model="tiny:clip", sites=("vision.0.attn.z",), options={"picks": 3}, seed=1)


@dataclass(frozen=True, eq=False, repr=False)
class Demo(Result):
    main: ClassVar[str] = "score"


def made(kind: type[Result] = Demo) -> Result:
    data = xarray.Dataset(
        {
            "score": (("layer", "text"), np.arange(6.0).reshape(2, 3)),
            "found": ("layer", np.array([True, False])),
            "count": ((), 7),
        },
        coords={"text": ["a dog", "a <b>cat</b>", "ein Bär"], "layer": [0, 1]},
    )
    return kind(data, TOLD)


def test_a_saved_result_comes_back_as_it_was(tmp_path):
    path = made().save(tmp_path / "demo.nc")
    back = load(path)
    assert type(back) is Demo and back.provenance == TOLD
    xarray.testing.assert_identical(back.data, made().data)
    assert back["found"].dtype == bool
    assert Demo.load(path).provenance.sites == ("vision.0.attn.z",)
    assert [p.name for p in tmp_path.iterdir()] == ["demo.nc"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True), min_size=1, max_size=8))
def test_any_numbers_survive(tmp_path_factory, numbers):
    data = xarray.Dataset({"x": ("i", np.array(numbers, np.float32))})
    path = Result(data, TOLD).save(tmp_path_factory.mktemp("any") / "x.nc")
    xarray.testing.assert_identical(load(path).data, data)


def test_nothing_is_overwritten_unasked(tmp_path):
    path = made().save(tmp_path / "demo.nc")
    before = path.read_bytes()
    with pytest.raises(ResultError, match=r"exists already.*overwrite=True"):
        made().save(path)
    assert path.read_bytes() == before
    assert made(Result).save(path, overwrite=True) == path
    assert type(load(path)) is Result
    with pytest.raises(ResultError, match="exists already"):
        made().save(tmp_path, overwrite=True)
    with pytest.raises(ResultError, match="no folder"):
        made().save(tmp_path / "none" / "x.nc")


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    bad = Result(xarray.Dataset({"x": ("i", [{}, {}])}), TOLD)
    with pytest.raises((TypeError, ValueError)):
        bad.save(tmp_path / "x.nc")
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.nc").write_text("no array")
    made().data.to_netcdf(tmp_path / "bare.nc", engine="h5netcdf")
    made().data.assign_attrs(result=full_name(Demo), provenance="{").to_netcdf(tmp_path / "torn.nc", engine="h5netcdf")
    for name, said in (("none.nc", "No result at"), ("text.nc", "cannot be read"), ("bare.nc", "says nothing of its"),
                       ("torn.nc", "no provenance that")):  # fmt: skip
        with pytest.raises(ResultError, match=said):
            load(tmp_path / name)
    made(Result).save(tmp_path / "plain.nc")
    with pytest.raises(ResultError, match="holds a Result"):
        Demo.load(tmp_path / "plain.nc")


def test_classes_are_told_apart_by_their_full_names(tmp_path):
    """Two modules may each have a `Demo`: a file opens as the one that wrote it."""
    others = {}
    for name in ("one", "other"):
        body = {"__module__": f"somebody.{name}", "__qualname__": "Demo"}
        others[name] = dataclass(frozen=True, eq=False, repr=False)(type("Demo", (Result,), body))
    for name, kind in others.items():
        made(kind).save(tmp_path / f"{name}.nc")
    made().save(tmp_path / "ours.nc")
    assert [type(load(tmp_path / f"{name}.nc")) for name in ("one", "other", "ours")] == [*others.values(), Demo]


def test_a_class_of_the_package_is_imported_for_its_file_wherever_it_lies(tmp_path):
    for name in ("cutaway.methods.linear_probing.erasure.Erasure", "cutaway.methods.logit_lens.Lens"):
        made().data.assign_attrs(result=name, provenance=TOLD.to_json()).to_netcdf(
            tmp_path / f"{name}.nc", engine="h5netcdf"
        )
    code = (
        "import sys; from cutaway.methods.result import load\n"
        "print(*(type(load(name)).__name__ for name in sys.argv[1:]))"
    )
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    here = Path(cutaway.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, *files], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Erasure", "Lens"]


def test_no_file_has_another_module_imported(tmp_path, monkeypatch):
    """A file is data: what it names is not run. A class of one's own opens once its module is imported."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom cutaway.methods.result import Result\n\n"
        "@dataclass(frozen=True, eq=False, repr=False)\nclass Mine(Result):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in (
        "mine.Mine",
        "cutaway.nowhere.Thing",
        "cutaway.__main__.Thing",
        "cutaway.methods.erasure.Pool",
        "odd",
    ):
        made().data.assign_attrs(result=name, provenance=TOLD.to_json()).to_netcdf(
            tmp_path / "odd.nc", engine="h5netcdf", mode="w"
        )
        with pytest.raises(ResultError, match="holds a") as caught:
            load(tmp_path / "odd.nc")
        assert "mine" not in sys.modules and caught.value.expected and "import" in caught.value.do
    mine = importlib.import_module("mine")
    path = made(mine.Mine).save(tmp_path / "mine.nc")
    assert type(load(path)) is mine.Mine and mine.Mine.load(path).provenance == TOLD


def test_the_table_is_tidy():
    table = made().to_dataframe()
    assert list(table.columns) == ["layer", "text", "score"] and len(table) == 6
    assert made().to_dataframe("found")["found"].tolist() == [True, False]
    with pytest.raises(ResultError, match=r"no variable 'scor'.*score"):
        made().to_dataframe("scor")


def test_drawing_touches_nothing_global():
    open_before = plt.get_fignums()
    axes = made().plot()
    ours = Figure().subplots()
    assert made().plot(ours) is ours and axes.figure is not ours.figure
    assert plt.get_fignums() == open_before
    deep = Result(xarray.Dataset({"x": (("a", "b", "c"), np.zeros((1, 1, 1)))}), TOLD)
    with pytest.raises(ResultError, match="3 dimensions"):
        deep.plot()


def test_html_is_self_contained_and_escaped():
    page = made().to_html()
    assert page.startswith("<section") and page.endswith("</section>")
    assert "data:image/png;base64," in page and "nobody, 2026" in page and "picks=3" in page
    assert "http" not in page and "<script" not in page and "<b>cat" not in page and "&lt;b&gt;cat" in page


def test_provenance_says_what_can_be_known():
    told = Provenance.of("demo", "me", started=0.0, seed=3, path=object)
    assert {"cutaway", "torch"} <= set(told.versions) and told.peak_bytes > 0 and told.made.startswith("20")
    assert Provenance.from_json(told.to_json()) == told
    assert len(repr(made())) < 100 and "\n" not in repr(made())


def test_method_errors_are_value_errors():
    with pytest.raises(ValueError, match=r"Nothing\. Expected: something\."):
        raise MethodError("nothing", expected="something")
