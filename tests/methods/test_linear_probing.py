"""Probes find a planted label where it is and not before, are honest about memorising, and count their intervals."""

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

from cutaway.data import scenes
from cutaway.errors import MethodError, StoreError
from cutaway.methods.linear_probing import LinearProbe, Probes, linear_probe, linear_probing
from cutaway.methods.linear_probing.probe_data import Pooling, chance, fit, shuffled_by_type, split, states
from cutaway.methods.result import load
from cutaway.model.edits import Add
from cutaway.model.tokens import Where
from cutaway.questions.labels import LABELS, scene_labels
from cutaway.zoo import tiny
from world import noise, opened

COUNT = 48
SHOWN = list(scenes("test", COUNT, 2))
TRUTH = np.random.default_rng(0).integers(0, 2, COUNT)


def probed(labels, **options) -> Probes:
    return linear_probing(opened("clip"), SHOWN, labels, seeds=(0, 1, 2), progress=False, batch=COUNT, **options)


@pytest.mark.checks("linear_probing", "truth")
def test_a_planted_label_is_found_at_its_layer_and_not_before():
    value = torch.from_numpy(TRUTH)[:, None] * 40 * noise(32)
    with opened("clip").edited(Add("vision.1.resid_post", value, token=0)):
        found = probed({"planted": np.where(TRUTH, "yes", "no"), "amount": TRUTH + 0.0}, types=TRUTH)
        alone = probed({"planted": TRUTH})
    mean = found["mean"].sel(label="planted").values
    assert (mean[:2] < 0.75).all() and (mean[2:] == 1).all()
    assert (found["mean"].sel(label="amount").values[2:] > 0.9).all() and found["mean"].sel(label="amount")[0] < 0.3
    assert (alone["selectivity"].sel(label="planted").values[2:] > 0.3).all()
    assert found["layer"].values.tolist() == [-1, 0, 1, 2] and found["metric"].values.tolist() == ["accuracy", "R^2"]


def test_the_mean_over_patches_sees_what_lies_on_patches_only():
    value = torch.from_numpy(TRUTH)[:, None, None] * 40 * noise(32)
    with opened("clip").edited(Add("vision.2.resid_post", value, token=slice(1, None))):
        there, elsewhere = (probed({"planted": TRUTH}, sites="vision.2.resid_post", pool=p) for p in ("mean", "pooled"))
    assert there["mean"].item() == 1 and elsewhere["mean"].item() < 0.75


@pytest.mark.checks("linear_probing", "baseline")
def test_what_a_probe_can_memorise_is_not_selective():
    """When items show their type and nothing else, control labels of the types are as easy as true ones."""
    types = np.arange(60) % 6
    x, y = np.eye(6)[types], types % 2
    control = shuffled_by_type(y, types, 1)
    train, held = split(y, 0.25, 0)
    scores = [fit(x[train], z[train], 1.0).score(x[held], z[held]) for z in (y, control)]
    assert scores == [1.0, 1.0]


@settings(max_examples=30, deadline=None)
@drawn(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=2, max_size=40), st.integers(0, 99))
def test_control_labels_belong_to_types(items, seed):
    types, labels = (np.array(column) for column in zip(*items, strict=True))
    control = shuffled_by_type(labels, types, seed)
    assert all(len(set(control[types == kind])) == 1 for kind in set(types))
    assert set(control) <= set(labels) and (control == shuffled_by_type(labels, types, seed)).all()
    own = shuffled_by_type(labels, np.arange(len(labels)), seed)
    assert sorted(own) == sorted(labels)
    assert shuffled_by_type(labels + 0.5, types, seed).dtype == float


@pytest.mark.checks("linear_probing", "floor")
def test_an_untrained_model_and_random_labels_score_the_floor():
    found = probed({"random": TRUTH})
    assert (abs(found["mean"] - found["majority"].mean("seed")) < 0.25).all()
    assert (abs(found["selectivity"]) < 0.3).all()


def test_the_interval_is_students_and_knows_that_splits_overlap():
    found = probed({"random": TRUTH}, sites="vision.2.resid_post")
    scores = found["score"].values[0, 0]
    half = 4.302652729911275 * scores.std(ddof=1) * (1 / 3 + 0.25 / 0.75) ** 0.5
    assert found["high"].item() == pytest.approx(scores.mean() + half)
    assert (found["mean"] - found["low"]).item() == pytest.approx(half)
    alone = linear_probing(opened("clip"), SHOWN, {"x": TRUTH}, sites="vision.2.resid_post", seeds=(4,), progress=False)
    assert np.isnan(alone["low"].item()) and alone.provenance.seed == 4


def test_states_are_pooled_as_told():
    model = opened("clip")
    inputs = model.inputs(image=[tiny.picture(0), tiny.picture(1)])
    run = model.run(inputs, record=["vision.1.resid_post", "vision.1.attn.z", "vision.joint"])
    sites = model.sites.select(list(run.activations))
    pooled, mean = (states(model, inputs, sites, Pooling.of(model, "vision", how)) for how in ("pooled", "mean"))
    assert np.allclose(pooled["vision.1.resid_post"], run["vision.1.resid_post"][:, 0])
    assert np.allclose(mean["vision.1.attn.z"], run["vision.1.attn.z"][:, 1:].mean(1).flatten(1))
    assert np.allclose(mean["vision.joint"], run["vision.joint"])
    assert Pooling.of(model, "vision", "pooled").selector == Where("cls")
    words = model.inputs(text=["a dog", "a cat on the left"])
    text = states(model, words, model.sites["text.1.resid_post"], Pooling.of(model, "text", "mean"))
    assert text["text.1.resid_post"].shape == (2, 32)
    last = Pooling.of(opened("siglip"), "text", "pooled")
    assert last.selector == -1 and last.mask(opened("siglip").inputs(text="a dog")).sum() == 1


def test_a_tower_without_a_pooled_position_is_probed_by_its_mean():
    found = linear_probing(opened("siglip"), SHOWN, {"x": TRUTH}, pool="mean", seeds=(0,), progress=False)
    assert found.data.sizes["site"] == 4
    with pytest.raises(MethodError, match=r"attention head pools all.*mean over patches"):
        linear_probing(opened("siglip"), SHOWN, {"x": TRUTH}, progress=False)


def prompts(count=COUNT):
    """Pictures with a question each, of several lengths."""
    texts = [("a dog", "a red dog on the left", "a cat")[row % 3] for row in range(count)]
    return opened("llava").inputs(image=[[tiny.picture(row % 4)] for row in range(count)], text=texts)


@pytest.mark.checks("linear_probing", "truth")
def test_a_label_planted_on_the_picture_is_found_there_and_not_at_the_question():
    """And one planted at the last position there, and at the position of each row that is named."""
    model, inputs = opened("llava"), prompts()
    value = torch.from_numpy(TRUTH)[:, None, None] * 40 * noise(32)
    seen = {}
    for where in (Where("image"), -1):
        with model.edited(Add("text.1.resid_post", value if where != -1 else value[:, 0], token=where)):
            for pool in ("picture", "question", "last", "pooled"):
                found = linear_probing(model, inputs, {"planted": TRUTH}, tower="text", sites="text.1.resid_post",
                                       pool=pool, seeds=(0, 1), progress=False)  # fmt: skip
                seen[str(where), pool] = found["mean"].item()
    told = {key for key, mean in seen.items() if mean == 1}
    image = str(Where("image"))
    assert told == {(image, "picture"), ("-1", "last"), ("-1", "pooled")} and max(
        mean for key, mean in seen.items() if key not in told
    ) < 0.8, seen  # fmt: skip


def test_positions_of_prompts_are_each_rows_own():
    model, inputs = opened("llava"), prompts(6)
    kinds = inputs.tokens["text"].kind
    assert (kinds == "pad").any()
    last, words = (Pooling.of(model, "text", pool).mask(inputs).numpy() for pool in ("last", "question"))
    ends = (kinds != "pad").sum(1) - 1
    own = np.cumsum(kinds != "pad", 1) - 1
    assert (last == ((own == ends[:, None]) & (kinds != "pad"))).all()
    assert (words == ((kinds == "text") & ~last)).all() and words.any(1).all()
    by_number = Pooling.of(model, "text", ends.tolist())
    assert (by_number.mask(inputs).numpy() == last).all()
    site = model.sites.select("text.1.resid_post")
    whole = states(model, inputs, site, by_number)
    parts = states(model, [prompts(3), prompts(3)], site, Pooling.of(model, "text", ends[:3].tolist() * 2))
    named = states(model, inputs, site, Pooling.of(model, "text", "last"))["text.1.resid_post"]
    assert np.allclose(whole["text.1.resid_post"], named)
    assert np.allclose(parts["text.1.resid_post"], np.concatenate([named[:3], named[:3]]))
    with pytest.raises(MethodError, match=r"one position a row"):
        states(model, inputs, site, Pooling.of(model, "text", ends[:4].tolist()))
    with pytest.raises(MethodError, match=r"one position a row"):
        Pooling.of(model, "text", [99] * 6).mask(inputs)
    with pytest.raises(MethodError, match="differ from row to row"):
        _ = Pooling.of(model, "text", "question").selector
    with pytest.raises(MethodError, match="reads words, and these rows are pictures"):
        linear_probing(model, SHOWN, {"x": TRUTH}, tower="text", pool="last", progress=False)


def test_directions_are_an_orthonormal_basis_of_the_read_out():
    x, y = noise(90, 8).numpy(), np.arange(90) % 3
    x[:, 2] += 5 * y
    basis = fit(x, y, 1.0).directions()
    assert basis.shape == (2, 8) and np.allclose(basis @ basis.T, np.eye(2))
    assert chance(y[:80], y[80:]) == pytest.approx(0.3, abs=0.11) and chance(y[:80] + 0.0, y[80:] + 0.0) <= 0


def test_scene_labels_say_what_the_scene_says():
    labels = scene_labels(SHOWN)
    assert tuple(labels) == LABELS and all(len(values) == COUNT for values in labels.values())
    first = SHOWN[3].things[0]
    assert (labels["concept"][3], labels["place"][3]) == (first.concept, first.place_name)
    assert labels["count"].dtype == float and labels["count"][5] == len(SHOWN[5].things)
    with pytest.raises(MethodError, match="empty"):
        scene_labels([])


def test_it_keeps_and_draws_itself_and_refuses_nonsense(tmp_path):
    found = probed({"a": TRUTH, "b": TRUTH[::-1]}, sites="vision.?.resid_post")
    assert isinstance(load(found.save(tmp_path / "p.nc")), Probes)
    assert len(found.summary()) == 2 and "<img" in found.to_html()
    for labels, said in (({}, "a label and a seed"), ({"x": TRUTH[:5]}, "one label for each of 48"),
                         ({"x": TRUTH * 0}, "two values")):  # fmt: skip
        with pytest.raises(MethodError, match=said):
            probed(labels)
    with pytest.raises(MethodError, match="pairs of positions"):
        probed({"x": TRUTH}, sites="vision.1.attn.pattern")
    with pytest.raises(MethodError, match="Cannot pool by 'max'"):
        Pooling.of(opened("clip"), "vision", "max")


# --- one probe to keep ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["two classes", "three classes", "numbers"])
def test_a_read_out_is_that_of_scikit_learn(kind):
    from sklearn.linear_model import LogisticRegression, Ridge

    x, new = noise(90, 6).numpy(), noise(40, 6, seed=1).numpy()
    y = {"two classes": np.array(["b", "a"])[(x[:, 0] > 0) + 0], "three classes": (x[:, :3]).argmax(1)}.get(
        kind, x[:, 0]
    )
    solver = Ridge(alpha=2.0) if kind == "numbers" else LogisticRegression(C=0.5, max_iter=3000)
    solver.fit((x - x.mean(0)) / x.std(0), y)
    scaled, probe = (new - x.mean(0)) / x.std(0), fit(x, y, 2.0)
    expected = solver.predict(scaled)
    if kind == "numbers":
        assert np.allclose(probe.predict(new), expected, atol=1e-12)
    else:
        assert (probe.predict(new) == expected).all()
        assert np.allclose(probe.values(new).squeeze(), solver.decision_function(scaled), atol=1e-12)
    truth = new[:, 0] if kind == "numbers" else expected[::-1]
    assert probe.score(new, truth) == pytest.approx(solver.score(scaled, truth), abs=1e-12)


@pytest.mark.parametrize(("name", "pool"), [("clip", "pooled"), ("siglip", "mean"), ("dinov2", "pooled")])
def test_a_kept_probe_reads_new_rows(name, pool, tmp_path):
    """A planted label is read off rows the probe has not seen, after it was kept and opened again."""
    model, site = opened(name), "vision.1.resid_post"

    def planted(truth):
        value = torch.from_numpy(truth)[:, None, None] * 40 * noise(model.sites.one(site).sizes["d_model"])
        return model.edited(Add(site, value))

    words = np.where(TRUTH, "yes", "no")
    with planted(TRUTH):
        probe = linear_probe(model, SHOWN, words, site=site, pool=pool, batch=COUNT, progress=False)
    back = LinearProbe.load(probe.save(tmp_path / "probe"))
    asked = np.random.default_rng(1).integers(0, 2, 20)
    with planted(asked):
        found = back.predict(model, iter(scenes("train", 20, 5)), batch=20, progress=False)
    assert (found == np.where(asked, "yes", "no")).all()
    assert (probe.predict(model, SHOWN, batch=7, progress=False) == back.predict(model, SHOWN, progress=False)).all()
    assert back.config["items"] == COUNT and back.on.sites == (site,) and back.probe.directions().shape[0] == 1


def test_a_probe_of_numbers_and_of_text_keeps_its_numbers(tmp_path):
    model, texts = (
        opened("clip"),
        [f"{n} {thing}s" for n in ("two", "three", "four") for thing in ("dog", "cat", "car")],
    )
    amount = np.repeat([2.0, 3.0, 4.0], 3)
    probe = linear_probe(model, texts, amount, site="text.2.resid_post", penalty=0.01, progress=False)
    back = LinearProbe.load(probe.save(tmp_path / "amount"))
    found = back.predict(model, texts, batch=4, progress=False)
    assert abs(found - amount).max() < 0.1 and back.config["classes"] is None


def test_a_probe_reads_no_other_model():
    probe = linear_probe(opened("clip"), SHOWN, TRUTH, site="vision.1.resid_post", progress=False)
    assert probe.predict(opened("clip"), SHOWN[:3], progress=False).dtype == TRUTH.dtype
    with pytest.raises(StoreError, match=r"fitted on 'tiny:clip' in float64.*not on 'tiny:dinov2'"):
        probe.predict(opened("dinov2"), SHOWN)
    with pytest.raises(MethodError, match="above 0"):
        linear_probe(opened("clip"), SHOWN, TRUTH, site="vision.1.resid_post", penalty=0.0)
