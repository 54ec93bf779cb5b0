"""Concepts exchanged where a prompt is read: the minimiser, exact where it can be, given back bit for bit."""

import pytest
import torch

import cutaway
from cutaway.applications import ConceptEdit, concept_edit
from cutaway.errors import InputError, MethodError, SiteError, StoreError
from cutaway.model.readers import prompt_readers
from cutaway.model.shift import shifted, weights
from cutaway.zoo.emoji_judge import judge
from cutaway.zoo.judging import look

OLD, NEW = "a red dog", "a cat"
PROMPTS = ["{}", "{} on a mat"]


@pytest.fixture(scope="module", params=["sd", "sd3", "flux"])
def model(request):
    return cutaway.load(f"tiny:{request.param}", dtype="float64")


@pytest.fixture(scope="module")
def sd():
    return cutaway.load("tiny:sd", dtype="float64")


def states(model, prompt):
    return model.inputs(prompt=prompt, step=0, steps=1, guidance=1.0).tensors


def after(model, edit):
    """The weights that were changed, as they are inside the block."""
    with edit.added(model):
        return {name: value.clone() for name, value in weights(model.engine).items() if name in edit.tensors}


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_readers_are_what_keys_and_values_come_from(name):
    model = cutaway.load(f"tiny:{name}", dtype="float64")
    inputs = model.inputs(prompt=OLD, step=0, steps=1, guidance=1.0)
    readers = prompt_readers(model)
    run = model.run(inputs, record=[one.name for one in readers])
    given = inputs.tensors["encoder_hidden_states"]
    assert len(readers) == 2 * sum(site.part == "cross.z" for site in model.sites)
    for one in readers:
        assert torch.allclose(run[one.name].flatten(-2).squeeze(), given[0] @ one.matrix.T, atol=1e-12)


def test_the_weights_are_those_that_a_solver_of_least_squares_finds(model):
    """Rows: old to new, kept to themselves, and the ridge as rows that hold every weight where it is."""
    edit = concept_edit(model, {OLD: NEW}, keep=["a blue ball"], ridge=0.3, weight=0.2)
    readers = prompt_readers(model)
    assert [one.weight for one in readers] == list(edit.tensors)
    old, new, kept = (states(model, one) for one in (OLD, NEW, "a blue ball"))
    for one in readers:
        c, t, k = (some[one.given][0] for some in (old, new, kept))
        if c.dim() == 2:
            said = [str(x).strip("▁</w>") for x in model.inputs(prompt=OLD).tokens[_text(model)].text[0]]
            firsts = [at for at, word in enumerate(said) if word == "a"]  # of SD3 in the CLIPs and in T5
            assert len(firsts) == (2 if model.module.__class__.__name__ == "StableDiffusion3Pipeline" else 1)
            c = torch.cat([c[at : at + 3] for at in firsts])
            t = torch.cat([t[[at, at, at + 1]] for at in firsts])
        c, t, k = (x.reshape(-1, one.matrix.shape[1]) for x in (c, t, k))
        eye = torch.eye(c.shape[1]).double()
        left = torch.cat([c, 0.2**0.5 * k, 0.3**0.5 * eye])
        right = torch.cat([t, 0.2**0.5 * k, 0.3**0.5 * eye]) @ one.matrix.T
        hand = torch.linalg.lstsq(left, right).solution.T
        assert torch.allclose(one.matrix + edit.tensors[one.weight], hand, atol=1e-9)


def _text(model):
    inputs = model.inputs(prompt=OLD)
    return "denoiser.text" if "denoiser.text" in inputs.tokens else "text"


@pytest.mark.parametrize("places", ["name", "after"])
def test_with_nothing_to_keep_the_old_is_read_as_the_new(sd, places):
    edit = concept_edit(sd, {"a dog": "a cat"}, prompts=PROMPTS, places=places, ridge=1e-10)
    old, new = (states(sd, f"{one} on a mat")["encoder_hidden_states"][0] for one in ("a dog", "a cat"))
    made = after(sd, edit)
    last = 16 if places == "after" else 3
    for one in prompt_readers(sd):
        if places == "name":
            assert torch.allclose(old[1:last] @ made[one.weight].T, new[1:last] @ one.matrix.T, atol=1e-4)
        else:
            gap = (old[1:last] @ made[one.weight].T - new[1:last] @ one.matrix.T).norm()
            assert gap < 0.2 * ((old - new)[1:last] @ one.matrix.T).norm()


def test_what_is_kept_is_read_as_before_the_more_the_more_it_weighs(sd):
    kept = states(sd, "a blue ball")["encoder_hidden_states"][0]
    moved = []
    for weight in (0.0, 1.0, 1e4):
        edit = concept_edit(sd, {"a dog": "a cat"}, keep=["a blue ball"], weight=weight)
        moved.append(float(sum((kept @ one.T).norm() for one in edit.tensors.values())))
    assert moved[0] > moved[1] > moved[2] and moved[2] < 0.01 * moved[0]


def test_a_joint_stream_begins_with_the_other_word():
    model = cutaway.load("tiny:sd3", dtype="float64")
    edit = concept_edit(model, {"a dog": "a cat"}, ridge=1e-10)
    stream = "denoiser.0.text.resid_pre"

    def begins(prompt):
        return model.run(model.inputs(prompt=prompt, step=0, steps=1, guidance=1.0), record=stream)[stream][0]

    wanted = begins("a cat")
    with edit.added(model):
        found = begins("a dog")
    assert torch.allclose(found[1:3], wanted[1:3], atol=1e-4)  # the two CLIPs' positions of the words


def test_it_is_put_in_and_given_back_bit_for_bit_also_from_a_folder(sd, tmp_path):
    before = {name: value.clone() for name, value in weights(sd.engine).items()}
    edit = concept_edit(sd, {"a dog": "a cat"}, maps="denoiser.*.cross.v")
    back = ConceptEdit.load(edit.save(tmp_path / "edit"))
    assert back.config == edit.config and repr(back) == repr(edit)
    one, two = after(sd, edit), after(sd, back)
    changed = {name for name in one if not torch.equal(one[name], before[name])}
    assert changed == {one.weight for one in prompt_readers(sd) if one.name.endswith("cross.v")} == set(edit.tensors)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(value, before[name]) for name, value in weights(sd.engine).items())


def test_a_second_edit_is_made_and_put_in_on_top_of_the_first(sd):
    first = concept_edit(sd, {"a dog": "a cat"})
    with first.added(sd):
        second = concept_edit(sd, {"a ball": "a cat"})
        with second.added(sd):
            pass
    with pytest.raises(StoreError, match="was fitted on"), second.added(sd):
        pass


def test_names_of_different_length_end_with_one_another():
    model = cutaway.load("tiny:sd", dtype="float64")
    same = concept_edit(model, {"red dog": "dog"}, prompts=["a {}"], ridge=1e-8)
    old = states(model, "a red dog")["encoder_hidden_states"][0]
    new = states(model, "a dog")["encoder_hidden_states"][0]
    for one in prompt_readers(model):
        read = old[2:4] @ (one.matrix + same.tensors[one.weight]).T
        assert torch.allclose(read, new[[2, 2]] @ one.matrix.T, atol=1e-4)


@pytest.mark.parametrize("places", ["name", "after"])
def test_what_is_erased_is_read_as_an_empty_prompt(places):
    model = cutaway.load("tiny:sd", dtype="float64")
    gone = concept_edit(model, {"a dog": ""}, prompts=["{} on a mat"], places=places, ridge=1e-10)
    old, none = (states(model, one)["encoder_hidden_states"][0] for one in ("a dog on a mat", ""))
    last = 16 if places == "after" else 3
    assert repr(gone).startswith("ConceptEdit(a dog → nothing;")
    for one in prompt_readers(model):
        read = old[1:last] @ (one.matrix + gone.tensors[one.weight]).T
        assert torch.allclose(read, none[1:last] @ one.matrix.T, atol=1e-3)


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (InputError, "o concept to change", {"changes": {}}),
        (InputError, "o concept to change", {"changes": {" ": "a dog"}}),
        (InputError, "or to keep", {"keep": [""]}),
        (InputError, "to be changed and to be kept", {"keep": ["a dog"]}),
        (InputError, "no concept, or more than one", {"prompts": ["a mat"]}),
        (InputError, "no concept, or more than one", {"prompts": "{}"}),
        (InputError, "ridge", {"ridge": 0.0}),
        (InputError, "ridge", {"weight": float("nan")}),
        (MethodError, "o map 'denoiser.9", {"maps": "denoiser.9.cross.v"}),
    ],
)
def test_what_cannot_be_asked_is_said(sd, error, match, options):
    given = {"changes": {"a dog": "a cat"}, **options}
    with pytest.raises(error, match=match):
        concept_edit(sd, given.pop("changes"), **given)


def test_words_behind_a_concept_that_two_encoders_say_are_not_guessed():
    with pytest.raises(MethodError, match="said 2 times"):
        concept_edit(cutaway.load("tiny:sd3"), {"a dog": "a cat"}, places="after")


def test_a_model_that_reads_no_prompt_is_refused():
    with pytest.raises(SiteError, match="reads a prompt"):
        concept_edit(cutaway.load("tiny:clip"), {"a dog": "a cat"})


# --- what is drawn ----------------------------------------------------------------------------------------------------

ASKED = ["a fox on a purple background", "a fox in the middle on a yellow background"]
KEPT = ["a panda", "a rose", "a dog face", "a bus", "a frog", "a penguin"]
OTHERS = {"a zebra on a green background": "zebra", "an owl on a red background": "owl"}


def seen(model, prompts):
    drawn = model.run(model.inputs(prompt=prompts, seed=0, steps=10, guidance=3.0), output="pt").outputs.images
    with torch.no_grad():
        return look(judge(), torch.as_tensor(drawn).float() * 2 - 1)


@pytest.mark.parametrize("which", ["edit", "random"])
def test_a_fox_is_drawn_as_a_duck_and_the_rest_as_before(which):
    """The random baseline: a change as large in each map, of any direction."""
    model = cutaway.load("zoo:emoji-sd")
    edit = concept_edit(model, {"a fox": "a duck"}, prompts=["{} on a blue background"], keep=KEPT)
    change = edit.tensors if which == "edit" else edit.random(0).tensors
    with shifted(model.engine, change):
        asked, others = seen(model, ASKED), seen(model, list(OTHERS))
    ducks, foxes = asked.there("duck"), asked.there("fox")
    if which == "edit":
        assert (ducks > 0.5).all() and (foxes < 0.5).all()
        assert all(others.there(name)[at] > 0.5 for at, name in enumerate(OTHERS.values()))
    else:
        assert (ducks < 0.5).all() and (foxes > 0.5).all()


def test_an_erased_fox_is_not_drawn_and_the_rest_is():
    model = cutaway.load("zoo:emoji-sd")
    with concept_edit(model, {"a fox": ""}, prompts=["{} on a blue background"], keep=KEPT).added(model):
        asked, others = seen(model, ASKED), seen(model, list(OTHERS))
    assert (asked.there("fox") < 0.5).all()
    assert all(others.there(name)[at] > 0.5 for at, name in enumerate(OTHERS.values()))


def test_before_training_there_is_no_duck_to_draw():
    model = cutaway.load("zoo:emoji-sd@untrained")
    edit = concept_edit(model, {"a fox": "a duck"}, prompts=["{} on a blue background"])
    with edit.added(model):
        assert (seen(model, ASKED).there("duck") < 0.5).all()
