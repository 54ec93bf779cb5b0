"""Concepts of a model that draws, exchanged in closed form where its prompt is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from itertools import chain
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import InputError, MethodError, near
from cutaway.methods.cross_attention.spoken import phrase, words
from cutaway.methods.task_vectors import WeightVector
from cutaway.model.model import Model
from cutaway.model.readers import Reader, prompt_readers
from cutaway.store.fitted import Origin

Places = Literal["name", "after"]
GAP = "{}"  # where a prompt has the concept
BATCH = 64


class ConceptEdit(WeightVector):
    """What was changed so that a concept is drawn as another; `added` puts it in for the length of a block.

    It is saved and loaded as any fitted thing, and belongs to the weights that it was made from: a second edit on top
    is made, and put in, inside the block of the first.
    """

    kind: ClassVar[str] = "concept_edit"

    def __repr__(self) -> str:
        told = ", ".join(f"{old} → {new or 'nothing'}" for old, new in self.config["changes"].items())
        return f"ConceptEdit({told}; {len(self.tensors)} maps of '{self.on.model}')"


def concept_edit(
    model: Model,
    changes: Mapping[str, str],
    *,
    prompts: Sequence[str] = (GAP,),
    keep: Sequence[str] = (),
    maps: str | Sequence[str] = "*",
    places: Places = "name",
    ridge: float = 0.1,
    weight: float = 0.1,
) -> ConceptEdit:
    """Weights that read one concept as another, and others as before, in closed form.

    For each linear map W through which the denoiser reads its prompt (keys and values of cross-attention; of joint
    attention the two maps that its text stream and its pooled prompt begin with), the W' that minimises
    sum_i |W' c_i - W t_i|² + weight sum_j |W' k_j - W k_j|² + ridge |W' - W|², which is
    W' - W = W (T - C)ᵀ C (CᵀC + weight KᵀK + ridge 1)⁻¹. c_i are the states of a concept's words in each of `prompts`
    ("{}" is the concept), t_i those of what is to be drawn in its place, k_j all states of the concepts to `keep`. A
    concept is erased by giving it nothing, `{"a fox": ""}`: t_i are then the states at its places of an empty prompt.

    maps: names of the maps or patterns ("denoiser.*.cross.v"), of all unless given. places: "name", the words of the
    concept, the last to the last; "after", also every position behind them, which a text model that reads from left to
    right fills with it. Sums are in double precision. Returns the difference: `with edit.added(model): …`.
    Raises MethodError for what no prompt or model has.
    Source: UCE (Gandikota et al. 2023, arXiv 2308.14761, eq. 7, with its last word and several prompts); `weight` 0
    with the place "after" is TIME (Orgad et al. 2023, arXiv 2303.08084), which has no concepts to keep.
    The two maps of joint attention are ours.

    What it can NOT tell: what else has changed. Draw what is to stay and look.

    >>> import cutaway
    >>> model = cutaway.load("tiny:sd")
    >>> edit = concept_edit(model, {"a dog": "a cat"}, prompts=["{}", "{} on a mat"], keep=["a red ball"])
    >>> edit
    ConceptEdit(a dog → a cat; 14 maps of 'tiny:sd')
    >>> with edit.added(model):
    ...     drawn = model.run(model.inputs(prompt="a dog", steps=2))
    """
    _check(changes, prompts, keep, places, ridge, weight)
    readers = _chosen(prompt_readers(model), maps)
    old, new = list(changes), [one.strip() for one in changes.values()]
    here, there = _read(model, old, prompts), _read(model, new, prompts)
    kept = _read(model, keep, prompts) if keep and weight else None
    pairs = _pairs(here, there, places)
    solved: dict[str, tuple[Tensor, Tensor]] = {}
    for given in dict.fromkeys(one.given for one in readers):
        c, t = _rows(here, given, [a for a, _ in pairs]), _rows(there, given, [b for _, b in pairs])
        k = kept.states[given].double().flatten(0, -2) if kept else c[:0]
        gram = c.T @ c + weight * k.T @ k + ridge * torch.eye(c.shape[1]).to(c)
        solved[given] = (t - c, torch.linalg.solve(gram, c.T).T)
    made = {}
    for one in readers:
        off, right = solved[one.given]
        moved = (one.matrix.double() @ off.to(one.matrix.device).T) @ right.to(one.matrix.device)
        made[one.weight] = moved.to(torch.promote_types(one.matrix.dtype, torch.float32))
    config: dict[str, Any] = {
        "changes": dict(changes), "prompts": list(prompts), "keep": list(keep), "maps": [one.name for one in readers],
        "places": places, "ridge": ridge, "weight": weight,
    }  # fmt: skip
    return ConceptEdit(made, config, Origin.of(model))


class _Read(NamedTuple):
    """States of prompts by the argument that holds them, and where in each row the concept's words are."""

    states: dict[str, Float[Tensor, "row *position d"]]
    spans: list[list[tuple[int, ...]]]  # of each row, one for each encoder that says the words; none of an empty prompt


def _read(model: Model, concepts: Sequence[str], prompts: Sequence[str]) -> _Read:
    """What the denoiser is given of every prompt of every concept."""
    told = [text.replace(GAP, one) if one else "" for one in concepts for text in prompts]
    names = [one for one in concepts for _ in prompts]
    states: dict[str, list[Tensor]] = {}
    spans: list[list[tuple[int, ...]]] = []
    for start in range(0, len(told), BATCH):
        inputs = model.inputs(prompt=told[start : start + BATCH], step=0, steps=1, guidance=1.0)
        tokens = inputs.tokens.get("denoiser.text", inputs.tokens["text"])
        for row, name in enumerate(names[start : start + BATCH]):
            if not name:
                spans.append([])
                continue
            said = words(tokens, row)
            places = [said[place].positions for place in phrase([word.text for word in said], name)]
            size = len(name.split())
            spans.append([tuple(chain(*places[at : at + size])) for at in range(0, len(places), size)])
        for given in ("encoder_hidden_states", "pooled_projections"):
            if given in inputs.tensors:
                states.setdefault(given, []).append(inputs.tensors[given])
    return _Read({given: torch.cat(some) for given, some in states.items()}, spans)


def _pairs(here: _Read, there: _Read, places: Places) -> list[tuple[list[int], list[int]]]:
    """For each row positions of the old concept, and those of the new one that stand for them."""
    length = here.states["encoder_hidden_states"].shape[1]
    made = []
    for olds, news in zip(here.spans, there.spans, strict=True):
        news = news or olds  # an empty prompt has its end and padding at the same places
        if len(olds) != len(news) or (places == "after" and len(olds) > 1):
            raise MethodError(
                f"the concept is said {len(olds)} times in a prompt, its exchange {len(news)} times",
                expected='once each, or as often as there are encoders with places="name"',
                do="take a prompt that says it once",
            )  # fmt: skip
        row: tuple[list[int], list[int]] = ([], [])
        for old, new in zip(olds, news, strict=True):
            longer = len(old) - len(new)
            behind = range(1, length - max(old[-1], new[-1])) if places == "after" else ()
            row[0].extend([*old, *(old[-1] + at for at in behind)])
            row[1].extend([*(new[max(0, at - longer)] for at in range(len(old))), *(new[-1] + at for at in behind)])
        made.append(row)
    return made


def _rows(read: _Read, given: str, at: list[list[int]]) -> Float[Tensor, "row d"]:
    """The states at these positions of each row; of what has one state a row, that one."""
    states = read.states[given].double()
    if states.dim() == 2:
        return states
    return torch.cat([states[row, here] for row, here in enumerate(at)])


def _chosen(readers: Sequence[Reader], maps: str | Sequence[str]) -> list[Reader]:
    wanted = [maps] if isinstance(maps, str) else list(maps)
    names = [one.name for one in readers]
    for pattern in wanted:
        if not any(fnmatch(name, pattern) for name in names):
            raise MethodError(
                f"no map '{pattern}' reads the prompt", expected="one of these, or a pattern",
                exists=near(pattern, names), do="leave `maps=` out for all of them",
            )  # fmt: skip
    return [one for one in readers if any(fnmatch(one.name, pattern) for pattern in wanted)]


def _check(
    changes: Mapping[str, str], prompts: Sequence[str], keep: Sequence[str], places: str, ridge: float, weight: float
) -> None:
    if not changes or not all(one.strip() for one in (*changes, *keep)):
        raise InputError(
            "no concept to change, or to keep", expected='concepts in words: {"a fox": "a duck"}, or {"a fox": ""}'
        )
    both = sorted(set(keep) & set(changes))
    if both:
        raise InputError(f"'{both[0]}' is to be changed and to be kept", expected="either")
    bad = next((text for text in prompts if text.count(GAP) != 1), None)
    if bad is not None or not prompts or isinstance(prompts, str):
        raise InputError(f"a prompt that says no concept, or more than one: {bad!r}", expected='"{} on a table"')
    if places not in get_args(Places):
        raise InputError(f"`places=` cannot be {places!r}", expected=" or ".join(map(repr, get_args(Places))))
    if not ridge > 0 or not weight >= 0:
        raise InputError(f"ridge {ridge} and weight {weight}", expected="a ridge above 0, a weight of at least 0")
