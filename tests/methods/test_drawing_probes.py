"""Probes of drawings find what is planted, at its block and step, in pictures and on patches; prompts stay apart."""

import numpy as np
import pytest
import torch

import cutaway
from cutaway.errors import MethodError, SiteError
from cutaway.methods import linear_probing
from cutaway.methods.linear_probing import DrawnProbes
from cutaway.methods.linear_probing.drawn_states import drawn_states
from cutaway.methods.result import load
from cutaway.model.edits import Add
from cutaway.questions.drawings import drawings
from world import noise

BEFORE, SITE, COUNT = "denoiser.5.resid_post", "denoiser.8.resid_post", 16
TRUTH = np.random.default_rng(0).permutation([0, 1] * (COUNT // 2))
MAPS = np.random.default_rng(1).random((COUNT, 8, 8)) > 0.5


@pytest.fixture(scope="module")
def asked(sd):
    return drawings(sd, [f"a {'red' if at % 2 else 'blue'} dog" for at in range(COUNT)], batch=COUNT, steps=2)


def probed(sd, rows, labels, **options) -> DrawnProbes:
    how = {"types": np.arange(COUNT), "sites": [BEFORE, SITE], "seeds": (0, 1, 2), "progress": False, **options}
    return linear_probing(sd, rows, labels, tower="denoiser", **how)


def planted(sd, pictures, maps=None, *, step=1):
    """A direction in every patch of each picture, and another one where its map is true, in the half of the prompt."""
    value = 40 * torch.as_tensor(pictures, dtype=torch.float64)[:, None, None] * noise(64)
    if maps is not None:
        value = value + 40 * torch.from_numpy(maps).flatten(1)[..., None] * noise(64, seed=1)
    return sd.edited(Add(SITE, value.expand(-1, 64, -1), step=[step], guidance="cond"))


@pytest.mark.checks("linear_probing", "truth")
def test_what_is_planted_is_found_at_its_block_and_step_and_nowhere_before(sd, asked):
    labels = {"planted": np.where(TRUTH, "yes", "no"), "amount": TRUTH + 0.0, "where": MAPS}
    with planted(sd, TRUTH, MAPS):
        found = probed(sd, asked, labels, steps=2)
        other = probed(sd, asked, {"planted": TRUTH}, steps=[1], guidance="uncond", sites=SITE)
    assert found["mean"].dims == ("site", "step", "label") and found["metric"].values.tolist() == [
        "accuracy", "R^2", "AUC"
    ]  # fmt: skip
    there = found["mean"].sel(site=SITE, step=1)
    assert there[0] == 1 and there[1] > 0.9 and there[2] > 0.95
    elsewhere = found["mean"].stack(at=("site", "step")).drop_sel(at=(SITE, 1))
    assert (elsewhere[0] < 0.8).all() and (elsewhere[1] < 0.4).all() and (abs(elsewhere[2] - 0.5) < 0.2).all()
    assert other["mean"].item() < 0.8
    assert (found["selectivity"].sel(site=SITE, step=1) > 0.3).all()


@pytest.mark.checks("linear_probing", "baseline")
def test_what_the_place_of_a_patch_alone_tells_is_not_selective(sd, asked):
    """The same map in every drawing: the maps of others, and their mean, do as well as the own one."""
    same = np.repeat(MAPS[:1], COUNT, 0)
    with planted(sd, 0 * TRUTH, same):
        found = probed(sd, asked, {"where": same}, steps=[1], sites=SITE)
    assert found["mean"].item() > 0.95 and abs(found["selectivity"].item()) < 0.01
    assert (found["majority"] == 1).all()


@pytest.mark.checks("linear_probing", "floor")
def test_labels_that_say_nothing_score_the_floor_in_an_untrained_denoiser(sd, asked):
    found = probed(sd, asked, {"random": TRUTH, "where": MAPS}, steps=2)
    assert (abs(found["mean"] - found["majority"].mean("seed")) < 0.3).all()
    assert (abs(found["mean"].sel(label="where") - 0.5) < 0.2).all()


def test_a_prompt_is_never_on_both_sides(sd):
    """What can be read of single prompts alone helps nobody with others, unless they are parted by a split."""
    texts = [f"a {word} dog" for word in ("red", "blue", "green", "white", "pink", "gray", "old", "new")] * 2
    each = torch.stack([noise(64, seed=at) for at in range(8)] * 2)
    rows = drawings(sd, texts, batch=COUNT, steps=1)
    label = np.array([0, 1] * 8)
    with sd.edited(Add(SITE, 40 * each[:, None].expand(-1, 64, -1), guidance="cond")):
        apart, mixed = (probed(sd, rows, {"own": label}, types=types, steps=1, sites=SITE)
                        for types in (None, np.arange(COUNT)))  # fmt: skip
    assert mixed["mean"].item() > 0.95 and apart["mean"].item() < 0.8
    assert apart.provenance.options["types"] == "prompts"


def test_states_are_means_over_patches_and_single_patches_in_one_row_of_the_guidance(sd, asked):
    names = [BEFORE, "denoiser.6.res.out", "denoiser.latent"]
    run = sd.run(asked[0], record=names, output="pt")
    found = drawn_states(sd, asked[0], sd.sites.select(names), {"where": MAPS}, steps=[1], points=3, progress=False)
    assert found.steps == (1,) and set(found.mean) == {(name, 1) for name in names} == set(found.spots)
    for name in names:
        hand = run[name][1, run.guidance[name].index("cond")].double()
        hand = hand if "resid" in name else hand.movedim(1, -1).flatten(1, 2)
        side = round(hand.shape[1] ** 0.5)
        assert np.allclose(found.mean[name, 1], hand.mean(1), atol=1e-6)
        row, column = (found.points[5, 2] * side).astype(int)
        assert np.allclose(found.spots[name, 1][5, 2], hand[5, row * side + column], atol=1e-5)
    plain = drawn_states(sd, asked[0], sd.sites.select(BEFORE), {"t": lambda _: TRUTH}, steps=1, progress=False)
    assert not plain.spots and plain.labels["t"].tolist() == TRUTH.tolist() and len(set(plain.prompts)) == 2


def test_joint_attention_is_probed_in_the_stream_of_the_picture():
    model = cutaway.load("tiny:sd3", dtype="float64")
    rows = (model.inputs(prompt=[f"a {word} dog"] * 2, seed=at, steps=2, guidance=1.0)
            for at, word in enumerate(("red", "blue", "green", "white")))  # fmt: skip
    labels = {"half": np.array([0, 1] * 4), "some": np.array(["", *"ababab", ""]), "where": MAPS[:8]}
    found = linear_probing(model, rows, labels, tower="denoiser", types=np.arange(8), seeds=(0,), steps=1,
                           progress=False)  # fmt: skip
    named = [str(name) for name in found["site"].values]
    assert named[0] == "denoiser.latent" and len(named) > 1 and all("image.resid_post" in one for one in named[1:])
    assert found["items"].values.tolist() == [8, 6, 8] and found.data.sizes["step"] == 1
    with pytest.raises(MethodError, match="holds no patches"):
        linear_probing(model, [model.inputs(prompt="a dog", steps=1)], labels, tower="denoiser",
                       sites="denoiser.0.text.resid_post", progress=False)  # fmt: skip


def test_it_keeps_and_draws_itself_and_refuses_nonsense(sd, asked, tmp_path):
    found = probed(sd, asked, {"a": TRUTH, "b": TRUTH[::-1] + 0.0}, steps=[0, 1])
    again = load(found.save(tmp_path / "p.nc"))
    assert isinstance(again, DrawnProbes) and "<img" in found.to_html()
    assert found.summary().columns.tolist() == ["label", "site", "step", "mean", "low", "high", "selectivity",
                                                "majority"]  # fmt: skip
    step, one = sd.inputs(prompt="a dog", step=0, steps=2), sd.inputs(prompt="a dog", steps=1)
    for rows, options, said in (
        (one, {"steps": [2]}, "steps of 0 to 0"), (one, {"guidance": "perturbed"}, "guidance row 'perturbed'"),
        ([step], {}, "not a whole drawing"), ([3], {}, "nothing to draw"),
        (one, {"sites": "denoiser.8.attn.pattern"}, "pairs of positions"),
    ):  # fmt: skip
        with pytest.raises((MethodError, SiteError), match=said):
            probed(sd, rows, {"a": TRUTH}, **options)
    with pytest.raises(MethodError, match="one for each of 1 pictures"):
        probed(sd, one, {"a": TRUTH[:5]}, steps=1)


def test_pictures_of_noise_alone_have_nothing_in_common_with_another_batch():
    """They are called by their place in a batch, which says nothing; and one class alone is nothing to fit."""
    model = cutaway.load("tiny:ddpm")
    rows = [model.inputs(pictures=2, seed=seed, steps=1) for seed in range(4)]
    site = [model.sites["denoiser.*.res.out"][0]]
    found = drawn_states(model, rows, site, {}, steps=1, guidance="cond", batch=2, progress=False)
    assert found.prompts == tuple(f"picture {at}" for at in range(8))
    with pytest.raises(MethodError, match=r"fitted on are of one class, 'a'.*smaller `test`"):
        probed(model, rows, {"c": [*"ab" * 4]}, types=[*"ab" * 4], steps=1, sites=[str(site[0])])


def test_prompts_are_drawn_some_at_a_time_from_noise_of_their_own(sd):
    site = sd.sites.select("denoiser.latent")
    found = drawn_states(sd, ["a dog"] * 3, site, {"of": [1, 2, 3]}, steps=[0], batch=2, progress=False)
    assert found.prompts == ("a dog",) * 3 and len(np.unique(found.mean["denoiser.latent", 0], axis=0)) == 3
