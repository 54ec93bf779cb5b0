"""What a store costs: a harvest beside the bare forward, reading beside the disk, memory against the number of items.

python benchmarks/store.py [--json FILE] [--rounds N] [--threads N] [--quick]

Speed with random weights (it does not depend on them) at the size of CLIP ViT-B/32, float32, and with the trained model
of the zoo; contestants in turn in one process, the first row of each table is the baseline. Files lie where --folder
says; what was written lately is read from the system's own memory, so reading is held against reading the same files
whole.
Memory: the largest resident size of a process of its own, which harvests so many items and reads them back shuffled;
the same batch of inputs over and over, since drawing scenes fills caches of its own. "peak MB" of the other tables does
not see what the thread that writes gives back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from timing import QUICK, Contestant, Race, compete, timed
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModel

import cutaway
from cutaway import store
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.store.examples import as_data
from cutaway.store.fitted import Origin

FORWARD_GOAL = 1 / 0.9  # at least nine tenths of the speed of the bare forward
MEMORY = """
import resource, sys, tempfile, cutaway
from cutaway import store
model = cutaway.load("zoo:emoji-clip")
with tempfile.TemporaryDirectory(dir=sys.argv[2]) as folder:
    every, batch = "vision.*.resid_post", store.Scenes(32).inputs(model, ("vision",), 0, 32)
    kept = store.harvest(model, [batch] * (int(sys.argv[1]) // 32), every, folder, items=128, progress=False)
    rows = sum(len(batch) for batch in kept.shuffled(every, batch=1024, buffer=2**14))
    assert rows == kept.count("vision")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, kept.size / 1e6)
"""


def vit(layers: int) -> Model:
    """A CLIP vision tower of the size of ViT-B/32."""
    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=layers, num_attention_heads=12,
        image_size=224, patch_size=32,
    )  # fmt: skip
    return cutaway.load(CLIPVisionModel._from_config(config, attn_implementation="sdpa").eval())


class Folders:
    """A new folder for each harvest, the one before taken away."""

    def __init__(self, root: Path) -> None:
        self.root, self.last = root, root / "none"

    def new(self) -> Path:
        """Where the next store goes."""
        shutil.rmtree(self.last, ignore_errors=True)
        self.last = Path(tempfile.mkdtemp(dir=self.root))
        return self.last


def forwards(model: Model, batches: list[Inputs]) -> Callable[[], Any]:
    """The library's own forward over all batches."""

    def run() -> None:
        for one in batches:
            one.call(model.module, one.tensors)

    return run


def prepared_forwards(model: Model, data: store.Scenes, batch: int) -> Callable[[], Any]:
    """The same with the pictures drawn and prepared on the way, as a harvest does."""

    def run() -> None:
        for start in range(0, len(data), batch):
            one = data.inputs(model, ("vision",), start, min(start + batch, len(data)))
            one.call(model.module, one.tensors)

    return run


def harvests(model: Model, data: Any, folders: Folders, sites: str, **options: Any) -> Callable[[], Any]:
    """A harvest of all of it into a new folder."""
    return lambda: store.harvest(model, data, sites, folders.new(), progress=False, **options)


def known(model: Model, data: Any) -> Callable[[], Any]:
    """What every harvest begins with, however long it is: model and data are known by their content."""
    return lambda: (Origin.of(model), as_data(data).content())


def writing(quick: bool, folders: Folders, rounds: int) -> Iterator[Race]:
    """Harvests beside the bare forward: pictures drawn on the way, and inputs at hand."""
    trained, scenes = cutaway.load("zoo:emoji-clip"), store.Scenes(64 if quick else 1024)
    every, joint = (harvests(trained, scenes, folders, sites) for sites in ("vision.*.resid_post", "vision.joint"))
    yield f"zoo:emoji-clip, {len(scenes)} scenes drawn on the way: writing", [
        Contestant("bare forward", prepared_forwards(trained, scenes, 32)),
        Contestant("bare forward, once more", prepared_forwards(trained, scenes, 32), note="the noise"),
        Contestant("of a harvest: reading model and data", known(trained, scenes)),
        Contestant("harvest of every layer", every, FORWARD_GOAL),
        Contestant("harvest of the joint embedding", joint, FORWARD_GOAL),
    ], rounds  # fmt: skip
    model, many = vit(3 if quick else 12), 2 if quick else 6
    batches = [model.inputs(pixel_values=torch.randn(8, 3, 224, 224)) for _ in range(many)]
    half = harvests(model, batches, folders, "vision.*.resid_post", dtype="float16")
    yield f"CLIP ViT-B/32, {8 * many} pictures at hand: writing", [
        Contestant("bare forward", forwards(model, batches)),
        Contestant("bare forward, once more", forwards(model, batches), note="the noise"),
        Contestant("of a harvest: reading model and data", known(model, batches)),
        Contestant("harvest of every layer", harvests(model, batches, folders, "vision.*.resid_post"), FORWARD_GOAL),
        Contestant("harvest of every layer in float16", half, FORWARD_GOAL),
    ], min(rounds, 3)  # fmt: skip


def raw(kept: store.Store) -> Callable[[], Any]:
    """Every file of a store, whole, into memory."""

    def run() -> int:
        size, into = 0, bytearray(2**24)
        for shard in kept.entries:
            with kept.shard(shard).path.open("rb", buffering=0) as file:
                while got := file.readinto(into):
                    size += got
        return size

    return run


def gone_over(batches: Callable[[], Iterator[store.Batch]]) -> Callable[[], Any]:
    """All batches of a store, each added up, so that every number is read."""
    return lambda: sum(float(values.sum()) for batch in batches() for values in batch.values.values())


def in_memory(kept: store.Store, site: str) -> Callable[[], Any]:
    """The same rows at hand as one tensor, in batches by chance."""
    (whole,) = kept.rows(site, batch=10**9)

    def run() -> float:
        order: Tensor = torch.randperm(len(whole.x))
        return sum(float(whole.x[at].sum()) for at in order.split(1024))

    return run


def reading(quick: bool, folders: Folders, rounds: int) -> Iterator[Race]:
    """Reading a store beside reading its files."""
    folder, scenes = Path(tempfile.mkdtemp(dir=folders.root)), store.Scenes(64 if quick else 2048)
    kept = store.harvest(cutaway.load("zoo:emoji-clip"), scenes, "vision.*.resid_post", folder, progress=False)
    every, one = "vision.*.resid_post", kept.sites[-1]
    yield f"reading {kept.size / 1e6:.0f} MB, {kept.count('vision')} rows of {len(kept.sites)} sites", [
        Contestant("files, whole", raw(kept)),
        Contestant("files, whole, once more", raw(kept), note="the noise"),
        Contestant("rows of all sites in order", gone_over(lambda: kept.rows(every, batch=1024))),
        Contestant("rows of all sites shuffled", gone_over(lambda: kept.shuffled(every, batch=1024, buffer=2**14))),
    ], rounds  # fmt: skip
    size = kept.size / 1e6 / len(kept.sites)
    yield f"reading one site of the same, {size:.0f} MB", [
        Contestant("at hand as one tensor, by chance", in_memory(kept, one)),
        Contestant("rows in order", gone_over(lambda: kept.rows(one, batch=1024))),
        Contestant("rows shuffled", gone_over(lambda: kept.shuffled(one, batch=1024, buffer=2**14))),
    ], rounds  # fmt: skip


def memory(quick: bool, root: Path) -> None:
    """The largest resident size for several numbers of items."""
    print(
        "\nmemory of a process that harvests inputs at hand (zoo:emoji-clip, every layer) and reads them back shuffled"
    )
    print("items    store MB    largest resident MB")
    for items in (128, 256) if quick else (256, 1024, 4096):
        told = subprocess.run([sys.executable, "-c", MEMORY, str(items), str(root)], capture_output=True, text=True,
                              check=True)  # fmt: skip
        resident, size = map(float, told.stdout.split())
        print(f"{items:5}    {size:8.0f}    {resident:19.0f}")


def main() -> None:
    """Parse the options, run every case, print the tables."""
    given = timed(__doc__, 5, f"three layers, few items, {QUICK} rounds", folder=(Path, "where stores are written"))
    given = given.parse_args()
    rounds = QUICK if given.quick else given.rounds
    with tempfile.TemporaryDirectory(dir=given.folder) as root:
        folders = Folders(Path(root))

        def races() -> Iterator[Race]:
            yield from reading(given.quick, folders, rounds)
            yield from writing(given.quick, folders, rounds)

        memory(given.quick, Path(root))
        compete(given, races())


if __name__ == "__main__":
    main()
