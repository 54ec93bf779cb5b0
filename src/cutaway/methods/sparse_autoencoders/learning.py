"""A training under way: weights, what the optimiser keeps of them, when each feature was last on, the log."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError
from cutaway.methods.sparse_autoencoders.autoencoder import Crosscoder, SparseAutoencoder
from cutaway.methods.sparse_autoencoders.batch import Price
from cutaway.methods.sparse_autoencoders.beginning import archetypes, begun, centres, folded, kept, scales
from cutaway.methods.sparse_autoencoders.checkpoints import resume, save
from cutaway.methods.sparse_autoencoders.feeding import Fed, Feed, batches
from cutaway.methods.sparse_autoencoders.reading import Rows, centre, factor
from cutaway.methods.sparse_autoencoders.recipe import Recipe
from cutaway.methods.sparse_autoencoders.reviving import resampled
from cutaway.methods.sparse_autoencoders.shape import Shape
from cutaway.methods.sparse_autoencoders.stepping import Judged, judged

if TYPE_CHECKING:
    import pandas

FIXED = ("scale", "scale_out", "allowed", "points")
COLUMNS = ("step", "loss", "error", "explained", "on", "alive", "rate")
AGAIN = 2_147_483_629  # apart from the dice of the rows


class Learning:
    """`begin`, then go through `steps`; at any moment `dictionary` is what was learned so far."""

    def __init__(
        self, feed: Feed, shape: Shape, recipe: Recipe, read: tuple[str, ...], target: str | None,
        points: Float[Tensor, "point d"] | None = None, device: str = "cpu",
    ) -> None:  # fmt: skip
        self.feed, self.asked, self.shape, self.recipe = feed, shape, shape, recipe
        self.read, self.target, self.points, self.device = read, target, points, torch.device(device)
        self.w: dict[str, Tensor] = {}
        self.sizes: tuple[int, ...] = ()
        self.place, self.done, self.least = (0, 0), 0, 0.0
        self.log: list[list[float]] = []

    @property
    def centred(self) -> bool:
        """Whether what is read is what is stood for, so that the decoder's bias is taken from it."""
        return self.target is None

    @property
    def learned(self) -> list[str]:
        """The tensors that are learned, in one order; decoder rows between points are made of others."""
        return [name for name in sorted(self.w) if name not in FIXED and not (self.shape.points and name == "decoder")]

    def begin(self, folder: Path | None) -> None:
        """Take up what a folder holds, or begin with scales, centre and points of some rows and weights by chance."""
        held = None if folder is None else resume(folder, self._same)
        if held is None:
            self._first()
        else:
            told, tensors = held
            self.place, self.done, self.least = (told["place"][0], told["place"][1]), told["step"], told["least"]
            self.shape, self.sizes = Shape.read(told["made"]), tuple(told["sizes"])
            self.w = {name[2:]: value.to(self.device) for name, value in tensors.items() if name.startswith("w.")}
            self.last, self.log = tensors["last"].to(self.device), tensors["log"].tolist()
        fused = all(self.w[name].is_floating_point() for name in self.learned)
        self.adam = torch.optim.Adam([self.w[name] for name in self.learned], betas=self.recipe.betas, fused=fused)
        if held is not None:
            for name in self.learned:
                mine = {key: held[1][f"adam.{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                self.adam.state[self.w[name]] = {key: value.to(self.device) for key, value in mine.items()}

    def _first(self) -> None:
        recipe, shape = self.recipe, self.asked
        dice = torch.Generator().manual_seed(recipe.seed)
        some: list[Fed] = []
        for _, _, fed in islice(batches(self.feed, recipe.batch, recipe.seed), -(-recipe.sample // recipe.batch)):
            some.append(fed.to("cpu"))
        first = some[0]
        x = torch.cat([fed.x for fed in some])
        y = x if first.y is None else torch.cat([fed.y for fed in some if fed.y is not None])
        kind = None if first.kind is None else torch.cat([fed.kind for fed in some if fed.kind is not None])
        step = None if first.step is None else torch.cat([fed.step for fed in some if fed.step is not None])
        self._check(shape, kind, step)
        self.sizes = first.sizes
        table = scales(x, kind, self.sizes, recipe.scale)
        out = table if self.centred else scales(y, kind, (y.shape[1],), recipe.scale)
        scale = factor(out, kind, self._sizes_out(y.shape[1]))
        y = y if scale is None else y * scale
        bias = centres(y, recipe.centre)
        points = self._points(y, scale, bias, dice)
        if points is not None:
            shape = replace(shape, points=len(points))
        self.shape = shape
        w = begun(shape, x.shape[1], y.shape[1], dice, tied=self.centred, points=points)
        w["decoder_bias"] = bias
        if shape.timed and step is not None:
            for one in step.unique().tolist():
                w["step_decoder"][one] = y[step == one].mean(0) - bias
        w |= {} if table is None else {"scale": table}
        w |= {} if self.centred or out is None else {"scale_out": out}
        self.w = {name: value.to(self.device) for name, value in w.items()}
        self.last = torch.zeros(shape.width, dtype=torch.long, device=self.device)

    def _points(
        self, y: Float[Tensor, "n d"], scale: Tensor | None, bias: Float[Tensor, "d"], dice: torch.Generator
    ) -> Float[Tensor, "point d"] | None:
        """The points of an archetypal decoder, from its centre: those given, else rows by chance."""
        if not self.asked.points:
            return None
        if self.points is None:
            return y[torch.randperm(len(y), generator=dice)[: self.asked.points]] - bias
        given = self.points.to(y.dtype)
        return (given if scale is None else given * scale[:1]) - bias

    def _check(self, shape: Shape, kind: Tensor | None, step: Tensor | None) -> None:
        if (shape.groups or self.recipe.scale == "kind") and kind is None:
            raise MethodError(
                "nothing says of which kind these rows are", expected="the kind of each position",
                do="give `kind=`, or train from a store or a model, which know it",
            )  # fmt: skip
        if shape.timed and (step is None or int(step.max()) >= shape.timed):
            raise MethodError(
                "nothing says of which step these rows are" if step is None else f"a row is of step {int(step.max())}",
                expected=f"steps from 0 to {shape.timed - 1}", do="give `step=`, and as `timed` how many there are",
            )  # fmt: skip

    def _sizes_out(self, d_out: int) -> tuple[int, ...]:
        return self.sizes if self.centred else (d_out,)

    # --- steps --------------------------------------------------------------------------------------------------------

    def steps(self, folder: Path | None) -> Iterator[int]:
        """Every step that is left, saved every so often and at the end."""
        recipe = self.recipe
        if self.done >= recipe.steps:
            return
        for part, given, fed in batches(self.feed, recipe.batch, recipe.seed, *self.place):
            self.step(fed.to(self.device))
            self.place, self.done = (part, given), self.done + 1
            if folder is not None and (self.done % recipe.save_every == 0 or self.done == recipe.steps):
                self._save(folder)
            yield self.done
            if self.done == recipe.steps:
                return

    @torch.no_grad()
    def step(self, fed: Fed) -> Judged:
        """One batch: its loss, a step of Adam, what holds of the weights made to hold again."""
        recipe, w = self.recipe, self.w
        rows, y = self._scaled(fed)
        dead = self.done - self.last >= recipe.dead_after
        price = Price(recipe.price_at(self.done), recipe.dead)
        parts = self.sizes if self.centred else ()
        made = judged(w, self.shape, rows, y, price, centred=self.centred, parts=parts, dead=dead)
        if not math.isfinite(made.loss):
            raise MethodError(
                f"the loss of step {self.done + 1} is {made.loss}", expected="a number",
                exists=f"a rate of {recipe.rate}", do="take a lower rate; or look for rows that are not finite",
            )  # fmt: skip
        self.learn(made)
        self.last[made.fired > 0] = self.done + 1
        if made.least:
            soon = min(1.0, max(recipe.follow, 10 / recipe.steps))  # a short training has moved on sooner
            self.least += (made.least - self.least) * (soon if self.least else 1.0)
        if recipe.resample and (self.done + 1) % recipe.resample == 0 and self.done < recipe.steps // 2:
            self._again(rows, y, made)
        if self.done % recipe.log_every == 0 or self.done + 1 == recipe.steps:
            self._note(made, y)
        return made

    def _scaled(self, fed: Fed) -> tuple[Rows, Float[Tensor, "n d"]]:
        """Rows and target as weights take them."""
        kind = fed.kind if self.recipe.scale == "kind" else None
        scale = factor(self.w.get("scale"), kind, self.sizes)
        x = fed.x if scale is None else fed.x * scale
        told = Rows(x, fed.kind if self.shape.groups else None, fed.step if self.shape.timed else None)
        if fed.y is None:
            return told, x
        out = factor(self.w.get("scale_out"), kind, (fed.y.shape[1],))
        return told, fed.y if out is None else fed.y * out

    def learn(self, made: Judged) -> None:
        """A step of Adam along the gradients, and back to what the shape asks of decoder rows."""
        w, grads = self.w, made.gradients
        if self.shape.points:
            size, g = w["log_size"].exp(), grads.pop("decoder")
            grads |= {"mix": g @ w["points"].T * size, "drift": g * size,
                      "log_size": (g * w["decoder"]).sum().reshape(1)}  # fmt: skip
        elif self.shape.unit:
            along = (grads["decoder"] * w["decoder"]).sum(1, keepdim=True)
            grads["decoder"].addcmul_(w["decoder"], along, value=-1)
        if self.recipe.clip:
            long = float(torch.stack([grads[name].norm() for name in self.learned]).norm())
            if long > self.recipe.clip:
                for name in self.learned:
                    grads[name].mul_(self.recipe.clip / long)
        for name in self.learned:
            w[name].grad = grads[name]
        self.adam.param_groups[0]["lr"] = self.recipe.rate_at(self.done)
        self.adam.step()
        for name in self.learned:
            w[name].grad = None
        if self.shape.points:
            w["mix"].clamp_(min=0)
            w["mix"].div_(w["mix"].sum(1, keepdim=True).clamp_min(1e-6))
            furthest = self.shape.drift * w["points"].shape[1] ** 0.5
            w["drift"].mul_((furthest / w["drift"].norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1))
            w["decoder"] = archetypes(w)
        elif self.shape.unit:
            w["decoder"].div_(w["decoder"].norm(dim=1, keepdim=True).clamp_min(1e-12))

    def _again(self, rows: Rows, y: Float[Tensor, "n d"], made: Judged) -> None:
        """Features that were not on since the last time begin anew."""
        if self.shape.activation not in ("relu", "gated") or self.shape.points:
            return
        dead = self.done + 1 - self.last >= min(self.recipe.resample, self.recipe.dead_after)
        c = rows.x - centre(self.w, rows.step) if self.centred else rows.x
        dice = torch.Generator().manual_seed(self.recipe.seed * AGAIN + self.done)
        moments = [{name: self.adam.state[self.w[name]][key] for name in ("encoder", "decoder", "encoder_bias")}
                   for key in ("exp_avg", "exp_avg_sq")]  # fmt: skip
        resampled(self.w, moments, dead, c, y, made.error, dice)
        self.last[dead] = self.done + 1

    def _note(self, made: Judged, y: Float[Tensor, "n d"]) -> None:
        spread, error = float((y - y.mean(0)).square().sum()), float(made.error.square().sum())
        on, alive = float(made.fired.sum()) / len(y), (self.done + 1 - self.last) < self.recipe.dead_after
        self.log.append([
            self.done + 1, made.loss, error / len(y), 1 - error / spread if spread else 0.0, on,
            float(alive.double().mean()), self.recipe.rate_at(self.done),
        ])  # fmt: skip

    # --- what is left of it -------------------------------------------------------------------------------------------

    @cached_property
    def _same(self) -> dict[str, Any]:
        """What a checkpoint must agree in, as JSON has it."""
        loose = ("save_every", "log_every")
        recipe = {name: value for name, value in asdict(self.recipe).items() if name not in loose}
        made = {"rows": self.feed.content(), "shape": self.asked.told(), "recipe": recipe, "sites": self.read,
                "target": self.target}  # fmt: skip
        return dict(json.loads(json.dumps(made)))

    def _save(self, folder: Path) -> None:
        told = {**self._same, "step": self.done, "place": self.place, "least": self.least, "made": self.shape.told(),
                "sizes": self.sizes}  # fmt: skip
        tensors = {f"w.{name}": value for name, value in self.w.items()}
        for name in self.learned:
            mine = self.adam.state[self.w[name]]
            tensors |= {f"adam.{name}.{key}": mine[key] for key in ("step", "exp_avg", "exp_avg_sq")}
        log = torch.tensor(self.log, dtype=torch.float64).reshape(-1, len(COLUMNS))
        save(folder, told, {**tensors, "last": self.last, "log": log})

    def dictionary(self) -> SparseAutoencoder | Crosscoder:
        """What was learned, as it is read: one scale for all folded away, those by kind or by site kept."""
        w = {name: value.detach().cpu().clone() for name, value in self.w.items()}
        tensors = kept(w, self.shape, self.least)
        if "scale" in w and self.recipe.scale == "one" and len(self.read) == 1:
            tensors = folded(tensors)
        config: dict[str, Any] = {
            "shape": self.shape.told(), "centred": self.centred, "sizes": list(self.sizes),
            "recipe": asdict(self.recipe), "steps_done": self.done,
        }  # fmt: skip
        if self.log:
            config["last"] = dict(zip(COLUMNS, self.log[-1], strict=True))
        if len(self.read) > 1:
            config |= {"sites": list(self.read), "sizes_out": list(self.sizes)}
            return Crosscoder(tensors, config, self.feed.on)
        config |= {"site": self.read[0], "target": self.target or self.read[0]}
        return SparseAutoencoder(tensors, config, self.feed.on)

    def table(self) -> pandas.DataFrame:
        """The log, a row every so many steps."""
        import pandas

        made = pandas.DataFrame(self.log, columns=list(COLUMNS))
        return made.astype({"step": int})
