"""Pictures made so that a unit, a head, a direction, a feature or a number of a model becomes large."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from cutaway.data import scenes
from cutaway.errors import MethodError
from cutaway.methods.feature_visualisation.aims import Place, activation, units_of
from cutaway.methods.feature_visualisation.ascent import Aim, Climb, Eye, Reached, climb
from cutaway.methods.feature_visualisation.paint import By, Dice, Paint, Pictures
from cutaway.methods.feature_visualisation.spectrum import Spectrum
from cutaway.methods.network_dissection.unit_maps import unit_site
from cutaway.methods.neuron_descriptions.unit_effects import attribution
from cutaway.methods.result import Provenance, Result
from cutaway.model.fingerprint import fingerprint
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.questions.rows import tracked

SOURCE = "Olah et al. 2017 (Distill), Fel et al. 2023 arXiv 2306.06805 (MACO), Goh et al. 2021 (Distill; facets)"
MANY, RANDOM, FEW = 64, 16, 6  # pictures of EmojiWorld where none are given, and by chance; units
RATES: dict[str, float] = {"pixel": 0.1, "fourier": 0.05, "maco": 0.1}
TINY = 1e-12


@dataclass(frozen=True, eq=False, repr=False)
class Visions(Result):
    """Pictures that were made, and how large what they were made for is in them, beside pictures of a data set.

    `picture` (unit, y, x, channel) in 0 … 255; `mask` (unit, y, x) how much each pixel was asked to move in all, from 0
    to 1; `value` (unit) the number of the picture as it is kept, `path` (step, unit) while it was made, of pictures
    that were moved; `begun` (unit) that of the picture it began with. `best` (unit), `exemplar` (unit, y, x, channel):
    the largest of the data set and its picture; `mean`, `spread` over the data set; `random` (unit, draw) numbers of
    pictures with the spectrum of the data set and phases by chance. `facet` (unit): the second number, where asked for.
    `floor_…` are the same of the model before training.
    """

    main: ClassVar[str] = "value"

    def scores(self) -> xarray.Dataset:
        """`made`, `best`, `random` (unit): how many spreads of the data set each lies above its mean (z).

        `random` is the mean over its draws, `floor` that of the picture made for the model before training, there.
        NaN where the number is the same for the whole data set.
        """
        mean, spread = self["mean"], self["spread"].where(self["spread"] > 0)
        given = {"made": self["value"], "best": self["best"], "random": self["random"].mean("draw")}
        found = {name: (one - mean) / spread for name, one in given.items()}
        if "floor_value" in self.data:
            spread = self["floor_spread"].where(self["floor_spread"] > 0)
            found["floor"] = (self["floor_value"] - self["floor_mean"]) / spread
        return xarray.Dataset(found)

    def summary(self) -> Any:
        """A row a unit: the number in the picture that was made, the best of the data set, by chance, and their z."""
        table = self.data[["value", "best", "mean", "spread"]].to_dataframe()
        for name, one in self.scores().items():
            table[f"z {name}"] = one.values
        return table.reset_index()

    def note(self) -> str:
        """What a reader of the summary must know."""
        return (
            "A picture that was made can be far above every picture there is without looking like any: "
            "beside it belongs the picture of an untrained model."
        )

    def _draw(self, ax: Axes) -> None:
        """The pictures side by side, those of the data set below."""
        rows = [np.concatenate([*self[name].values], 1) for name in ("picture", "exemplar")]
        ax.imshow(np.concatenate(rows, 0))
        side = self.data.sizes["x"]
        ax.set_xticks([side * (at + 0.5) for at in range(self.data.sizes["unit"])], self["unit"].values)
        ax.set_yticks([side * 0.5, side * 1.5], ["made", "best of the data set"])


def feature_visualisation(
    model: Model, inputs: Inputs, *, target: Callable[[Run], Tensor] | None = None, site: str = "",
    units: Sequence[int] | str | None = None, many: int = 0, at: Place = "patches", directions: Tensor | None = None,
    by: By = "maco", pictures: Sequence[Any] | None = None, floor: Model | None = None,
    start: Sequence[Any] | None = None,
    facet: Callable[[Run], Tensor] | None = None, facet_weight: float = 1.0, steps: int = 128,
    rate: float | None = None, jitter: float = 4.0, zoom: float = 0.1, noise: float = 0.05, looks: int = 1,
    contrast: float | None = None, seed: int = 0, progress: bool = True,
) -> Visions:  # fmt: skip
    """Make a picture for each unit of a site, direction or feature, or for a number, that makes it large.

    x* = argmax_p E_τ f(τ(x(p))), by Adam on the free numbers p of a picture (`paint`: pixels, Fourier coefficients, or
    phases under the mean spectrum of `pictures`, MACO; the first 64 of these are used); τ moves, scales and adds noise.
    All units are rows of one run, each with its own dice. f is the activation of `units` at `site` (`at`: over patches,
    their peak, class token, last position), for a site with heads the length of what a head gives, the state along
    `directions` (row, width), or without a site the `target`. Of features of a dictionary what rises is what stands
    before activation, what is reported the feature. Without `units` the `many` with the largest gradient x activation
    of the target (6), without a `site` of the MLP in the middle. `floor` is the model before training: the same is made
    for it. `inputs` hold one picture, whose size and text are kept. `facet` is a second number, a probe or text
    direction: with it f / spread + `facet_weight` g / spread rises, spreads those over `pictures`. `start`: pictures to
    begin with, one a unit or one for all. `contrast`: pictures of that root mean square around grey, not of `maco`.

    Units: those of the site or target. Source: Olah et al. 2017 (Distill); MACO Fel et al. 2023, 2306.06805, who
    optimise phases as angles: here they are those of a real picture, and the spectrum is of pictures whose colours were
    taken apart; facets Goh et al. 2021 (Distill). MethodError for inputs without a whole picture.

    What it can NOT tell: that a unit is about what its picture shows, or that it answers to such things in real
    pictures: `best` says how large those make it; units of an untrained model rise as well, though less.

    >>> import cutaway
    >>> from cutaway.zoo import tiny
    >>> model = cutaway.load("tiny:clip")
    >>> inputs = model.inputs(image=tiny.picture())
    >>> made = feature_visualisation(model, inputs, site="vision.1.mlp.post", units=[3, 5], steps=8, progress=False)
    >>> made["picture"].shape, bool((made["value"] > made["begun"]).all())
    ((2, 32, 32, 3), True)
    """
    started = time.perf_counter()
    fast = RATES.get(by, 0.0) if rate is None else rate
    how = Climb(steps=steps, rate=fast, jitter=jitter, zoom=zoom, noise=noise, looks=looks)
    aim, names = _aim(model, inputs, target, site, listed(units), many, at, directions)
    some = list(scenes("test", MANY)) if pictures is None else list(pictures[:MANY])
    wish = _Wish(names, by, contrast, some, start, facet, facet_weight, how, seed)
    with torch.inference_mode(False), torch.enable_grad():
        made = wish.granted(Eye(model, inputs), aim, progress)
        again = None if floor is None else wish.granted(Eye(floor, inputs), aim, progress)
    if again is not None:
        kept = ("picture", "value", "best", "mean", "spread", "random")
        made = made.assign({f"floor_{name}": again[name] for name in kept})
    told = Provenance.of(
        "feature_visualisation", SOURCE, started=started, model=model, sites=wish.goal(aim).record, seed=seed, by=by,
        at=at, target=repr(target) if isinstance(aim, activation) else None, pictures=len(some), contrast=contrast,
        facet=None if facet is None else repr(facet), facet_weight=facet_weight, **asdict(how),
    )  # fmt: skip
    return Visions(made, told)


@dataclass(frozen=True, eq=False)
class _Wish:
    """What is asked of a model, and of the one before training: everything but the model."""

    names: list[str]
    by: By
    contrast: float | None
    pictures: list[Any]
    start: Sequence[Any] | None
    facet: Aim | None
    weight: float
    how: Climb
    seed: int

    def goal(self, aim: Aim, spread: Tensor | None = None, beside: Tensor | None = None) -> _Goal:
        """What rises."""
        ones = torch.ones(len(self.names))
        return _Goal(
            _repeated(aim, self.how.looks), self.facet, self.weight, ones if spread is None else spread, beside
        )

    def dice(self, aim: Aim) -> Dice:
        """The dice of each row follow from its unit or direction, whichever others are made beside it."""
        if not isinstance(aim, activation):
            return torch.Generator().manual_seed(self.seed)
        rows = self.names if aim.along is None else list(aim.along)
        return [torch.Generator().manual_seed(int(fingerprint(self.seed, one)[:12], 16)) for one in rows]

    def granted(self, eye: Eye, aim: Aim, progress: bool) -> xarray.Dataset:
        """The pictures of one model with their numbers."""
        known, dice = eye.seen(self.pictures), self.dice(aim)
        paint = Paint(self.by, Spectrum.of(known), self.contrast)
        begun = None if self.start is None else _each(eye.seen(self.start), len(self.names))
        free = paint.begin(len(self.names), dice, begun)
        first, there = paint(free).detach(), eye.numbers(known, aim)
        goal = self.goal(aim, there.std(0), None if self.facet is None else eye.numbers(known, self.facet))
        only = isinstance(aim, activation) and self.facet is None
        made = climb(
            eye, goal, paint, free, self.how, dice, record=goal.record, stop=only,
            steps=tracked(range(self.how.steps), "pictures", show=progress),
        )  # fmt: skip
        chance = Paint("maco", paint.spectrum)
        phases = chance(chance.begin(RANDOM, torch.Generator().manual_seed(self.seed + 1))).detach()
        data = _table(eye, aim, self.names, made, known, there, eye.numbers(phases, aim), first)
        return data if self.facet is None else data.assign(facet=("unit", eye.numbers(made.pictures, self.facet)[:, 0]))


def _aim(
    model: Model, inputs: Inputs, target: Aim | None, site: str, units: Sequence[int] | None, many: int, at: Place,
    directions: Tensor | None,
) -> tuple[Aim, list[str]]:  # fmt: skip
    """What is to become large, and what its rows are called."""
    if many < 0:
        raise MethodError(f"{many} units", expected="one at least, 0 for the usual", do="name them: `units=`")
    site = str(unit_site(model, "")) if many and not site else site
    if not site:
        if target is None:
            raise MethodError(
                "nothing is to become large", expected="a site with units, or a target", do="`site=…, units=[…]`, "
                "or `target=similarity(0)` with a text beside the picture",
            )  # fmt: skip
        return target, ["target"]
    if units is None and directions is None:
        if target is None:
            raise MethodError("no unit is named", expected="numbers, or a target that says which matter", do="`units=`")
        moved, _ = attribution(model, inputs, target, model.sites.one(site))
        units = moved.abs().topk(min(many or FEW, len(moved))).indices.tolist()
    aim = units_of(model, site, units, at, directions)
    return aim, [str(one) for one in aim.units]


def listed(units: Sequence[int] | str | None) -> Sequence[int] | None:
    """Units as numbers; a text has commas between them."""
    if not isinstance(units, str):
        return units
    words = [one.strip() for one in units.split(",") if one.strip()]
    if not all(one.isdecimal() for one in words):
        raise MethodError(f"'{units}' are no units", expected="numbers with commas between them", do="`--units 3,5`")
    return [int(one) for one in words]


def _repeated(aim: Aim, looks: int) -> Aim:
    """The aim of rows that are each looked at several times."""
    if not isinstance(aim, activation):
        return aim
    units = tuple(one for one in aim.units for _ in range(looks))
    along = None if aim.along is None else aim.along.repeat_interleave(looks, 0)
    return replace(aim, units=units, along=along, sloped=True)


def _each(pictures: Pictures | None, rows: int) -> Pictures | None:
    """One picture a row."""
    if pictures is None or len(pictures) == rows:
        return pictures
    if len(pictures) != 1:
        raise MethodError(f"{len(pictures)} pictures to begin {rows} with", expected="one for all, or one for each")
    return pictures.expand(rows, -1, -1, -1)


@dataclass(frozen=True, eq=False)
class _Goal:
    """The number that rises, with its facet beside it."""

    aim: Aim
    facet: Aim | None
    weight: float
    spread: Float[Tensor, "unit"]
    beside: Float[Tensor, "picture one"] | None

    @property
    def record(self) -> tuple[str, ...]:
        aims = [one for one in (self.aim, self.facet) if isinstance(one, activation)]
        return tuple(dict.fromkeys(one.reads_at for one in aims))

    def __call__(self, run: Run) -> Float[Tensor, "row"]:
        value = self.aim(run)
        if self.facet is None or self.beside is None:
            return value
        looks = len(value) // len(self.spread)
        spread = self.spread.repeat_interleave(looks).to(value).clamp_min(TINY)
        other = self.facet.table(run)[:, 0] if isinstance(self.facet, activation) else self.facet(run)
        return value / spread + self.weight * other / float(self.beside.std().clamp_min(TINY))


def _table(
    eye: Eye, aim: Aim, names: list[str], made: Reached, known: Pictures, there: Float[Tensor, "picture unit"],
    chance: Float[Tensor, "draw unit"], first: Pictures,
) -> xarray.Dataset:  # fmt: skip
    """What is kept: the pictures and their numbers."""
    own, begun = (_own(eye.numbers(one, aim)) for one in (made.pictures, first))
    best = there.argmax(0)
    mask = made.mask / made.mask.flatten(1).amax(1)[:, None, None].clamp_min(TINY)
    numbers = {"value": own, "begun": begun, "best": there.amax(0), "mean": there.mean(0), "spread": there.std(0)}
    image = ("unit", "y", "x", "channel")
    return xarray.Dataset(
        {
            **{name: ("unit", one.numpy()) for name, one in numbers.items()},
            "random": (("draw", "unit"), chance.numpy()),
            "path": (("step", "unit"), made.path.numpy()),
            "picture": (image, _bytes(made.pictures)),
            "exemplar": (image, _bytes(known[best])),
            "exemplar_item": ("unit", best.numpy()),
            "mask": (("unit", "y", "x"), mask.float().cpu().numpy()),
        },
        coords={"unit": names},
    )  # fmt: skip


def _own(numbers: Float[Tensor, "row unit"]) -> Float[Tensor, "row"]:
    """That of each row for its own unit."""
    return numbers[:, 0] if numbers.shape[1] == 1 else numbers.diagonal()


def _bytes(pictures: Pictures) -> np.ndarray:
    return (pictures.detach().float().clamp(0, 1).movedim(1, -1) * 255).round().to(torch.uint8).cpu().numpy()
