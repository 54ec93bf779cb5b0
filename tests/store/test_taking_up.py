"""A harvest that is stopped, however it is, is taken up with nothing lost or doubled; what does not fit is refused."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import cutaway
from cutaway import store
from cutaway.errors import StoreError
from cutaway.store.files import only_writer
from cutaway.store.spec import SPEC, Entry
from world import fresh, opened

SITE = "text.*.resid_post"
TEXTS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("dog", "cat", "car", "fox")]
HARVEST = """
import sys, time, cutaway
from cutaway.store import harvest, examples
class Slow(examples.Listed):
    def inputs(self, model, towers, start, stop):
        time.sleep(0.05)
        return super().inputs(model, towers, start, stop)
texts = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("dog", "cat", "car", "fox")]
harvest(cutaway.load("tiny:clip", dtype="float64"), Slow(tuple(texts)), "text.*.resid_post", sys.argv[1], items=1,
        progress=False)
"""


def kept(folder, model=None, data=TEXTS, sites=SITE, **options):
    return store.harvest(model or opened("clip"), data, sites, folder, items=1, progress=False, **options)


def content(folder):
    """The files that make a store, by name."""
    return {file.name: file.read_bytes() for file in Path(folder).iterdir() if file.name != "writer.lock"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of a harvest that nobody stopped."""
    return kept(tmp_path_factory.mktemp("whole") / "store").path


def test_killed_and_taken_up_again(tmp_path, whole):
    """SIGKILL while shards are written, twice; then the files are those of a harvest that ran through."""
    folder = tmp_path / "store"
    for least in (2, 7):
        running = subprocess.Popen([sys.executable, "-c", HARVEST, str(folder)], env=os.environ | {"PYTHONPATH": "src"})
        until = time.monotonic() + 60
        while len(list(folder.glob("shard-*.json"))) < least:
            assert running.poll() is None and time.monotonic() < until
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert not store.open(folder).complete
    (folder / "shard-000011.safetensors").write_bytes(b"written, not committed")
    (folder / "shard-000010.safetensors.1a2b3c4d.part").write_bytes(b"half")
    done = store.open(folder)
    assert 7 <= len(done) < 12 and "of 12, not complete" in repr(done)
    before = {shard: (folder / Entry.names(shard)[0]).stat().st_mtime_ns for shard in done.entries}
    made = kept(folder)
    assert made.complete and made.check() == 12 and content(folder) == content(whole)
    assert all((folder / Entry.names(shard)[0]).stat().st_mtime_ns == old for shard, old in before.items())


def test_a_finished_harvest_runs_nothing(whole, monkeypatch):
    before = content(whole)
    monkeypatch.setattr(cutaway.Model, "run", None)
    assert kept(whole).complete and content(whole) == before


@pytest.mark.parametrize("how", ["cut", "gone", "entry"])
def test_a_shard_that_was_cut_short_is_told_and_made_anew(how, tmp_path, whole):
    folder = kept(tmp_path / "store").path
    file, entry = (folder / name for name in Entry.names(3))
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-7])
    elif how == "gone":
        file.unlink()
    else:
        entry.write_text("{")
    with pytest.raises(StoreError, match={"cut": "was cut short", "gone": "is gone", "entry": "cannot be read"}[how]):
        list(store.open(folder).rows(SITE))
    assert kept(folder).complete and content(folder) == content(whole)


def test_a_shard_that_changed_is_found_by_its_checksum(tmp_path, whole):
    folder = kept(tmp_path / "store").path
    file = folder / Entry.names(5)[0]
    changed = bytearray(file.read_bytes())
    changed[-3] ^= 1
    file.write_bytes(changed)
    with pytest.raises(StoreError, match=r"1 of 12 shards changed since they were written: shard-000005.safetensors"):
        store.open(folder).check()
    file.unlink()
    assert kept(folder).check() == 12 and content(folder) == content(whole)


def test_two_writers_at_once_are_refused(tmp_path):
    """In this process and in another one; the lock ends with the process that holds it."""
    folder = kept(tmp_path / "store").path
    with only_writer(folder), pytest.raises(StoreError, match="is being written by another process"):
        kept(folder)
    code = "import sys, time; from pathlib import Path; from cutaway.store.files import only_writer\n"
    code += "with only_writer(Path(sys.argv[1])):\n    print('has it', flush=True); time.sleep(60)"
    held = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True,
                            env=os.environ | {"PYTHONPATH": "src"})  # fmt: skip
    assert held.stdout.readline() == "has it\n"
    with pytest.raises(StoreError, match="one writer at a time"):
        kept(folder)
    held.kill()
    held.wait()
    held.stdout.close()
    assert kept(folder).complete


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_loses_nothing(call, tmp_path, whole, monkeypatch):
    """The disk is full at the fifth shard: what was committed stays, and with room again the rest is made."""
    folder, real, calls = tmp_path / "store", os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) > 20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"does not fit on its disk.*run the same again"):
            kept(folder)
        monkeypatch.undo()
    else:  # a limit that the system keeps: no file of more than 400 bytes
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        kept(folder, data=TEXTS)
        (folder / Entry.names(7)[0]).unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
        try:
            with pytest.raises(StoreError, match="does not fit on its disk"):
                kept(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
    assert not list(folder.glob("*.part")) and 4 <= len(list(folder.glob("shard-*.json"))) < 12
    assert kept(folder).complete and content(folder) == content(whole)


def test_a_disk_without_room_is_told_before(tmp_path, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StoreError, match=r"takes .* GiB and .* left"):
        kept(tmp_path / "store")
    assert not (tmp_path / "store" / SPEC).exists()


def changed_model():
    model = fresh("clip")
    with torch.no_grad():
        model.module.text_model.final_layer_norm.weight[0] += 1
    return model


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": changed_model}, "activations of another model.*content"),
        ({"model": lambda: cutaway.load("tiny:clip")}, "another model.*in float64.*in float32"),
        ({"data": [*TEXTS[:-1], "a blue mat"]}, "other data, or the data changed meanwhile"),
        ({"data": TEXTS[:-1]}, "another number of items: 12, not 11"),
        ({"sites": "text.1.resid_post"}, "other sites"),
        ({"where": "eos"}, "other positions"),
        ({"dtype": "float16"}, "in another dtype"),
        ({"batch": 2}, "batches of another size|items to a shard"),
    ],
)
def test_another_harvest_does_not_go_into_a_store(options, said, whole):
    """Another model, another revision of it, data that changed between two runs, other options: nothing is touched."""
    before = content(whole)
    given = {name: value() if name == "model" else value for name, value in options.items()}
    with pytest.raises(StoreError, match=said):
        kept(whole, **given)
    assert content(whole) == before


def test_a_changed_picture_is_other_data(tmp_path):
    from cutaway.zoo import tiny

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for seed in range(3):
        tiny.picture(seed).save(pictures / f"{seed}.png")
    data = store.read_data(str(pictures))
    kept(tmp_path / "store", data=data, sites="vision.joint")
    tiny.picture(9).save(pictures / "1.png")
    with pytest.raises(StoreError, match="the data changed meanwhile"):
        kept(tmp_path / "store", data=store.read_data(str(pictures)), sites="vision.joint")


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="holds other things"):
        kept(tmp_path)
    with pytest.raises(StoreError, match="is a file"):
        kept(tmp_path / "notes.txt")
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


def test_a_store_is_of_one_model(whole):
    assert store.open(whole, opened("clip")).complete
    with pytest.raises(StoreError, match=r"holds activations of 'tiny:clip' in float64.*not of 'tiny:clip'"):
        store.open(whole, changed_model())


def test_what_belongs_to_another_store_is_not_taken_for_ones_own(tmp_path):
    """Shards without their first file, and shards under another number: made anew, and named by `check`."""
    model, folder = opened("clip"), tmp_path / "store"
    texts = [f"a red dog number {at}" for at in range(8)]
    first = store.harvest(model, texts, "text.1.resid_post", folder, items=2, batch=2, progress=False)
    own = [batch.x.clone() for batch in first.rows("text.1.resid_post")]
    for kind in ("safetensors", "json"):
        (folder / f"shard-000001.{kind}").write_bytes((folder / f"shard-000000.{kind}").read_bytes())
    with pytest.raises(StoreError, match="lacks 'shard 1'"):
        store.open(folder).check()
    again = store.harvest(model, texts, "text.1.resid_post", folder, items=2, batch=2, progress=False)
    assert again.check() == 4 and torch.equal(torch.cat(own), torch.cat([b.x for b in again.rows("text.1.resid_post")]))
    (folder / "store.json").unlink()
    other = store.harvest(model, texts[::-1], "text.1.resid_post", folder, items=2, batch=2, progress=False)
    (last,) = other.rows("text.1.resid_post", item=7)
    assert torch.allclose(last.x, own[0][: len(last)])


@pytest.mark.parametrize("at", [2, 40])
def test_a_damaged_header_is_told_and_made_anew(tmp_path, at):
    model, folder = opened("clip"), tmp_path / "store"
    made = store.harvest(model, ["a red dog", "a cat"], "text.1.resid_post", folder, progress=False)
    path = folder / "shard-000000.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(StoreError, match="damaged"):
        list(store.open(folder).rows("text.1.resid_post"))
    with pytest.raises(StoreError, match="1 of 1 shards"):
        store.open(folder).check()
    store.harvest(model, ["a red dog", "a cat"], "text.1.resid_post", folder, progress=False)
    assert path.read_bytes() == whole and made.check() == 1


def test_a_store_knows_nothing_of_autocast_so_it_is_refused(tmp_path):
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(StoreError, match="under autocast"):
        store.harvest(opened("clip"), ["a dog"], "text.1.resid_post", tmp_path / "store", progress=False)


def test_an_item_that_is_not_there_is_told(tmp_path):
    made = store.harvest(opened("clip"), ["a dog"], "text.1.resid_post", tmp_path / "store", progress=False)
    with pytest.raises(StoreError, match="No item 1"):
        made.item(1)
