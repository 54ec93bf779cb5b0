"""What was planted is found again: edges, heads, states that carry a variable; not before training, nor by chance."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import cutaway
from cutaway.bench.worlds import world
from cutaway.errors import MethodError
from cutaway.methods import (
    Circuit,
    activation_patching,
    agreement,
    completeness,
    distributed_alignment_search,
    edge_attribution,
    faithfulness,
    head_attribution,
    minimality,
)
from cutaway.methods.causal_tracing import Graph
from cutaway.model.targets import logit_diff
from cutaway.model.tokens import Where
from world import opened

WORLD = "planted-text"


@cache
def model(trained: bool = True):
    one = world(WORLD)
    return cutaway.load(one.model if trained else one.floor)


@cache
def pairs(trained: bool = True, seed: int = 0, n: int = 32, differ: tuple[str, ...] = ()):
    return world(WORLD).pairs(n, seed, differ=differ, model=model(trained))


@cache
def scored(trained: bool = True, how: str = "eap-ig"):
    return edge_attribution(model(trained), *pairs(trained), how=how, progress=False)


def auroc(found) -> float:
    graph = Graph.of(model(), pairs().clean)
    truth = graph.mask(world(WORLD).circuit.edges)[graph.edges]
    return float(roc_auc_score(truth, abs(found["score"].values[graph.edges])))


# --- edges ------------------------------------------------------------------------------------------------------------


@pytest.mark.checks("edge_attribution", "truth")
@pytest.mark.parametrize("how", ["exact", "eap-ig", "eap-ig-activations"])
def test_planted_edges_stand_before_all_others(how):
    assert auroc(scored(how=how)) >= 0.95


@pytest.mark.checks("edge_attribution", "floor")
def test_before_training_they_do_not():
    assert auroc(scored(False, "exact")) < 0.9
    assert abs(scored(False, "exact")["score"]).max() < 0.01 * abs(scored(how="exact")["score"]).max()


@pytest.mark.checks("faithfulness", "truth")
def test_the_planted_circuit_alone_answers_and_each_of_its_edges_is_needed():
    true = list(world(WORLD).circuit.edges)
    given, total = pairs(seed=1), int(Graph.of(model(), pairs().clean).edges.sum())

    def f(edges) -> float:
        found = faithfulness(model(), *given, order=Circuit.of(WORLD, edges), draws=0, progress=False)
        return float(found["faithfulness"].sel(share=len(edges) / total))

    assert f(true) == pytest.approx(1, abs=0.02)
    assert all(f([other for other in true if other != one]) < 0.9 for one in true)


def true() -> Circuit:
    return Circuit.of(WORLD, world(WORLD).circuit.edges)


def chosen(n: int) -> list[tuple[str, str]]:
    """Some edges by chance."""
    graph = Graph.of(model(), pairs().clean)
    rows, columns = np.nonzero(graph.edges)
    some = np.random.default_rng(0).choice(len(rows), n, replace=False)
    return [(graph.names[0][rows[i]], graph.names[1][columns[i]]) for i in some]


@cache
def cut(trained: bool = True):
    given = pairs(trained, seed=1, n=8)
    return completeness(model(trained), *given, circuit=true(), cut=(0, 0.5, 1), draws=1, progress=False)


@pytest.mark.checks("completeness", "truth")
def test_with_part_of_the_planted_circuit_gone_as_much_is_left_as_in_the_model():
    found = cut()
    assert found.incompleteness < 0.05
    assert float(abs(found["circuit"].sel(cut=1)).max()) < 1e-4
    assert float(abs(found["model"].sel(cut=0) - 1).max()) < 1e-4


@pytest.mark.checks("completeness", "baseline")
def test_what_is_outside_edges_by_chance_does_all_they_do():
    assert float(cut()["chance"].min()) > 0.5


@pytest.mark.checks("completeness", "floor")
def test_before_training_the_same_edges_are_not_all_there_is():
    assert cut(False).incompleteness > 0.5


@cache
def lessened(trained: bool = True):
    idle = [edge for edge in chosen(4) if edge not in true().edges]
    both = Circuit.of(WORLD, [*true().edges, *idle])
    given = pairs(trained, seed=1, n=8)
    found = minimality(model(trained), *given, circuit=both, parts=1, draws=8, progress=False)
    return found, len(true().edges)


@pytest.mark.checks("minimality", "truth")
def test_planted_edges_are_needed_and_idle_ones_beside_them_are_not():
    found, count = lessened()
    assert bool(found.needed[:count].all()) and float(found["loss"][:count].min()) > 0.1
    assert float(abs(found["loss"][count:]).max()) < 0.02 and list(found.summary()["most"]) == sorted(found["most"])


@pytest.mark.checks("minimality", "baseline")
def test_edges_by_chance_add_nothing_to_the_planted_circuit():
    found, _ = lessened()
    assert found.bar < 0.02 and "edges tried change f" in found.note()


@pytest.mark.checks("minimality", "floor")
def test_before_training_edges_of_the_circuit_are_needed_less():
    found, count = lessened(False)
    assert float(found["loss"][:count].mean()) < 0.5 * float(lessened()[0]["loss"][:count].mean())


def test_a_circuit_is_taken_from_its_file_or_found(tmp_path):
    path = true().save(tmp_path / "circuit.json")
    given = pairs(seed=1, n=8)
    named = faithfulness(model(), *given, order=path, draws=0, progress=False)
    assert named["edges"].values.tolist() == faithfulness(
        model(), *given, order=true(), draws=0, progress=False
    )["edges"].values.tolist()  # fmt: skip
    assert minimality(model(), *given, circuit=str(path), parts=0, draws=1, progress=False).data.sizes["edge"] == len(
        true().edges
    )
    with pytest.raises(MethodError, match="holds no circuit"):
        completeness(model(), *given, circuit=tmp_path / "no.json", progress=False)
    with pytest.raises(MethodError, match="has no edges"):
        minimality(model(), *given, circuit=Circuit(WORLD, {}), progress=False)
    for wrong in ({"cut": (2,)}, {"draws": 0}):
        with pytest.raises(MethodError, match="shares from 0 to 1"):
            completeness(model(), *given, circuit=true(), progress=False, **wrong)


def test_orders_of_other_pairs_agree_and_those_by_chance_do_not():
    others = edge_attribution(model(), *pairs(seed=1), how="eap-ig", progress=False)
    score = scored()["score"]
    dealt = score.copy(data=np.where(score.isnull(), np.nan, np.random.default_rng(0).random(score.shape)))
    chance = type(others)(others.data.assign(score=dealt), others.provenance)
    found = agreement([scored(), others, chance, scored(False)], ["own", "others", "chance", "untrained"], top=(6, 20))
    rank, shared = found["rank"].sel(one="own"), found["shared"].sel(one="own", top=6)
    assert float(rank.sel(other="own")) == 1 and float(shared.sel(other="own")) == 1
    assert float(rank.sel(other="others")) > 0.8 and abs(float(rank.sel(other="chance"))) < 0.2
    assert float(shared.sel(other="others")) > 0.7 > 0.3 > float(shared.sel(other="untrained"))
    assert float(found["chance"][0]) == 6 / (2 * int(found["edges"]) - 6) and len(found.summary()) == 6
    assert found.plot() is not None and "correlate" in found.note()
    for orders, names in (([scored()], ()), ([scored()] * 2, ["one"])):
        with pytest.raises(MethodError, match="two orders at least"):
            agreement(orders, names)


@pytest.mark.checks("edge_attribution", "truth", "floor")
def test_a_planted_circuit_of_joint_attention_is_found_and_answers_alone():
    """Of the world that draws: every planted edge before all others, before training not, and alone they draw."""
    one = world("planted-mmdit")
    found = {}
    for name in (one.model, one.floor):
        opened_ = cutaway.load(name)
        given = one.pairs(8, model=opened_)
        graph = Graph.of(opened_, given.clean)
        asked = graph.edges & np.array([sender not in one.alike() for sender in graph.names[0]])[:, None]
        scores = edge_attribution(opened_, *given, points=3, progress=False)["score"].values[asked]
        found[name] = float(roc_auc_score(graph.mask(one.shown().edges)[asked], abs(scores)))
    assert found[one.model] >= 0.95 and found[one.floor] < 0.9
    other = one.pairs(4, 1, model=one.open())
    alone = faithfulness(one.open(), *other, order=one.shown(), shares=(), draws=0, progress=False)["faithfulness"]
    assert float(alone[1]) == pytest.approx(1, abs=0.02)


# --- heads ------------------------------------------------------------------------------------------------------------


@cache
def heads(trained: bool = True):
    given = pairs(trained, differ=("place",))
    return head_attribution(model(trained), *given, draws=96, progress=False)


@pytest.mark.checks("head_attribution", "truth")
def test_the_planted_heads_have_the_largest_weights_and_alone_lose_what_patching_does():
    found = heads()
    best = found.summary()
    assert {(row["layer"], row["head"]) for _, row in best.head(2).iterrows()} == {(0, 1), (2, 2)}
    patched = activation_patching(
        model(), *pairs(differ=("place",)), sites="text.*.attn.z", over="head", mode="noise", progress=False
    )
    assert np.allclose(found["alone"], -patched["effect"], atol=1e-3)


@pytest.mark.checks("head_attribution", "baseline")
def test_their_weights_are_beyond_what_shuffled_runs_give():
    found = heads()
    assert (found["weight"].sel(layer=[0, 2], head=[1, 2]).values.diagonal() > 2 * float(found["chance"])).all()


@pytest.mark.checks("head_attribution", "floor")
def test_before_training_no_head_weighs_anything():
    assert abs(heads(False)["weight"]).max() < 0.01 * abs(heads()["weight"]).max()


def test_heads_are_refused_where_there_are_none():
    with pytest.raises(MethodError, match="sites with one number of heads"):
        head_attribution(model(), *pairs(), sites="text.*.mlp.out", progress=False)


# --- states that carry a variable -------------------------------------------------------------------------------------


@cache
def aligned(head: int, trained: bool = True, dims: int = 3):
    """The place that is asked for, taken over at a head of the first layer: answered as the other input asks."""
    given = pairs(trained, n=64, differ=("place",))
    other = world(WORLD).values(64, 0, differ=("place",))[1]
    towards = logit_diff(given.target.other, given.target.word)
    return distributed_alignment_search(
        model(trained), given.clean, given.other, towards, site="text.0.attn.z", head=head, at=-1, dims=dims,
        labels=other["place"].tolist(), steps=80, progress=False,
    )  # fmt: skip


@pytest.mark.checks("distributed_alignment_search", "truth", "baseline")
def test_a_subspace_of_the_planted_head_carries_the_place_and_none_of_another_head():
    found = aligned(1)["iia"]
    assert found.sel(kind="das") >= 0.95 and found.sel(kind="whole") == 1 and found.sel(kind="none") == 0
    assert found.sel(kind="difference of means") >= 0.95
    assert found.sel(kind="random") < 0.5
    assert aligned(2)["iia"].sel(kind=["das", "whole"]).max() < 0.1
    directions = torch.from_numpy(aligned(1)["directions"].values)
    assert torch.allclose(directions @ directions.T, torch.eye(3, dtype=torch.float64), atol=1e-5)


@pytest.mark.checks("distributed_alignment_search", "floor")
def test_before_training_no_subspace_does():
    assert aligned(1, False)["iia"].sel(kind="das") < 0.8


def test_a_fit_leaves_the_weights_of_the_model_as_they_were_and_takes_positions_by_meaning():
    one = opened("llama")
    rows = ["a red dog", "a red cat", "a blue dog"], ["a blue dog", "a blue cat", "a red dog"]
    options = {"site": "text.1.resid_post", "steps": 2, "progress": False, "dims": 2}
    last, by_meaning = (
        distributed_alignment_search(one, *rows, logit_diff("dog", "cat"), at=at, **options)
        for at in (-1, Where(text=["dog", "cat"]))
    )
    assert np.allclose(last["margin"], by_meaning["margin"], equal_nan=True)
    assert all(weight.grad is None for weight in one.module.parameters())
    every = distributed_alignment_search(one, *rows, logit_diff("dog", "cat"), at=-1, **{**options, "dims": 32})
    assert np.isclose(every["margin"].sel(kind="das"), every["margin"].sel(kind="whole"), atol=1e-5)
    with pytest.raises(MethodError, match="33 dimensions"):
        distributed_alignment_search(one, *rows, logit_diff("dog", "cat"), **{**options, "dims": 33})
    with pytest.raises(MethodError, match="2 labels"):
        distributed_alignment_search(one, *rows, logit_diff("dog", "cat"), labels=["a", "b"], **options)
