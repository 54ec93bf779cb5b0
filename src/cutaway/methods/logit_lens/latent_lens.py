"""Every layer and position of a model that writes, by the words in texts whose states are nearest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.logit_lens.heard import Heard, check_counts, hear
from cutaway.methods.logit_lens.laid import AXES, Positions, Spelling, known, laid, plain
from cutaway.methods.logit_lens.latent_bank import LatentBank, embedding_bank, exact, latent_bank
from cutaway.methods.result import Provenance, heat
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.words import token_id
from cutaway.questions.rows import Rows, tracked, unit

METHOD = "latent_lens"
SOURCE = "Krojer et al. 2026, arXiv 2602.00462 (LatentLens); the embedding lens as they compare it"
CHUNK = 2**24  # cosines at a time


@dataclass(frozen=True, eq=False, repr=False)
class LatentLens(Positions):
    """What each state is nearest to; layer -1 is what enters the first block.

    `near`, `near_id`, `near_cosine`, `near_layer`, `near_text`, `near_place` (prompt, layer, token, rank): the nearest
    entries of the bank: the word, its token, the cosine, the layer of the entry, and the number of its text (-1 in a
    table of word vectors) with the place in that. `word_cosine` (prompt, layer, token, word): the largest cosine with
    any entry of a word; NaN for a word that the bank lacks. `random_cosine` (layer), `random_word` (layer, word): the
    same for random directions, the mean of `draws`. `texts` (text): those of the bank.
    """

    main: ClassVar[str] = "near_cosine"

    def by_layer(self, token: int = -1, prompt: int = 0) -> Any:
        """What is nearest at each layer at one position (-1: the row's last), with the text it stands in."""
        here = self.data.isel(prompt=prompt, token=range(self.lengths[prompt])[token], rank=0)
        texts = [*map(str, self["texts"].values), ""]
        table = {
            "layer": here["layer"].values, "word": [plain(word) for word in here["near"].values],
            "cosine": here["near_cosine"].values, "random": self["random_cosine"].values,
            "of layer": here["near_layer"].values, "in the text": [texts[at] for at in here["near_text"].values],
        }  # fmt: skip
        columns = {name: ("line", np.asarray(values)) for name, values in table.items()}
        return xarray.Dataset(columns).to_dataframe().reset_index(drop=True)

    def summary(self) -> Any:
        """What is nearest at the last position of the first prompt, by layer."""
        return self.by_layer()

    def note(self) -> str:
        """How near chance comes, and which words the bank lacks."""
        chance = self["random_cosine"].values
        said = f"The nearest entry to a random direction has a cosine of {chance.min():.3f} to {chance.max():.3f}."
        words = self.data.coords["word"].values if "word" in self.data.coords else []
        lost = [str(word) for word in words if bool(self["random_word"].sel(word=word).isnull().all())]
        return f"{said} The bank has no {', no '.join(lost)}." if lost else said

    def _draw(self, ax: Axes) -> None:
        """The cosine of the nearest entry, at each layer and position of the first prompt."""
        shown = self["near_cosine"].isel(prompt=0, rank=0, token=slice(self.lengths[0]))
        heat(ax, shown, "cosine of the nearest entry")


@torch.no_grad()
def latent_lens(
    model: Model, inputs: Inputs, bank: LatentBank | Rows | None = None, words: Sequence[str | int] = (), *,
    tower: str = "text", top: int = 5, across: bool = False, centre: bool = False, draws: int = 64, seed: int = 0,
    progress: bool = True,
) -> LatentLens:  # fmt: skip
    """Find the words in texts whose states are nearest to each state, after every layer, at every position.

    For a state x_l the entries e of a bank with the largest cos(x_l - u, e_l - v), e_l of the same layer, or with
    `across` of any. The bank: a `LatentBank`, or texts of which one is made; without, the model's input vectors of
    words, the same at every layer (the embedding lens). u and v are zero, or with `centre` the means of that layer: u
    over the positions of the same kind (picture, text) in these inputs, v over the bank; pictures and words lie in
    two cones, and what all of a cone share drowns the rest. `words` are single tokens.

    Units: cosine. Source: Krojer et al. 2026, arXiv 2602.00462, section 3.2: plain cosine, against the states of all
    layers (`across`). Centring and the baseline are ours: the mean over `draws` random directions.

    What it can NOT tell: that the model uses what is found, or that a state *means* the word: it is the nearest of
    those that the bank has, near or not, and a bank of other texts finds others. States share a mean: an uncentred
    cosine far above that of random directions may be that mean alone.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> model = cutaway.load("tiny:llava")
    >>> inputs = model.inputs(image=tiny.picture(), text="what is this")
    >>> found = latent_lens(model, inputs, ["a red dog", "a cat on the left"], ["dog"], top=2, progress=False)
    >>> found["near"].dims, found.on_grid("word_cosine").dims
    (('prompt', 'layer', 'token', 'rank'), ('layer', 'word', 'row', 'col'))
    """
    started = time.perf_counter()
    if bank is None:
        bank = embedding_bank(model, tower=tower)
    elif not isinstance(bank, LatentBank):
        bank = latent_bank(model, bank, tower=tower, progress=progress)
    bank.fits(model, tower)
    heard = hear(model, inputs, tower)
    ids = [token_id(heard.run, word) for word in words]
    check_counts(top, draws, len(bank.tensors["token"]))
    near = _Near(heard, bank, ids, top, across, centre)
    kinds = known(heard, inputs, tower)
    read = [near(layer, kinds) for layer in tracked(heard.layers, "comparing", len(heard.layers), show=progress)]
    chance = near.chance(draws, seed)
    spelled = Spelling(model.tokenizer)
    asked = [word if isinstance(word, str) else spelled(word) for word in words]
    data = _table(heard, read, chance, bank, asked, spelled).assign_coords(kinds)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=heard.sites, seed=seed, tower=tower, top=top, draws=draws,
        words=asked, through=bank.through, entries=len(bank.tensors["token"]), across=across, centre=centre,
    )  # fmt: skip
    return LatentLens(data, told)


def embedding_lens(
    model: Model, inputs: Inputs, words: Sequence[str | int] = (), *, tower: str = "text", top: int = 5,
    centre: bool = False, draws: int = 64, seed: int = 0, progress: bool = True,
) -> LatentLens:  # fmt: skip
    """Find the words whose input vectors are nearest to each state, after every layer, at every position.

    `latent_lens` without texts: e are the rows of the model's own table of word vectors, the same at every layer.

    What it can NOT tell: what a layer says in a basis of its own, which words enter in another; the nearest row may
    be far (see `random_cosine`).

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> print(embedding_lens(model, model.inputs(text="a red dog"), progress=False)["near"].values[0, 0, -1, 0])
    dog
    """
    return latent_lens(
        model, inputs, None, words, tower=tower, top=top, centre=centre, draws=draws, seed=seed, progress=progress
    )


@dataclass(frozen=True, eq=False)
class _Near:
    """States against the bank, a layer at a time."""

    heard: Heard
    bank: LatentBank
    ids: list[int]
    top: int
    across: bool
    centre: bool

    def __call__(self, layer: int, kinds: dict[str, Any]) -> dict[str, Tensor]:
        """The nearest entries of one layer's states, (position, …)."""
        count = int(self.heard.own.sum())
        states = exact(self.heard.states(self.heard.sites[layer + 1], torch.arange(count))).cpu()
        if self.centre:
            states = states - self._means(states, kinds)
        entries, of = self._entries(layer)
        parts = [self._read(part, entries, of) for part in unit(states).split(max(1, CHUNK // len(entries)))]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _means(self, states: Float[Tensor, "n d"], kinds: dict[str, Any]) -> Float[Tensor, "n d"]:
        """The mean of the states of the same kind, pictures or others, for each."""
        pictured = torch.from_numpy((kinds["token_kind"][1] == "image")[kinds["token_kind"][1] != ""])
        means = torch.zeros_like(states)
        for mask in (pictured, ~pictured):
            if mask.sum() == 1:
                raise MethodError(
                    "the mean of one position is the position", expected="two pictures' or other positions at least",
                    do="give longer inputs, or leave `centre` out",
                )  # fmt: skip
            means[mask] = states[mask].mean(0) if mask.any() else 0
        return means

    def _entries(self, layer: int) -> tuple[Float[Tensor, "m d"], Int[Tensor, "m"]]:
        """The bank's directions that a layer's states are held against, and of which layer each is."""
        chosen = list(self.heard.layers) if self.across and len(self.bank.tensors["states"]) > 1 else [layer]
        each = [self.bank.layer(one) for one in chosen]
        each = [one - one.mean(0) if self.centre else one for one in each]
        return unit(torch.cat(each)), torch.tensor(chosen).repeat_interleave(len(each[0]))

    def _read(
        self, states: Float[Tensor, "n d"], entries: Float[Tensor, "m d"], of: Int[Tensor, "m"]
    ) -> dict[str, Tensor]:
        cosine = states @ entries.to(states).T
        best = cosine.topk(self.top)
        number = best.indices % len(self.bank.tensors["token"])
        kept = {
            "near_cosine": best.values, "near_id": self.bank.tensors["token"][number], "near_layer": of[best.indices],
            "near_text": self.bank.tensors["text"][number], "near_place": self.bank.tensors["place"][number],
        }  # fmt: skip
        if self.ids:
            kept["word_cosine"] = torch.stack([self._word(cosine, one) for one in self.ids], -1)
        return kept

    def _word(self, cosine: Float[Tensor, "n m"], token: int) -> Float[Tensor, "n"]:
        """The largest cosine with any entry of a word."""
        mine = self.bank.entries(token).repeat(cosine.shape[1] // len(self.bank.tensors["token"]))
        return cosine[:, mine].amax(1) if mine.any() else torch.full_like(cosine[:, 0], torch.nan)

    def chance(self, draws: int, seed: int) -> dict[str, ndarray]:
        """The mean of the largest cosines of random directions, by layer."""
        dice, found = torch.Generator().manual_seed(seed), []
        for layer in self.heard.layers:
            entries, of = self._entries(layer)
            noise = unit(torch.randn(draws, entries.shape[1], generator=dice, dtype=torch.float64))
            found.append(self._read(noise.to(entries), entries, of))
        made = {"random_cosine": torch.stack([one["near_cosine"][:, 0].mean() for one in found]).numpy()}
        if self.ids:
            made["random_word"] = torch.stack([one["word_cosine"].mean(0) for one in found]).numpy()
        return made


def _table(
    heard: Heard, read: list[dict[str, Tensor]], chance: dict[str, ndarray], bank: LatentBank, words: list[str],
    spelled: Spelling,
) -> xarray.Dataset:  # fmt: skip
    """Every number at its prompt, layer and position."""
    whole = {name: laid(heard, torch.stack([one[name] for one in read]).numpy()) for name in read[0]}
    data: dict[str, Any] = {"near": ((*AXES, "rank"), np.vectorize(spelled, otypes=[str])(whole["near_id"]))}
    data |= {name: ((*AXES, "word" if name == "word_cosine" else "rank"), values) for name, values in whole.items()}
    data |= {name: (("layer", "word")[: values.ndim], values) for name, values in chance.items()}
    data["texts"] = "text", np.array([text.replace("\0", "\\0") for text in bank.texts], dtype=str)
    ranks = range(1, whole["near_id"].shape[-1] + 1)
    return xarray.Dataset(
        data, coords={"layer": np.array(heard.layers), "rank": ranks, **({"word": words} if words else {})}
    )
