"""The engine below `Model`: the parts of a model under their names, and how sessions on them are started.

Runs, sweeps, writing, gradients and readouts work with it; nobody else opens a session or asks for a seat.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cutaway.errors import EditError, SiteError
from cutaway.model.attach import attach
from cutaway.model.dictionary import Dictionary
from cutaway.model.edits import Edit
from cutaway.model.features import with_features
from cutaway.model.inputs import Inputs
from cutaway.model.run import Run
from cutaway.model.seats import Seat, Tower
from cutaway.model.session import Recording, Session, Stop
from cutaway.model.sites import Site, SiteTable
from cutaway.model.tools import Tools
from cutaway.model.turn import holding, taken, turn_of
from cutaway.model.windows import Root
from cutaway.model.wrapped import at_rest, execution_device

Edits = Edit | Sequence[Edit]
Record = str | Site | Iterable[str | Site]
Bound = list[tuple[Seat, Edit]]


@runtime_checkable
class Opened(Protocol):
    """What has an engine: the `Model` that a user holds, and an engine itself."""

    @property
    def engine(self) -> Engine:
        """The engine."""


class Engine:
    """A module or pipeline with its towers, sites and seats, its processor's tools, and one session at a time."""

    def __init__(self, module: Any, processor: Any = None) -> None:
        self.module = module
        self.pipeline = None if isinstance(module, nn.Module) else module
        parts: dict[str, Any] = {"": module} if self.pipeline is None else module.components
        self.roots = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
        found = attach(self.roots, type(module).__name__)
        self.towers: dict[str, Tower] = found.towers
        self.family, self.missing, self.seats = found.family, tuple(found.missing), found.seats
        self.tools = Tools.of(processor)
        self.root = Root(module, tuple(self.towers.values()), self.pipeline)
        self.dictionaries: dict[str, Dictionary] = {}
        self.plain = self  # without dictionaries

    def with_dictionaries(self, dictionaries: Mapping[str, Dictionary]) -> Engine:
        """The same parts and sites, with those of the features of dictionaries; a number for a name does not show."""
        made = copy.copy(self)
        vars(made).pop("sites", None)
        made.dictionaries = {**self.dictionaries, **dictionaries}
        made.seats = with_features(self, dictionaries)
        return made

    # --- what there is ------------------------------------------------------------------------------------------------

    @cached_property
    def sites(self) -> SiteTable:
        """Every named site, and any module below the roots as a raw one."""
        raw = [".".join(w for w in (n, p) if w) for n, root in self.roots.items() for p, _ in root.named_modules()]
        return SiteTable((seat.site for seat in self.seats.values()), raw)

    @property
    def engine(self) -> Engine:
        """Itself: what reads an opened model reads an engine as well."""
        return self

    @property
    def device(self) -> torch.device:
        """Where inputs belong: with the first parameter, or where offloaded weights are brought to."""
        return execution_device(self.roots.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter of the denoiser or of the model."""
        root = self.towers["denoiser"].module if "denoiser" in self.towers else next(iter(self.roots.values()))
        return next(root.parameters()).dtype

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, if there is one."""
        return self.tools.tokenizer if self.pipeline is None else getattr(self.pipeline, "tokenizer", None)

    def seat(self, site: str | Site) -> Seat:
        """Where a site is in the live model."""
        found = self.sites.one(site)
        if found.tower != "raw":
            return self.seats[str(found)]
        name, _, path = found.part.partition(".") if self.pipeline is not None else ("", "", found.part)
        module = self.roots[name].get_submodule(path)
        return Seat(found, Tower("raw", module, found.part), module, "out")

    def bind(self, edits: Edits) -> Bound:
        """Each edit with each site its pattern matches, in the order given."""
        bound = []
        for edit in [edits] if isinstance(edits, Edit) else edits:
            if not isinstance(edit, Edit):
                raise EditError(
                    f"{type(edit).__name__} is not an edit",
                    exists="Set, Add, Bend, Scale, Ablate, Patch, Project, Knockout",
                )
            for site in self.sites[edit.pattern]:
                if site.dead:
                    raise EditError(f"{edit!r} would change nothing: {site.dead}", do="edit a site before it")
                if site.tower == "raw" and edit.selectors():
                    raise EditError(f"{edit!r}: a raw site has no named axes", do="edit it whole, without selectors")
                bound.append((self.seat(site), edit))
        return bound

    # --- sessions -----------------------------------------------------------------------------------------------------

    @contextmanager
    def taken(self, *, eval_mode: bool = True) -> Iterator[None]:
        """Have the model for this thread alone, and at rest."""
        with taken(self.roots.values()), at_rest(self.roots.values(), eval_mode=eval_mode):
            yield

    @property
    def held(self) -> Session | None:
        """The session of the edits that this thread holds around whatever comes now."""
        return next((held for root in self.roots.values() if (held := turn_of(root).held) is not None), None)

    def session(
        self,
        bound: Bound,
        seats: Sequence[Seat] = (),
        how: Recording | None = None,
        inputs: Inputs | None = None,
        *,
        shares: Sequence[tuple[int, int]] = (),
        open_ended: bool = False,
    ) -> Session:
        """Hooks for these edits and recordings, inside those that are held around; enter it to put them on."""
        return Session(self.root, bound, seats, how or Recording(), inputs, open_ended, self.held, shares)

    def run(
        self, inputs: Inputs, record: Record = (), edits: Edits = (), how: Recording | None = None, **options: Any
    ) -> Run:
        """One call of the inputs under edits, with what is recorded; `options` go to the call."""
        seats = [self.seat(site) for site in self.sites.select(record)]
        outputs, session = self.ran(inputs, seats, self.bind(edits), how or Recording(), **options)
        kept = {
            name: joined(seat.site, fired, session.guided.get(name, ()))
            for seat in seats
            if (fired := session.read[name := str(seat.site)])
        }
        return self.result(outputs, session, kept)

    def ran(
        self, inputs: Inputs, seats: Sequence[Seat], bound: Bound, how: Recording, **options: Any
    ) -> tuple[Any, Session]:
        """What a call returned (None where it was stopped), and its session with all that was read."""
        dead = next((seat.site for seat in seats if how.grad and seat.site.dead), None)
        if dead:
            raise SiteError(f"nothing depends on '{dead}': {dead.dead}", do="take the gradient at a site before it")
        with self.taken():
            session = self.session(bound, seats, how, inputs)
            with torch.inference_mode(False), torch.set_grad_enabled(how.grad), session:
                try:
                    outputs = inputs.call(self.module, inputs.tensors, **options)
                except Stop:
                    outputs = None
            session.check()
        return outputs, session

    def result(self, outputs: Any, session: Session, kept: Mapping[str, Tensor]) -> Run:
        """The outcome of a session as its user gets it."""
        sites = {str(seat.site): seat.site for seat in session.record}
        done = {id(edit): repr(edit) for _, edit in session.edits}
        assert session.inputs is not None
        rows = {
            name: found[0] if len(set(found)) == 1 else sum(dict.fromkeys(found[::-1]), ())
            for name, found in session.guided.items()
        }
        return Run(outputs, session.inputs, sites, kept, tuple(done.values()), self, session.part, rows)

    @contextmanager
    def edited(self, edits: Edits, inputs: Inputs | None) -> Iterator[Session]:
        """A session for calls that may go on behind the prompt; its edits must have acted by the end."""
        session = self.session(self.bind(edits), inputs=inputs, open_ended=True)
        with session, self._writing(session):
            yield session
        session.check()

    @contextmanager
    def holding(self, edits: Edits, inputs: Inputs | None) -> Iterator[None]:
        """Hold edits around whatever this thread runs, in the mode that the module is in."""
        with self.taken(eval_mode=False), self.edited(edits, inputs) as session, holding(self.roots.values(), session):
            yield

    @contextmanager
    def _writing(self, session: Session) -> Iterator[None]:
        """Tell the session when the library's own `generate` is at work, and with how many rows it began."""
        own = getattr(self.module, "generate", None) if self.pipeline is None else None
        if own is None:
            yield
            return
        plain = vars(self.module).get("generate")

        @wraps(own)
        def generate(*args: Any, **kwargs: Any) -> Any:
            given = {**dict(zip(("inputs",), args, strict=False)), **kwargs}
            first = next((x for x in given.values() if isinstance(x, Tensor) and x.dim() > 1), None)
            spoken = next((given[name] for name in ("inputs", "input_ids", "inputs_embeds") if name in given), None)
            both = getattr(self.module.config, "is_encoder_decoder", False)
            prompt = spoken.shape[1] if isinstance(spoken, Tensor) and not both else 0
            session.windows.begin_writing(None if first is None else len(first), prompt)
            try:
                return own(*args, **kwargs)
            finally:
                session.windows.end_writing()

        self.module.generate = generate
        try:
            yield
        finally:
            if plain is None:
                del self.module.generate
            else:
                self.module.generate = plain


def joined(site: Site, fired: list[tuple[int, Tensor]], guided: Sequence[tuple[str, ...]] = ()) -> Tensor:
    """One tensor a site: denoising steps stacked, prompt encodings put in guidance order, otherwise exactly one.

    Guidance rows that a pipeline computes one call after the other, with the prompt first, are one reading of a step.
    """
    tensors = [tensor for _, tensor in fired]
    if len(tensors) == 1 and tensors[0].dim() == len(site.axes) > 0:
        return tensors[0]
    if "step" in site.axes:
        fired, guided = _together(fired, guided)
        tensors = [tensor for _, tensor in fired]
        alike = len({tensor.shape for tensor in tensors}) == 1 and len(set(guided)) < 2
        if len({step for step, _ in fired}) < len(fired) or not alike:
            raise SiteError(
                f"'{site}' ran with other guidance rows in the same or in other steps",
                expected="one call of the denoiser a step, with the same guidance rows in each",
                do="run with guidance of one kind throughout, or take each reading as it comes: `into=`",
            )
        return torch.stack(tensors)
    if site.axes[:1] == ("guidance",):
        return torch.cat(tensors[::-1])
    if len(tensors) > 1 and site.tower != "raw":
        raise SiteError(
            f"'{site}' fired {len(tensors)} times in one run", do="report this: a site fires once a forward"
        )
    return tensors[0] if len(tensors) == 1 else torch.stack(tensors)


def _together(
    fired: list[tuple[int, Tensor]], guided: Sequence[tuple[str, ...]]
) -> tuple[list[tuple[int, Tensor]], Sequence[tuple[str, ...]]]:
    """Calls of one step with different guidance rows as one, in guidance order; where a row comes twice as they are."""
    steps: dict[int, dict[tuple[str, ...], Tensor]] = {}
    for (step, tensor), rows in zip(fired, guided, strict=False):
        steps.setdefault(step, {})[rows] = tensor
    every = [sum([*one][::-1], ()) for one in steps.values()]
    whole = sum(map(len, steps.values())) == len(fired) and all(len({*rows}) == len(rows) for rows in every)
    if len(steps) == len(fired) or not whole:
        return fired, guided
    return [(step, torch.cat([*one.values()][::-1])) for step, one in steps.items()], every
