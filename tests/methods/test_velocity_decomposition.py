"""What a denoiser predicts as a sum: exact in float64, each term what is lost when it alone is taken out by hand."""

import numpy as np
import pytest
import torch
from torch import nn

import cutaway
from cutaway import questions
from cutaway.errors import MethodError, SiteError
from cutaway.methods import velocity_decomposition
from cutaway.methods.result import load
from cutaway.methods.shown import applied
from cutaway.methods.table import method
from cutaway.model.denoiser_end import denoiser_end
from cutaway.model.edits import Scale
from cutaway.zoo.trained import trained
from world import ROUNDING

PROMPTS = ["a red dog", "a dog on a cat"]
SIZE = (16, 24)  # not square


@pytest.fixture(scope="module", params=["sd3", "flux"])
def model(request):
    return cutaway.load(f"tiny:{request.param}", dtype="float64")


def drawing(model, **more):
    return model.inputs(**{"prompt": PROMPTS, "seed": 3, "steps": 2, "size": SIZE, **more})


def gap(one, other):
    return float(abs(one - other).max())


@pytest.mark.checks("velocity_decomposition", "truth")
@pytest.mark.parametrize("more", [{}, {"guidance": 1.0}, {"step": 1}, {"pictures": 2}], ids=str)
def test_the_terms_are_what_the_denoiser_gives(model, more):
    inputs = drawing(model, **more)
    found = velocity_decomposition(model, inputs, draws=0, progress=False)
    names = ["embed", "heads", "biases", "mlps", "constant"]
    summed = sum(found[name].sum([axis for axis in ("layer", "head") if axis in found[name].dims]) for name in names)
    run, end = model.run(inputs, record="denoiser.out"), denoiser_end(model)
    said = end.parted(run["denoiser.out"])
    toward = torch.from_numpy(found["direction"].values).flatten(2, 3)
    total = (said * toward[:, None]).sum(-1).reshape(found["total"].shape).numpy()
    assert gap(found["total"], total) < ROUNDING and gap(summed, total) < ROUNDING > gap(found["rest"], 0)
    assert gap(found["sources"].sum("source"), found["heads"]) < ROUNDING
    words = found["sources"].sel(source="words").sum(("layer", "head"))
    assert gap(found["words"].sum("place"), words) < ROUNDING
    assert torch.allclose(toward.norm(dim=-1), torch.ones(()).double())
    pushed = found.terms().sum("term").transpose(*found.pushed().dims)
    assert gap(pushed, found.pushed()) < ROUNDING
    assert torch.equal(end.parted(end.laid(said, run)) if end.patch else said, said)


def test_what_guidance_adds_is_as_long_as_its_terms_add_up_to():
    model = cutaway.load("tiny:sd3", dtype="float64")
    inputs = drawing(model)
    found = velocity_decomposition(model, inputs, steps=1, draws=0, progress=False)
    said = denoiser_end(model).parted(model.run(inputs, record="denoiser.out")["denoiser.out"][:1])
    length = (said[:, 1] - said[:, 0]).norm(dim=-1).reshape(found.pushed().shape)
    assert list(found["guidance"].values) == ["uncond", "cond"] and found["step"].values.tolist() == [0]
    assert gap(found.pushed(), length.numpy()) < ROUNDING


class ByHand:
    """What modules of the library took in and gave, in one evaluation: no site, no method."""

    def __init__(self, model, inputs):
        self.denoiser, self.seen = model.module.transformer, {}
        watched = {name: one for name, one in self.denoiser.named_modules() if name}
        hooks = [one.register_forward_hook(self._keep(name)) for name, one in watched.items()]
        with torch.no_grad():
            self.said = self.denoiser(**inputs.tensors).sample
        for hook in hooks:
            hook.remove()

    def _keep(self, name):
        def keep(module, args, output):
            self.seen[name] = (args[0] if args else None, output)

        return keep

    @torch.no_grad()
    def read(self, removed):
        """The end with something taken from the last state, the norm's scale held."""
        x = self.seen["norm_out.norm"][0]
        scale, shift = self.seen["norm_out.linear"][1].chunk(2, 1)
        held = (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        x = x - removed
        inner = (x - x.mean(-1, keepdim=True)) / held
        return nn.functional.linear(
            inner * (1 + scale)[:, None] + shift[:, None], self.denoiser.proj_out.weight, self.denoiser.proj_out.bias
        )

    @torch.no_grad()
    def head(self, layer, head, patches):
        """What one head adds to the picture's stream."""
        dual = len(self.denoiser.transformer_blocks)
        if layer < dual:
            block = self.denoiser.transformer_blocks[layer]
            gate, project = self.seen[f"transformer_blocks.{layer}.norm1"][1][1], block.attn.to_out[0]
            z = self.seen[f"transformer_blocks.{layer}.attn.to_out.0"][0]
        else:
            name = f"single_transformer_blocks.{layer - dual}"
            gate, project = self.seen[f"{name}.norm"][1][1], self.denoiser.get_submodule(name).proj_out
            z = self.seen[f"{name}.proj_out"][0][:, -patches:]
        own = slice(head * 8, head * 8 + 8)
        return gate[:, None] * (z[..., own] @ project.weight[:, own].T)


@pytest.mark.checks("velocity_decomposition", "truth")
def test_a_term_is_what_is_lost_when_it_alone_is_taken_out(model):
    inputs = drawing(model, step=1)
    found = velocity_decomposition(model, inputs, draws=0, progress=False)
    hand, patches = ByHand(model, inputs), found.data.sizes["row"] * found.data.sizes["col"]
    toward = torch.from_numpy(found["direction"].values)[0].flatten(1, 2)
    whole = hand.read(torch.zeros(()))
    for layer in found["layer"].values:
        for head in (0, 3):
            lost = ((whole - hand.read(hand.head(int(layer), head, patches))) * toward).sum(-1)
            term = found["heads"].isel(step=0, guidance=0, layer=layer, head=head).values.reshape(lost.shape)
            assert gap(term, lost.numpy()) < ROUNDING and abs(term).max() > 1e-6


def test_a_word_that_no_patch_reads_brings_nothing_and_each_row_has_its_own():
    from cutaway.methods import hide_words

    model = cutaway.load("tiny:sd3", dtype="float64")
    inputs = drawing(model)
    plain = velocity_decomposition(model, inputs, draws=0, progress=False)
    with model.edited(hide_words(model, inputs, ["red", "cat"])):
        cut = velocity_decomposition(model, inputs, draws=0, progress=False)
    cond = cut["words"].sel(guidance="cond")
    assert abs(cond.isel(picture=0, place=1)).max() < ROUNDING < abs(plain.heat("red", 0)).max()
    assert abs(cond.isel(picture=1, place=4)).max() < ROUNDING < abs(plain.heat("on", 1)).max()
    with pytest.raises(MethodError, match="'horse' is not a word"):
        plain.heat("horse")


def test_directions_of_ones_own():
    model = cutaway.load("tiny:sd3", dtype="float64")
    inputs = drawing(model, step=0)
    first = velocity_decomposition(model, inputs, torch.eye(16)[0].double(), draws=0, by_word=False, progress=False)
    run = model.run(inputs, record="denoiser.out")
    said = denoiser_end(model).parted(run["denoiser.out"])[0, 0, ..., 0]
    assert gap(first["total"].isel(step=0, guidance=0).values.reshape(said.shape), said.numpy()) < ROUNDING
    with pytest.raises(MethodError, match="do not fit what is predicted"):
        velocity_decomposition(model, inputs, torch.ones(3), progress=False)
    with pytest.raises(MethodError, match="'words' is no term"):
        first.heat("dog")


def test_what_is_not_in_the_sum_is_told():
    """A second writer to the stream, as of a ControlNet: it is the rest, and no head is blamed for it."""
    model = cutaway.load("tiny:sd3", dtype="float64")
    inputs = drawing(model, step=0)
    plain = velocity_decomposition(model, inputs, draws=0, by_word=False, progress=False)
    with model.edited(Scale("denoiser.0.image.resid_post", 2.0)):
        other = velocity_decomposition(model, inputs, draws=0, by_word=False, progress=False)
    assert gap(plain["rest"], 0) < ROUNDING < 1e-3 < gap(other["rest"], 0)


@pytest.mark.parametrize("name", ["sd", "dit"])
def test_a_denoiser_without_such_an_end_says_so(name):
    model = cutaway.load(f"tiny:{name}")
    asked = {"label": 1} if name == "dit" else {"prompt": "a dog"}
    with pytest.raises(SiteError) as told:
        velocity_decomposition(model, model.inputs(**asked, steps=1), progress=False)
    assert all(part in str(told.value) for part in ("Expected", "model.sweep"))


def of(name):
    model = cutaway.load(name)
    prompts = ["a fox on a green background", "a cat on a red background"]
    inputs = model.inputs(prompt=prompts, seed=0, steps=8, guidance=3.0, length=0)
    return velocity_decomposition(model, inputs, steps=5, draws=8, progress=False)


def times_chance(found, name):
    means = abs(found.pushed(name).mean(("step", "picture", "row", "col"))).sum()
    return float(means / ((found.pushed(f"{name}_chance").mean(("step", "picture")) ** 2).mean("draw") ** 0.5).sum())


@pytest.fixture(scope="module")
def measured():
    if not trained("emoji-mmdit").here:
        pytest.skip("the weights of zoo:emoji-mmdit are not in this checkout")
    return of("zoo:emoji-mmdit"), of("zoo:emoji-mmdit@untrained")


@pytest.mark.checks("velocity_decomposition", "baseline")
def test_what_mlps_write_fits_the_directions_of_their_own_patches(measured):
    found, _ = measured
    assert times_chance(found, "mlps") > 1.5, times_chance(found, "mlps")
    assert float(abs(found["rest"]).max() / abs(found["total"]).max()) < 1e-5


@pytest.mark.checks("velocity_decomposition", "floor")
def test_before_training_words_bring_little_of_what_guidance_adds(measured):
    after, before = measured
    share, floor = (float(one.pushed("words").sum("place").mean() / one.pushed().mean()) for one in (after, before))
    assert share > 0.1 > 2 * floor and times_chance(before, "mlps") < times_chance(after, "mlps")


def test_it_keeps_draws_and_answers_a_question(tmp_path):
    question = questions.asked("tiny:sd3", prompt="a red dog", step=1)
    page = applied(question, [method("velocity_decomposition")])
    overlay, bars, heads = method("velocity_decomposition").show(page)
    assert overlay.texts[:3] == ("a", "red", "dog") and len(heads.heads) == 8
    assert abs(sum(bar.value for bar in bars.bars) - bars.total) < 1e-4 and "rounding" in bars.seen
    made = page.made("velocity")
    again = load(made.save(tmp_path / "made.nc"))
    assert np.array_equal(again["heads"].values, made["heads"].values) and "Heads bring" in again.note()
    assert again.plot().get_title().startswith("direct effect") and len(again.summary())
    assert "velocity_decomposition(question.model, question.drawing" in page.applied["velocity"].code()
    assert "not linear in any state" in method("velocity_decomposition").why_not(
        questions.asked("tiny:sd", prompt="a red dog", step=1)
    )
