"""Jobs on a real Ray of two workers, started once for this file. Run by `test_ray.py`, in a process of its own."""

import _thread
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from chores import Failing, Locked, Noted, Told, swept

import cutaway
from cutaway import Ablate, jobs, targets
from cutaway.errors import CutawayError, MethodError, SiteError
from cutaway.jobs.cluster import ALONE, MODE, reached
from cutaway.jobs.worker import Opening
from cutaway.methods import activation_patching, data_attribution
from cutaway.methods.data_attribution import Plan, eigenbases
from cutaway.model.pieces import pieces
from cutaway.questions.training import Answers

MODEL = cutaway.load("tiny:llama", dtype="float64")
PAIR = ["a red dog"], ["a red cat"], targets.logit_diff("dog", "cat")


def below(parent):
    """The processes that a process has started, and theirs."""
    found, parents = {parent}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    while more := {pid for pid, above in parents.items() if above in found} - found:
        found |= more
    return found - {parent}


@pytest.fixture(scope="module", autouse=True)
def crew():
    before, handler = below(os.getpid()), signal.getsignal(signal.SIGTERM)
    with jobs.crew(MODEL, 2) as some:
        yield some
        mine = below(os.getpid()) - before
        assert len(mine) > 3
    end = time.monotonic() + 10
    while left := [pid for pid in mine if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"left behind: {[Path(f'/proc/{pid}/cmdline').read_text() for pid in left]}"
        time.sleep(0.1)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not {*ALONE, MODE} & set(os.environ)


def test_a_sweep_gives_the_same_numbers_bit_for_bit(crew, tmp_path):
    inputs, cells, target = swept(MODEL)
    alone = MODEL.sweep(inputs, cells, target, progress=False)
    made = jobs.sweep(MODEL, inputs, cells, target, workers=crew, progress=False)
    assert len(alone.plan.chunks) > 3 and repr(made.plan) == repr(alone.plan)
    assert (made.values.values == alone.values.values).all() and (made.clean == alone.clean).all()
    file = tmp_path / "values"  # one file, whoever made what is in it
    ran = [jobs.sweep(MODEL, inputs, cells, target, workers=one, progress=False, resume=file) for one in (crew, 0)]
    assert [one.ran for one in ran] == [len(cells), 0] and (ran[1].values.values == alone.values.values).all()


def test_a_store_has_the_same_bytes_whoever_makes_its_shards(crew, tmp_path):
    how = {"items": 2, "batch": 2, "progress": False}
    data = [f"a red dog on mat {at}" for at in range(9)]
    alone = jobs.harvest(MODEL, data, "text.*.resid_post", tmp_path / "alone", **how)
    made = jobs.harvest(MODEL, data, "text.*.resid_post", tmp_path / "made", workers=crew, **how)
    files = sorted(path.name for path in alone.path.iterdir())
    assert files == sorted(path.name for path in made.path.iterdir()) and len(files) > 10 and made.complete
    for name in files:
        assert (made.path / name).read_bytes() == (alone.path / name).read_bytes(), name
    next(made.path.glob("*1.safetensors")).unlink()  # what is missing is made again, and nothing else
    kept = {path.name: path.stat().st_mtime_ns for path in made.path.iterdir()}
    again = jobs.harvest(MODEL, data, "text.*.resid_post", tmp_path / "made", workers=crew, **how)
    changed = [path.name for path in made.path.iterdir() if kept.get(path.name) != path.stat().st_mtime_ns]
    assert again.complete and len(changed) == 2


def test_methods_take_a_model_whose_sweeps_are_spread(crew):
    with jobs.spread(MODEL, crew) as wide:
        found = activation_patching(wide, *PAIR, progress=False)
    assert found.data.equals(activation_patching(MODEL, *PAIR, progress=False).data)


def test_gradients_of_training_items_have_the_same_bits(crew, tmp_path):
    train = Answers(pictures=[None] * 5, texts=["a dog is"] * 5, answers=["red", "blue", "red", "a cat", "big"])
    asked, target = MODEL.inputs(text="a dog is"), targets.log_prob("blue")
    how = {"method": "trak", "weights": "text", "size": 2, "batch": 2, "seeds": 2, "progress": False}
    alone = data_attribution(MODEL, train, asked, target, folder=tmp_path / "alone", **how)
    with jobs.spread(MODEL, crew) as wide:
        made = data_attribution(wide, train, asked, target, folder=tmp_path / "made", **how)
        (tmp_path / "made" / "items-000002.safetensors").unlink()
        again = data_attribution(wide, train, asked, target, folder=tmp_path / "made", **how)
    assert made.data.equals(alone.data) and again.data.equals(alone.data)
    for file in (tmp_path / "alone").glob("*.safetensors"):
        assert (tmp_path / "made" / file.name).read_bytes() == file.read_bytes()


def test_curvature_has_the_same_bits(crew):
    train = Answers(pictures=[None] * 5, texts=["a dog is"] * 5, answers=["red", "blue", "red", "a cat", "big"])
    chosen = pieces(MODEL, "text.*.mlp.pre")
    alone = eigenbases(MODEL, train, chosen, Plan(1), progress=False)
    with jobs.spread(MODEL, crew) as wide:
        made = eigenbases(wide, train, chosen, Plan(1), progress=False)
    assert len(made.sides) == len(chosen) > 1
    for piece, sides in alone.sides.items():
        assert all(torch.equal(one, other) for one, other in zip(sides, made.sides[piece], strict=True))


def test_chunks_have_their_own_dice_and_two_processes_do_them(crew):
    here, there = (dict(jobs.run(Told(0.05), range(12), MODEL, workers=one)) for one in (0, crew))
    assert {chunk: told[2] for chunk, told in here.items()} == {chunk: told[2] for chunk, told in there.items()}
    assert len({told[0] for told in there.values()}) == 2 and os.getpid() not in {told[0] for told in there.values()}
    assert {told[1] for told in there.values()} == {1}


def test_a_worker_that_is_killed_loses_and_doubles_nothing(crew, tmp_path):
    def kill():
        while not (tmp_path / "victim").exists():
            time.sleep(0.02)
        os.kill(int((tmp_path / "victim").read_text()), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    found = list(crew.run(Noted(tmp_path, 2), range(8)))
    done = sorted(int(path.name.partition(" ")[0]) for path in tmp_path.glob("* *"))
    assert done == list(range(8)) == sorted(chunk for chunk, _ in found)
    assert not list(tmp_path.glob(f"2 {(tmp_path / 'victim').read_text()}"))
    here = dict(jobs.run(Noted(tmp_path, -1), range(8), MODEL))
    assert dict(found) == here


def test_what_the_work_raises_arrives_as_it_is(crew):
    with pytest.raises(SiteError) as caught:
        list(crew.run(Failing("ours"), [0, 1, 2]))
    error = caught.value
    assert (error.failed, error.expected, error.exists, error.do) == ("no site 'x'", "a site", "y", "take y")
    with pytest.raises(ZeroDivisionError):
        list(crew.run(Failing("python"), [0, 1, 2]))
    with pytest.raises(MethodError, match="asked its process to end"):
        list(crew.run(Failing("exit"), [0, 1, 2]))
    inputs, _, target = swept(MODEL)
    with pytest.raises(CutawayError, match=r"text\.9"):
        jobs.sweep(MODEL, inputs, [Ablate("text.9.mlp.out")], target, workers=crew, progress=False)


def test_an_interrupt_ends_the_job_and_the_workers_go_on(crew):
    over = threading.Event()

    def interrupt():  # again where the first came while Python was in a destructor, which swallows it
        while not over.wait(0.5):
            _thread.interrupt_main()

    def job():
        try:
            list(crew.run(Told(0.2), range(100)))
        finally:
            over.set()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        job()
    assert len(list(crew.run(Told(), range(4)))) == 4


def test_what_workers_would_not_know_of_is_refused(crew):
    with MODEL.edited(Ablate("text.0.mlp.out")):
        MODEL.run(MODEL.inputs(text="a red dog"))
        with pytest.raises(MethodError, match="Edits are held"):
            list(jobs.run(Told(), [0], MODEL, workers=crew))
    with pytest.raises(MethodError, match="have another model"):
        list(jobs.run(Told(), [0], cutaway.load("tiny:llama"), workers=crew))
    with pytest.raises(MethodError, match=r"The work cannot be sent.*lock"):
        list(crew.run(Locked(), [0]))
    with pytest.raises(MethodError, match="no room for 5 workers"), jobs.crew(MODEL, 5):
        pass


def test_a_ray_that_runs_already_stays_and_a_module_without_a_name_goes_whole():
    import ray

    with reached(2, False) as layout:
        assert layout.workers == 2
    assert ray.is_initialized() and {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
    mine = cutaway.load(MODEL.module, processor=MODEL.processor)
    opened = Opening.of(mine)
    sent = opened.open()
    assert opened.source is None and sent.module is not mine.module
    inputs = MODEL.inputs(text="a red dog")
    assert np.array_equal(sent.run(inputs).logits, mine.run(inputs).logits)
    mine.module.lock = threading.Lock()
    with pytest.raises(MethodError, match="This module, which no name opens"):
        Opening.of(mine)
    del mine.module.lock
