"""What a report computes for a contrastive model: one picture, its texts, and everything that is measured on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import xarray
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from cutaway.data import Scene, render
from cutaway.methods.logit_lens import Lens, logit_lens
from cutaway.methods.representation_decomposition import Decomposition, representation_decomposition
from cutaway.methods.result import Result
from cutaway.methods.text_explanation import Spans, SparseTexts, splice, text_span
from cutaway.model.model import Model
from cutaway.model.targets import margin, similarity
from cutaway.model.weights import READERS, readout
from cutaway.questions.bank import TextBank
from cutaway.questions.given import asked, with_asked
from cutaway.questions.rows import embedded, unit

WORDS = 24  # texts with more words are not taken apart
PICKS = 3  # texts a head is named by
LEAST = 0.02  # cosine: pictures closer than this are not told apart, and there is nothing to bring back by patching
RUNS = 1200  # at most so many forwards for the map of patches; larger models skip layers evenly
Told = Callable[[str], None]
Over = Literal["token", "head"]
RESULTS = (  # the names of the files that a report may write its arrays to
    "decomposition", "lens", "lens_centred", "head_texts", "splice", "patching_token", "patching_head",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """What is asked: a model, a picture, texts, and what there is to compare them with.

    The first text is what is explained; the second, if there is one, is its rival. `truth` names parts of the picture
    (rows × columns, true inside) where that is known.
    """

    model: Model
    picture: Image.Image
    texts: tuple[str, ...]
    counterfactual: Image.Image | None = None
    bank: TextBank | None = None
    crowd: Sequence[Any] | None = None
    floor: Model | None = None
    truth: Mapping[str, ndarray] = field(default_factory=dict)
    seed: int = 0

    @property
    def target(self) -> margin:
        """The number that is explained."""
        return margin(0, 1 if len(self.texts) > 1 else None)


@dataclass(frozen=True, eq=False)
class Measured:
    """What one model does with one case. Cosines; `margin` is the target's own number, `chance` that of random texts.

    `similarity` (text); `patches` (text, row, col): what each patch adds through attention; `heads` (layer, head): what
    each head adds to the margin, and `head_chance` the same for random texts (root mean square); `reader`: what reads
    the tower at its end, in words.
    """

    texts: TextBank
    similarity: Float[ndarray, "text"]
    margin: float
    parts: Decomposition
    lens: Lens
    patches: xarray.DataArray
    heads: xarray.DataArray
    head_chance: xarray.DataArray
    reader: str = "class token"

    @property
    def all_read(self) -> bool:
        """Whether a pooling head reads all patches, rather than one token standing for them."""
        return self.reader == READERS["pool"]

    @property
    def last(self) -> int:
        """The number of the last layer."""
        return int(self.lens["layer"].values[-1])


@dataclass(frozen=True, eq=False)
class Words:
    """The words of text number `text`, and what the patches add for it by each: (word, row, col), cosine.

    That is what they add for the text, less what they add for the text without the word.
    """

    text: int
    words: tuple[str, ...]
    added: xarray.DataArray


@dataclass(frozen=True, eq=False)
class Battery:
    """Everything measured for one case; what could not be measured is None, and `left_out` says why.

    `attention` (layer, head, row, col) is what the reader attends to on the picture.
    """

    case: Case
    own: Measured
    floor: Measured | None = None
    centred: Lens | None = None
    crowd: Decomposition | None = None
    spans: Spans | None = None
    splice: SparseTexts | None = None
    nearest: xarray.DataArray | None = None
    other: Measured | None = None
    patching: Mapping[str, Result] = field(default_factory=dict)
    unrelated: xarray.DataArray | None = None
    left_out: tuple[str, ...] = ()
    attention: xarray.DataArray | None = None
    words: tuple[Words, ...] = ()

    def results(self) -> Iterator[tuple[str, Result]]:
        """The labelled arrays by the name of their file, one of `RESULTS`."""
        found = {
            "decomposition": self.own.parts, "lens": self.own.lens, "lens_centred": self.centred,
            "head_texts": self.spans, "splice": self.splice,
            **{f"patching_{over}": result for over, result in self.patching.items()},
        }  # fmt: skip
        yield from ((name, result) for name, result in found.items() if result is not None)


def measure(model: Model, picture: Image.Image, texts: tuple[str, ...], target: margin, seed: int = 0) -> Measured:
    """Similarities, decomposition and lens of one picture against the texts."""
    bank = asked(model, texts)
    run = model.run(model.inputs(image=picture, text=list(texts)))
    parts = representation_decomposition(model, [picture], by_token=True, progress=False)
    heads = _towards(parts, bank, target)
    return Measured(
        texts=bank,
        similarity=np.array([float(similarity(text)(run)[0]) for text in range(len(texts))]),
        margin=float(target(run)[0]),
        parts=parts,
        lens=logit_lens(model, [picture], bank, seed=seed, progress=False),
        patches=parts.on_grid(parts.effect(bank, "head_tokens").sum(("layer", "head"))).isel(item=0),
        heads=heads.isel(item=0),
        head_chance=_chance(parts, bank, target, seed),
        reader=readout(model, "vision").reader,
    )


def examine(case: Case, *, told: Told = lambda _: None) -> Battery:
    """Run every method that fits; `told` hears what is being computed."""
    told("taking the embedding apart")
    found = Battery(case, measure(case.model, case.picture, case.texts, case.target, case.seed))
    told("leaving out one word at a time")
    found = replace(found, attention=attention(case, found.own), words=by_word(case, found.own))
    if case.floor is not None:
        told("the same before training")
        found = replace(found, floor=measure(case.floor, case.picture, case.texts, case.target, case.seed))
    missing: list[str] = []
    if case.crowd is None:
        missing.append(f"What heads vary with, and the texts for the embedding, need many pictures: {_GIVE_PICTURES}")
    else:
        found = _among_many(found, case.crowd, told)
    if case.bank is not None:
        found = replace(found, nearest=_nearest(found.own, case.bank))
    else:
        missing.append("The nearest texts and the texts of heads need a bank of texts: --bank FILE, one text a line.")
    if case.counterfactual is None:
        missing.append("What patching brings back needs a second picture: --counterfactual FILE.")
    else:
        found, why = _patched(found, case.counterfactual, told)
        missing += why
    return replace(found, left_out=tuple(missing))


def attention(case: Case, own: Measured) -> xarray.DataArray:
    """What the class token attends to in each head; where all patches are read, the mean over them, (…, row, col)."""
    sites = [f"vision.{layer}.attn.pattern" for layer in own.parts["layer"].values]
    run = case.model.run(case.model.inputs(image=case.picture), record=sites, stop=True)
    patterns = torch.stack([run[site][0] for site in sites]).float()  # layer, head, query, key
    seen = patterns.mean(2) if own.all_read else patterns[:, :, 0]
    return own.parts.on_grid(xarray.DataArray(seen.numpy(force=True), dims=("layer", "head", "token")))


def by_word(case: Case, own: Measured) -> tuple[Words, ...]:
    """The explained text and its rival, word by word; texts of one word, and long ones, have none."""
    made = []
    for index, text in enumerate(case.texts[:2]):
        words = tuple(text.split())
        if not 2 <= len(words) <= WORDS:
            continue
        shorter = [" ".join(words[:at] + words[at + 1 :]) for at in range(len(words))]
        vectors = embedded(case.model, [text, *shorter], "text", progress=False)
        added = own.parts.effect(vectors, "head_tokens").sum(("layer", "head"))
        maps = own.parts.on_grid(added).isel(item=0).drop_vars("text").rename(text="word")
        made.append(Words(index, words, (maps[{"word": 0}] - maps[{"word": slice(1, None)}]).transpose("word", ...)))
    return tuple(made)


_GIVE_PICTURES = "--pictures FOLDER."


def _among_many(found: Battery, crowd: Sequence[Any], told: Told) -> Battery:
    """What takes many pictures: the texts that name heads, the sparse texts of this embedding, the centred lens."""
    case = found.case
    told(f"taking {len(crowd)} pictures apart")
    many = representation_decomposition(case.model, crowd, progress=False)
    centred = logit_lens(
        case.model, [case.picture, *crowd[:63]], found.own.texts, centre=len(case.texts) > 1, progress=False
    )
    found = replace(found, crowd=many, centred=centred if len(case.texts) > 1 else None)
    if case.bank is None:
        return found
    told("naming heads")
    picks = min(PICKS, len(case.bank), many.data.sizes["joint"])
    spans = text_span(many, case.bank, picks=picks, seed=case.seed, progress=False)
    told("writing the embedding as texts")
    mean = unit(torch.from_numpy(many["embedding"].values)).mean(0)
    return replace(found, spans=spans, splice=splice(found.own.parts, case.bank, mean=mean, seed=case.seed))


def _towards(parts: Decomposition, bank: TextBank, target: margin) -> xarray.DataArray:
    """What each head adds to the target, (item, layer, head)."""
    effect = parts.effect(bank, "heads")
    ours = effect.isel(text=target.text)
    return ours if target.rival is None else ours - effect.isel(text=target.rival).values


def _chance(parts: Decomposition, bank: TextBank, target: margin, seed: int) -> xarray.DataArray:
    """Each head's effect on random directions as long as the target's own, root mean square, (layer, head)."""
    words = unit(bank.embeddings)
    aim = words[target.text] if target.rival is None else words[target.text] - words[target.rival]
    noise = torch.randn(256, words.shape[1], generator=torch.Generator().manual_seed(seed))
    effect = parts.effect(noise.to(words.dtype), "heads").isel(item=0)
    return (effect**2).mean("text") ** 0.5 * float(aim.norm())


def _nearest(own: Measured, bank: TextBank) -> xarray.DataArray:
    """The cosine of the embedding with each text of the bank, the user's own in front."""
    whole = with_asked(own.texts, bank)
    embedding = torch.from_numpy(own.parts["embedding"].values).to(whole.embeddings.dtype)
    values = (unit(embedding) @ unit(whole.embeddings).T)[0].numpy()
    return xarray.DataArray(
        values, dims=("text",), coords={"text": list(whole.texts), "topic": ("text", list(whole.topics))}, name="cosine"
    )


# --- patching ---------------------------------------------------------------------------------------------------------


def _patched(found: Battery, counterfactual: Image.Image, told: Told) -> tuple[Battery, list[str]]:
    """Both patching maps, unless the model gives both pictures nearly the same number."""
    case = found.case
    told("measuring the counterfactual")
    other = measure(case.model, counterfactual, case.texts, case.target, case.seed)
    found = replace(found, other=other)
    gap = found.own.margin - other.margin
    if abs(gap) < LEAST:
        why = f"The model gives both pictures nearly the same number ({abs(gap):.3f} between them)"
        return found, [f"{why}, so there is nothing for patching to bring back."]
    told("patching, layer by layer")
    overs: tuple[Over, ...] = ("token", "head")
    patching: dict[str, Result] = {over: patch(case, case.picture, counterfactual, over) for over in overs}
    return replace(found, patching=patching, unrelated=_unrelated(case, counterfactual, gap, told)), []


def patch(case: Case, clean: Image.Image, counterfactual: Image.Image, over: Over) -> Result:
    """Activation patching from one picture into the other, by position of the residual stream or by head."""
    from cutaway.methods.causal_tracing import activation_patching

    inputs = [case.model.inputs(image=one, text=list(case.texts[:2])) for one in (clean, counterfactual)]
    sites: str | list[str] = "vision.*.attn.z"
    if over == "token":
        layers = case.model.sites.towers()["vision"]
        step = -(-layers * len(inputs[0].tokens["vision"]) // RUNS)
        sites = [f"vision.{layer}.resid_post" for layer in range((layers - 1) % step, layers, step)]
    return activation_patching(case.model, *inputs, sites=sites, over=(over,), target=case.target, progress=False)


def _unrelated(case: Case, counterfactual: Image.Image, gap: float, told: Told) -> xarray.DataArray | None:
    """What each head brings back when it comes from other pictures, in the same unit: root mean square over three."""
    if case.crowd is None:
        return None
    told("patching from unrelated pictures")
    strangers = [render(one) if isinstance(one, Scene) else one for one in case.crowd[:3]]
    effects = [patch(case, one, counterfactual, "head")["effect"] / gap for one in strangers]
    return (sum(effect**2 for effect in effects) / len(effects)) ** 0.5
