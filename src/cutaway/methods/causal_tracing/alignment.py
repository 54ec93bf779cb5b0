"""Where a variable lies: a subspace that, taken over from another input, makes the answer what the variable says."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from numpy import ndarray
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.causal_tracing.patched import DRAWS, interval
from cutaway.methods.result import Provenance, Result
from cutaway.model.edits import Add
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import Site
from cutaway.model.targets import Target, numbers, of_rows
from cutaway.model.tokens import Where
from cutaway.questions.pairs import batches, same_positions, sides
from cutaway.questions.rows import Rows, tracked

METHOD = "distributed_alignment_search"
SOURCE = (
    "Geiger et al. 2023, arXiv 2303.02536 (DAS); Geiger et al. 2021, arXiv 2106.02997 (interchange); MIB, 2504.13151"
)
KINDS = ("das", "difference of means", "probe", "whole", "random", "none")
CHANCES = 5


@dataclass(frozen=True, eq=False, repr=False)
class Alignment(Result):
    """Interchange accuracy on held-out rows: the share that is answered as the variable's other value says.

    `iia` (kind) with a 95 % bootstrap interval over rows (`low`, `high`), `margin` (kind): the mean target. Kinds:
    `das`, the fitted subspace; `difference of means` and `probe` (NaN without labels); the `whole` state; `random`
    subspaces of that size (mean of several); `none`: nothing taken over. `directions` (dim, unit): the fitted subspace,
    orthonormal. `loss` (step): of the fit.
    """

    main: ClassVar[str] = "iia"

    def summary(self) -> Any:
        """Every kind."""
        return self.data[["iia", "low", "high", "margin"]].to_dataframe().reset_index()

    def note(self) -> str:
        """How large the subspace is, and on how many rows."""
        sizes, told = self.data.sizes, self.provenance.options
        return (
            f"{sizes['dim']} of {sizes['unit']} dimensions of '{self.provenance.sites[0]}', fitted on {told['fitted']} "
            f"rows, measured on {told['held']} others."
        )

    def _draw(self, ax: Axes) -> None:
        shown = self["iia"].dropna("kind")
        places, names = np.arange(shown.sizes["kind"]), [str(one) for one in shown["kind"].values]
        low, high = (self[name].sel(kind=names).values for name in ("low", "high"))
        ax.bar(places, shown, yerr=np.nan_to_num([shown.values - low, high - shown.values]))
        ax.set_xticks(places, names, rotation=20)
        ax.set(ylabel="interchange accuracy", ylim=(0, 1.05))


def distributed_alignment_search(
    model: Model, clean: Rows, source: Rows | None = None, target: Target | None = None, *,
    site: str | Site, head: int | None = None, at: int | Where | None = None, dims: int = 1,
    labels: Sequence[Any] | None = None, steps: int = 100, rate: float = 0.05, held: float = 0.5, seed: int = 0,
    batch: int = 16, progress: bool = True,
) -> Alignment:  # fmt: skip
    """Fit a subspace of one state such that taking it over from a source input makes the answer follow the source.

    x <- x + Q Q' (x_s - x) at `site` (of one `head`) and positions `at` (a number, or `Where`; all), x_s the state of
    the source row there, Q orthonormal with `dims` columns, fitted by gradient descent on mean softplus(-m), m the
    `target` of each row: above 0 where the row is answered as it should be once the variable has the value of the
    source (`logit_diff(expected, otherwise)`, an entry a row). Interchange accuracy (IIA) = the share of rows with
    m > 0, on the share `held` of rows that the fit has not seen. `labels`: the value that the variable has in each
    source row; then the span of their mean states (`difference of means`) and of a linear probe's weights (`probe`) are
    measured as well, cut to `dims`.

    Units: shares of rows. Source: Geiger et al. 2023 (2303.02536); kinds to compare with as in MIB (2504.13151). Q is
    the orthonormal factor of a free matrix, where the paper keeps a whole rotation. `random` and `none` are ours.

    Raises MethodError for rows that do not line up, and for too many dimensions.

    What it can NOT tell: that the model has the variable. With enough dimensions a fit finds a way through states that
    the model never uses for it (Makelov et al. 2023, 2311.17030): read `das` against `whole` and against the untrained
    twin at the same place, and keep `dims` small.

    >>> import cutaway
    >>> from cutaway.model.targets import logit_diff
    >>> model = cutaway.load("tiny:llama", dtype="float64")
    >>> rows = ["a red dog", "a red cat", "a blue dog"], ["a blue dog", "a blue cat", "a red dog"]
    >>> options = {"site": "text.1.resid_post", "at": -1, "steps": 3, "progress": False}
    >>> found = distributed_alignment_search(model, *rows, logit_diff("dog", "cat"), **options)
    >>> found["iia"].dims, found["directions"].shape
    (('kind',), (1, 32))
    """
    started = time.perf_counter()
    place = model.sites.one(site)
    one, other, aim = sides(model, clean, source, target, place.tower)
    rows = _Rows(model, place, head, at, one, other, aim, batch)
    width, count = rows.parts[0].fall.shape[-1], sum(len(part.fall) for part in rows.parts)
    if not 0 < dims <= width or steps < 1 or not 0 < held < 1 or count < 2:
        raise MethodError(
            f"{dims} dimensions, {steps} steps, {held} held out of {count} rows",
            expected=f"1 to {width} dimensions, a step at least, two rows, a share between 0 and 1",
            do="the defaults are one dimension, half of the rows held out",
        )  # fmt: skip
    dice = np.random.default_rng(seed)
    order = dice.permutation(count)
    fitted, kept = order[: count - round(count * held)], order[count - round(count * held) :]
    directions, losses = _fit(rows, fitted, dims, steps, rate, seed, progress)
    spans = {"das": directions, **_labelled(rows, fitted, labels, dims)}
    margins = _margins(rows, kept, spans, width, dims, seed)
    data = _table(margins, directions, losses, seed)
    told = Provenance.of(
        METHOD, SOURCE, started=started, model=model, sites=(str(place),), seed=seed, at=repr(at), dims=dims,
        steps=steps, rate=rate, fitted=len(fitted), held=len(kept), target=repr(aim), draws=CHANCES, bootstrap=DRAWS,
    )  # fmt: skip
    return Alignment(data, told)


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Part:
    """Rows that run together: inputs, target, the mean states of the sources, and how these differ at each position."""

    inputs: Inputs
    target: Any
    source: Float[Tensor, "row width"]
    fall: Float[Tensor, "row token width"]


class _Rows:
    """All rows of a call, and what their target is when part of the difference is added."""

    def __init__(
        self, model: Model, site: Site, head: int | None, at: Any, one: Any, other: Any, target: Target, batch: int
    ) -> None:
        self.model, self.site = model, site
        self.where: dict[str, Any] = {} if head is None else {"head": head}
        self.parts: list[_Part] = []
        for start, stop, here, there in batches(model, one, other, site.tower, batch):
            same_positions(here, there, site.tower, start)
            here_run, there_run = (model.run(inputs, record=site, stop=True) for inputs in (here, there))
            own, others = (run[site] if head is None else run[site][..., head, :] for run in (here_run, there_run))
            read = _read(here, site, at, own.shape[:2]).to(own.device)
            aim = of_rows(target, start, stop) if stop else target
            source = (others * read[..., None]).sum(1) / read.sum(1, keepdim=True)
            self.parts.append(_Part(here, aim, source, (others - own) * read[..., None]))

    def margins(self, part: _Part, span: Tensor | None, *, grad: bool = False) -> Float[Tensor, "row"]:
        """The target of each row once the span's part of the difference is taken over; None: all of it."""
        moved = part.fall if span is None else (part.fall @ span.to(part.fall)) @ span.to(part.fall).T
        edit = Add(self.site, moved, **self.where)
        with torch.set_grad_enabled(grad):
            run = self.model.run(part.inputs, edits=[edit], grad=grad)
            return numbers(part.target, run)

    def of(self, chosen: ndarray) -> Iterator[tuple[_Part, Tensor]]:
        """Every part with which of its rows are chosen."""
        start = 0
        for part in self.parts:
            rows = np.flatnonzero(np.isin(np.arange(start, start + len(part.fall)), chosen))
            start += len(part.fall)
            if len(rows):
                yield part, torch.from_numpy(rows)


def _read(inputs: Inputs, site: Site, at: int | Where | None, size: Sequence[int]) -> Bool[Tensor, "row token"]:
    """Which positions of each row are taken over: a number counts along the row's own."""
    own = inputs.own(site, "token")
    there = torch.ones(*size, dtype=torch.bool) if own is None else own
    if at is None:
        return there
    if isinstance(at, Where):
        return at.resolve(inputs.map_for(site, "token", size[1])).expand(*size)
    found = torch.zeros_like(there)
    for row, mine in enumerate(there):
        found[row, mine.nonzero().flatten()[at]] = True
    return found


def _fit(
    rows: _Rows, chosen: ndarray, dims: int, steps: int, rate: float, seed: int, progress: bool
) -> tuple[Float[Tensor, "width dim"], list[float]]:
    """The subspace with the least mean softplus(-m) over the chosen rows, by Adam."""
    width = rows.parts[0].fall.shape[-1]
    dice = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        free = torch.linalg.qr(torch.randn(width, dims, generator=dice, dtype=torch.float32)).Q.requires_grad_()
        adam, losses = torch.optim.Adam([free], lr=rate), []
        for _ in tracked(range(steps), "fitting", steps, show=progress):
            total, slope = 0.0, torch.zeros_like(free)
            for part, some in rows.of(chosen):
                span = torch.linalg.qr(free).Q.to(part.fall.device)
                loss = torch.nn.functional.softplus(-rows.margins(part, span, grad=True)[some]).sum() / len(chosen)
                slope += torch.autograd.grad(loss, free)[0]  # and of no weight of the model
                total += float(loss.detach())
            free.grad = slope
            adam.step()
            losses.append(total)
        return torch.linalg.qr(free.detach()).Q, losses


def _labelled(rows: _Rows, chosen: ndarray, labels: Sequence[Any] | None, dims: int) -> dict[str, Tensor]:
    """Spans that labels give: of the mean states of their values, and of a probe that tells these apart."""
    if labels is None:
        return {}
    if len(labels) != sum(len(part.fall) for part in rows.parts):
        raise MethodError(f"{len(labels)} labels", expected="one for each row of the source", do="give as many as rows")
    names = [str(labels[at]) for at in sorted(chosen.tolist())]
    x = torch.cat([part.source[some] for part, some in rows.of(chosen)]).double().cpu()
    kinds = sorted(set(names))
    if len(kinds) < 2:
        return {}
    from sklearn.linear_model import LogisticRegression

    means = torch.stack([x[[name == kind for name in names]].mean(0) for kind in kinds])
    scale = x.std(0).clamp_min(1e-9)
    probe = LogisticRegression(max_iter=500).fit((x / scale).numpy(), names)
    spans = {"difference of means": means - means.mean(0), "probe": torch.from_numpy(probe.coef_) / scale}
    return {name: torch.linalg.svd(span, full_matrices=False).Vh[:dims].T for name, span in spans.items()}


def _margins(
    rows: _Rows, chosen: ndarray, spans: dict[str, Tensor], width: int, dims: int, seed: int
) -> dict[str, Float[ndarray, "draw row"]]:
    """The target of the held-out rows for every kind."""
    dice = torch.Generator().manual_seed(seed + 1)
    by_chance = [torch.linalg.qr(torch.randn(width, dims, generator=dice)).Q for _ in range(CHANCES)]
    every: dict[str, list[Tensor | None]] = {
        **{name: [span] for name, span in spans.items()},
        "whole": [None], "random": [*by_chance], "none": [torch.zeros(width, 1)],
    }  # fmt: skip
    return {
        kind: np.stack(
            [torch.cat([rows.margins(part, span)[some].cpu() for part, some in rows.of(chosen)]).double().numpy()
             for span in several]
        ) for kind, several in every.items()
    }  # fmt: skip


def _table(
    margins: dict[str, Float[ndarray, "draw row"]], directions: Tensor, losses: list[float], seed: int
) -> xarray.Dataset:
    found: dict[str, list[float]] = {name: [] for name in ("iia", "low", "high", "margin")}
    for kind in KINDS:
        if kind not in margins:
            for values in found.values():
                values.append(float("nan"))
            continue
        right = (margins[kind] > 0).mean(0)
        mean, low, high = interval(right, seed)
        for name, value in zip(found, (mean, low, high, margins[kind].mean()), strict=True):
            found[name].append(float(value))
    data: dict[str, Any] = {name: ("kind", values) for name, values in found.items()}
    data |= {"directions": (("dim", "unit"), directions.T.double().numpy()), "loss": ("step", losses)}
    return xarray.Dataset(data, coords={"kind": list(KINDS)})
