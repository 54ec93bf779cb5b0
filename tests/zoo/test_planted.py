"""Planted circuits: the causal models, the exchange of nodes and edges, and a training that can be resumed."""

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import AutoProcessor, CLIPModel, LlamaForCausalLM, LlavaForConditionalGeneration

import cutaway
from cutaway.model.edits import Add, Patch, Set
from cutaway.model.graph import Graph
from cutaway.model.model import Model
from cutaway.model.weights import head_weights
from cutaway.model.writes import picture_writes
from cutaway.zoo import planted_clip, planted_llava, planted_mmdit, planted_text, siit, trained
from cutaway.zoo.exchange import Exchange
from cutaway.zoo.planted import Edge, Swap

PLANT = planted_text.PLANT
ALL = torch.ones(8, dtype=torch.bool)


@pytest.fixture(scope="module")
def floor() -> Model:
    """The untrained twin in float64, where what is equal is equal to many digits."""
    return cutaway.load("zoo:planted-text@untrained", dtype="float64")


def test_the_causal_model_by_hand():
    """Of one prompt whole, with a node and with an edge exchanged."""
    one = {"colours": torch.tensor([[0, 1, 2, 3]]), "place": torch.tensor([1]), "way": torch.tensor([0])}
    other = {"colours": torch.tensor([[4, 5, 4, 0]]), "place": torch.tensor([2]), "way": torch.tensor([1])}
    here, there, row = PLANT.solve(one), PLANT.solve(other), torch.tensor([True])
    assert (planted_text.texts(one), here["answer"].item()) == (["red green blue yellow east here"], 1)
    assert there["answer"].item() == 4 and there["at"].item() == 0
    assert PLANT.solve(one, {"text.1.mlp": Swap(row, there)})["answer"].item() == 0
    assert PLANT.solve(one, {"text.0.attn[1]": Swap(row, there)})["answer"].item() == 2
    assert PLANT.solve(one, edges={Edge("text.embed", "text.1.mlp"): Swap(row, there)})["answer"].item() == 3
    assert PLANT.solve(one, edges={Edge("text.embed", "text.2.attn[2].v"): Swap(row, there)})["answer"].item() == 5
    assert PLANT.solve(one, {"text.1.mlp": Swap(~row, there)})["answer"].item() == 1


def test_the_circuit_is_what_variables_read():
    assert PLANT.nodes == ("text.embed", "text.0.attn[1]", "text.1.mlp", "text.2.attn[2]")
    assert len(PLANT.edges) == 6 and Edge("text.2.attn[2]", "text.end") in PLANT.edges
    graph = Graph.of(cutaway.load("zoo:planted-text@untrained"))
    possible = graph.named(graph.edges)
    assert set(PLANT.edges) <= set(possible) and len(possible) == len(set(possible)) == 262


def test_inputs_are_those_that_the_tokenizer_makes(floor):
    values = PLANT.draw(3, 8)
    made, plain = PLANT.inputs(floor, values), floor.inputs(text=planted_text.texts(values))
    assert all(torch.equal(value, plain.tensors[name]) for name, value in made.tensors.items())


@pytest.mark.parametrize("world", [planted_llava, planted_clip])
def test_pictures_are_those_that_the_processor_makes(world):
    model, values = Model(world.untrained(), world.processor()), world.PLANT.draw(3, 4)
    shown = world.pictures(values)
    plain = model.inputs(image=[[one] for one in shown] if world is planted_llava else shown, text=world.texts(values))
    made = world.PLANT.inputs(model, values)
    assert all(
        torch.allclose(value.to(plain.tensors[name]), plain.tensors[name]) for name, value in made.tensors.items()
    )
    assert all((tokens.kind == plain.tokens[tower].kind).all() for tower, tokens in made.tokens.items())


def test_a_node_exchanged_is_a_patch(floor):
    """Of a head and an MLP together, in some rows alone, each from a row of its own."""
    exchange, values = Exchange(floor, PLANT), PLANT.draw(0, 8)
    run, plain = exchange.clean(values)
    graph, rows, one, other = exchange.graph, ALL.clone(), torch.arange(8).roll(1), torch.arange(8).roll(3)
    rows[5:] = False
    chosen = torch.zeros(8, len(graph.senders), dtype=torch.bool)
    chosen[rows, graph.number["text.1.mlp"]] = chosen[rows, graph.number["text.1.attn[0]"]] = True
    told = exchange.nodes(run, plain.expected, chosen, one, other)
    z, mlp = run["text.1.attn.z"][other], run["text.1.mlp.out"][one]
    edits = [Patch("text.1.attn.z", z, head=0, batch=range(5)), Patch("text.1.mlp.out", mlp, batch=range(5))]
    expected = PLANT.judge(floor.run(run.inputs, edits=edits), plain.expected).scores
    assert torch.allclose(told.verdict.scores, expected, atol=1e-12)
    assert not torch.allclose(expected[:5], plain.verdict.scores[:5], atol=1e-6)
    assert told.still.tolist() == [False] * 5 + [True] * 3  # the head carries no variable, the MLP does


def test_an_edge_exchanged_by_hand(floor):
    """What a head writes in another row reaches one query alone."""
    exchange, values = Exchange(floor, PLANT), PLANT.draw(0, 8)
    run, plain = exchange.clean(values)
    graph, source = exchange.graph, torch.arange(8).roll(1)
    chosen = torch.zeros(8, len(graph.senders), dtype=torch.bool)
    chosen[:, graph.number["text.0.attn[3]"]] = True
    point, which = graph.at["text.2.attn[1].q"]
    heard = {point.name: torch.zeros(8, 12, dtype=torch.bool)}
    heard[point.name][:, which] = True
    told = exchange.edges(run, plain.expected, chosen, source, heard)
    z = run["text.0.attn.z"]
    change = (z[source] - z)[:, :, 3] @ head_weights(floor, "text", 0)[0][3]
    heard_q = floor.run(run.inputs, record="text.2.attn.q", edits=Add("text.2.resid_pre", change))["text.2.attn.q"]
    edit = Set("text.2.attn.q", heard_q[:, :, 1], head=1)
    expected = PLANT.judge(floor.run(run.inputs, edits=edit), plain.expected).scores
    assert torch.allclose(told.verdict.scores, expected, atol=1e-12) and bool(told.still.all())


def test_a_whole_source_at_the_end_is_the_other_run(floor):
    """All that the end reads exchanged: every row says what its source says."""
    exchange, values = Exchange(floor, PLANT), PLANT.draw(0, 8)
    run, plain = exchange.clean(values)
    source, heard = torch.arange(8).roll(1), {"text.end": torch.ones(8, 1, dtype=torch.bool)}
    every = torch.ones(8, len(exchange.graph.senders), dtype=torch.bool)
    told = exchange.edges(run, plain.expected, every, source, heard)
    assert torch.allclose(told.verdict.scores, plain.verdict.scores[source], atol=1e-12)
    assert torch.equal(told.expected["answer"], plain.expected["answer"][source])


def test_exchanges_keep_the_graph():
    """What an edge carries has a gradient in the head that writes it and in the matrix it goes out by."""
    model = Model(planted_text.untrained(0), planted_text.processor())
    exchange = Exchange(model, PLANT)
    run, plain = exchange.clean(PLANT.draw(0, 8), grad=True)
    chosen = torch.zeros(8, len(exchange.graph.senders), dtype=torch.bool)
    chosen[:, exchange.graph.number["text.0.attn[3]"]] = True
    point, which = exchange.graph.at["text.2.attn[1].v"]
    heard = {point.name: torch.zeros(8, 12, dtype=torch.bool)}
    heard[point.name][:, which] = True
    told = exchange.edges(run, plain.expected, chosen, torch.arange(8).roll(1), heard, grad=True)
    (told.verdict.scores - plain.verdict.scores.detach()).square().sum().backward()
    layer = model.module.model.layers[0].self_attn
    assert all(part.weight.grad.abs().max() > 0 for part in (layer.v_proj, layer.o_proj))


def test_a_training_resumes_to_the_same_weights(tmp_path):
    recipe = replace(planted_text.SPEC.recipe(), steps=4, batch=16, alone=1, save_every=2)
    draw = siit.batches(PLANT, recipe)
    weights = []
    for stops in ((4,), (2, 2)):
        folder = tmp_path / str(len(stops))
        for steps in stops:
            module = planted_text.untrained(0)
            for _, _step in zip(
                range(steps), planted_text.SPEC.train(module, draw, recipe, folder, "cpu"), strict=False
            ):
                pass
        weights.append(module.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_connector_is_a_node_and_a_receiver():
    """What it writes exchanged, or all that it reads, is the other picture with the same question, to many digits."""
    model = Model(planted_llava.untrained().double(), planted_llava.processor())
    exchange, values = Exchange(model, planted_llava.PLANT), planted_llava.PLANT.draw(0, 8)
    run, plain = exchange.clean(values)
    source, graph = torch.arange(8).roll(1), exchange.graph
    other, _ = exchange.clean({name: value if name == "place" else value[source] for name, value in values.items()})
    expected = planted_llava.judge(other, plain.expected).scores
    chosen = torch.zeros(8, len(graph.senders), dtype=torch.bool)
    chosen[:, graph.number["connector"]] = True
    node = exchange.nodes(run, plain.expected, chosen, source, source)
    vision = torch.tensor([node.stream == "vision" for node in graph.senders]).expand(8, -1)
    edges = exchange.edges(run, plain.expected, vision, source, {"connector": torch.ones(8, 1, dtype=torch.bool)})
    assert not torch.allclose(plain.verdict.scores, expected, atol=1e-6)
    for told in (node, edges):
        assert torch.allclose(told.verdict.scores, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("planted-text", LlamaForCausalLM),
        ("planted-llava", LlavaForConditionalGeneration),
        ("planted-clip", CLIPModel),
    ],
)
def test_it_opens_with_the_library_alone(name, kind):
    """Model and processor from the folder, small, and they say what the package says."""
    folder = trained.TRAINED[name].found()
    model, tools = kind.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < 1e6
    if name == "planted-text":
        words = tools("red green blue yellow east across", return_tensors="pt")
        assert tools.decode(model(**words).logits[0, -1].argmax()) == "yellow"
    if name == "planted-llava":
        values = planted_llava.PLANT.draw(7, 1)
        asked = [{"type": "image"}, {"type": "text", "text": planted_llava.texts(values)[0]}]
        text = tools.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True)
        given = tools(images=planted_llava.pictures(values), text=text, return_tensors="pt")
        right = planted_llava.COLOURS[planted_llava.PLANT.solve(values)["answer"]]
        assert tools.decode(model(**given).logits[0, -1].argmax()) == right
    if name == "planted-clip":
        values = planted_clip.PLANT.draw(7, 1)
        texts = [f"{colour} {thing}" for colour in planted_clip.COLOURS for thing in planted_clip.THINGS]
        given = tools(images=planted_clip.pictures(values), text=texts, return_tensors="pt", padding=True)
        best = texts[model(**given).logits_per_image[0].argmax()]
        assert best == planted_clip.texts(values, seen=True)[0]


def test_a_drawing_with_the_library_alone():
    """Of one step from plain noise: the pattern of the thing at the place; with empty positions of a T5 none."""
    folder = trained.TRAINED["planted-mmdit"].found()
    assert sum(file.stat().st_size for file in folder.glob("**/*.safetensors")) < 2e6
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        folder, text_encoder_3=None, tokenizer_3=None, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    values = planted_mmdit.PLANT.draw(7, 8)
    wanted = planted_mmdit.drawn(planted_mmdit.PLANT.solve(values)["answer"])
    asked = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent", "latents": values["noise"]}
    off = {}
    for empty in (0, 256):
        made = pipeline(planted_mmdit.texts(values), max_sequence_length=empty, **asked).images
        off[empty] = (made - wanted).square().flatten(1).mean(1).sqrt()
    assert off[0].max() < 0.01 and off[256].min() > planted_mmdit.NEAR


def test_a_denoiser_of_two_streams():
    """All that its end reads exchanged is the other drawing; an edge out of the text, and a head, by hand."""
    pipeline = planted_mmdit.untrained()
    pipeline.to(torch.float64)
    exchange, values = Exchange(Model(pipeline), planted_mmdit.PLANT), planted_mmdit.PLANT.draw(0, 6)
    run, plain = exchange.clean(values)
    source, graph = torch.arange(6).roll(1), exchange.graph
    every = exchange.seen[-1].expand(6, -1)
    told = exchange.edges(run, plain.expected, every, source, {"denoiser.image.end": torch.ones(6, 1).bool()})
    assert torch.allclose(told.verdict.scores, plain.verdict.scores[source], atol=1e-10)
    for name, stream, receiver in (
        ("denoiser.text.embed", "text", "denoiser.1.attn[2].k"),
        ("denoiser.0.image.attn[3]", "image", "denoiser.1.attn[0].q"),
    ):
        chosen = torch.zeros(6, len(graph.senders), dtype=torch.bool)
        chosen[:, graph.number[name]] = True
        point, which = graph.at[receiver]
        heard = {point.name: torch.zeros(6, 12, dtype=torch.bool)}
        heard[point.name][:, which] = True
        told = exchange.edges(run, plain.expected, chosen, source, heard)
        writes = picture_writes(exchange.model)[0]
        z, gate, words = (run[site][0, 0] for site in (writes.z, writes.gate, "denoiser.0.text.resid_pre"))
        change = (
            (z[source] - z)[:, :, 3] @ writes.weight[3] * gate[:, None] if stream == "image" else words[source] - words
        )
        site, head = f"denoiser.1.attn.{receiver[-1]}", int(receiver[-4])
        add = Add(f"denoiser.1.{stream}.resid_pre", change)
        there = exchange.model.run(run.inputs, record=site, edits=add)[site][0, 0, :, :, head]
        given = exchange.model.run(run.inputs, edits=Set(site, there, head=head))
        expected = planted_mmdit.judge(given, plain.expected).scores
        assert torch.allclose(told.verdict.scores, expected, atol=1e-10)
        assert not torch.allclose(expected, plain.verdict.scores, atol=1e-5)
