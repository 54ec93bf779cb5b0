"""The model a user holds: their own module, unmodified, with named towers and sites and the verbs to use them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from cutaway.errors import InputError
from cutaway.model.answers import Answer, answered
from cutaway.model.cells import Cells, grid
from cutaway.model.chat import in_chat
from cutaway.model.denoise import draw_inputs
from cutaway.model.dictionary import Dictionary, opened
from cutaway.model.edits import Edit
from cutaway.model.engine import Edits, Engine, Record
from cutaway.model.estimate import Estimate, estimate
from cutaway.model.generate import generate
from cutaway.model.gradients import Gradients, gradients, plain
from cutaway.model.inputs import Inputs
from cutaway.model.plan import Plan
from cutaway.model.prepare import prepare
from cutaway.model.run import Generation, Run
from cutaway.model.seats import Seat, Tower
from cutaway.model.session import Reading, Recording
from cutaway.model.sites import SiteTable
from cutaway.model.sweep import By, Sweep, sweep
from cutaway.model.table import Family
from cutaway.source import Source


class Model:
    """A transformers model or a diffusers pipeline with names for its parts; use `cutaway.load` to get one.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> run = model.run(model.inputs(text="a red dog"), record="text.*.resid_post")
    >>> tuple(run["text.1.resid_post"].shape)[-1]
    32
    """

    def __init__(
        self, module: Any, processor: Any = None, *, name: str = "", revision: str = "", source: Source | None = None
    ) -> None:
        self.module, self.processor, self.revision = module, processor, revision
        self.name, self.source = name or type(module).__name__, source  # how another process opens the same
        self.engine = Engine(module, processor)

    # --- what there is ------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> SiteTable:
        """Every named site; `model.sites["vision.*.resid_post"]` selects, `raw.PATH` reaches any module."""
        return self.engine.sites

    @property
    def _seats(self) -> Mapping[str, Seat]:
        """Where each site is in the live model: `model.engine.seats`, by the name that scripts know from before."""
        return self.engine.seats

    @property
    def towers(self) -> Mapping[str, Tower]:
        """The towers by name."""
        return self.engine.towers

    @property
    def family(self) -> Family:
        """What is known of the architecture as a whole."""
        return self.engine.family

    @property
    def missing(self) -> tuple[str, ...]:
        """What the tables name and this model has not."""
        return self.engine.missing

    @property
    def device(self) -> torch.device:
        """Where inputs belong: with the first parameter, or where offloaded weights are brought to."""
        return self.engine.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first parameter of the denoiser or of the model."""
        return self.engine.dtype

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, if the model came with one."""
        return self.engine.tokenizer

    @property
    def dictionaries(self) -> Mapping[str, Dictionary]:
        """The dictionaries whose features are sites, each by the site of these."""
        seats = self.engine.seats.items()
        return {name: seat.through.dictionary for name, seat in seats if seat.through and name.endswith("features")}

    def with_dictionaries(
        self, *dictionaries: str | Path | Dictionary, check: bool = True, **named: str | Path | Dictionary
    ) -> Model:
        """The same model with the features of dictionaries as sites, to record, edit, sweep and differentiate.

        A dictionary at `text.3.resid_post` brings `text.3.resid_post.features` f and `text.3.resid_post.error` e, with
        y = decode(f) + e. An edit of f leaves e as it is; `Ablate("text.3.resid_post.error")` puts the reconstruction
        in y's place. Several dictionaries of a site need names: `wide=…` brings `text.3.resid_post.wide.features`. Of a
        transcoder y is what it stands for, and f is made of what it reads. The weights of the model are untouched.
        A dictionary is given open, by its folder, or by its name in the zoo (`zoo:emoji-clip-sae`).
        Without `check` a dictionary may be of a model that differs, such as the same one in another precision.
        Raises StoreError for a dictionary of another model, SiteError for one that does not fit.
        """
        first = len(self.engine.dictionaries)
        every = {**{str(first + i): one for i, one in enumerate(dictionaries)}, **named}
        given = {name: opened(one) for name, one in every.items()}
        for one in given.values() if check else ():
            one.check(self)
        made = copy.copy(self)
        made.engine = self.engine.with_dictionaries(given)
        return made

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
        label: int | str | Sequence[int | str] | None = None,
        pictures: int | None = None,
        mask: Any = None,
        strength: float | None = None,
        seed: int = 0,
        steps: int = 20,
        guidance: float | None = None,
        size: tuple[int, int] | None = None,
        length: int | None = None,
        step: int | None = None,
        latent: Tensor | None = None,
        encoder: bool = False,
        answer: Answer | Sequence[Answer] | None = None,
        **tensors: Any,
    ) -> Inputs:
        """What to run on, with a token map for each tower.

        `image`: a PIL image, path or array, or a list; `text`: a string or a list; `audio`: samples at the model's
        rate. For a pipeline `prompt` and `negative`, or `label` where it draws classes; `pictures` (of each), `seed`,
        `steps`, `guidance` (5 unless given), `size` (height, width), `length` (positions of a prompt whose encoder has
        no end of its own); `image`, `mask`, `strength` where it begins with a picture. An error says which of them it
        takes (docs/pipelines.md). Prepared tensors
        go by their own names (`input_ids=…`, `pixel_values=…`), also beside what does not make them.
        A model that writes about pictures takes all of them with a single text, one each with several texts, or a
        list for each text (`image=[[a, b], [c]]`). With `step=` a pipeline's denoiser is evaluated once, at that step
        of the drawing: on the latents it has there, on `latent=`, or on `image=` with noise of the seed added; with
        `encoder=` the prompt encoders run before it in the same run.
        `answer=` puts words behind the prompt, one text for all or one a prompt, for `targets.answer()` to judge.
        A text beside a picture is put into the model's chat template, if it has one and the text does not mark the
        picture's place; a text alone is taken as it is (`chat` puts it there). Raises InputError on what a model
        cannot take.
        """
        if self.engine.pipeline is not None:
            drawn = {
                "prompt": prompt, "negative": negative, "label": label, "image": image, "mask": mask, "size": size,
                "strength": strength, "guidance": guidance, "pictures": pictures, "seed": seed, "steps": steps,
                "length": length,
            }  # fmt: skip
            others = {"text": text, "audio": audio, "answer": answer, **tensors}
            return draw_inputs(self.engine, drawn, step, latent, others, encoder=encoder)
        if prompt is not None:
            raise InputError("`prompt=` is for pipelines that draw", do="pass `text=`")
        theirs = {"step": step, "latent": latent, "label": label, "pictures": pictures, "mask": mask, "length": length,
                  "encoder": encoder or None}  # fmt: skip
        tensors |= {name: value for name, value in (theirs | {"strength": strength}).items() if value is not None}
        engine = self.engine
        made = prepare(
            self.module, engine.towers, engine.family, engine.tools, {"image": image, "text": text, "audio": audio},
            tensors,
        )  # fmt: skip
        made = made if answer is None else answered(engine, made, answer)
        return made.to(engine.device, engine.dtype)

    def chat(self, text: str) -> str:
        """The text as what a user says, in the model's chat template up to where the model answers.

        As it is where the model has no template, and where it is in one already: it has the template's beginning or
        end, or any special token.

        >>> import cutaway
        >>> cutaway.load("zoo:emoji-llava").chat("a red dog. Where is the dog?")
        '<s><|user|>a red dog. Where is the dog? <|assistant|>'
        """
        return in_chat(self.engine.tools, text)

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
        into: Callable[[Reading], None] | None = None,
        guidance: str = "",
        output: Literal["pil", "pt", "latent"] = "pil",
    ) -> Run:
        """Run once, with edits, and keep the recorded sites.

        `keep`, `dtype`, `tokens`, `heads`, `copy` say how activations are kept; `stop` ends the forward after the last
        of them (outputs are None then); `grad` keeps the autograd graph. `into` is called with every reading the moment
        it is there, step by step, and then none is kept. `guidance` names the one guidance row of a drawing (cond,
        uncond) that is read, and no more is computed for it. `output` is what a pipeline returns.
        Raises SiteError for a site that did not run, EditError for an edit that does not fit or never acted.
        """
        _check_inputs(inputs)
        if grad and not inputs.call.differentiable:
            raise InputError(
                f"a whole {inputs.call} runs without gradients", expected="one evaluation of the denoiser",
                do="`model.inputs(prompt=…, step=3)` makes its inputs",
            )  # fmt: skip
        if grad and (guidance or keep != "device" or any(one is not None for one in (dtype, tokens, heads, into))):
            raise InputError(
                "what is kept on the graph is the whole activation as it is",
                do="leave out keep, dtype, tokens, heads, into, guidance",
            )
        if guidance and not any("guidance" in site.axes for site in self.sites.select(record)):
            raise InputError(
                f"no recorded site has a guidance row '{guidance}'", expected="sites of a denoiser or prompt encoder",
                do="leave out `guidance`",
            )  # fmt: skip
        how = Recording(keep, dtype, tokens, heads, copy, grad, stop and bool(record), into, guidance)
        inputs = plain(inputs) if grad else inputs
        return self.engine.run(inputs, record, edits, how, **({} if output == "pil" else {"output": output}))

    def gradients(
        self,
        inputs: Inputs,
        target: Callable[[Run], Tensor],
        sites: Record,
        *,
        edits: Edits = (),
        path: int = 0,
        baseline: float | Mapping[str, Tensor] | Run = 0.0,
    ) -> Gradients:
        """D target / d activation at any live site, row by row: g = d sum_i target_i / d x.

        With `path` n the mean gradient between `baseline` b and the activation x, at n Gauss-Legendre points a site
        (integrated gradients, Sundararajan et al. 2017, 1703.01365): sum (x - b) g is target(x) - target(b) for n large
        enough, and `gaps` says what is missing. From zero, states that a norm reads change all at once at the start of
        the path, between any points: give such sites a `baseline` of a run. A gradient is what an infinitely small
        change does; it says nothing of a removal.
        Raises SiteError for a dead site, InputError for a call that has no gradient.

        >>> import cutaway
        >>> model = cutaway.load("tiny:llama")
        >>> inputs = model.inputs(text="a red dog")
        >>> found = model.gradients(inputs, cutaway.targets.logit("cat"), "text.*.attn.pattern")
        >>> tuple(found["text.1.attn.pattern"].shape)
        (1, 4, 4, 4)
        """
        _check_inputs(inputs)
        return gradients(self.engine, inputs, target, sites, edits=edits, path=path, baseline=baseline)

    def generate(self, inputs: Inputs, *, edits: Edits = (), **options: Any) -> Generation:
        """Write text under edits: the library's own `generate` with its options, such as `max_new_tokens`.

        Token selectors are absolute positions; negative ones count from the end of the prompt, a slice without an end
        goes on with what is written. Each row of a padded
        batch is written on as its prompt alone. More that the options ask for is in `Generation.outputs`.
        """
        _check_inputs(inputs)
        with self.engine.taken():
            return generate(self.engine, inputs, edits, options)

    @contextmanager
    def edited(self, edits: Edits, inputs: Inputs | None = None) -> Iterator[Any]:
        """Hold edits in place while the block runs anything: the plain module, a pipeline, a user's own loop.

        The module keeps its mode (`train` or `eval`); compiled calls and gradient checkpoints are off in the block.
        `inputs` is only needed for selectors by meaning (`Where(…)`). Yields the module or pipeline. The edits of a
        `model.run` or a further `edited` inside the block come after these. Other threads cannot run the model
        meanwhile: `run` raises there, the plain module would be edited there too.
        """
        with self.engine.holding(edits, inputs):
            yield self.module

    def estimate(self, inputs: Inputs, record: Record, dtype: torch.dtype | None = None) -> Estimate:
        """Bytes that recording these sites will take, before the run."""
        return estimate(self.engine, inputs, self.sites.select(record), dtype or self.dtype)

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
        by: By | None = None,
    ) -> Sweep:
        """Run every cell and read the target, exactly as `model.run(inputs, edits=…)` would, far faster.

        Blocks below an edit and towers it cannot reach are not run again, cells share batched rows within `memory`
        bytes, a causal decoder re-runs the positions from the edit on. `progress` prints the plan and a bar, `told`
        hears the plan before anything runs; `resume` is a file in which values are kept, so that an interrupted sweep
        goes on; `by` makes the chunks of the plan elsewhere (`cutaway.jobs`). Raises as `run` does.

        >>> import cutaway
        >>> model = cutaway.load("tiny:llama")
        >>> inputs = model.inputs(text="a red dog")
        >>> made = model.sweep(inputs, model.grid(cutaway.Ablate("text.*.mlp.out"), token=[1, 2, 3]),
        ...                    cutaway.targets.logit("cat"), progress=False)
        >>> made.values.dims, made.values.shape
        (('site', 'token', 'row'), (3, 3, 1))
        """
        _check_inputs(inputs)
        with self.engine.taken():
            return sweep(
                self.engine, inputs, cells, target, progress=progress, memory=memory, resume=resume, told=told, by=by
            )


def _check_inputs(inputs: Any) -> None:
    if not isinstance(inputs, Inputs):
        raise InputError(
            f"cannot run on {type(inputs).__name__}", expected="what `model.inputs` makes",
            do="`model.run(model.inputs(text=…))`, or prepared tensors by name: `model.inputs(input_ids=…)`",
        )  # fmt: skip
