"""How a process on Ray comes to the model, and what it does there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from cutaway.errors import MethodError
from cutaway.jobs.job import done
from cutaway.model.dictionary import Dictionary
from cutaway.model.load import load
from cutaway.model.model import Model
from cutaway.source import Source
from cutaway.store.fitted import Origin


@dataclass(frozen=True)
class Opening:
    """How a worker opens the model: by its `source`, checked by `content`; or `handed` over whole, as Ray keeps it.

    `dictionaries`, whose features are sites of the model, are handed over whole.
    """

    source: Source | None
    content: str = ""
    handed: tuple[Any, ...] = ()
    dictionaries: Mapping[str, Dictionary] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model | Source) -> Opening:
        """By its name where it has one; MethodError for a module that can neither be opened nor sent."""
        if isinstance(model, Source):
            return cls(replace(model, device="cuda") if on_gpu(model) else model)
        if model.source is not None:
            source, here = model.source, model.device
            moved = here.type != torch.device(source.device or "cpu").type and not source.device_map
            source = replace(source, device=here.type) if moved or on_gpu(model) else source
            return cls(source, Origin.of(model).content, dictionaries=model.engine.dictionaries)
        handed = sent((model.module, model.processor, model.name, model.revision), _MODULE)
        return cls(None, handed=(handed,), dictionaries=model.engine.dictionaries)

    def open(self) -> Model:
        """The model, in the process of a worker."""
        plain = self._plain()
        if not self.dictionaries:
            return plain
        # they were checked where they were put together, or were not to be
        return plain.with_dictionaries(check=False, **self.dictionaries)

    def _plain(self) -> Model:
        if self.source is None:
            import ray

            module, processor, name, revision = ray.get(self.handed[0])
            return Model(module, processor, name=name, revision=revision)
        model = load(self.source)
        if self.content and Origin.of(model).content != self.content:
            raise MethodError(
                f"a worker that opened '{self.source}' found another model than yours", do=_SAVE,
                expected="the same weights, dtype, settings and tokenizer, as the name says them",
            )  # fmt: skip
        return model


class Worker:
    """A process with a model of its own, opened for its first chunk, and the work of one job at a time."""

    def __init__(self, opening: Opening, threads: int) -> None:
        torch.set_num_threads(threads)
        self.opening = opening
        self.job: tuple[str, Any] = "", None

    @cached_property
    def model(self) -> Model:
        """Opened when it is first asked for, so that what goes wrong is said by a chunk."""
        return self.opening.open()

    def do(self, job: str, held: list[Any], chunk: int) -> Any:
        """One chunk of a job, whose work lies at the place that `held` names; it is fetched once."""
        import ray

        if job != self.job[0]:
            self.job = "", None  # what the last one kept goes first
            self.job = job, ray.get(held[0])
        return done(self.job[1], self.model, chunk)


def sent(value: Any, what: str) -> Any:
    """Where a value lies in Ray's store; MethodError for one that does not pickle."""
    import pickle

    import ray

    try:
        return ray.put(value)
    except (TypeError, AttributeError, ValueError, pickle.PicklingError) as error:
        reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        raise MethodError(f"{what} cannot be sent to another process ({reason[0]})", **_UNSENT[what]) from error


def on_gpu(model: Model | Source) -> bool:
    """Whether the model lies on a GPU, so that each worker takes one."""
    device = model.device if isinstance(model, Model) else model.device or "cpu"
    return torch.device(device).type == "cuda"


_SAVE = "save it (`save_pretrained`) and open the folder, or give the module itself: `cutaway.load(model.module, …)`"
_MODULE, WORK = "this module, which no name opens,", "the work"
_UNSENT = {
    _MODULE: {"expected": "a model that was opened by its name, or a module that pickles", "do": "save it "
              "(`save_pretrained`) and open the folder, or take `workers=0`"},
    WORK: {"expected": "inputs, edits and a target that pickle: no open file, no lock, no generator",
           "do": "leave that out of the target, or take `workers=0`"},
}  # fmt: skip
