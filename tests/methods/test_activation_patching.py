"""Patching recovers exactly what it must, finds what was planted, and finds nothing where there is nothing."""

import pickle
from functools import cache

import numpy as np
import pytest
import torch

import cutaway
from cutaway.data import pairs
from cutaway.errors import MethodError, SiteError, TargetError
from cutaway.methods.causal_tracing import Patching, activation_patching
from cutaway.methods.result import load
from cutaway.model.edits import Patch
from cutaway.model.targets import closer, logit_diff
from cutaway.model.tokens import Where
from cutaway.questions.bank import text_bank
from cutaway.questions.drawn import apart
from cutaway.questions.pairs import closer_to
from cutaway.questions.rows import embedded
from cutaway.zoo import tiny
from world import fresh, opened

GRID = ("vision.*.resid_post", ("token",))


@cache
def backgrounds():
    return list(pairs("background", 4))


def made(**options):
    return patched(opened("clip"), backgrounds(), **{"least": 0.0, **options})


def patched(model, some, tower="vision", **options):
    return activation_patching(model, *apart(model, some, tower), progress=False, **options)


@pytest.mark.parametrize("mode", ["denoise", "noise"])
def test_everything_of_a_layer_is_all_of_the_answer(mode):
    found = made(sites=["vision.0.resid_pre", "vision.*.resid_post"], over=(), mode=mode)
    assert found["mean"].dims == ("site",)
    assert abs(found["recovery"] - (mode == "denoise")).max() < 1e-8


def test_the_last_layer_is_read_at_one_position():
    found = made().data.isel(layer=-1)
    assert abs(found["recovery"].isel(token=0) - 1).max() < 1e-8
    assert abs(found["recovery"].isel(token=slice(1, None))).max() < 1e-8
    assert abs(found["recovery"].sum("token") - 1).max() < 1e-8


def test_a_place_and_all_other_places_are_two_views_of_one_run():
    """Clean at c in the corrupted run is corrupted everywhere but c in the clean run, for sites that cut the model."""
    patches = made(over=(), at=Where("image"), mode="denoise")
    token = made(over=(), at=Where("cls"), mode="noise")
    assert abs(patches["recovery"] - token["recovery"]).max() < 1e-8


def test_a_pair_with_itself_is_refused():
    scenes = [pair.a for pair in backgrounds()]
    model = opened("clip")
    target = closer_to(model, ["a dog"] * 4, ["a cat"] * 4)
    with pytest.raises(MethodError, match="does not move"):
        activation_patching(model, scenes, scenes, target=target, progress=False)


def test_it_equals_the_plain_loop():
    model, found = opened("clip"), made(sites="vision.*.attn.z", over=("head",))
    clean = model.run(model.inputs(image=[picture(p.a) for p in backgrounds()]), record="vision.*.attn.z")
    other = model.inputs(image=[picture(p.b) for p in backgrounds()])
    target = closer_to(model, [p.caption_a.text for p in backgrounds()], [p.caption_b.text for p in backgrounds()])
    assert found["recovery"].shape == (4, 3, 4)
    for layer, head in ((0, 3), (2, 1)):
        value = target(model.run(other, edits=Patch(f"vision.{layer}.attn.z", clean, head=head))).numpy()
        expected = (value - found["corrupted"]) / (found["clean"] - found["corrupted"])
        assert abs(found["recovery"].isel(layer=layer, head=head) - expected).max() < 1e-7


def picture(scene):
    from cutaway.data import render

    return render(scene)


@pytest.mark.parametrize("part", ["k", "v"])
def test_keys_and_values_are_gone_over_by_their_own_heads(part):
    """Two of them for four heads of queries."""
    model, target, site = opened("llama"), logit_diff("dog", "cat"), f"text.1.attn.{part}"
    here, there = (model.inputs(text=text) for text in ("a red dog", "a big cat"))
    found = activation_patching(model, here, there, sites=site, over="head", target=target, progress=False)["recovery"]
    donor = model.run(here, record=site)
    clean, corrupted = (float(target(model.run(inputs))) for inputs in (here, there))
    moved = [float(target(model.run(there, edits=Patch(site, donor, head=head)))) for head in (0, 1)]
    assert found.values.ravel() == pytest.approx([(one - corrupted) / (clean - corrupted) for one in moved], rel=1e-6)


def test_batches_change_nothing_but_the_strangers():
    one, other = made(), made(batch=2)
    assert abs(one["recovery"] - other["recovery"]).max() < 1e-7


# --- planted ----------------------------------------------------------------------------------------------------------


def planted():
    """A CLIP whose only way from the patches to the answer is head 2 of layer 1: all other heads write nothing."""
    model = fresh("clip")
    blocks = model.towers["vision"].blocks
    with torch.no_grad():
        for number, block in enumerate(blocks):
            block.self_attn.out_proj.bias.zero_()
            weight = block.self_attn.out_proj.weight
            keep = torch.zeros_like(weight)
            width = weight.shape[1] // 4
            if number == 1:
                keep[:, 2 * width : 3 * width] = weight[:, 2 * width : 3 * width] * 5
            weight.copy_(keep)
    return model


@pytest.mark.checks("activation_patching", "truth")
def test_the_planted_head_is_found_and_no_other():
    found = patched(planted(), backgrounds(), sites="vision.*.attn.z", over=("head",), at=Where("cls"), least=0.0)
    mean = found["mean"].values
    assert mean[1, 2] == pytest.approx(1, abs=1e-8)
    mean[1, 2] = 0
    assert abs(mean).max() < 1e-8


def test_the_planted_path_is_found_among_positions():
    found = patched(planted(), backgrounds(), least=0.0)
    before, after = found["mean"].isel(layer=0), found["mean"].isel(layer=1)
    assert float(before.isel(token=0)) == pytest.approx(0, abs=1e-8)  # nothing has reached the class token yet
    assert float(after.isel(token=0)) == pytest.approx(1, abs=1e-8)
    assert abs(after.isel(token=slice(1, None))).max() < 1e-8
    assert float(abs(before.isel(token=slice(1, None))).max()) > 1e-3


# --- baselines, ablations ---------------------------------------------------------------------------------------------


@pytest.mark.checks("activation_patching", "baseline")
def test_a_stranger_does_not_bring_the_answer():
    """At the last class token the random baseline is the answer of another picture, whatever the pair."""
    found = made(over=(), at=Where("cls")).data.isel(layer=-1)
    assert float(found["mean"]) == pytest.approx(1)
    assert float(found["random"]) != pytest.approx(1, abs=1e-3)
    assert float(found["random_low"]) <= float(found["random"]) <= float(found["random_high"])


def test_one_pair_has_no_stranger():
    found = patched(opened("clip"), backgrounds()[:1], over=())
    assert np.isnan(found["random"]).all()
    assert not np.isnan(found["mean"]).any()
    with pytest.raises(MethodError, match="second row"):
        patched(opened("clip"), backgrounds()[:1], over=(), how="resample")


def test_a_model_that_answers_is_not_taken_for_one_that_matches():
    """A LLaVA has both towers and no joint space: captions cannot be its target."""
    with pytest.raises(MethodError, match=r"'tiny:llava' is generative.*target=.*logit_diff"):
        apart(opened("llava"), backgrounds()[:2])
    with pytest.raises(MethodError, match=r"'tiny:llava' is generative.*contrastive"):
        text_bank(opened("llava"), ["a dog", "a cat"])


@pytest.mark.checks("activation_patching", "floor")
def test_an_untrained_model_gives_places_no_meaning():
    """The floor: the gap of a random model is tiny, and what a patch moves is not what a stranger does not."""
    found = made()
    assert float(abs(found["clean"] - found["corrupted"]).max()) < 0.05
    inner = found.data.isel(layer=0, token=slice(1, None))
    assert float((inner["low"] > inner["random_high"]).mean()) < 0.5


@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_ablation_changes_the_clean_run(how):
    found = made(sites="vision.*.attn.z", over=("head",), how=how)
    model = opened("clip")
    assert found.provenance.options["mode"] == "ablate the clean run"
    assert found["effect"].dims == ("layer", "head")
    assert float(abs(found["effect"]).max()) > 0
    if how == "zero":
        target = closer_to(model, *zip(*((p.caption_a.text, p.caption_b.text) for p in backgrounds()), strict=True))
        inputs = model.inputs(image=[picture(p.a) for p in backgrounds()])
        edit = cutaway.Ablate("vision.1.attn.z", head=2)
        change = target(model.run(inputs, edits=edit)) - target(model.run(inputs))
        assert float(found["effect"].sel(layer=1, head=2)) == pytest.approx(float(change.mean()))
    if how == "resample":
        assert np.allclose(found["mean"], found["random"])


def test_the_mean_is_that_of_both_sides():
    """With every picture the same but one, ablating to the mean moves towards the others."""
    found = made(sites="vision.2.resid_post", over=(), how="mean", at=Where("cls"))
    assert float(found["recovery"].std()) > 0
    assert found["recovery"].shape == (4, 1)


# --- other inputs, targets and towers ---------------------------------------------------------------------------------


def test_texts_are_patched_too():
    some = [p for p in pairs("background", 12) if same_length(p)][:2]
    found = patched(opened("clip"), some, "text", sites="text.*.resid_post", over=(), least=0.0)
    assert abs(found["mean"] - 1).max() < 1e-8


def same_length(pair):
    words = opened("clip").tokenizer
    return len({len(words(one.text)["input_ids"]) for one in (pair.caption_a, pair.caption_b)}) == 1


def test_prepared_inputs_and_any_target():
    model = opened("llava")
    dog, cat = (model.inputs(image=tiny.picture(seed), text="what is this ?") for seed in (0, 1))
    found = activation_patching(
        model, dog, cat, sites="text.*.resid_post", over=(), target=logit_diff("dog", "cat"), progress=False
    )
    assert abs(found["mean"] - 1).max() < 1e-7
    assert found.provenance.options["unit"] == "logits"


def test_closer_is_the_difference_of_cosines_and_pickles():
    model = opened("clip")
    words = embedded(model, ["a dog", "a cat"], "text", progress=False)
    own = embedded(model, [tiny.picture(0)], "vision", progress=False)
    target = pickle.loads(pickle.dumps(closer(words[:1], words[1:])))
    run = model.run(model.inputs(image=[tiny.picture(0)]))
    cosine = torch.nn.functional.cosine_similarity
    assert torch.allclose(target(run), cosine(own, words[:1]) - cosine(own, words[1:]))
    with pytest.raises(TargetError, match="pair up"):
        closer(words, words)(run)
    with pytest.raises(TargetError, match="joint space"):
        closer(words, words)(opened("llama").run(opened("llama").inputs(text="a dog")))


def test_a_gap_too_small_is_left_out_and_counted():
    everyone, some = made(least=0.0), made(least=0.9)
    gap = abs(everyone["clean"] - everyone["corrupted"])
    expected = int((gap < 0.9 * gap.median()).sum())
    assert some.provenance.options["left_out"] == expected == int((~some["used"]).sum()) > 0
    assert np.isnan(some["recovery"].values[~some["used"].values]).all()
    assert float(some["mean"].max()) == pytest.approx(float(some["recovery"].mean("pair").max()))


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_tokens_fold_onto_the_grid_and_it_draws():
    found = made()
    grid = found.on_grid()
    assert grid.dims == ("layer", "row", "col")
    assert grid.values[1, 2, 3] == found["mean"].sel(layer=1).values[1 + 4 * 2 + 3]
    assert found.on_grid("recovery").shape == (4, 3, 4, 4)
    for one in (found, made(over=()), made(sites="vision.*.attn.z", over=("head",))):
        assert one.plot().figure is not None
        assert "data:image/png" in one.to_html()
        assert len(one.summary())
    with pytest.raises(MethodError, match="grid"):
        made(over=()).on_grid()


def test_it_is_kept(tmp_path):
    found = made()
    back = load(found.save(tmp_path / "patching.nc"))
    assert isinstance(back, Patching)
    assert back.data.identical(found.data)
    assert back.provenance == found.provenance


def test_the_same_seed_gives_the_same_numbers():
    assert made().data.identical(made().data)
    others = [made(seed=seed)["random"] for seed in (1, 2, 3, 4)]
    assert any(not one.equals(made()["random"]) for one in others)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"over": ("query",)}, "go over query"),
        ({"over": ("head",), "sites": "vision.*.resid_post"}, "go over head"),
        ({"at": Where("cls")}, "both choose positions"),
        ({"least": 1.5}, "least 1.5"),
        ({"sites": ["vision.0.resid_post", "text.0.resid_post"]}, "several towers"),
    ],
)
def test_options_that_do_not_fit(options, said):
    with pytest.raises(MethodError, match=said):
        made(**options)


def test_inputs_that_do_not_pair_up():
    model, target = opened("clip"), closer_to(opened("clip"), ["a dog"], ["a cat"])
    one, two = [tiny.picture(0)], [tiny.picture(0), tiny.picture(1)]
    for clean, other, said in (
        (one, two, "1 clean and 2 .* do not pair up"), (backgrounds(), None, r"o counterpart.*questions\.apart"),
        ([], [], "othing to run on"),
    ):  # fmt: skip
        with pytest.raises(MethodError, match=said):
            activation_patching(model, clean, other, target=target, progress=False)
    llama = opened("llama")
    pairs, aim = (["a photo of a cat", "what"], ["a photo of a dog", "this"]), logit_diff("cat", "dog")
    with pytest.raises(MethodError, match="ows of 2 and 6 positions"):
        activation_patching(llama, *pairs, target=aim, progress=False)
    assert activation_patching(llama, *pairs, target=aim, over=(), at=-1, progress=False)["mean"].notnull().all()
    with pytest.raises(TargetError, match="nan in row 1 of the 2"):  # what its padding gives in float64
        activation_patching(opened("gemma2"), *pairs, target=aim, over=(), at=-1, progress=False)
    with pytest.raises(MethodError, match="o target"):
        activation_patching(model, one, one, progress=False)
    with pytest.raises(MethodError, match="nly one of the two"):
        activation_patching(model, model.inputs(image=one), one, target=target, progress=False)
    with pytest.raises(SiteError):
        activation_patching(model, one, one, target=target, sites="vision.*.resid_pots", progress=False)


def test_texts_of_different_length_are_refused():
    model = opened("clip")
    target = closer_to(model, [tiny.picture(0)], [tiny.picture(1)])
    with pytest.raises(MethodError) as caught:
        activation_patching(
            model, ["a red dog"], ["a very big red dog"], sites="text.*.resid_post", target=target, progress=False
        )
    error = caught.value
    assert all((error.failed, error.expected, error.exists, error.do))
    assert "air 0 has 5 and 7" in str(error)
