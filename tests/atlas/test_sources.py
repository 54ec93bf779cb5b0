"""What to cite for a method comes from its own file, and every method has something."""

import sys
import types
from dataclasses import replace

import pytest

from cutaway.atlas.mentions import Mention, mentions, work_of, works_of
from cutaway.atlas.sources import cited_by, sources_of, users_of
from cutaway.atlas.works import Work, find, shipped
from cutaway.errors import MethodError
from cutaway.methods.table import METHODS


def test_sources_are_read_as_people_write_them() -> None:
    said = (
        "Goh et al. 2021 (Distill), Geva et al. 2021 arXiv 2012.14913; nostalgebraist 2020, the logit lens; at "
        "pictures: Neo et al. 2024, arXiv 2410.07149; tuned: arXiv 2303.08112; Chen, Viégas 2023, arXiv 2306.05720"
    )
    assert mentions(said) == (
        Mention("Goh", 2021, ""), Mention("Geva", 2021, "2012.14913"), Mention("nostalgebraist", 2020, ""),
        Mention("Neo", 2024, "2410.07149"), Mention("", None, "2303.08112"), Mention("Chen", 2023, "2306.05720"),
    )  # fmt: skip
    keys = [work.key for work in works_of([said, said])]
    assert keys == ["goh21", "geva20", "nostalgebraist20", "neo24", "belrose23", "chen23ldm"]


def test_a_work_that_the_atlas_lacks_is_cited_by_what_is_known() -> None:
    made = work_of(Mention("Nobody", 1999, "9912.00001"), shipped())
    assert made.trust == "unchecked" and "title not in the atlas" in made.title and made.url
    assert work_of(Mention("Spearman", 1904, ""), shipped()).key == "spearman1904"
    assert work_of(Mention("Neo", 2024, "2410.07149"), [Work("mine", "Mine", arxiv="2410.07149")]).key == "mine"


def test_every_declared_method_says_whom_to_cite() -> None:
    without = [one.name for one in METHODS if not works_of(sources_of(one))]
    assert not without, f"name the work in a SOURCE of the file, or as arXiv … in the docstring: {without}"


def test_sources_by_the_way_of_a_method_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    file = types.ModuleType("ways")
    exec("def ways():\n    'A method, after arXiv 2310.05916 and arXiv 2303.14186.'", file.__dict__)  # noqa: S102
    vars(file).update(SOURCES={"a": "Park et al. 2023, arXiv 2303.14186"}, DATA_SOURCE="Goh et al. 2021 (Distill)")
    vars(file).update(RESOURCES=("nothing 1999",), OTHER_SOURCES=("words", "picture"))
    monkeypatch.setitem(sys.modules, "ways", file)
    one = replace(METHODS[0], function=file.ways)
    assert [work.key for work in works_of(sources_of(one))] == ["park23trak", "goh21", "gandel23"]


def test_a_method_and_a_work_know_each_other() -> None:
    assert [work.key for work in cited_by("concept-attention")] == ["helbling25"]
    assert "concept_attention" in users_of(find("helbling25", shipped())) and users_of(find("lin25", shipped())) == ()
    with pytest.raises(MethodError, match="called 'guessing'"):
        cited_by("guessing")
