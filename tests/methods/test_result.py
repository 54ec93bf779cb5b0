"""Results keep, open, tabulate and draw themselves."""

from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from cutaway.methods.result import MethodError, Provenance, Result, ResultError, load

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
    made().data.assign_attrs(result="Unheard", home="os", provenance=TOLD.to_json()).to_netcdf(
        tmp_path / "odd.nc", engine="h5netcdf"
    )
    made().data.assign_attrs(result="Demo", home="os", provenance="{").to_netcdf(
        tmp_path / "torn.nc", engine="h5netcdf"
    )
    for name, said in (("none.nc", "No result at"), ("text.nc", "cannot be read"), ("bare.nc", "says nothing of its"),
                       ("odd.nc", "holds a 'Unheard'"), ("torn.nc", "no provenance that")):  # fmt: skip
        with pytest.raises(ResultError, match=said):
            load(tmp_path / name)
    made(Result).save(tmp_path / "plain.nc")
    with pytest.raises(ResultError, match="holds a Result"):
        Demo.load(tmp_path / "plain.nc")


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
