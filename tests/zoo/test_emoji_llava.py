"""The recipe of zoo:emoji-llava: resumed bit for bit, begun from the CLIP; and the trained model, if it is here."""

import json
import random
from dataclasses import replace
from itertools import islice

import pytest
import torch

import cutaway
from cutaway import data
from cutaway.zoo import emoji_llava, trained
from cutaway.zoo.contexts import asked, conversation
from cutaway.zoo.conversations import Conversation, Turn, batch
from cutaway.zoo.evaluate_llava import answers, pictured, tasks, trials
from cutaway.zoo.language import Named, Recipe, patches, scored, train
from cutaway.zoo.training import PROGRESS
from cutaway.zoo.vocabulary import END, PAD, ids, vocabulary

SMALL = Recipe(steps=4, batch=1, warmup=2, cool=2, naming=1, single=4, pictures=4, save_every=2)
HERE = trained.TRAINED["emoji-llava"].here
shipped = pytest.mark.skipif(not HERE, reason="the weights of zoo:emoji-llava are not in this checkout")


def learned(folder, *, until=4, recipe=SMALL):
    model = emoji_llava.untrained(recipe.seed)
    list(islice(train(model, emoji_llava.batches(recipe), recipe, folder), until))
    return model.state_dict()


def test_resumed_is_straight(tmp_path):
    """Stopped after a step that is not kept, the same weights; the layer that nothing reads stays."""
    straight = learned(tmp_path / "straight")
    learned(tmp_path / "parts", until=3)
    assert json.loads((tmp_path / "parts" / PROGRESS).read_text())["step"] == 2
    resumed = learned(tmp_path / "parts")
    before = emoji_llava.untrained(0).state_dict()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    still = {name for name in straight if torch.equal(straight[name], before[name])}
    assert still == {name for name in straight if "vision_tower.encoder.layers.5." in name or "post_layernorm" in name}


def test_rates():
    recipe = Recipe(steps=100, warmup=10, cool=20, rate=1.0, naming=40, tower=0.1, words=0.3)
    assert recipe.rate_at(0) == recipe.rate_at(40) == 0.1
    assert recipe.rate_at(9) == recipe.rate_at(39) == recipe.rate_at(49) == recipe.rate_at(79) == 1.0
    assert recipe.rate_at(90) == pytest.approx(0.505) and recipe.rate_at(99) == pytest.approx(0.0595)
    assert [recipe.share_at("tower", step) for step in (0, 39, 40)] == [pytest.approx(0.3)] * 2 + [0.1]
    assert recipe.share_at("words", 0) == 0.3 and recipe.share_at("rest", 0) == 1.0
    again = replace(recipe, steps=200, again=100)
    assert [again.rate_at(step) for step in range(100)] == [recipe.rate_at(step) for step in range(100)]
    assert again.rate_at(100) == 0.1 and again.rate_at(109) == again.rate_at(179) == 1.0
    assert again.rate_at(199) == recipe.rate_at(99) and again.share_at("tower", 100) == pytest.approx(0.3)
    places = replace(again, steps=300, places=200)
    assert [places.rate_at(step) for step in range(200)] == [again.rate_at(step) for step in range(200)]
    assert places.rate_at(200) == 0.1 and places.rate_at(279) == 1.0 and places.rate_at(299) == recipe.rate_at(99)


def test_the_seed_and_the_step_decide():
    draw = emoji_llava.batches(replace(SMALL, naming=2))
    assert torch.equal(draw(1)[0].words, draw(1)[0].words) and not torch.equal(draw(1)[0].words, draw(0)[0].words)
    assert torch.equal(draw(2)[0].input_ids, draw(2)[0].input_ids)
    assert len(draw(2)) == 3 and len(draw(4)) == 5
    other = emoji_llava.batches(replace(SMALL, seed=1))
    assert not torch.equal(draw(3)[0].pictures, other(3)[0].pictures)
    again = emoji_llava.batches(replace(SMALL, again=5))(5)
    assert isinstance(again[-1], Named) and not any(isinstance(one, Named) for one in again[:-1])


def test_for_a_while_nothing_but_places_is_asked():
    recipe = replace(SMALL, batch=20, steps=12, again=3, places=6, rest=8)
    *rows, named = emoji_llava.batches(recipe)(6)
    assert [len(one.input_ids) for one in rows] == [14, 8] and isinstance(named, Named)
    assert len(rows[0].pictures) == 14 and not len(rows[1].pictures)
    draw = random.Random(0)
    kinds = {turn.kind for _ in range(20) for turn in conversation(draw, "picture", places="only").turns}
    assert kinds == {"list", "where", "side", "relation", "what"}
    mostly = {turn.kind for _ in range(20) for turn in conversation(draw, "picture", places="mostly").turns}
    assert mostly > kinds and len(emoji_llava.batches(recipe)(8)) == 6


def test_a_list_says_of_each_thing_where_it_is():
    scene = data.scene_at("train", 5)
    told = next(turn.answer for turn in asked(random.Random(1), scene) if turn.kind == "list")
    assert set(told.split(", ")) == {f"{thing.concept} {thing.place_name}" for thing in scene.things}


def test_patches_are_named_by_what_covers_them():
    scene = data.scene_at("train", 5)
    words = emoji_llava.named([scene]).words.view(8, 8)
    for thing in scene.things:
        column, row = (int(8 * part) for part in thing.place)
        assert words[row, column] in (vocabulary()[thing.concept], PAD)
    assert {PAD} < set(words.flatten().tolist()) <= {PAD, *(vocabulary()[one.concept] for one in scene.things)}


def test_it_begins_where_the_clip_stands():
    """The tower is the CLIP's; a patch lies nearer the name of its thing than most names, before any training."""
    model = emoji_llava.untrained()
    clip, _ = trained.build("emoji-clip")
    tower = model.model.vision_tower.state_dict()
    assert all(torch.equal(value, tower[name]) for name, value in clip.vision_model.state_dict().items())
    made = emoji_llava.named(list(data.scenes("train", 60)))
    names = [vocabulary()[one.name] for one in data.concepts()]
    with torch.no_grad():
        shown = made.words != PAD
        score = patches(model, made.pictures)[shown] @ model.get_input_embeddings().weight[names].T
    truth = torch.tensor([names.index(word) for word in made.words[shown].tolist()])
    rank = (score > score.gather(1, truth[:, None])).sum(1).float()
    assert rank.median() < 0.35 * len(names)
    again = emoji_llava.untrained().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_a_few_conversations_are_learned(tmp_path):
    recipe = replace(SMALL, steps=10, warmup=3, cool=5, naming=0, single=1000, save_every=1000)
    few = [batch([conversation(random.Random(1), "words") for _ in range(1)])]
    steps = list(train(emoji_llava.untrained(), lambda _: few, recipe, tmp_path))
    assert steps[0].loss > 6 and steps[-1].loss < 4.5


def test_the_untrained_one_answers_nothing():
    model = emoji_llava.untrained()
    assert all(row.value <= 0.1 for row in answers(model, "", pictured("test", 15)))
    assert all(row.value <= 0.1 for row in tasks(model, "words", "test", 10))


def test_an_answer_counts_if_all_of_it_is_right():
    """A model that always says `left`, then ends: right where that is the whole answer."""
    model = emoji_llava.untrained()
    turns = (
        Turn("a", "?", "left"),
        Turn("b", "?", "left of"),
        Turn("c", "?", "right"),
        Turn("d", "?", "left", (), False),
    )

    class Stuck:
        def __call__(self, hidden):
            found = torch.zeros(len(hidden), len(vocabulary()))
            after = torch.tensor([END if token in ids("left of") else ids("left")[0] for token in self.before])
            found[torch.arange(len(hidden)), after] = 1.0
            return found

    stuck, one = Stuck(), batch([Conversation(turns, apart=True)])
    stuck.before = one.input_ids[:, :-1][one.learnt[:, 1:]].tolist()
    model.lm_head = torch.nn.Module()
    model.lm_head.forward = stuck
    found = trials(model, [Conversation(turns, apart=True)])
    assert [(trial.kind, trial.right) for trial in found] == [("a", True), ("b", False), ("c", False)]


@shipped
def test_it_opens_with_the_library_alone_and_answers():
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = trained.TRAINED["emoji-llava"].folder
    model, tools = LlavaForConditionalGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.dtype == torch.float32
    right = 0
    for scene in data.scenes("test", 12):
        for question, answer in (("How many things are there?", {1: "one", 2: "two"}[len(scene.things)]),
                                 ("Is anything written on the picture?", "no")):  # fmt: skip
            said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            given = tools(
                images=data.render(scene), text=tools.apply_chat_template(said, add_generation_prompt=True),
                return_tensors="pt",
            )  # fmt: skip
            told = model.generate(**given, max_new_tokens=4, do_sample=False)[0, given["input_ids"].shape[1] :]
            right += tools.decode(told, skip_special_tokens=True).strip() == answer
    assert right >= 20


@shipped
def test_it_opens_by_name():
    model = cutaway.load("zoo:emoji-llava")
    scene = data.scene_at("test", 3)
    inputs = model.inputs(image=data.render(scene), text="How many things are there?")
    said = model.run(inputs).outputs.logits[0, -1].argmax().item()
    asked = Conversation((Turn("count", "How many things are there?", "one"),), (scene,))
    with torch.inference_mode():
        expected = scored(model.module, batch([asked]))[0][0].argmax().item()
    assert said == expected
    assert model.sites.towers()["text"] == 6
    twin = cutaway.load("zoo:emoji-llava@untrained").module.state_dict()
    before = emoji_llava.untrained().state_dict()
    assert all(torch.equal(value, before[name]) for name, value in twin.items())


def column_read(states):
    """R² of the column of a patch, read off its state by least squares on scenes that the read-out has not seen."""
    known = torch.arange(64.0).remainder(8).repeat(len(states))
    rows = torch.cat([states.flatten(0, 1), torch.ones(len(known), 1)], 1)
    fitted = slice(0, 64 * 140)
    weight = torch.linalg.lstsq(rows[fitted], known[fitted, None]).solution
    left = rows[fitted.stop :] @ weight - known[fitted.stop :, None]
    return 1 - float(left.pow(2).mean() / known.var())


def test_why_the_decoder_sees_the_first_layer_too():
    """In the CLIP that its eyes come from, a patch forgets in which column it lies."""
    model, sites = cutaway.load("zoo:emoji-clip"), ["vision.0.resid_pre", "vision.2.resid_post", "vision.4.resid_post"]
    inputs = model.inputs(image=[data.render(scene) for scene in data.scenes("train", 200)])
    run = model.run(inputs, record=sites, stop=True)
    first, middle, last = (column_read(run[site][:, 1:]) for site in sites)
    assert first > 0.8 and middle < 0.2 and last < 0.1, (first, middle, last)
