"""A planted unit is described by what it is in all three ways; others by less, and other labels by next to nothing."""

import numpy as np
import pytest

from cutaway import data
from cutaway.errors import MethodError
from cutaway.methods import description_scores
from world import red_unit

UNIT = 5
WORLD = data.World(things=(1, 1), kinds=("plain",), names=("ghost",))
SCENES = list(data.scenes("test", 160, 0, WORLD))


@pytest.fixture(scope="module")
def found():
    """The planted unit and four as they came, which know nothing of colours by name."""
    return description_scores(
        red_unit(), SCENES, site="vision.embed", units=[UNIT, 0, 1, 2, 3], draw=4, length=2, progress=False
    )


@pytest.mark.checks("description_scores", "truth")
def test_a_planted_unit_is_called_what_it_is_by_every_describer(found):
    one = found.data.sel(unit=UNIT)
    assert one["label"].values.tolist()[:2] == ["red ground"] * 2 and "red ground" in str(one["label"].values[2])
    assert (one["score"].sel(similarity=["pearson", "cosine"], describer=["masks", "presence"]) > 0.5).all()
    assert (one["drawn"].values[:2] > 0.9).all() and np.isnan(one["drawn"].values[2])
    assert (found["sane"].sel(similarity=["pearson", "cosine", "f1", "iou"]) == 1).all()


@pytest.mark.checks("description_scores", "baseline")
def test_labels_of_other_units_score_less(found):
    one = found.data.sel(unit=UNIT, describer=["masks", "presence"])
    assert (one["random"].sel(similarity="pearson") < 0.1).all()
    assert one["beyond"].sel(similarity=["pearson", "cosine"]).all()
    table = found.table().set_index("describer")
    assert (table["pearson"] > table["pearson, others"]).all()


@pytest.mark.checks("description_scores", "floor")
def test_units_of_a_model_that_was_not_trained_are_described_less_well(found):
    pearson = found["score"].sel(similarity="pearson", describer=["masks", "presence"])
    assert (pearson.sel(unit=UNIT) > pearson.sel(unit=[0, 1, 2, 3]).max("unit")).all()


def test_what_cannot_be_judged_is_refused():
    model = red_unit()
    with pytest.raises(MethodError, match="No unit 99"):
        description_scores(model, SCENES, site="vision.embed", units=[99], progress=False)
    with pytest.raises(MethodError, match="of both halves"):
        description_scores(model, SCENES[:6], site="vision.embed", progress=False)
    with pytest.raises(MethodError, match="masks are exact"):
        description_scores(model, ["a dog", "a cat"], progress=False)
