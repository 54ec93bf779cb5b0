"""Single units described: where they answer, in which pictures, what they write, and what they do to a number."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.network_dissection.unit_maps import TEXT, Posed, scenes_of, unit_site
from cutaway.methods.neuron_descriptions.exemplars import (
    WORDS,
    Profile,
    entropy,
    exemplar_maps,
    exemplar_texts,
    profile,
)
from cutaway.methods.neuron_descriptions.unit_effects import FACTORS, Effects, attribution, effects
from cutaway.methods.neuron_descriptions.write_vectors import written
from cutaway.methods.result import Provenance, Result
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.questions.bank import TextBank
from cutaway.questions.rows import reads_words

SOURCE = "Goh et al. 2021 (Distill), Geva et al. 2021 arXiv 2012.14913, Tang et al. 2024 arXiv 2402.16438"


@dataclass(frozen=True, eq=False, repr=False)
class Neurons(Result):
    """Units of one site, described.

    `mean`, `size`, `peak` (unit): the mean activation and its mean size over patches, the strongest patch. `picture`,
    `activation` (unit, rank): the pictures with the strongest patches; `map` (unit, rank, row, col) where in them;
    `threshold` (unit): what 1 in 200 patches is above. `text` (unit, text_rank, told), `text_activation`: of a tower
    that reads, the strongest texts, each with the word there. `domain_entropy`, `domain_null` (unit, domain): 1 if as
    positive in all sorts of pictures, 0 if in one; the same with pictures sorted by chance. `modality_entropy` (unit),
    of a decoder: 1 if as active at words as at patches; `at_image` the share of patches in that. `word`, `write` (unit,
    word_rank), `write_random` (unit): what the unit writes, in words. `attribution` (unit): gradient x activation;
    `change` (unit, factor), `matched` (unit, control, factor): what multiplying the unit, or one as active, changes;
    `as_active` (unit, control): the mean size of the control over that of the unit on these inputs. Units that move a
    number most can be more active than any other: then this is far below 1, and the comparison says less.
    """

    main: ClassVar[str] = "map"

    def summary(self) -> Any:
        """A row a unit."""
        kept = [name for name in ("mean", "peak", "modality_entropy", "attribution") if name in self.data]
        table = self.data[kept].to_dataframe()
        for domain in self["domain"].values:
            table[f"entropy {domain}"] = self["domain_entropy"].sel(domain=domain).values
        if "word" in self.data:
            table["writes"] = [", ".join(map(str, row[:3])) for row in self["word"].values]
        if "change" in self.data:
            table["ablated"] = self["change"].sel(factor=0.0).values
            table["others ablated"] = np.abs(self["matched"].sel(factor=0.0)).mean("control").values
        return table.reset_index()

    def _draw(self, ax: Axes) -> None:
        if "change" in self.data:
            for unit in self["unit"].values:
                ax.plot(self["factor"], self["change"].sel(unit=unit), marker="o", label=f"unit {unit}")
            ax.plot(self["factor"], np.abs(self["matched"]).mean(("unit", "control")), color="grey", label="others")
            ax.set(xlabel="activation times", ylabel="change of the number")
            ax.legend(fontsize=6)
            return
        ax.imshow(np.concatenate([np.concatenate(list(row), 1) for row in self["map"].values], 0))
        ax.set(xlabel="strongest pictures", ylabel="units", xticks=(), yticks=())


def neuron_descriptions(
    model: Model, scenes: Sequence[Any], *, inputs: Inputs | None = None,
    target: Callable[[Run], Tensor] | None = None, bank: TextBank | None = None, texts: Sequence[str] | None = None,
    site: str = "", units: Sequence[int] | None = None, many: int = 8, top: int = 6,
    factors: Sequence[float] = FACTORS, controls: int = 6, writes: Float[Tensor, "unit d_model"] | None = None,
    text: str = TEXT, step: int | None = None, batch: int = 32, seed: int = 0, progress: bool = True,
) -> Neurons:  # fmt: skip
    """Describe units of a site: exemplars with masks, entropies, what they write, what they do to a number.

    Exemplars: the `top` pictures by the strongest patch, max_j a_kj; of a decoder those of `texts` too. Entropies:
    H_k = -sum_d p_kd log p_kd / log D; p_kd the share of pictures of sort d in the unit's mean positive activations; of
    a decoder the same over words and patches, with sizes of activations. Writes: W_out[k] through the read-out
    (`write_vectors.written`), or the rows of `writes`, one for each unit of the site. With `inputs` and a `target`:
    g_k = sum a_k d y / d a_k, and the number with the unit times each of `factors`, beside `controls` units of the site
    that are as active on these inputs.

    `units` are those described; else the `many` with the largest |g_k|, or without a slope those whose strongest patch
    stands out most (peak / mean size). `site`, `text` and `step` as for `network_dissection`.

    Units: activations as they are; entropies from 0 to 1; scores of words as `written` says; changes in those of the
    target. Sources: exemplars and multimodal units Goh et al. 2021 (Distill); write vectors Geva et al. 2021, arXiv
    2012.14913; entropy over domains Tang et al. 2024, arXiv 2402.16438, who take shares of active positions. Baselines:
    sorts by chance, random write vectors, units as active. For the floor describe `question.floor`'s model.

    What it can NOT tell: that a unit is about what its strongest pictures share (look at `network_dissection`), or what
    it does together with others; a word that it writes is no effect.

    >>> import cutaway
    >>> from cutaway.data import scenes
    >>> model = cutaway.load("tiny:clip")
    >>> made = neuron_descriptions(model, list(scenes("test", 12)), many=3, top=2, progress=False)
    >>> made["map"].dims, made["map"].shape
    (('unit', 'rank', 'row', 'col'), (3, 2, 4, 4))
    """
    started = time.perf_counter()
    known, chosen = scenes_of(scenes), unit_site(model, site)
    posed = Posed(text, step, seed=seed)
    found = profile(model, known, chosen, posed, top=top, batch=batch, seed=seed, progress=progress)
    given, size = attribution(model, inputs, target, chosen) if inputs and target else (None, None)
    moved = given if given is not None and bool(given.any()) else None  # a distance has no slope where it is zero
    picked = _picked(units, many, found, moved)
    data = _profiled(found, picked)
    items = found.top.items.T[picked].tolist()
    laid = exemplar_maps(model, known, chosen, posed, items, picked, batch=batch)
    data["map"] = (("unit", "rank", "row", "col"), laid)
    _words(data, model, chosen, picked, bank, writes, seed)
    if texts is not None and reads_words(model, chosen.tower) and model.engine.pipeline is None:
        named, strength = exemplar_texts(model, texts, chosen, picked, top=top, batch=batch)
        data["text"] = (("unit", "text_rank", "told"), np.array(named, dtype=str))
        data["text_activation"] = (("unit", "text_rank"), strength.numpy())
    if inputs is not None and target is not None and given is not None and size is not None:
        made = effects(model, inputs, target, chosen, picked, size, factors=factors, controls=controls, seed=seed)
        data = _moved(data, made, given, size, picked, factors)
    told = Provenance.of(
        "neuron_descriptions", SOURCE, started=started, model=model, sites=(str(chosen),), seed=seed, scenes=len(known),
        text=text, step=step, chosen="given" if units is not None else "by peak" if moved is None else "by attribution",
    )  # fmt: skip
    return Neurons(data, told)


def _picked(units: Sequence[int] | None, many: int, found: Profile, given: Tensor | None) -> list[int]:
    """The units that are described."""
    total = len(found.mean)
    if units is not None:
        odd = [one for one in units if not 0 <= one < total]
        if odd or not len(units):
            raise MethodError(
                f"no unit {odd[0]}" if odd else "no unit to describe", expected=f"numbers from 0 to {total - 1}",
                do="name units of the site by their numbers",
            )  # fmt: skip
        return [int(one) for one in units]
    score = given.abs() if given is not None else found.top.values[0].cpu() / found.size.clamp_min(1e-12)
    return [int(one) for one in score.topk(min(many, total)).indices]


def _profiled(found: Profile, picked: list[int]) -> xarray.Dataset:
    """What one pass over the pictures says of the units."""
    domains = list(found.domains)
    even = {name: [entropy(getattr(found, name)[one])[picked] for one in domains] for name in ("domains", "null")}
    data = xarray.Dataset(
        {
            "mean": ("unit", found.mean[picked].numpy()),
            "size": ("unit", found.size[picked].numpy()),
            "peak": ("unit", found.top.values[0, picked].cpu().numpy()),
            "threshold": ("unit", found.threshold[picked].numpy()),
            "picture": (("unit", "rank"), found.top.items.T[picked].cpu().numpy()),
            "activation": (("unit", "rank"), found.top.values.T[picked].cpu().numpy()),
            "domain_entropy": (("domain", "unit"), np.array(even["domains"]).reshape(len(domains), len(picked))),
            "domain_null": (("domain", "unit"), np.array(even["null"]).reshape(len(domains), len(picked))),
        },
        coords={"unit": picked, "domain": domains},
    )  # fmt: skip
    if set(WORDS) <= set(found.kinds):
        both = torch.stack([found.kinds[kind][picked] for kind in WORDS]).double().numpy()
        data["modality_entropy"] = ("unit", entropy(both))
        data["at_image"] = ("unit", both[1] / np.maximum(both.sum(0), 1e-12))
    return data


def _moved(
    data: xarray.Dataset, made: Effects, given: Float[Tensor, "all"], size: Float[Tensor, "all"], picked: list[int],
    factors: Sequence[float],
) -> xarray.Dataset:  # fmt: skip
    """The same with what the units do to the number."""
    ratio = size[torch.from_numpy(made.controls)].numpy() / size[picked].numpy()[:, None].clip(1e-30)
    data["attribution"] = ("unit", given[picked].numpy())
    data["change"] = (("unit", "factor"), made.change)
    data["matched"] = (("unit", "control", "factor"), made.matched)
    data["as_active"] = (("unit", "control"), ratio)
    return data.assign_coords(factor=list(map(float, factors)))


def _words(
    data: xarray.Dataset, model: Model, site: Site, picked: list[int], bank: TextBank | None, writes: Tensor | None,
    seed: int,
) -> None:  # fmt: skip
    """What the units write, where their tower ends in words and it is known what they write."""
    known = writes is not None or (site.part == "mlp.post" and site.stream is None) or site.part.startswith("resid_")
    said = written(model, site, picked, bank=bank, writes=writes, seed=seed) if known else None
    if said is not None:
        data["word"] = (("unit", "word_rank"), np.array(said.words, dtype=str))
        data["write"] = (("unit", "word_rank"), said.scores.numpy())
        data["write_random"] = ("unit", said.random.numpy())
