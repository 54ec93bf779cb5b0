"""Whole differences are the other run, alpha 0 is nothing, sweeps are single runs; what is planted is found."""

from functools import cache

import numpy as np
import pytest
import torch

import cutaway
from cutaway import Patch, Where, targets
from cutaway.errors import MethodError, StoreError
from cutaway.methods.result import load
from cutaway.methods.task_vectors import (
    FunctionVector,
    SteeringVector,
    TaskVector,
    combined,
    function_vector,
    steering,
    steering_vector,
    task_transfer,
    task_vector,
    weight_vector,
)
from cutaway.methods.task_vectors.states import Chance, choices, chosen_sites, random_directions, usual_position
from cutaway.model.weights import head_weights
from cutaway.questions.question import ask
from cutaway.questions.tasks import Task, emoji_questions, emoji_tasks, prompts
from cutaway.store.fitted import Fitted
from cutaway.zoo import tiny
from cutaway.zoo.trained import trained
from world import fresh, gap, noise, opened

WRITERS = ["llama", "gpt2", "opt", "gemma2", "llava", "mamba"]
DIFF = targets.logit_diff("dog", "cat")


def two(name):
    """Two inputs that differ: pictures where there are some, else one word."""
    model = opened(name)
    if "image" in tiny.TINY[name].modalities:
        return [model.inputs(image=tiny.picture(seed), text="what is this") for seed in (0, 3)]
    return [model.inputs(text=text) for text in ("a red dog on the left", "a blue cat on the left")]


def near(model):
    return 1e-9 if model.dtype == torch.float64 else 1e-4


# --- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_the_whole_difference_at_the_end_is_the_other_inputs_answer(name):
    model, (here, there) = opened(name), two(name)
    sites = chosen_sites(model, None)
    for site in (str(sites[-1]), str(sites[0])):
        vector = steering_vector(model, there, here, sites=site, progress=False)
        made = model.run(here, edits=vector.edits(token=-1)).logits[:, -1]
        other = model.run(there, record=site)
        patched = model.run(here, edits=Patch(site, other[site][:, -1:].expand_as(model.run(here, record=site)[site]),
                                              token=-1)).logits[:, -1]  # fmt: skip
        assert gap(made, patched) < 1e-6
        if site == str(sites[-1]):
            assert gap(made, other.logits[:, -1]) < 1e-6 < gap(made, model.run(here).logits[:, -1])


@cache
def bench(name):
    model, (here, there) = opened(name), two(name)
    others = model.inputs(text=["a dog", "the cat is on the right"]) if name == "llama" else here
    sites = [str(site) for site in chosen_sites(model, None)[-2:]]
    made = steering(model, here, there, DIFF, others=others, sites=sites, alphas=(-1, 0, 0.5, 2), draws=2,
                    progress=False)  # fmt: skip
    return model, here, there, others, made


@pytest.mark.parametrize("name", ["llama", "llava"])
def test_a_bench_is_what_single_runs_give(name):
    model, here, there, others, made = bench(name)
    before = choices(model.run(others))
    assert made["alpha"].values.tolist() == [-1, 0, 0.5, 1, 2]
    assert float(made["here"]) == pytest.approx(float(DIFF(model.run(here))), abs=1e-9)
    for at, site in enumerate(made["site"].values):
        vector = steering_vector(model, there, here, sites=str(site), progress=False)
        assert made["length"].values[at] == pytest.approx(vector.length[site])
        for way in ("add", "bend"):
            for alpha in (-1.0, 0.0, 0.5, 2.0):
                edits = vector.edits(alpha, how=way, token=-1)
                found = made.data.sel(way=way, alpha=alpha).isel(layer=at)
                value = float(DIFF(model.run(here, edits=edits)))
                assert float(found["value"]) == pytest.approx(value, abs=1e-6)
                now = choices(model.run(others, edits=edits))
                kl = float((before.exp() * (before - now)).sum(-1).mean())
                assert float(found["cost"]) == pytest.approx(kl, abs=1e-6)
                assert float(found["kept"]) == float((before.argmax(-1) == now.argmax(-1)).double().mean())
        out = float(DIFF(model.run(here, edits=vector.edits(how="out", token=-1))))
        assert float(made["out_value"][at]) == pytest.approx(out, abs=1e-6)


@pytest.mark.checks("steering", "baseline", "floor")
@pytest.mark.parametrize("name", ["llama", "llava"])
def test_alpha_zero_is_nothing_and_alpha_one_at_the_end_is_all(name):
    """These models are random: at the end alpha 1 goes all the way in an untrained one too, by construction."""
    made = bench(name)[-1]
    still = made.data.sel(alpha=0.0)
    assert not still["share"].any() and not still["cost"].any() and (still["kept"] == 1).all()
    assert not still["random_share"].any() and not still["random_cost"].any()
    assert made["share"].sel(way="add", alpha=1.0).values[-1] == pytest.approx(1, abs=1e-6)
    assert (made["random_share_low"] <= made["random_share"]).all()
    assert abs(made["random_share"].sel(alpha=1.0).values[-1] - 1) > 0.05  # chance is not the difference


def test_what_is_projected_out_is_gone_and_what_is_bent_is_as_long():
    model, (here, there), site = opened("llama"), two("llama"), "text.1.resid_post"
    vector, plain = steering_vector(model, there, here, sites=site, progress=False), model.run(here, record=site)[site]
    v = vector.tensors[site]
    out = model.run(here, record=site, edits=vector.edits(how="out"))[site]
    assert (out @ v).abs().max() < 1e-9 < (plain @ v).abs().max()
    bent = model.run(here, record=site, edits=vector.edits(3.0, how="bend", token=[1, -1]))[site]
    assert torch.allclose(bent.norm(dim=-1), plain.norm(dim=-1)) and torch.equal(bent[:, 0], plain[:, 0])
    assert gap(bent[:, 1], plain[:, 1]) > 0.01


# --- means ------------------------------------------------------------------------------------------------------------


def test_a_mean_counts_each_rows_own_positions():
    texts, site = ["a red dog on the left", "a cat", "the blue dog"], "text.1.resid_post"
    model = fresh("llama")
    alone = [model.run(model.inputs(text=text), record=site)[site][0] for text in texts]
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        padded = model.inputs(text=texts)
        last = task_vector(model, padded, sites=site, progress=False).tensors[site]
        assert gap(last, torch.stack([x[-1] for x in alone]).mean(0)) < 1e-6
        second = task_vector(model, padded, sites=site, at=[1, -1], progress=False).tensors[site]
        assert gap(second, torch.stack([x[at] for x in alone for at in (1, -1)]).mean(0)) < 1e-6
        words = task_vector(model, padded, sites=site, at=Where(text="dog"), progress=False).tensors[site]
        assert gap(words, torch.stack([alone[0][3], alone[2][-1]]).mean(0)) < 1e-6
        assert gap(task_vector(model, texts, sites=site, progress=False, batch=2).tensors[site], last) < 1e-6


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_direction_in_half_precision_is_the_difference_and_not_of_rounded_means(dtype):
    """Where states are long and differ little, what is lost of the difference is what the dtype can not hold of it."""
    model, site = cutaway.load("tiny:llama", dtype=dtype), "text.0.resid_post"
    with torch.no_grad():
        model.module.get_input_embeddings().weight[:, 3] = 300 + 8 * noise(242)
    sides = ["a red dog", "a cat", "the dog"], ["a blue dog", "the blue cat", "a bird"]
    states = [[model.run(model.inputs(text=text), record=site)[site][0, -1] for text in side] for side in sides]
    means = [torch.stack(side).double().mean(0) for side in states]
    found = steering_vector(model, *sides, sites=site, progress=False).tensors[site]
    rounded = means[0].to(found) - means[1].to(found)
    assert torch.equal(found, (means[0] - means[1]).to(found))
    assert gap(rounded, means[0] - means[1]) > 10 * gap(found, means[0] - means[1])


def test_random_directions_in_half_precision_are_as_long():
    like = (900 * noise(512)).bfloat16()
    for one in random_directions(like, 3, torch.Generator().manual_seed(0)):
        assert one.dtype == like.dtype
        assert float(one.double().norm() / like.double().norm()) == pytest.approx(1, abs=5e-4)


def test_means_that_are_not_finite_are_refused():
    """In float64 eager attention gives NaN after padding, which a mean would hand on without a word."""
    model, texts, site = opened("gemma2"), ["a red dog on the left", "a cat"], "text.1.resid_post"
    with pytest.raises(MethodError, match="not finite"):
        steering_vector(model, texts, ["a dog"], sites=site, progress=False)
    assert steering_vector(model, texts, ["a dog"], sites=site, batch=1, progress=False).tensors[site].isfinite().all()


def test_of_padded_rows_each_is_steered_at_its_own_end():
    model, site = fresh("gpt2"), "text.1.resid_post"
    vector = SteeringVector({site: noise(32)}, {}, steering_vector(model, ["a"], ["a dog"], sites=site,
                                                                   progress=False).on)  # fmt: skip
    texts = ["a red dog on the left", "a cat"]
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        both = targets.logit("dog")(model.run(model.inputs(text=texts), edits=vector.edits(token=-1)))
        for row, text in enumerate(texts):
            one = targets.logit("dog")(model.run(model.inputs(text=text), edits=vector.edits(token=-1)))
            assert float(both[row]) == pytest.approx(float(one[0]), abs=1e-6)


def test_it_steers_what_is_written():
    """The words are those of a loop over runs that steer from the end of the prompt on."""
    model, site = opened("llama"), "text.1.resid_post"
    here = model.inputs(text="a red dog")
    vector = steering_vector(model, ["a blue cat"], ["a red dog"], sites=site, progress=False)
    edits, n = vector.edits(3.0, token=slice(-1, None)), here.tensors["input_ids"].shape[1]
    made = model.generate(here, edits=edits, max_new_tokens=4, min_new_tokens=4, do_sample=False).ids[0].tolist()
    ids = here.tensors["input_ids"][0].tolist()
    for _ in range(4):
        run = model.run(model.inputs(input_ids=torch.tensor([ids])), edits=vector.edits(3.0, token=slice(n - 1, None)))
        ids.append(int(run.logits[0, -1].argmax()))
    plain = model.generate(here, max_new_tokens=4, min_new_tokens=4, do_sample=False).ids[0].tolist()
    assert made == ids and made != plain


@pytest.mark.parametrize(
    ("name", "at"), [("clip", Where("cls")), ("siglip", None), ("llava", -1), ("dinov2", Where("cls"))]
)
def test_where_a_tower_is_steered_unless_told(name, at):
    model = opened(name)
    tower = chosen_sites(model, None)[0].tower
    assert tower == ("text" if name == "llava" else "vision") and usual_position(model, tower) == at


def test_a_picture_tower_is_steered_by_means_of_pictures():
    model = opened("clip")
    sides = [[tiny.picture(seed) for seed in seeds] for seeds in ((0, 1), (2, 3, 4))]
    vector = steering_vector(model, *sides, progress=False)
    runs = [model.run(model.inputs(image=side), record="vision.2.resid_post")["vision.2.resid_post"] for side in sides]
    want = runs[0][:, 0].mean(0) - runs[1][:, 0].mean(0)
    assert gap(vector.tensors["vision.2.resid_post"], want) < 1e-9
    one, other = ([*sides[0][:1]], [*sides[1][:1]])
    made = steering_vector(model, other, one, sites="vision.2.resid_post", progress=False)
    steered = model.run(model.inputs(image=one), edits=made.edits(token=Where("cls"))).outputs.pooler_output
    assert gap(steered, model.run(model.inputs(image=other)).outputs.pooler_output) < 1e-9


def test_the_prompt_of_a_drawing_is_steered():
    """A whole difference at every position of the prompt, position by position, draws the other prompt."""
    model, site = opened("sd"), str(chosen_sites(opened("sd"), None)[-1])
    fixed = {"steps": 1, "guidance": 1.0, "size": (32, 32)}
    here, there = (model.inputs(prompt=prompt, **fixed) for prompt in ("a red dog", "a blue dog"))
    runs = [model.run(one, record=site, output="latent") for one in (here, there)]
    pair = [run[site] for run in runs]
    on = Fitted({}, {}, task_vector(opened("llama"), ["a"], progress=False).on).on
    whole = SteeringVector({site: (pair[1] - pair[0])[0]}, {}, on)
    made = model.run(here, edits=whole.edits(), output="latent").outputs.images
    assert gap(made, runs[1].outputs.images) < 1e-9 < gap(made, runs[0].outputs.images)


# --- planted ----------------------------------------------------------------------------------------------------------


@pytest.mark.checks("steering", "truth")
def test_a_planted_direction_is_found_and_is_all_there_is_to_a_word():
    """The vector of one word is that of another and a direction: that is the difference, and steers exactly."""
    model, planted = fresh("llama"), noise(32, seed=5)
    weights = model.module.get_input_embeddings().weight
    red, blue = (model.tokenizer.convert_tokens_to_ids(model.tokenizer.tokenize(word))[-1] for word in ("red", "blue"))
    with torch.no_grad():
        weights[red] = weights[blue] + planted
    positive, negative = (["a dog is " + word, "the cat is " + word, word] for word in ("red", "blue"))
    site = "text.0.resid_pre"
    vector = steering_vector(model, positive, negative, sites=site, progress=False)
    assert gap(vector.tensors[site], planted) < 1e-9
    there = model.run(model.inputs(text="on the left is red")).logits
    here = model.inputs(text="on the left is blue")
    assert gap(model.run(here, edits=vector.edits(token=-1)).logits, there) < 1e-9
    strange = SteeringVector({site: noise(32, seed=6) * planted.norm() / 32**0.5}, {}, vector.on)
    assert gap(model.run(here, edits=strange.edits(token=-1)).logits, there) > 0.1


def one_head(layer, head):
    """A model in which only one head writes anything."""
    model = fresh("gpt2")
    with torch.no_grad():
        for at, block in enumerate(model.module.transformer.h):
            kept = block.attn.c_proj.weight[head * 8 : head * 8 + 8].clone()
            block.attn.c_proj.weight.zero_()
            if at == layer:
                block.attn.c_proj.weight[head * 8 : head * 8 + 8] = 30 * kept
    return model


def test_the_only_head_that_writes_carries_the_task():
    model = one_head(1, 2)
    shots, alone = ["a dog : red , a cat : blue , a bird :"], model.inputs(text=["a dog :", "the red cat :"])
    words = model.run(model.inputs(text=shots)).logits[0, -1].argsort(descending=True)[:2].tolist()
    found = function_vector(model, shots, alone, [words[0]] * 2, progress=False)
    effect = found.tensors["effect"]
    assert (effect.abs() > 1e-9).nonzero().tolist() == [[1, 2]]
    z = model.run(model.inputs(text=shots), record="text.*.attn.z")
    assert gap(found.mean("text.1.attn.z", 2), z["text.1.attn.z"][0, -1, 2]) < 1e-9
    target = Chance((words[0],) * 2)
    edits = found.replaced([("text.1.attn.z", 2)])
    change = target(model.run(alone, edits=edits)) - target(model.run(alone))
    assert float(effect[1, 2]) == pytest.approx(float(change.mean()), abs=1e-9)
    if effect[1, 2] > 0:
        assert found.best(1) == [("text.1.attn.z", 2)]


def test_the_vector_of_heads_is_what_they_write():
    model, shots = opened("llama"), ["a dog : red , a cat :"]
    alone = model.inputs(text=["a dog :"])
    found = function_vector(model, shots, alone, [5], progress=False)
    run = model.run(model.inputs(text=shots), record=["text.1.attn.out"])
    heads = [("text.1.attn.z", head) for head in range(4)]
    assert gap(found.vector(model, heads), run["text.1.attn.out"][0, -1] - head_weights(model, "text", 1)[1]) < 1e-6
    assert sorted(found.best(12)) == sorted(found.some(12, 3)) and len(set(found.some(5))) == 5
    with pytest.raises(MethodError, match="13 heads"):
        found.best(13)
    with pytest.raises(StoreError, match="was fitted on"):
        found.vector(opened("gpt2"), heads)


def test_what_is_put_back_where_it_came_from_changes_nothing():
    model, inputs = opened("llama"), opened("llama").inputs(text="a dog : red , a cat :")
    plain = model.run(inputs).logits
    vector = task_vector(model, inputs, progress=False)
    for site in vector.tensors:
        assert gap(model.run(inputs, edits=vector.placed(site)).logits, plain) < 1e-6
    heads = function_vector(model, inputs, inputs, [5], progress=False)
    assert gap(model.run(inputs, edits=heads.replaced(heads.best(12))).logits, plain) < 1e-6
    assert float(heads.tensors["effect"].abs().max()) < 1e-6
    other = model.inputs(text="the left")
    end = model.run(other, edits=vector.placed("text.2.resid_post")).logits[:, -1]
    assert gap(end, plain[:, -1]) < 1e-6


# --- tasks ------------------------------------------------------------------------------------------------------------


@cache
def some_tasks():
    module, processor = tiny.build("llama", num_hidden_layers=2, dtype=torch.float64)
    model, made = cutaway.load(module, processor=processor), []
    for task, answers in (("colour", ["red", "blue", "red"]), ("thing", ["dog", "cat", "dog"])):
        for way in ("one", "other"):
            shots = prompts(model, [f"a dog : {answers[0]} , a {way} cat :"] * 2, answers[:2])
            alone = prompts(model, ["a dog :", "the left cat :", "a :"], answers)
            made.append(Task(task, way, shots, alone, alone, shown=shots))
    return model, made


@pytest.mark.checks("task_transfer", "truth")
def test_a_transfer_is_what_single_runs_give():
    model, tasks = some_tasks()
    others = prompts(model, ["on the left", "on"], ["the", "a"])
    made = task_transfer(model, tasks, others=others, counts=(50,), draws=1, progress=False)
    assert made["places"].sel(way="heads").values.tolist() == ["8 heads", ""]
    vector = task_vector(model, tasks[2].shots.inputs, progress=False)  # thing, told one way
    for at, site in enumerate(vector.tensors):
        said = model.run(tasks[1].alone.inputs, edits=vector.placed(site))
        right = (choices(said).argmax(-1) == torch.tensor(tasks[1].alone.answers)).double().mean()
        found = made["accuracy"].sel(way="state", given="thing", source="one", task="colour", target="other")
        assert float(found[at]) == float(right)
    at = made["at"].values
    own = np.stack([made["accuracy"].sel(given=name, task=name).transpose("way", "source", "target", "place").values
                    for name in ("colour", "thing")], 1)  # fmt: skip
    assert np.array_equal(made["right"].values, np.take_along_axis(own, at[..., None], -1)[..., 0])
    assert (made["low"] <= made["right"] + 1e-9).all() and (made["random"] <= made["random_high"] + 1e-9).all()
    assert made["chance"].values.tolist() == [[pytest.approx(2 / 3)] * 2] * 2 and made["asked"].isnull().all()
    assert made["kept"].shape == (3, 2, 2) and len(made.summary()) == 12 and made.matrix().dims == ("source", "target")


def test_tasks_make_a_table():
    _, tasks = some_tasks()
    for some in ([], tasks[:3], [*tasks, tasks[0]]):
        with pytest.raises(MethodError, match="do not make a table"):
            task_transfer(opened("llama"), some, progress=False)


@pytest.mark.checks("task_transfer", "baseline", "floor")
@pytest.mark.parametrize("name", ["zoo:emoji-llava", "zoo:emoji-llava@untrained"])
def test_a_task_passes_between_words_and_pictures_and_not_before_training(name):
    """A state found behind examples in words makes pictures do the task, and back; a random one as long does not."""
    if not trained("emoji-llava").here:
        pytest.skip("zoo:emoji-llava is not in this checkout")
    model, site, right, chance = cutaway.load(name), "text.1.resid_post", 0, 0
    tasks = {task.way: task for task in emoji_tasks(model, ("count",), many=4, examples=2)}
    for source, target in (("words", "picture"), ("picture", "words")):
        vector = task_vector(model, tasks[source].shots.inputs, sites=site, progress=False)
        noisy = random_directions(vector.tensors[site], 1, torch.Generator().manual_seed(0))[0]
        alone, answers = tasks[target].alone.inputs, torch.tensor(tasks[target].alone.answers)
        found, strange, plain = (
            int((choices(model.run(alone, edits=edits)).argmax(-1) == answers).sum())
            for edits in (vector.placed(site), TaskVector({site: noisy}, {}, vector.on).placed(site), ())
        )
        right, chance = right + found, chance + strange
        assert plain == 0
    assert chance <= 2 and (right >= 5 if name == "zoo:emoji-llava" else right == 0), (right, chance)


def test_the_prompts_of_tasks_are_what_they_say():
    if not trained("emoji-llava").here:
        pytest.skip("zoo:emoji-llava is not in this checkout")
    model = cutaway.load("zoo:emoji-llava")
    words = emoji_tasks(model, ("kind", "place"), ways=("words",), many=2, examples=2)
    kind, place = words
    assert place.asked is None and kind.asked is not None and kind.alone.answers == kind.asked.answers
    decoded = model.tokenizer.batch_decode(kind.shown.inputs.tensors["input_ids"], skip_special_tokens=False)
    alone = model.tokenizer.batch_decode(kind.alone.inputs.tensors["input_ids"], skip_special_tokens=False)
    for long, short in zip(decoded, alone, strict=True):
        assert long.count("<|user|>") == 3 and short.count("<|user|>") == 1
        assert short.split("<|user|>")[1].strip() in long
    quiz = emoji_questions(model, 3)
    assert len(quiz) == 3 and (quiz.inputs.tensors["input_ids"] == model.module.config.image_token_id).sum() == 3 * 64


# --- in the weights ---------------------------------------------------------------------------------------------------


def tuned(seed, rate=0.05):
    """A tiny model after a few steps towards a word of its own."""
    module, processor = tiny.build("llama", dtype=torch.float64)
    model = cutaway.load(module, processor=processor)
    ids, steps = model.inputs(text="a red dog").tensors["input_ids"], torch.optim.SGD(module.parameters(), rate)
    for _ in range(3):
        steps.zero_grad()
        (-module(input_ids=ids).logits[0, -1].log_softmax(-1)[30 + seed]).backward()
        steps.step()
    return model


def test_what_a_tuning_changed_is_added_taken_away_and_given_back():
    module, processor = tiny.build("llama", dtype=torch.float64)
    base, one, other = cutaway.load(module, processor=processor), tuned(0), tuned(1)
    inputs = base.inputs(text="a red dog")
    plain, there = base.run(inputs).logits, one.run(inputs).logits
    first, second = weight_vector(base, one), weight_vector(base, other)
    with first.added(base) as model:
        assert gap(model.run(inputs).logits, there) < 1e-9 < gap(there, plain)
    assert torch.equal(base.run(inputs).logits, plain)
    chance, target = targets.log_prob(30), {}
    for name, change, scale in (("plus", first, 1.0), ("minus", first, -1.0), ("random", first.random(3), 1.0)):
        with change.added(base, scale):
            target[name] = float(chance(base.run(inputs))[0])
    still = float(chance(base.run(inputs))[0])
    assert target["minus"] < still < target["plus"] and abs(target["random"] - still) < target["plus"] - still
    same = combined([first, second, second], [1, 1, -1])
    assert all(gap(same.tensors[name], value) < 1e-12 for name, value in first.tensors.items())
    with pytest.raises(RuntimeError), first.added(base):
        raise RuntimeError
    assert torch.equal(base.run(inputs).logits, plain) and first.length == pytest.approx(first.random().length)


def test_a_tuning_in_a_finer_dtype_is_not_rounded_before_it_is_compared():
    """A change too small to be seen beside weights in half precision is in the vector, whole."""
    base, finer = (cutaway.load("tiny:llama", dtype=dtype) for dtype in ("bfloat16", "float32"))
    with torch.no_grad():
        for name, value in finer.module.named_parameters():
            value.copy_(base.module.get_parameter(name))
        finer.module.lm_head.weight += 2.0**-14
    change = weight_vector(base, finer)
    before = base.module.lm_head.weight.detach().clone()
    assert list(change.tensors) == ["lm_head.weight"]
    assert gap(change.tensors["lm_head.weight"], torch.full_like(before, 2.0**-14, dtype=torch.float32)) < 1e-7
    with change.added(base, 2000.0) as changed:
        wanted = (before.float() + 2000.0 * change.tensors["lm_head.weight"]).bfloat16()
        assert torch.equal(changed.module.lm_head.weight, wanted)
    assert torch.equal(base.module.lm_head.weight, before)


def test_a_weight_that_two_modules_share_is_changed_once():
    base, other = fresh("gpt2"), fresh("gpt2")
    with torch.no_grad():
        other.module.get_input_embeddings().weight += 0.01
    inputs, change = base.inputs(text="a dog"), weight_vector(base, other)
    with change.added(base):
        assert len(change.tensors) == 1 and gap(base.run(inputs).logits, other.run(inputs).logits) < 1e-9


def test_changes_of_other_models_are_refused():
    base = opened("llama")
    with pytest.raises(MethodError, match="same weights"):
        weight_vector(base, fresh("llama"))
    with pytest.raises(MethodError, match="not the same weights"):
        weight_vector(base, opened("gpt2"))
    change = weight_vector(cutaway.load(tiny.build("llama", dtype=torch.float64)[0]), tuned(0))
    with pytest.raises(StoreError, match="was fitted on"), change.added(opened("gpt2")):
        pass
    with pytest.raises(MethodError, match="a scale for each"):
        combined([change], [1, 2])


# --- kept and refused -------------------------------------------------------------------------------------------------


def test_results_and_vectors_are_kept(tmp_path):
    *_, made = bench("llama")
    again = load(made.save(tmp_path / "steering.nc"))
    assert again.data.equals(made.data) and again.best == made.best and again.plot() is not None
    model, inputs = opened("llama"), two("llama")[0]
    vector = steering_vector(model, inputs, two("llama")[1], progress=False)
    back = SteeringVector.load(vector.save(tmp_path / "vector"))
    assert all(torch.equal(back.tensors[name], value) for name, value in vector.tensors.items())
    back.check(model, "text.1.resid_post")
    heads = function_vector(model, inputs, inputs, [5], progress=False)
    assert FunctionVector.load(heads.save(tmp_path / "heads")).best(3) == heads.best(3)


def test_what_cannot_be_done_is_said():
    model, (here, there) = opened("llama"), two("llama")
    vector = steering_vector(model, there, here, sites="text.1.resid_post", progress=False)
    for message, call in {
        "has nothing at 'text.0": lambda: vector.edits(sites="text.0.resid_post"),
        "several towers": lambda: steering_vector(opened("llava"), [], [], sites="*.1.resid_post"),
        "Alphas": lambda: steering(model, here, there, DIFF, alphas=(np.inf,), progress=False),
    }.items():
        with pytest.raises(MethodError, match=message):
            call()


def test_a_question_brings_what_its_others_are():
    model = opened("llava")
    crowd = [tiny.picture(seed) for seed in range(3)]
    asked = ask(model, tiny.picture(), "what is this", "dog", "cat", tiny.picture(3), crowd=crowd)
    assert [len(one.tensors["input_ids"]) for one in asked.others] == [3]
    assert ask(model, tiny.picture(), "what is this", "dog", "cat").others == ()
