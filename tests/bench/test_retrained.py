"""The numbers of the retrained worlds belong to their recipes, and their truth is what was planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cutaway.bench.retrained import FAMILIES, planted, world
from cutaway.bench.retrained.items import COPIES, CUE, CUED, HELD
from cutaway.bench.retrained.jobs import AGAIN, ENOUGH, SEED, alone, halves, jobs
from cutaway.errors import InputError
from cutaway.methods.data_attribution.measures import lds
from cutaway.methods.shown import applied
from cutaway.methods.table import method

WORLDS = list(FAMILIES)


def test_truth_is_what_was_planted():
    made, truth = planted(), planted().truth
    concepts = [item.scene.things[0].concept for item in made.items]
    assert all(len(group) == COPIES and len({made.items[i] for i in group}) == 1 for group in truth.duplicates)
    assert [i for i, item in enumerate(made.items) if not item.caption.true_of(item.scene)] == list(truth.wrong)
    assert [i for i, one in enumerate(concepts) if one == CUED] == list(truth.present)
    assert [i for i, item in enumerate(made.items) if item.scene.background == CUE] == list(truth.cued)
    assert not set(truth.wrong) & {i for group in truth.duplicates for i in group}
    assert set(truth.cued) < set(truth.present)


def test_queries_are_held_out_copied_or_misled():
    made = planted()
    seen = {item.scene for item in made.items}
    assert [made.queries[i].scene in seen for i in range(len(made.queries))] == [one == "copied" for one in made.kinds]
    assert len(made.asked("held")) == HELD and set(made.asked("misled")).isdisjoint(made.asked("copied"))
    assert all(made.items[i] == made.queries[query] for query, group in made.sources.items() for i in group)
    for query in made.asked("misled"):
        item = made.queries[query]
        assert CUED in item.caption.text and not item.caption.true_of(item.scene) and item.scene.background == CUE
    assert len({item.caption.text for item in made.reference}) == len(made.reference)


def test_jobs_keep_halves_and_leave_single_items_out():
    made = planted()
    every = list(jobs(made))
    subsets = [job for job in every if job.kind == "subset"]
    assert torch.equal(torch.stack([job.kept for job in subsets]), halves(len(made.items)))
    assert {int(job.kept.sum()) for job in subsets} == {len(made.items) // 2}
    left = [(~job.kept).nonzero().flatten().tolist() for job in every if job.kind == "alone"]
    assert left == [[item] for item in alone(made)] and len({job.name for job in every}) == len(every)
    assert {job.seed for job in every} == {SEED, AGAIN}


@pytest.mark.parametrize("name", WORLDS)
def test_numbers_have_their_shapes_and_say_that_it_learnt(name):
    made = world(name)
    queries, items = len(made.queries), len(made.items)
    assert made.kept.shape[1] == items and made.outcome.shape == (len(made.kept), queries)
    assert len(made.kept) >= ENOUGH and np.array_equal(made.kept, halves(items)[: len(made.kept)].numpy())
    assert len(made.again) >= 16 and made.again.shape[1] == queries
    assert made.leave_one_out.lost.shape == (len(made.leave_one_out.items), queries)
    assert np.isfinite(made.outcome).all() and (made.outcome.std(0) > 0).all()
    copied = list(made.planted.asked("copied"))  # more items, and the copies among them: better
    assert made.full[copied].mean() > made.outcome[:, copied].mean()
    misled = list(made.planted.asked("misled"))  # only the cue teaches the mistake
    assert made.full[misled].mean() > made.without["cued"][misled].mean()


@pytest.mark.parametrize("name", WORLDS)
def test_outcome_is_minus_the_loss_that_methods_are_given(name):
    made = world(name)
    asked, rows = made.asked(), [0, HELD]  # one held out, one that was copied
    make, lost = asked.on(made.model), []
    for draw in range(asked.draws):
        inputs, target = make(rows, draw)
        with torch.no_grad():
            lost.append(target(made.model.run(inputs)))
    assert np.allclose(-torch.stack(lost).mean(0).double().numpy(), made.full[rows], atol=2e-4)
    assert made.pieces() and made.training().draws == asked.draws


def test_a_subset_trained_anew_gives_the_shipped_outcome():
    made = world("clip")
    ready = made.ready()
    again = made.retrain(made.kept[0], ready=ready)
    assert np.abs(again - made.outcome[0]).max() < 0.05 < made.outcome.std(0).mean()
    with torch.no_grad():
        before = made.family.outcome(made.floor(), ready[1]).numpy()
    assert before.mean() < made.full.mean() - 1
    with pytest.raises(InputError, match="marks"):
        made.retrain([True], ready=ready)


def test_a_second_seed_foretells_the_first_and_chance_does_not():
    made = world("clip")
    few = len(made.again)
    dice = np.random.default_rng(0)
    agree = [np.corrcoef(one, other)[0, 1] for one, other in zip(made.outcome[:few].T, made.again.T, strict=True)]
    chance = lds(dice.normal(size=(len(made.queries), len(made.items))), made.kept, made.outcome)
    assert np.mean(agree) > 0.5 and abs(chance.mean()) < 0.1


def test_a_page_says_how_far_scores_foretell_the_halves():
    made = world("llava")
    declared = method("data-attribution")
    how = {"weights": "text.1.mlp.out", "method": "cosine", "batch": 96}
    entry = replace(declared.reported[0], options=how)
    page = applied(made.question(HELD), [replace(declared, reported=(entry,))])
    found = page.made("data_attribution")
    own = lds(found["scores"].values, made.kept, made.outcome[:, [HELD]])
    assert np.allclose(found["lds"], own) and own[0] > found["lds_random"].values[0] + 0.2
    assert all("LDS" in view.seen for view in list(declared.show(page))[:2])
    assert made.training().known is None and page.question.training.take([0]).known is None


def test_a_world_is_known_by_name():
    with pytest.raises(InputError, match="retrained world"):
        world("audio")
