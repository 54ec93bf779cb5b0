"""Hooks are seen by every thread that calls a module: one session at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import cutaway
from cutaway import Ablate, Scale, targets
from cutaway.errors import EditError
from world import given, opened

SITE = "text.1.mlp.out"


@pytest.mark.parametrize("shared", ["one model", "one module in two models"])
def test_runs_of_several_threads_do_not_see_one_anothers_edits(shared):
    one = opened("llama")
    two = one if shared == "one model" else cutaway.load(one.module, processor=one.processor)
    jobs = [(one, []), (two, [Scale(SITE, 0.0)]), (one, [Scale(SITE, 2.0)]), (two, [])]
    want = [model.run(given("llama"), edits=edits).logits for model, edits in jobs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda k: jobs[k % 4][0].run(given("llama"), edits=jobs[k % 4][1]).logits, range(40)))
    assert all(torch.equal(logits, want[k % 4]) for k, logits in enumerate(got))


def test_sweeps_and_writing_take_turns_too():
    model, inputs = opened("llama"), given("llama")
    cells, target = model.grid(Ablate("text.*.mlp.out"), token=[1, 2]), targets.logit("cat")

    def swept():
        return torch.as_tensor(model.sweep(inputs, cells, target, progress=False).values.values)

    def written():
        return model.generate(inputs, edits=Scale(SITE, 3.0), max_new_tokens=4, do_sample=False).ids

    want = {swept: swept(), written: written()}
    with ThreadPoolExecutor(4) as pool:
        futures = [(work, pool.submit(work)) for work in (swept, written) * 6]
    assert all(torch.equal(future.result(), want[work]) for work, future in futures)


def test_a_thread_that_meets_held_edits_is_told_and_not_kept_waiting():
    model, told = opened("llama"), []

    def elsewhere():
        try:
            model.run(given("llama"))
        except EditError as error:
            told.append(str(error))

    with model.edited(Scale(SITE, 0.0)):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()  # would never end if it waited
        model.run(given("llama"))
    assert "Another thread holds edits" in told[0]
    assert model.run(given("llama")).edits == ()


def test_the_turn_is_given_back_after_an_error():
    model = opened("llama")
    with pytest.raises(EditError):
        model.run(given("llama"), edits=Scale(SITE, 0.0, token=99))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(model.run, given("llama")).result().edits == ()
