"""Words of a denoiser's heads: the numbers are areas under curves of its own patterns, and chance has no words."""

from dataclasses import replace

import pytest
from sklearn.metrics import roc_auc_score

import cutaway
from cutaway import data
from cutaway.data.prompts import DRAWINGS
from cutaway.errors import MethodError
from cutaway.methods import drawing_heads
from cutaway.methods.network_dissection.unit_maps import Posed, posed_rows
from world import opened

SCENES = list(data.scenes("test", 24, 0, replace(DRAWINGS, names=("car",), things=(1, 1), tinted=0.0)))


@pytest.fixture(scope="module")
def found():
    return drawing_heads(opened("sd"), SCENES, picks=2, least=1, progress=False)


@pytest.mark.checks("drawing_heads", "truth")
def test_a_head_has_the_area_under_the_curve_of_its_own_map(found):
    model, rows = opened("sd"), []
    for at, inputs in enumerate(posed_rows(model, SCENES, Posed(), 8)):
        run = model.run(inputs, record="denoiser.5.cross.pattern")
        maps = run["denoiser.5.cross.pattern"][0, run.guidance["denoiser.5.cross.pattern"].index("cond")]
        for row in range(len(maps)):
            tokens = list(inputs.tokens["text"].text[row])
            size = round(maps.shape[-2] ** 0.5)
            mask = data.coverage(SCENES[8 * at + row])[1]
            inside = mask.reshape(size, len(mask) // size, size, len(mask) // size).mean((1, 3))
            rows.append(roc_auc_score(inside.ravel() > 0.5, maps[row, 2, :, tokens.index("car")]))
    made = found["auroc"].sel(head="5.2", said="car").values
    rows = rows[1:]  # the first has no scene before it
    assert made == pytest.approx([sum(rows[half::2]) / len(rows[half::2]) for half in range(2)], abs=1e-5)
    best = found["auroc"].sel(half="named on").max("said").values
    assert found["fit"].isel(pick=0).values == pytest.approx(best)


@pytest.mark.checks("drawing_heads", "baseline", "floor")
def test_before_training_heads_have_no_word_of_their_own(found):
    first = found.data.isel(pick=0)
    assert float(first["fit"].mean()) > float(first["held"].mean())  # chosen there
    for name in ("held", "another", "moved"):
        assert abs(float(first[name].mean()) - 0.5) < 0.1, name
    assert abs(float(first["own"].mean())) < 0.1 and "beyond both" in found.note()
    assert {"all"} < set(found.summary()["head"]) and found.plot().get_xlabel() == "heads"


def test_what_cannot_be_named_is_said():
    with pytest.raises(MethodError, match="words are said by"):
        drawing_heads(opened("sd"), SCENES[:4], progress=False)
    with pytest.raises(MethodError, match="no denoiser"):
        drawing_heads(cutaway.load("tiny:vit"), SCENES[:4], progress=False)
