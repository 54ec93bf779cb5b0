"""What heads bring to a logit, by source token, by what wrote the value there, and back into the vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.errors import SiteError
from cutaway.methods.representation_decomposition.logit_terms import TOWER, exact
from cutaway.model.attach import blocks_read
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.weights import connector_weights, head_weights, value_weights

EYES = "vision"


@dataclass(frozen=True)
class Routes:
    """The ways into a number through one head at the position `places`; `u` is what is read of the last state there."""

    model: Model
    inputs: Inputs
    depth: int
    u: Float[Tensor, "row d_model"]
    places: Int[Tensor, "row"]
    tower: str = TOWER

    @property
    def layers(self) -> range:
        """The layers of the tower."""
        return range(self.model.sites.towers()[self.tower])

    @property
    def sites(self) -> list[str]:
        """What is read of a run, at all positions."""
        found = [f"{self.tower}.*.attn.pattern", f"{self.tower}.*.attn.v"]
        if self.depth > 1:
            found += [
                f"{self.tower}.*.resid_pre",
                f"{self.tower}.*.attn.norm.scale",
                *(f"{self.tower}.*.{p}.out" for p in self.parts),
            ]
        if self.depth > 2:
            found += ["connector.pre", "connector.post", f"{EYES}.0.resid_pre"]
            found += [f"{EYES}.{layer}.{part}" for layer in range(max(self._read)) for part in ("attn.z", "mlp.out")]
        return found

    @property
    def parts(self) -> list[str]:
        """The sublayers that write to the stream, in their order."""
        return ["attn", *(["cross"] if f"{self.tower}.0.cross.out" in self.model.sites else []), "mlp"]

    @cached_property
    def run(self) -> Run:
        """The run that is read."""
        return self.model.run(self.inputs, record=self.sites)

    def found(self) -> dict[str, Any]:
        """`head_tokens`, deeper `written`, deeper still `seen`, with their axes."""
        shares, written, readings = [], [], []
        for layer in self.layers:
            pattern, seen = self._reads(layer)
            v = exact(self.run[f"{self.tower}.{layer}.attn.v"], self.u)
            v = v.repeat_interleave(seen.shape[1] // v.shape[2], dim=2)
            shares.append(torch.einsum("rhj,rjhe,rhe->rhj", pattern, v, seen))
            if self.depth > 1:
                back = self._back(layer, pattern, seen, shares[-1])
                written.append(back.shares)
                readings.append(back.reading)
        axes = ("row", "layer", "head", "token")
        made: dict[str, Any] = {"head_tokens": (axes, torch.stack(shares, 1).cpu().numpy())}
        if self.depth > 1:
            made["written"] = ((*axes, "writer"), torch.stack(written, 1).cpu().numpy())
            made["writer"] = self.writers
        return made | (self._seen(torch.stack(readings).sum(0)) if self.depth > 2 else {})

    def tokens(self) -> dict[str, Any]:
        """What each position is."""
        known = self.inputs.tokens[self.tower]
        columns = {"token_kind": known.kind.astype(str), "token_text": known.text.astype(str), "image": known.image,
                   "tile": known.tile, "patch_row": known.row, "patch_col": known.col}  # fmt: skip
        return {name: (("row", "token"), column) for name, column in columns.items()}

    # --- one head back ------------------------------------------------------------------------------------------------

    def _reads(self, layer: int) -> tuple[Float[Tensor, "row head token"], Float[Tensor, "row head d_head"]]:
        """Where the heads of a layer look from the position, and what of a value each of them brings to the logit."""
        weight, _ = head_weights(self.model, self.tower, layer)
        pattern = exact(self.run[f"{self.tower}.{layer}.attn.pattern"], self.u)
        rows = torch.arange(len(pattern), device=pattern.device)
        seen = torch.einsum("hed,rd->rhe", exact(weight, self.u), self.u)
        return pattern[rows, :, self.places.to(pattern.device)], seen

    @property
    def writers(self) -> list[str]:
        """What wrote the values that heads read, in the order of the axis `writer`."""
        return ["embed", *(f"{layer}.{part}" for layer in self.layers for part in self.parts), "bias", "rounding"]

    def _back(self, layer: int, pattern: Tensor, seen: Tensor, whole: Tensor) -> _Back:
        """The values of a layer by what wrote the stream there, the norm before them held at its scale."""
        weight, bias = (exact(part, self.u) for part in value_weights(self.model, self.tower, layer))
        group = seen.shape[1] // len(weight)
        toward = torch.einsum("rhe,hed->rhd", seen, weight.repeat_interleave(group, 0))
        share = pattern / exact(self.run[f"{self.tower}.{layer}.attn.norm.scale"], self.u)[:, None]
        shares = share.new_zeros(*share.shape, len(self.writers))
        sites = [
            f"{self.tower}.0.resid_pre",
            *(f"{self.tower}.{n}.{part}.out" for n in range(layer) for part in self.parts),
        ]

        def read(site: str) -> Tensor:
            return share * torch.einsum("rhd,rjd->rhj", toward, exact(self.run[site], self.u))

        for at, site in enumerate(sites):
            shares[..., at] = read(site)
        shares[..., -2] = pattern * torch.einsum("rhe,he->rh", seen, bias.repeat_interleave(group, 0))[..., None]
        shares[..., -1] = whole - read(f"{self.tower}.{layer}.resid_pre") - shares[..., -2]
        return _Back(shares, torch.einsum("rhj,rhd->rjd", share, toward))

    # --- through the connector ----------------------------------------------------------------------------------------

    def _seen(self, reading: Float[Tensor, "row token d_model"]) -> dict[str, Any]:
        """What the embeddings of picture tokens give, by the parts of the connector and of the vision tower."""
        at = self._patches()
        first, second = (self._connector(part) for part in ("pre", "post"))
        pre, post = (exact(self.run[f"connector.{part}"], self.u)[at.picture, at.entry] for part in ("pre", "post"))
        gate = torch.where(pre == 0, 0, post / pre)
        read = reading[at.row, at.token]  # picture token, d_model
        toward = (read @ second[0]) * gate
        bias = read @ second[1] + toward @ first[1]
        found = {"connector_bias": bias} | self._eyes(toward @ first[0], at)
        whole = reading.new_zeros(*reading.shape[:2], len(found))
        whole[at.row, at.token] = torch.stack([*found.values()], 1)
        return {"seen": (("row", "token", "part"), whole.cpu().numpy()), "part": [*found]}

    @property
    def _read(self) -> tuple[int, ...]:
        """How many blocks of the vision tower lie before each state that the connector reads."""
        return blocks_read(self.model.module, self.model.family.feature_layer)

    def _connector(self, part: Literal["pre", "post"]) -> tuple[Tensor, Tensor]:
        matrix, bias = connector_weights(self.model, part)
        return exact(matrix, self.u), exact(bias, self.u)

    def _eyes(self, toward: Float[Tensor, "patch d_read"], at: _Patches) -> dict[str, Tensor]:
        """The states of the vision tower that the connector reads side by side, patch by patch and part by part."""
        found: dict[str, Tensor] = {}
        for blocks, one in zip(self._read, toward.chunk(len(self._read), 1), strict=True):
            for name, value in self._state(blocks, one, at).items():
                found[name] = found[name] + value if name in found else value
        return found

    def _state(self, blocks: int, toward: Float[Tensor, "patch d_vision"], at: _Patches) -> dict[str, Tensor]:
        """The state behind so many blocks of the vision tower, part by part."""

        def here(site: str) -> Tensor:
            return exact(self.run[site], self.u)[at.picture, at.patch]

        found = {"patch": (here(f"{EYES}.0.resid_pre") * toward).sum(1)}
        for layer in range(blocks):
            weight, bias = head_weights(self.model, EYES, layer)
            z = here(f"{EYES}.{layer}.attn.z")
            heads = torch.einsum("phe,hed,pd->hp", z, exact(weight, toward), toward)
            found |= {f"{layer}.head.{head}": value for head, value in enumerate(heads)}
            found[f"{layer}.attn_bias"] = toward @ exact(bias, toward)
            found[f"{layer}.mlp"] = (here(f"{EYES}.{layer}.mlp.out") * toward).sum(1)
        return found

    def _patches(self) -> _Patches:
        """Which patch each picture token is: places in the decoder, in the vision tower and in the connector."""
        said, eyes = self.inputs.tokens[TOWER], self.inputs.tokens[EYES]
        place = {
            (eyes.image[n, p], eyes.row[n, p], eyes.col[n, p]): (n, p)
            for n, p in np.argwhere(eyes.row >= 0)
        }  # fmt: skip
        where = np.argwhere(said.kind == "image")
        found = np.array([place[said.image[r, t], said.row[r, t], said.col[r, t]] for r, t in where])
        dropped = len(eyes) - self.run["connector.pre"].shape[1]
        row, token = torch.from_numpy(where).to(self.u.device).T
        picture, patch = torch.from_numpy(found).to(self.u.device).T
        return _Patches(row, token, picture, patch, patch - dropped)


class _Back(NamedTuple):
    """Shares of each head and source token by writer, and what all heads of a layer read of the stream there."""

    shares: Float[Tensor, "row head token writer"]
    reading: Float[Tensor, "row token d_model"]


class _Patches(NamedTuple):
    """For each picture token: row and token of the decoder, picture and patch of the vision tower, connector entry."""

    row: Int[Tensor, "patch"]
    token: Int[Tensor, "patch"]
    picture: Int[Tensor, "patch"]
    patch: Int[Tensor, "patch"]
    entry: Int[Tensor, "patch"]


def check_connector(model: Model, inputs: Inputs) -> None:
    """Raise SiteError unless picture tokens are one patch each, read by a connector of two layers."""
    if EYES in model.towers and EYES not in inputs.tokens:
        raise SiteError(
            "these inputs have no picture, so nothing comes through the connector", expected="inputs with a picture",
            exists=", ".join(inputs.tokens), do="`model.inputs(image=…, text=…)`, or stay at `depth=2`",
        )  # fmt: skip
    sites = ("connector.pre", "connector.post", f"{EYES}.0.resid_pre")
    fits = model.family.image_tokens == "grid" and all(site in model.sites for site in sites)
    if not fits or not model.family.feature_layer:
        raise SiteError(
            f"what {type(model.module).__name__} does between its vision tower and its decoder is not such a sum",
            expected="a LLaVA: a connector of two layers that reads each patch at layers of the vision tower",
            exists=", ".join(model.towers), do="stay at `depth=2`: the embedding of a picture token is one term there",
        )  # fmt: skip
