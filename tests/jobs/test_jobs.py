"""Jobs in one process: chunks are values, plans are shared, workers are counted, times are foretold."""

import pickle
import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from chores import Failing, Noted, Told, swept
from typer.testing import CliRunner

import cutaway
from cutaway import jobs, questions
from cutaway.cli import app
from cutaway.errors import LoadError, MethodError, SiteError
from cutaway.jobs import Crew
from cutaway.jobs.cluster import Layout, counted, laid_out, reached
from cutaway.jobs.spread import Sweeping
from cutaway.jobs.worker import Opening, Worker
from cutaway.methods import activation_patching
from cutaway.methods.table import METHODS, method
from cutaway.model.cells import Cells
from cutaway.questions.training import Answers
from cutaway.source import Source
from cutaway.zoo import tiny
from world import fresh, opened

SWEEPING = {"activation_patching": {"over": "head"}, "attention_knockout": {"draws": 1}, "head_attribution": {}}
run = CliRunner(env={"COLUMNS": "160"}).invoke


def test_chunks_come_in_order_and_once(tmp_path):
    found = list(jobs.run(Noted(tmp_path, -1), [3, 1, 2], Source("tiny:llama", dtype="float64")))
    assert [chunk for chunk, _ in found] == [3, 1, 2] and len(list(tmp_path.glob("* *"))) == 3
    assert found[0][1] - found[1][1] == pytest.approx(2)


def test_the_dice_of_a_chunk_follow_from_seed_and_number():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again = (dict(jobs.run(Told(), some, opened("llama"))) for some in (range(4), [2, 3, 0]))
    assert all(first[chunk][2] == again[chunk][2] for chunk in again)
    assert len({number for told in first.values() for number in told[2]}) == 8
    assert torch.equal(torch.get_rng_state(), before)
    drawn = {float(torch.rand(1, generator=jobs.dice(*at))) for at in [(0, 1), (1, 0), (0, 11), (1, 1), (0, 10)]}
    assert len(drawn) == 5


def test_an_error_of_the_work_is_raised_as_it_is():
    with pytest.raises(SiteError, match="Take y"):
        list(jobs.run(Failing("ours"), [0, 1], opened("llama")))
    with pytest.raises(MethodError, match=r"hunk 1 asked its process to end \(SystemExit: 3\)"):
        list(jobs.run(Failing("exit"), [0, 1], opened("llama")))


def test_a_sweep_is_the_same_whoever_makes_its_chunks_and_in_whatever_order(tmp_path):
    model = opened("llama")
    inputs, cells, target = swept(model)
    alone = model.sweep(inputs, cells, target, progress=False)
    work = pickle.loads(pickle.dumps(Sweeping(inputs, Cells.of(cells), target, 2**30)))
    other = fresh("llama")

    def by(plan, todo):
        return ((number, work.do(other, number)) for number in random.Random(0).sample(todo, len(todo)))

    made = model.sweep(inputs, cells, target, progress=False, by=by)
    assert (made.values.values == alone.values.values).all() and len(alone.plan.chunks) > 3
    assert pickle.loads(pickle.dumps(work)).begun == [] and len(work.begun) == 1


def test_what_is_kept_of_a_sweep_is_not_made_again(tmp_path):
    model = opened("llama")
    inputs, cells, target = swept(model)
    asked = []

    def by(plan, todo):
        asked.append(list(todo))
        work = Sweeping(inputs, Cells.of(cells), target, 2**30)
        for at, number in enumerate(todo):
            if len(asked) == 1 and at == 2:
                raise KeyboardInterrupt
            yield number, work.do(model, number)

    how = {"progress": False, "resume": tmp_path / "values", "by": by}
    with pytest.raises(KeyboardInterrupt):
        model.sweep(inputs, cells, target, **how)
    made = model.sweep(inputs, cells, target, **how)
    assert asked[1] == asked[0][2:] and not np.isnan(made.values.values).any()
    assert jobs.sweep(model, inputs, cells, target, progress=False, resume=tmp_path / "values").ran == 0


def test_a_spread_model_is_the_model():
    model = opened("llama")
    pair = ["a red dog"], ["a red cat"], cutaway.targets.logit_diff("dog", "cat")
    with jobs.spread(model, 0) as wide:
        assert wide.module is model.module and repr(wide) == repr(model) and isinstance(wide, cutaway.Model)
        found = activation_patching(wide, *pair, progress=False)
    assert found.data.equals(activation_patching(model, *pair, progress=False).data)


# --- how a worker comes to the model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny:llama", "tiny:sd"])
def test_a_worker_opens_the_same_model_by_its_source(name):
    model = cutaway.load(name, dtype="float64", attn=None)
    assert model.source == Source(name, dtype="float64")
    opening = pickle.loads(pickle.dumps(Opening.of(model)))
    assert opening.source == model.source and opening.open().dtype == torch.float64
    assert Opening.of(Source(name)).content == ""


def test_a_worker_that_finds_another_model_says_so():
    model = fresh("llama")
    with torch.no_grad():
        next(model.module.parameters())[0, 0] += 1
    worker = Worker(Opening.of(model), torch.get_num_threads())
    with pytest.raises(MethodError, match=r"found another model than yours.*Save it"):
        _ = worker.model


def test_a_source_opens_with_all_its_options(tmp_path):
    model = fresh("llama")
    model.module.save_pretrained(tmp_path)
    opened_again = cutaway.load(Source(str(tmp_path), dtype="float64", device="cpu", attn="eager"))
    assert opened_again.source == Source(str(tmp_path), device="cpu", dtype="float64", attn="eager")
    assert cutaway.load(opened_again.module).source is None
    assert cutaway.load(str(tmp_path), processor=model.processor).source is None  # one that a worker would not have
    with pytest.raises(LoadError, match="`device_map` beside it"):
        cutaway.load(str(tmp_path), max_memory={"cpu": "1MB"})


# --- workers ----------------------------------------------------------------------------------------------------------


def test_workers_are_a_number_or_a_cluster():
    assert [counted(one) for one in ("4", 0, "auto", "ray://head:10001#8")] == [4, 0, "auto", "ray://head:10001#8"]
    for wrong in (-1, "four", "http://x", "ray://head:10001#few", "", "#3"):
        with pytest.raises(MethodError, match="0 works in this process"):
            counted(wrong)


def test_workers_share_processors_evenly_and_each_fits_on_a_node():
    nodes = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 8.0}, {"memory": 1.0}]
    assert laid_out(4, [{"CPU": 4.0}], gpu=False, threads=8) == Layout(4, 1, 2)  # a Ray of our own: our threads
    assert laid_out(0, nodes, gpu=False) == Layout(2, 8, 8)  # one a node
    assert laid_out(24, nodes, gpu=False) == Layout(24, 1, 1)
    assert laid_out(5, nodes, gpu=False) == Layout(5, 4, 4)
    assert laid_out(0, nodes, gpu=True) == Layout(2, 8, 8, 1)
    for many, gpu in ((25, False), (3, True)):
        with pytest.raises(MethodError, match=f"no room for {many} workers.*24 processors and 2 GPUs"):
            laid_out(many, nodes, gpu)
    with pytest.raises(MethodError, match="no room for any"):
        laid_out(0, [], gpu=False)


def test_without_ray_one_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MethodError, match=r"needs Ray, which is not installed. `pip install 'cutaway\[ray\]'`"):
        jobs.sweep(opened("llama"), *swept(opened("llama")), workers=2, progress=False)
    with pytest.raises(MethodError, match="not installed"), reached("auto", False):
        pass


# --- how long it takes ------------------------------------------------------------------------------------------------


def test_a_forecast_is_that_of_chunks_given_to_whoever_is_free():
    assert jobs.forecast([3.0, 3, 2, 2, 2], 2).seconds == 7  # the best is 6: longest first is no more than a rule
    assert jobs.forecast([1.0] * 10, 1, start=2).seconds == 12
    assert jobs.forecast([1.0] * 10, 64, start=2).seconds == 3 == jobs.forecast([1.0] * 10, 64, start=2).least
    assert jobs.forecast([0.01] * 1000, 64, turn=0.002).seconds == pytest.approx(2.0)  # who gives out is the limit
    for chunks, workers in (([], 2), ([1.0], 0), ([-1.0], 1)):
        with pytest.raises(MethodError, match="No time to tell"):
            jobs.forecast(chunks, workers)


def test_a_forecast_lies_between_its_bounds():
    draw = random.Random(0)
    for workers in (1, 2, 7, 64):
        chunks = [draw.expovariate(1) for _ in range(200)]
        told = replace(jobs.forecast(chunks, workers))
        assert sum(chunks) / workers <= told.seconds + 1e-9 <= sum(chunks) / workers + max(chunks) + 2e-9


# --- methods ----------------------------------------------------------------------------------------------------------


class Counting(Crew):
    """A crew of this process that counts its chunks."""

    count = 0

    def run(self, work, chunks, **shown):
        self.count += len(chunks)
        return ((chunk, work.do(self.model, chunk)) for chunk in chunks)


def test_methods_that_say_so_leave_their_work_to_workers():
    given = {"image": tiny.picture(), "counterfactual": tiny.picture(seed=1), "text": "what is this"}
    question = questions.asked("tiny:llava", **given)
    assert {one.name for one in METHODS if one.spreads} == {*SWEEPING, "data_attribution"}
    for name, options in SWEEPING.items():
        some = Counting(question.model, ("one",))
        found = method(name).apply(question, workers=some, **options).result
        assert some.count > 1 and np.isfinite(found[found.main].values).all()
    train = Answers(pictures=[None] * 3, texts=["a dog is"] * 3, answers=["red", "blue", "red"])
    asked = replace(questions.asked("tiny:llama", text="a dog is"), learnt=train)
    some, how = Counting(asked.model, ("one",)), {"method": "dot", "batch": 1, "weights": "text.1.mlp.out"}
    found, alone = (method("data_attribution").apply(asked, workers=one, **how).result for one in (some, 0))
    assert some.count == 3 and found.data.equals(alone.data)
    with pytest.raises(MethodError, match="has no work that workers could share"):
        method("edge_attribution").apply(question, workers=2)


def test_the_command_line_has_workers_where_they_work():
    told = {name: run(app, ["run", name, "--help"]).stdout for name in ("activation-patching", "logit-lens")}
    assert "--workers" in told["activation-patching"] and "--workers" not in told["logit-lens"]
    files = ["--image", "a.png", "--counterfactual", "b.png", "--text", "a dog", "--text", "a cat"]
    wrong = run(app, ["run", "activation-patching", "tiny:clip", *files, "--workers", "many"])
    assert wrong.exit_code and "0 works in this process" in str(wrong.exception or wrong.output)


def test_a_harvest_goes_through_workers_and_an_estimate_does_not(tmp_path):
    model = opened("llama")
    some, data = Counting(model, ("one",)), ["a red dog", "a cat", "a mat"]
    made = jobs.harvest(model, data, "text.1.resid_post", tmp_path / "made", workers=some, items=1, progress=False)
    assert some.count == 3 and made.complete
    asked = ["harvest", "tiny:llama", "--sites", "text.1.resid_post", "--data", "x.txt", "--out", str(tmp_path / "a")]
    told = run(app, [*asked, "--dry", "--workers", "2"])
    assert told.exit_code and "leave one of them out" in str(told.exception or told.output).lower()
