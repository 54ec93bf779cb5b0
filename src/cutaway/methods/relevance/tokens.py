"""Every token of a long text in one call: which patches and which earlier words wrote it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.relevance.aims import told
from cutaway.methods.relevance.laid import Found, laid
from cutaway.methods.relevance.leaves import Seen, repeated, seen
from cutaway.methods.relevance.relevance import SOURCES, Options, Relevance, measured
from cutaway.methods.result import Provenance
from cutaway.model.answers import answered
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.questions.rows import tracked

METHOD = "token_relevance"
TAM_SOURCE = "Li et al. 2025, arXiv 2506.23270 (token activation map)"
NEAR = 3  # patches a side of the window of the filter
Token = Literal[
    "gradient", "gradient_input", "integrated_gradients", "smooth_gradient", "attn_lrp", "grad_cam", "rollout",
    "chefer", "occlusion", "tam",
]  # fmt: skip


def token_relevance(
    model: Model, inputs: Inputs, *, method: Token = "attn_lrp", length: int = 48, sure: bool = False, points: int = 16,
    draws: int = 8, site: str = "", seed: int = 0, batch: int = 16, progress: bool = False,
) -> Relevance:  # fmt: skip
    """Which patches, and which words before it, every token that a model writes depends on, all in one call.

    Of inputs that end in their answers (`model.inputs(…, answer="…")`) each token of these, else of what the model
    writes, `length` tokens at most. The number of a token is its logit there less the mean of all logits, with `sure`
    its log-probability (which has no slope where the model is sure). `method` as in `relevance`, each on a batch of
    `batch` copies of the inputs, a token each; or `tam`, one run for all: the logits of the token at the picture's
    positions of the last layer, A_t (not below 0), less what other words before it light as well, ReLU(A_t - s I),
    I the mean of their A_j by how much they read as the token, s by least squares, and a rank filter (`filtered`).

    A `Relevance` with a target a token: coordinates `token` (its text), `row` and `number` (of the row, within the
    answer). Units: nats or logits where the method has any. Source of TAM: Li et al. 2025, 2506.23270, by its text; the
    filter is ours. MethodError for models that write nothing.

    What it can NOT tell: what the model would have written else; a token that follows from the grammar has few patches.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> model = cutaway.load("tiny:llava")
    >>> inputs = model.inputs(image=tiny.picture(), text="what is this", answer="a red dog")
    >>> found = token_relevance(model, inputs, method="gradient_input")
    >>> found["token"].values.tolist(), found["picture"].sizes["target"]
    (['a', 'red', 'dog'], 3)
    """
    started = time.perf_counter()
    if method not in get_args(Token):
        raise MethodError(
            f"no method for tokens is called '{method}'", expected="one of these", exists=", ".join(get_args(Token))
        )
    whole = inputs if inputs.answers else written(model, inputs, length)
    every = [(at, row) for row, count in enumerate(whole.answers) for at in range(count)]
    how = Options(site=site, points=points, draws=draws, seed=seed)
    rows = len(whole.answers)
    if method == "tam":
        data = _activated(model, whole, every)
    else:
        parts, most = [], max(whole.answers)
        step = max(1, batch // rows)
        for start in tracked(range(0, most, step), "tokens", len(range(0, most, step)), show=progress):
            ats = range(start, min(start + step, most))
            parts.append(_chunk(model, whole, list(ats), method, how, sure=sure))
        data = xarray.concat(parts, "target")
        order = [at * rows + row for at, row in every]
        data = data.isel(target=order)
    data = data.assign_coords(_named(model, whole, every))
    return Relevance(
        data,
        Provenance.of(
            METHOD, SOURCES.get(method, TAM_SOURCE), started=started, model=model, seed=seed, how=method, sure=sure,
            points=points, unit="nats" if sure and method != "tam" else "logits",
        ),
    )  # fmt: skip


def written(model: Model, inputs: Inputs, length: int) -> Inputs:
    """The inputs with what the model writes behind them, as answers; its mark of the end is left out."""
    made = model.generate(inputs, max_new_tokens=length, do_sample=False)
    prompt = made.inputs.tensors["input_ids"].shape[1]
    begun = prompt if made.ids.shape[1] > prompt else 0
    end = getattr(model.tokenizer, "eos_token_id", None)
    new = []
    for ids, mask in zip(made.ids[:, begun:], made.mask[:, begun:], strict=True):
        own = ids[mask.bool()]
        own = own[: int((own == end).nonzero()[0])] if end is not None and bool((own == end).any()) else own
        if not len(own):
            raise MethodError(
                f"'{model.name}' writes nothing to one of these", expected="a token at least",
                do="give the text as `answer=`",
            )  # fmt: skip
        new.append(own)
    return answered(model.engine, inputs, new)


def _chunk(model: Model, whole: Inputs, ats: Sequence[int], method: str, how: Options, *, sure: bool) -> xarray.Dataset:
    """Some tokens of each answer: copies of the batch, a token each; the last one again where an answer is shorter."""
    many, ids, places = repeated(whole, len(ats)), [], []
    for at in ats:
        for row, count in enumerate(whole.answers):
            place = min(at, count - 1) - count
            ids.append(int(whole.tensors["input_ids"][row, place]))
            places.append(place)
    there = seen(model, many)
    return laid(there, measured(there, told(tuple(ids), tuple(places), sure), method, how))


def _named(model: Model, whole: Inputs, every: Sequence[tuple[int, int]]) -> dict[str, Any]:
    ids = whole.tensors["input_ids"]
    texts = [model.tokenizer.decode([int(ids[row, at - whole.answers[row]])]).strip() for at, row in every]
    return {
        "token": ("target", np.array(texts, dtype=str)), "row": ("target", [row for _, row in every]),
        "number": ("target", [at for at, _ in every]),
    }  # fmt: skip


# --- token activation maps --------------------------------------------------------------------------------------------


def _activated(model: Model, whole: Inputs, every: Sequence[tuple[int, int]]) -> xarray.Dataset:
    """Token activation maps of all tokens, from one run."""
    run = model.run(whole)
    tokens, logits, ids = whole.tokens["text"], run.logits.detach().double().cpu(), whole.tensors["input_ids"].cpu()
    if not (tokens.image >= 0).any():
        raise MethodError(
            f"'{model.name}' reads no picture at positions of its own here", expected="a picture among its tokens",
            do="take another `method=`",
        )  # fmt: skip
    there = seen(model, whole, starts=False)
    found = Found(np.array([_number(logits, ids, whole, at, row) for at, row in every]))
    parts = []
    for number, (at, row) in enumerate(every):
        place = len(tokens) + at - whole.answers[row]
        picture = torch.from_numpy(tokens.image[row] >= 0)
        before = [w for w in range(place) if there_says(there, row, w)]
        map_, said = activation_map(logits[row], ids[row], int(ids[row, place]), picture, before)
        parts.append((number, row, map_, said))
    return _table(there, found, [*_laid(there, whole, parts)], every)


def there_says(there: Seen, row: int, position: int) -> bool:
    """Whether a position is a word."""
    leaf = there.leaf("words")
    return leaf is not None and bool(leaf.own[row, position])


def _number(logits: Tensor, ids: Tensor, whole: Inputs, at: int, row: int) -> float:
    place = logits.shape[1] + at - whole.answers[row]
    return float(logits[row, place - 1, ids[row, place]])


def activation_map(
    logits: Float[Tensor, "position vocab"], ids: Tensor, token: int, picture: Tensor, before: Sequence[int]
) -> tuple[Float[Tensor, "patch"], Float[Tensor, "before"]]:
    """The map of one token over the picture's positions, what other words light taken away; and how they read as it."""
    own = logits[picture, token].clamp(min=0)
    reads = logits[list(before), token].clamp(min=0) if before else torch.zeros(0, dtype=logits.dtype)
    others = [at for at, place in enumerate(before) if int(ids[place]) != token]
    weight = reads[others]
    if not len(others) or float(weight.sum()) == 0:
        return own, reads
    maps = logits[picture][:, ids[[before[at] for at in others]]].clamp(min=0)
    shared = (maps @ weight) / weight.sum()
    scale = (own @ shared) / (shared @ shared).clamp(min=torch.finfo(own.dtype).tiny)
    return (own - scale * shared).clamp(min=0), reads


def _laid(
    there: Seen, whole: Inputs, parts: Sequence[tuple[int, int, Tensor, Tensor]]
) -> Iterator[tuple[ndarray, ndarray]]:
    """The picture (image, row, col) and the words of each token."""
    tokens = whole.tokens["text"]
    for _, row, map_, said in parts:
        values = torch.zeros(tokens.kind.shape, dtype=torch.float64)
        values[row, torch.from_numpy(tokens.image[row] >= 0)] = map_
        grids = [filtered(tokens.grid(values, image)).numpy() for image in there.pictures(row)]
        words = there.words(row)
        each, at = np.zeros(len(words)), 0
        for place, (_, word) in enumerate(words):
            for _ in word.positions:
                if at < len(said):
                    each[place] += float(said[at])
                    at += 1
        yield np.stack(grids) if grids else np.zeros((0, 0, 0)), each


def _table(there: Seen, found: Found, made: Sequence[tuple[ndarray, ndarray]], every: Any) -> xarray.Dataset:
    words = [there.words(row) for _, row in every]
    most, images = max(map(len, words)), max(len(one[0]) for one in made)
    sides = np.max([one[0].shape[1:] for one in made], 0)
    picture = np.full((len(made), images, *sides), np.nan)
    word = np.full((len(made), most), np.nan)
    for at, (grids, each) in enumerate(made):
        picture[at, : len(grids), : grids.shape[1], : grids.shape[2]], word[at, : len(each)] = grids, each
    said = [[one.text for _, one in row] + [""] * (most - len(row)) for row in words]
    of = [[at for at, _ in row] + [-1] * (most - len(row)) for row in words]
    return xarray.Dataset(
        {
            "value": ("target", found.clean), "picture": (("target", "image", "row", "col"), picture),
            "word": (("target", "place"), word),
        },
        {"said": (("target", "place"), np.array(said, str)), "of": (("target", "place"), np.array(of))},
    )  # fmt: skip


def filtered(grid: Float[Tensor, "row col"]) -> Float[Tensor, "row col"]:
    """A mean over the sorted numbers of each window, the middle ones most: lone patches are taken away, edges stay.

    The weight of the k-th of 9 is exp(-(k - 4)² / 2 c²), c the spread of the window over its mean, times 4.
    """
    padded = torch.nn.functional.pad(grid[None, None], (1, 1, 1, 1), mode="replicate")
    windows = padded.unfold(2, NEAR, 1).unfold(3, NEAR, 1).reshape(*grid.shape, -1).sort(-1).values
    middle = NEAR * NEAR // 2
    spread = windows.std(-1, keepdim=True) / windows.mean(-1, keepdim=True).clamp(min=1e-12)
    ranks = torch.arange(NEAR * NEAR, dtype=grid.dtype) - middle
    weights = torch.exp(-(ranks**2) / (2 * (spread * middle).clamp(min=1e-6) ** 2))
    return (weights * windows).sum(-1) / weights.sum(-1)
