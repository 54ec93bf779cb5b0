"""Work for the tests of jobs, in a file that workers can import."""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cutaway import Ablate, Patch, targets
from cutaway.errors import SiteError
from cutaway.jobs import dice


@dataclass(frozen=True)
class Told:
    """Who did a chunk, and what dice it had: its own, and those that torch has for all."""

    seconds: float = 0.0

    def do(self, model, chunk):
        time.sleep(self.seconds)
        numbers = float(torch.rand(1, generator=dice(0, chunk))), float(torch.rand(1))
        return os.getpid(), torch.get_num_threads(), numbers


@dataclass(frozen=True)
class Noted:
    """A line in a file for every chunk that is done; at one chunk, the first time, it waits to be killed."""

    folder: Path
    fatal: int

    def do(self, model, chunk):
        victim = self.folder / "victim"
        if chunk == self.fatal and not victim.exists():
            (self.folder / "new").write_text(str(os.getpid()))
            (self.folder / "new").rename(victim)
            time.sleep(60)
        (self.folder / f"{chunk} {os.getpid()}").touch()
        return float(model.run(model.inputs(text="a red dog")).logits.sum()) + chunk


@dataclass(frozen=True)
class Failing:
    """Chunk 1 fails."""

    error: str

    def do(self, model, chunk):
        if chunk == 1 and self.error == "ours":
            raise SiteError("no site 'x'", expected="a site", exists="y", do="take y")
        if chunk == 1 and self.error == "exit":
            raise SystemExit(3)
        return 1 // (chunk - 1)


@dataclass(frozen=True)
class Locked:
    """Does not pickle."""

    lock: Any = field(default_factory=threading.Lock)

    def do(self, model, chunk):
        return chunk


def swept(model):
    """A sweep of patches and of heads: inputs, cells, target."""
    inputs, other = (
        model.inputs(text=["a red dog", "a cat on a mat"]),
        model.inputs(text=["a blue dog", "a fox on a mat"]),
    )
    source = model.run(other, record="text.*.resid_post")
    heads = model.grid(Ablate("text.*.attn.z"), head=range(2), token=[1, 2, 3])
    cells = [*(cell for cell in heads.edits), *model.grid(Patch("text.*.resid_post", source), token=[1, 3]).edits]
    return inputs, cells, targets.logit_diff("dog", "cat")
