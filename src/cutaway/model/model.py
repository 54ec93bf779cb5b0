"""The model a user holds: their own module, unmodified, with named towers and sites and the verbs to use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cutaway.errors import EditError, InputError, SiteError
from cutaway.model.attach import attach
from cutaway.model.cells import Cells, grid
from cutaway.model.edits import Edit
from cutaway.model.estimate import Estimate, estimate
from cutaway.model.generate import generate
from cutaway.model.inputs import Inputs
from cutaway.model.plan import Plan
from cutaway.model.prepare import prepare, prepare_prompt
from cutaway.model.run import Generation, Run
from cutaway.model.seats import Seat, Tower
from cutaway.model.session import Recording, Session, Stop
from cutaway.model.sites import Site, SiteTable
from cutaway.model.sweep import Sweep, sweep
from cutaway.model.tools import Tools
from cutaway.model.turn import holding, taken, turn_of
from cutaway.model.windows import Root
from cutaway.model.wrapped import at_rest, execution_device

Edits = Edit | Sequence[Edit]
Record = str | Site | Iterable[str | Site]


class Model:
    """A transformers model or a diffusers pipeline with names for its parts; use `cutaway.load` to get one.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> run = model.run(model.inputs(text="a red dog"), record="text.*.resid_post")
    >>> tuple(run["text.1.resid_post"].shape)[-1]
    32
    """

    def __init__(self, module: Any, processor: Any = None, *, name: str = "", revision: str = "") -> None:
        self.module, self.processor, self.name, self.revision = (
            module,
            processor,
            name or type(module).__name__,
            revision,
        )
        self.is_pipeline = not isinstance(module, nn.Module)
        parts: dict[str, Any] = module.components if self.is_pipeline else {"": module}
        roots = {n: p for n, p in parts.items() if isinstance(p, nn.Module)}
        self._roots: dict[str, nn.Module] = roots
        found = attach(roots, type(module).__name__)
        self.towers: dict[str, Tower] = found.towers
        self.family, self.missing, self._seats = found.family, tuple(found.missing), found.seats
        self.tools = Tools.of(processor)
        pipeline = module if self.is_pipeline else None
        self._root = Root(module, tuple(self.towers.values()), pipeline)

    # --- what there is ------------------------------------------------------------------------------------------------

    @cached_property
    def sites(self) -> SiteTable:
        """Every named site; `model.sites["vision.*.resid_post"]` selects, `raw.PATH` reaches any module."""
        raw = [".".join(w for w in (n, p) if w) for n, root in self._roots.items() for p, _ in root.named_modules()]
        return SiteTable((seat.site for seat in self._seats.values()), raw)

    @property
    def device(self) -> torch.device:
        """Where inputs belong: with the first parameter, or where offloaded weights are brought to."""
        return execution_device(self._roots.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter of the denoiser or of the model."""
        root = self.towers["denoiser"].module if "denoiser" in self.towers else next(iter(self._roots.values()))
        return next(root.parameters()).dtype

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, if the model came with one."""
        return self.tools.tokenizer if not self.is_pipeline else getattr(self.module, "tokenizer", None)

    def __repr__(self) -> str:
        towers = ", ".join(f"{name} ({n} layers)" if n else name for name, n in self.sites.towers().items())
        kind = f"{type(self.module).__name__}, {self.family.kind}"
        lines = [f"{self.name}: {kind}; {towers or 'no named towers'}; {len(self.sites)} sites"]
        return "\n".join([*lines, *(f"  missing: {line}" for line in self.missing)])

    # --- verbs --------------------------------------------------------------------------------------------------------

    def inputs(
        self,
        *,
        image: Any = None,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        prompt: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        seed: int = 0,
        steps: int = 20,
        guidance: float = 5.0,
        size: tuple[int, int] | None = None,
        **tensors: Any,
    ) -> Inputs:
        """What to run on, with a token map for each tower.

        `image`: a PIL image, path or array, or a list; `text`: a string or a list; `audio`: samples at the model's
        rate; `prompt`, `negative`, `seed`, `steps`, `guidance`, `size` (height, width): for a pipeline. Prepared
        tensors go by their own names (`input_ids=…`, `pixel_values=…`), also beside what does not make them.
        A model that writes about pictures takes all of them with a single text, one each with several texts, or a
        list for each text (`image=[[a, b], [c]]`). Raises InputError on what a model cannot take.
        """
        if self.is_pipeline:
            given = [
                n for n, v in (("image", image), ("text", text), ("audio", audio), *tensors.items()) if v is not None
            ]
            if given:
                raise InputError(
                    f"a pipeline takes no {given[0]}", expected="`prompt=`, `seed=`, `steps=`, `guidance=`, `size=`"
                )
            return prepare_prompt(
                self.module,
                self.towers,
                prompt=prompt,
                negative=negative,
                seed=seed,
                steps=steps,
                guidance=guidance,
                size=size,
            )
        if prompt is not None:
            raise InputError("`prompt=` is for pipelines that draw", do="pass `text=`")
        made = prepare(
            self.module, self.towers, self.family, self.tools, image=image, text=text, audio=audio, tensors=tensors
        )
        return made.to(self.device, self.dtype)

    def run(
        self,
        inputs: Inputs,
        *,
        record: Record = (),
        edits: Edits = (),
        keep: Literal["device", "cpu"] = "device",
        dtype: torch.dtype | None = None,
        tokens: Sequence[int] | slice | None = None,
        heads: Sequence[int] | slice | None = None,
        copy: bool = False,
        grad: bool = False,
        stop: bool = False,
        output: Literal["pil", "pt", "latent"] = "pil",
    ) -> Run:
        """Run once, with edits, and keep the recorded sites.

        `keep`, `dtype`, `tokens`, `heads`, `copy` say how activations are kept; `stop` ends the forward after the last
        of them (outputs are None then); `grad` keeps the autograd graph. `output` is what a pipeline returns.
        Raises SiteError for a site that did not run, EditError for an edit that does not fit or never acted.
        """
        if grad and self.is_pipeline:
            raise InputError("a pipeline runs without gradients", do="call `model.towers['denoiser'].module` yourself")
        _check_inputs(inputs)
        seats = [self._seat(site) for site in self.sites.select(record)]
        how = Recording(keep, dtype, tokens, heads, copy, grad, stop and bool(seats) and not self.is_pipeline)
        bound = self._bind(edits)
        with self._taken():
            session = self._session(bound, seats, how, inputs)
            with torch.set_grad_enabled(grad), session:
                try:
                    outputs = self._call(inputs, output)
                except Stop:
                    outputs = None
            session.check()
        sites = {str(seat.site): seat.site for seat in seats}
        kept = {name: self._joined(sites[name], session.read[name]) for name in sites}
        done = {id(edit): repr(edit) for _, edit in session.edits}
        return Run(outputs, inputs, sites, kept, tuple(done.values()), self, session.part)

    def generate(self, inputs: Inputs, *, edits: Edits = (), **options: Any) -> Generation:
        """Write text under edits: the library's own `generate` with its options, such as `max_new_tokens`.

        Token selectors are absolute positions; negative ones count from the end of the prompt, a slice without an end
        goes on with what is written. Each row of a padded
        batch is written on as its prompt alone. More that the options ask for is in `Generation.outputs`.
        """
        _check_inputs(inputs)
        with self._taken():
            return generate(self, inputs, edits, options)

    @contextmanager
    def edited(self, edits: Edits, inputs: Inputs | None = None) -> Iterator[Any]:
        """Hold edits in place while the block runs anything: the plain module, a pipeline, a user's own loop.

        The module keeps its mode (`train` or `eval`); compiled calls and gradient checkpoints are off in the block.
        `inputs` is only needed for selectors by meaning (`Where(…)`). Yields the module or pipeline. The edits of a
        `model.run` or a further `edited` inside the block come after these. Other threads cannot run the model
        meanwhile: `run` raises there, the plain module would be edited there too.
        """
        with (
            self._taken(eval_mode=False),
            self._edited(edits, inputs) as session,
            holding(self._roots.values(), session),
        ):
            yield self.module

    def estimate(self, inputs: Inputs, record: Record, dtype: torch.dtype | None = None) -> Estimate:
        """Bytes that recording these sites will take, before the run."""
        return estimate(self, inputs, self.sites.select(record), dtype or self.dtype)

    def grid(self, edits: Edits, **axes: Any) -> Cells:
        """Cells of a sweep: each site of the edit's pattern × each value of each axis.

        >>> import cutaway
        >>> model = cutaway.load("tiny:llama")
        >>> model.grid(cutaway.Ablate("text.*.attn.z"), head=range(2), token=[3, 4])
        Cells(12 = 3 site × 2 head × 2 token)
        """
        return grid(self.sites, edits, **axes)

    def sweep(
        self,
        inputs: Inputs,
        cells: Cells | Iterable[Edit | Sequence[Edit]],
        target: Callable[[Run], Tensor],
        *,
        progress: bool = True,
        memory: int = 2**30,
        resume: str | Path | None = None,
        told: Callable[[Plan], None] | None = None,
    ) -> Sweep:
        """Run every cell and read the target, exactly as `model.run(inputs, edits=…)` would, far faster.

        Blocks below an edit and towers it cannot reach are not run again, cells share batched rows within `memory`
        bytes, a causal decoder re-runs the positions from the edit on. `progress` prints the plan and a bar, `told`
        hears the plan before anything runs; `resume` is a file in which values are kept, so that an interrupted sweep
        goes on. Raises as `run` does.

        >>> import cutaway
        >>> model = cutaway.load("tiny:llama")
        >>> inputs = model.inputs(text="a red dog")
        >>> made = model.sweep(inputs, model.grid(cutaway.Ablate("text.*.mlp.out"), token=[1, 2, 3]),
        ...                    cutaway.targets.logit("cat"), progress=False)
        >>> made.values.dims, made.values.shape
        (('site', 'token', 'row'), (3, 3, 1))
        """
        _check_inputs(inputs)
        with self._taken():
            return sweep(self, inputs, cells, target, progress=progress, memory=memory, resume=resume, told=told)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _seat(self, site: Site) -> Seat:
        if site.tower != "raw":
            return self._seats[str(site)]
        name, _, path = site.part.partition(".") if self.is_pipeline else ("", "", site.part)
        module = self._roots[name].get_submodule(path)
        return Seat(site, Tower("raw", module, site.part), module, "out")

    def _bind(self, edits: Edits) -> list[tuple[Seat, Edit]]:
        """Each edit with each site its pattern matches, in the order given."""
        bound = []
        for edit in _several(edits):
            if not isinstance(edit, Edit):
                raise EditError(
                    f"{type(edit).__name__} is not an edit", exists="Set, Add, Scale, Ablate, Patch, Project, Knockout"
                )
            for site in self.sites[edit.pattern]:
                if site.dead:
                    raise EditError(f"{edit!r} would change nothing: {site.dead}", do="edit a site before it")
                if site.tower == "raw" and edit.selectors():
                    raise EditError(f"{edit!r}: a raw site has no named axes", do="edit it whole, without selectors")
                bound.append((self._seat(site), edit))
        return bound

    def _session(
        self,
        bound: list[tuple[Seat, Edit]],
        seats: Sequence[Seat],
        how: Recording,
        inputs: Inputs | None,
        open_ended: bool = False,
    ) -> Session:
        return Session(self._root, bound, seats, how, inputs, open_ended, self._held)

    @property
    def _held(self) -> Session | None:
        """The edits that this thread holds around whatever comes now."""
        return next((held for root in self._roots.values() if (held := turn_of(root).held) is not None), None)

    @contextmanager
    def _taken(self, eval_mode: bool = True) -> Iterator[None]:
        """Have the model for this thread alone, and at rest."""
        roots = self._roots.values()
        with taken(roots), at_rest(roots, eval_mode=eval_mode):
            yield

    @contextmanager
    def _edited(self, edits: Edits, inputs: Inputs | None) -> Iterator[Session]:
        """A session for calls that may go on behind the prompt; its edits must have acted by the end."""
        session = self._session(self._bind(edits), (), Recording(), inputs, open_ended=True)
        with session, self._writing(session):
            yield session
        session.check()

    @contextmanager
    def _writing(self, session: Session) -> Iterator[None]:
        """Tell the session when the library's own `generate` is at work, and with how many rows it began."""
        own = None if self.is_pipeline else getattr(self.module, "generate", None)
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

    def _call(self, inputs: Inputs, output: str, options: Mapping[str, Any] = MappingProxyType({})) -> Any:
        if inputs.call != "pipeline":
            function = self.module if inputs.call == "forward" else getattr(self.module, inputs.call)
            return function(**inputs.tensors, **options)
        call = dict(inputs.tensors)
        generator = torch.Generator("cpu").manual_seed(call.pop("seed"))
        bar = dict(getattr(self.module, "_progress_bar_config", {}))
        self.module.set_progress_bar_config(disable=call["num_inference_steps"] < 8)
        try:
            return self.module(**call, generator=generator, output_type=output)
        finally:
            self.module.set_progress_bar_config(**bar)

    def _joined(self, site: Site, fired: list[tuple[int, Tensor]]) -> Tensor:
        """One tensor a site: denoising steps stacked, prompt encodings put in guidance order, otherwise exactly one."""
        tensors = [tensor for _, tensor in fired]
        if "step" in site.axes:
            if len({step for step, _ in fired}) < len(fired) or len({tensor.shape for tensor in tensors}) > 1:
                raise SiteError(
                    f"'{site}' ran with other guidance rows in the same or in other steps",
                    expected="one call of the denoiser a step, with the same guidance rows in each",
                    do="run with guidance of one kind from the first step to the last",
                )
            return torch.stack(tensors)
        if site.axes[:1] == ("guidance",):
            return torch.cat(tensors[::-1])
        if len(tensors) > 1 and site.tower != "raw":
            raise SiteError(
                f"'{site}' fired {len(tensors)} times in one run", do="report this: a site fires once a forward"
            )
        return tensors[0] if len(tensors) == 1 else torch.stack(tensors)


def _several(edits: Edits) -> list[Edit]:
    return [edits] if isinstance(edits, Edit) else list(edits)


def _check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, Inputs):
        raise InputError(
            f"cannot run on {type(inputs).__name__}", expected="what `model.inputs` makes",
            do="`model.run(model.inputs(text=…))`, or prepared tensors by name: `model.inputs(input_ids=…)`",
        )  # fmt: skip
