"""Methods take a store in place of rows, and find the same."""

import numpy as np
import pytest
import torch

from cutaway import store
from cutaway.errors import MethodError, StoreError
from cutaway.methods.linear_probing import linear_probe, linear_probing
from cutaway.methods.linear_probing.erasure import erase
from cutaway.methods.representation_decomposition import decompositions, representation_decomposition
from cutaway.methods.text_explanation import text_span
from cutaway.model.targets import similarity
from cutaway.questions.bank import text_bank
from cutaway.questions.labels import scene_labels
from cutaway.questions.rows import feed, recorded
from cutaway.store.again import runs
from cutaway.zoo import tiny
from world import opened

ITEMS = 26


def kept(model, data, sites, folder, **options):
    return store.harvest(model, data, sites, folder, items=8, batch=4, progress=False, **options)


@pytest.fixture(scope="module")
def scenes():
    data = store.Scenes(ITEMS, split="test")
    return [data.scene(at) for at in range(ITEMS)]


@pytest.mark.parametrize("pool", ["pooled", "mean"])
def test_linear_probing_of_a_store_is_that_of_its_rows(pool, scenes, tmp_path):
    model, labels = opened("clip"), {"x": scene_labels(scenes)["x"], "kind": scene_labels(scenes)["kind"]}
    held = kept(model, scenes, ["vision.0.resid_pre", "vision.*.resid_post"], tmp_path / "s")
    one, other = (
        linear_probing(model, rows, labels, pool=pool, seeds=(0, 1), progress=False) for rows in (scenes, held)
    )
    assert list(one["site"].values) == list(other["site"].values)
    assert np.allclose(one["score"], other["score"]) and np.allclose(one["control"], other["control"])
    ours, theirs = (
        linear_probe(model, rows, labels["x"], site="vision.1.resid_post", pool=pool, progress=False)
        for rows in (held, scenes)
    )
    assert torch.allclose(ours.tensors["weight"], theirs.tensors["weight"], atol=1e-6)
    assert np.allclose(ours.predict(model, held, progress=False), theirs.predict(model, scenes, progress=False))


def test_a_class_token_alone_will_do_for_who_reads_no_more(scenes, tmp_path):
    model, x = opened("clip"), scene_labels(scenes)["x"]
    sites = ["vision.0.resid_pre", "vision.*.attn.z", "vision.*.mlp.out", "vision.norm.scale", "vision.joint"]
    held = kept(model, scenes, [*sites, "vision.1.resid_post"], tmp_path / "s", where="cls")
    one, other = (representation_decomposition(model, rows, batch=4, progress=False) for rows in (scenes, held))
    assert (one["heads"].values == other["heads"].values).all() and float(other["error"].max()) < 1e-10
    how = {"site": "vision.1.resid_post", "read": (), "target": similarity(text=0), "draws": 1, "batch": 4}
    on = model.inputs(image=[tiny.picture(0)], text="a red dog")
    erased = [erase(model, rows, x, on=on, progress=False, **how)["target"] for rows in (scenes, held)]
    assert (erased[0] == erased[1]).all() and float(erased[0].std()) > 0
    with pytest.raises(StoreError, match="only some positions were kept"):
        linear_probing(model, held, {"x": x}, pool="mean", progress=False)
    with pytest.raises(MethodError, match="runs them anew"):
        erase(model, held, x, site="vision.1.resid_post", progress=False)


def test_text_span_of_a_store_is_that_of_its_rows(scenes, tmp_path):
    model = opened("clip")
    bank = text_bank(model, ["a dog", "a cat", "a red car", "a blue mat"], progress=False)
    sites = ["vision.0.resid_pre", "vision.*.attn.z", "vision.*.mlp.out", "vision.norm.scale", "vision.joint"]
    held = kept(model, scenes, sites, tmp_path / "s")
    one, other = (
        text_span(decompositions(model, rows, batch=4, progress=False), bank, picks=2, progress=False)
        for rows in (scenes, held)
    )
    assert (one["text"].values == other["text"].values).all()
    for name in ("fit", "explained", "variance", "random"):
        assert np.allclose(one[name], other[name])
    parts = representation_decomposition(model, held, progress=False)
    assert float(parts["error"].max()) < 1e-10


@pytest.mark.parametrize("name", ["clip", "llama", "bart"])
def test_runs_of_a_store_are_those_of_the_model(name, tmp_path):
    """Texts of several lengths: each row's own positions are the same, what fills it up is told as that."""
    model, tower = opened(name), "encoder" if name == "bart" else "text"
    texts = ["a red dog on a mat", "a cat", "a red dog", "a dog", "a blue cat"]
    site = f"{tower}.1.resid_post"
    held = kept(model, texts, [site, f"{tower}.0.attn.z"], tmp_path / "s")
    rows = list(runs(held, model, [site, f"{tower}.0.attn.z"], tower, batch=3))
    assert [len(run[site]) for run in rows] == [3, 2]
    for at, text in enumerate(texts):
        run, row = rows[at // 3], at % 3
        alone = model.run(model.inputs(text=[text]), record=[site, f"{tower}.0.attn.z"])
        known = run.inputs.tokens[tower]
        own = torch.from_numpy(known.kind[row] != "pad")
        for one in (site, f"{tower}.0.attn.z"):
            assert torch.allclose(run[one][row, own], alone[one][0], atol=1e-10)
        assert [word for word in known.text[row] if word] == list(alone.inputs.tokens[tower].text[0])


def test_pairs_of_pictures_come_back_as_patterns(tmp_path):
    model, site = opened("clip"), "vision.1.attn.pattern"
    pictures = [tiny.picture(seed) for seed in range(3)]
    held = kept(model, pictures, site, tmp_path / "s")
    (run,) = recorded(model, held, "vision", [site], progress=False)
    assert torch.allclose(run[site], model.run(model.inputs(image=pictures), record=site)[site], atol=1e-10)


@pytest.mark.parametrize(
    ("name", "data", "site", "options", "said"),
    [
        ("clip", ["a cat", "a red dog"], "text.1.attn.pattern", {}, "pairs of 16 to 25 positions"),
        ("clip", ["a cat"], "text.1.resid_post", {"where": "eos"}, "only some positions were kept"),
        ("siglip", ["a cat"], "text.1.resid_post", {}, "reads its padding"),
    ],
)
def test_what_is_no_whole_run_is_said(name, data, site, options, said, tmp_path):
    held = kept(opened(name), data, site, tmp_path / "s", **options)
    with pytest.raises(StoreError, match=said):
        list(runs(held, opened(name), site, "text"))


def test_a_method_that_runs_anew_takes_no_store(scenes, tmp_path):
    model = opened("clip")
    held = kept(model, scenes[:4], "vision.1.resid_post", tmp_path / "s")
    with pytest.raises(MethodError, match="runs them anew"):
        list(feed(model, held, "vision", progress=False))
    with pytest.raises(MethodError, match="as it is, and here it is to run under edits"):
        list(recorded(model, held, "vision", "vision.1.resid_post", edits=["some"], progress=False))
    with pytest.raises(MethodError, match="no residual stream of 'text'"):
        linear_probing(model, held, {"x": scene_labels(scenes[:4])["x"]}, tower="text", progress=False)
    (held.path / "shard-000000.json").unlink()
    with pytest.raises(StoreError, match="Run its harvest to the end"):
        list(runs(store.open(held.path), model, "vision.1.resid_post", "vision"))
