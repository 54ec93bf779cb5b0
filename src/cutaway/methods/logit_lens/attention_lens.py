"""What each attention head of a model that writes adds at every position, read in words through the model's end."""

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
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.logit_lens.heard import Heard, as_long, check_counts, hear
from cutaway.methods.logit_lens.laid import Positions, Spelling, known, laid, plain
from cutaway.methods.result import Provenance, heat
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.weights import Readout, head_weights, readout
from cutaway.model.words import token_id
from cutaway.questions.rows import tracked

METHOD = "attention_lens"
SOURCE = "Dar et al. 2022, arXiv 2209.02535 (heads read in the vocabulary); Elhage et al. 2021 (direct paths)"
CHUNK = 2**22  # logits at a time


@dataclass(frozen=True, eq=False, repr=False)
class AttentionLens(Positions):
    """What each head adds to the logits of a position, were nothing behind it; in logits.

    `top`, `top_id`, `top_logit` (prompt, layer, head, token, rank): the words that a head adds most to. Of the words
    asked for: `word_logit` (prompt, layer, head, token, word), and `bias_logit` (prompt, layer, token, word), what the
    bias behind the heads adds. `random_top` (layer), `random_logit` (layer, word): of random directions as long as what
    the heads write, the mean of the largest, and the root mean square.
    """

    main: ClassVar[str] = "top_logit"

    def by_head(self, token: int = -1, prompt: int = 0, count: int = 10) -> Any:
        """At one position (-1: the row's last), the heads that add most to any word, as a table."""
        here = self.data.isel(prompt=prompt, token=range(self.lengths[prompt])[token])
        size = here["top_logit"].isel(rank=0)
        layers, heads = np.unravel_index(np.argsort(-size.values, axis=None)[:count], size.shape)
        picked = here.isel(layer=xarray.DataArray(layers, dims="line"), head=xarray.DataArray(heads, dims="line"))
        table: dict[str, Any] = {
            "layer": picked["layer"].values, "head": picked["head"].values,
            "words": [", ".join(map(plain, words)) for words in picked["top"].transpose("line", "rank").values],
            "logit": picked["top_logit"].isel(rank=0).values,
            "random": self["random_top"].values[layers],
        }  # fmt: skip
        for i, word in enumerate(self.words):
            table[f"to {plain(word)}"] = picked["word_logit"].isel(word=i).values
        columns = {name: ("line", np.asarray(values)) for name, values in table.items()}
        return xarray.Dataset(columns).to_dataframe().reset_index(drop=True)

    def summary(self) -> Any:
        """The heads that add most to any word at the last position of the first prompt."""
        return self.by_head()

    @property
    def words(self) -> list[str]:
        """The words that were asked for."""
        return [str(word) for word in self["word"].values] if "word" in self.data.coords else []

    def _draw(self, ax: Axes) -> None:
        """Layer by head at the last position: the first of the words asked for, or the largest logit of any."""
        here = self.data.isel(prompt=0, token=self.lengths[0] - 1)
        if self.words:
            heat(ax, here["word_logit"].isel(word=0), f"logits to {plain(self.words[0])}", diverging=True)
        else:
            heat(ax, here["top_logit"].isel(rank=0), "largest logit of any word")


@torch.no_grad()
def attention_lens(
    model: Model, inputs: Inputs, words: Sequence[str | int] = (), *, tower: str = "text", top: int = 5,
    draws: int = 256, seed: int = 0, progress: bool = True,
) -> AttentionLens:  # fmt: skip
    """Read what every attention head writes, at every position, in words through the model's own end.

    A head writes h = z W at a position; it adds P g (h - m) / s to the logits there: g the gain of the last norm, m the
    mean of h where that norm takes it out, s the norm's own denominator in this run, P the unembedding. So the
    heads of a layer and its bias add up to the same reading of `attn.out`. `words` are single tokens.

    Units: logits, before what a class does behind its unembedding (a bound). Source: projecting heads on the
    vocabulary (Dar et al. 2022, arXiv 2209.02535; Elhage et al. 2021). No lens is trained for each head, as Sakarvadia
    et al. 2023 (arXiv 2310.16270) do. Beside it random directions as long as what heads write.

    What it can NOT tell: what later layers make of it: only the direct path is read. A head that moves something in a
    basis of its own, for a later one to read, seems to say nothing.

    >>> import cutaway
    >>> model = cutaway.load("tiny:llama")
    >>> found = attention_lens(model, model.inputs(text="a red dog"), ["dog"], progress=False)
    >>> found["word_logit"].dims
    ('prompt', 'layer', 'head', 'token', 'word')
    """
    started = time.perf_counter()
    check_heads(model, tower)
    heads = [f"{tower}.{layer}.attn.z" for layer in range(model.sites.towers()[tower])]
    heard = hear(model, inputs, tower, (*heads, f"{tower}.norm.scale"))
    ids = [token_id(heard.run, word) for word in words]
    reader = _Reader(model, heard, readout(model, tower), ids, top)
    reader.check(draws)
    read = [reader.layer(site) for site in tracked(heads, "reading heads", len(heads), show=progress)]
    dice = torch.Generator().manual_seed(seed)
    chance = [reader.chance(site, draws, dice) for site in heads]
    spelled = Spelling(model.tokenizer)
    asked = [word if isinstance(word, str) else spelled(word) for word in words]
    data = _table(heard, read, chance, asked, spelled).assign_coords(known(heard, inputs, tower))
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=tuple(heads), seed=seed, tower=tower, top=top, draws=draws,
        words=asked,
    )  # fmt: skip
    return AttentionLens(data, told)


def check_heads(model: Model, tower: str) -> None:
    """Raise MethodError, or SiteError, for a model in which what a head writes does not reach the logits as a sum."""
    lost = [name for name in ("0.attn.z", "norm.scale", "logits") if f"{tower}.{name}" not in model.sites]
    if lost or readout(model, tower).space != f"{tower}.logits":
        raise MethodError(
            f"what the heads of '{tower}' write is not read by a last norm and an unembedding",
            expected="a decoder with attention heads, a last norm and an unembedding behind it",
            exists=f"no {', no '.join(lost)}" if lost else f"its end is {readout(model, tower).space}",
            do="read its states with `word_lens`",
        )  # fmt: skip
    head_weights(model, tower, 0)


@dataclass(frozen=True, eq=False)
class _Reader:
    """Heads of a layer at all own positions, boiled down to their first words and those asked for."""

    model: Model
    heard: Heard
    end: Readout
    ids: list[int]
    top: int

    @property
    def tower(self) -> str:
        return self.heard.voice.tower

    def check(self, draws: int) -> None:
        """Raise MethodError unless there are words and draws to give."""
        check_counts(self.top, draws, self.end.weight.shape[1], self.ids)

    def layer(self, site: str) -> dict[str, Tensor]:
        """The numbers of every head at every own position, (position, head, …)."""
        weight, bias = self._weights(site)
        count, heads = int(self.heard.own.sum()), len(weight)
        parts = torch.arange(count).split(max(1, CHUNK // (heads * self.end.weight.shape[1])))
        read = [self._read(torch.einsum("nhe,hed->nhd", self._z(site, at), weight), self._scale(at)) for at in parts]
        found = {name: torch.cat([part[name] for part in read]).cpu() for name in read[0]}
        if self.ids:
            whole = torch.arange(count)
            found["bias_logit"] = self._toward(bias.expand(count, -1), self._scale(whole)).cpu()
        return found

    def chance(self, site: str, draws: int, dice: torch.Generator) -> dict[str, Tensor]:
        """The same for random directions as long as what heads of the layer write at positions chosen by chance."""
        weight, _ = self._weights(site)
        at = torch.randint(int(self.heard.own.sum()), (draws,), generator=dice)
        head = torch.randint(len(weight), (draws,), generator=dice)
        wrote = torch.einsum("ne,ned->nd", self._z(site, at)[torch.arange(draws), head], weight[head])
        noise = as_long(torch.randn(wrote.shape, generator=dice, dtype=torch.float64), wrote)
        read = self._read(noise[:, None], self._scale(at))
        made = {"random_top": read["top_logit"][:, 0, 0].mean()}
        return made | ({"random_logit": read["word_logit"][:, 0].pow(2).mean(0).sqrt()} if self.ids else {})

    def _weights(self, site: str) -> tuple[Float[Tensor, "head d_head d_model"], Float[Tensor, "d_model"]]:
        weight, bias = head_weights(self.model, self.tower, int(site.split(".")[1]))
        return self._exact(weight), self._exact(bias)

    def _z(self, site: str, at: Int[Tensor, "m"]) -> Float[Tensor, "m head d_head"]:
        return self._exact(self.heard.states(site, at))

    def _scale(self, at: Int[Tensor, "m"]) -> Float[Tensor, "m"]:
        return self._exact(self.heard.states(f"{self.tower}.norm.scale", at))

    def _read(self, wrote: Float[Tensor, "m head d_model"], scale: Float[Tensor, "m"]) -> dict[str, Tensor]:
        logits = (wrote / scale[:, None, None]) @ self._exact(self.end.matrix).T
        best = logits.topk(self.top)
        kept = {"top_id": best.indices, "top_logit": best.values}
        return kept | ({"word_logit": logits[..., self.ids]} if self.ids else {})

    def _toward(self, wrote: Float[Tensor, "m d_model"], scale: Float[Tensor, "m"]) -> Float[Tensor, "m word"]:
        return (wrote / scale[:, None]) @ self._exact(self.end.matrix[self.ids]).T

    def _exact(self, x: Tensor) -> Tensor:
        """In single precision at least, where the end of the tower lies."""
        return x.to(self.end.weight.device, torch.promote_types(x.dtype, torch.float32))


def _table(
    heard: Heard, read: list[dict[str, Tensor]], chance: list[dict[str, Tensor]], words: list[str], spelled: Spelling
) -> xarray.Dataset:
    """Every number at its prompt, layer, head and position."""
    whole = {name: laid(heard, torch.stack([one[name] for one in read]).numpy()) for name in read[0]}
    whole = {name: x if name == "bias_logit" else np.moveaxis(x, 3, 2) for name, x in whole.items()}
    axes = ("prompt", "layer", "head", "token")
    data: dict[str, Any] = {"top": ((*axes, "rank"), np.vectorize(spelled, otypes=[str])(whole["top_id"]))}
    for name, values in whole.items():
        here = ("prompt", "layer", "token") if name == "bias_logit" else axes
        data[name] = (*here, "rank" if name.startswith("top") else "word"), values
    for name in chance[0]:
        values = torch.stack([one[name] for one in chance]).cpu().numpy()
        data[name] = ("layer", "word")[: values.ndim], values
    sizes = whole["top_id"].shape
    coords = {"layer": range(sizes[1]), "head": range(sizes[2]), "rank": range(1, sizes[-1] + 1)}
    return xarray.Dataset(data, coords={**coords, **({"word": words} if words else {})})
