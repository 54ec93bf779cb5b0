"""Residual streams, one a tower, two of a denoiser of joint attention: who writes into each, what is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway.errors import MethodError, SiteError
from cutaway.model.edits import Edit, Patch
from cutaway.model.encoded import Encoded
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.sites import STREAMS, Site
from cutaway.model.weights import head_weights, norms_behind
from cutaway.model.writes import Writes, picture_writes

LAST = 1 << 30  # behind every layer
CONNECTOR, DENOISER = "connector", "denoiser"
TOWERS = ("vision", "encoder", "text")  # that may have one stream; what one writes the next may read
OVER = "`attribution_patching` goes over the sites of any model"


@dataclass(frozen=True)
class Sender:
    """What writes into a stream: its embedding, a head, an MLP, the connector.

    `site` holds what it writes, `head` which part of it; `time` counts the sublayers before it. `gate`: what that is
    multiplied by before it is added. `between`: the states of the stream behind it and before it, where what it writes
    is read off these. `order`: the streams whose positions lie behind one another at its site, where it holds several.
    `fed`: other streams make it.
    """

    name: str
    stream: str
    time: int
    site: Site
    head: int | None = None
    gate: Site | None = None
    between: tuple[Site, Site] | None = None
    order: tuple[str, ...] = ()
    fed: bool = False

    @property
    def sites(self) -> tuple[Site, ...]:
        """All that has to be known of a run to say what it wrote; the last of them to come about is the first."""
        return (*(self.between or (self.site,)), *([self.gate] if self.gate else []))

    def own(self, value: Float[Tensor, "row token *axes"], inputs: Inputs) -> Float[Tensor, "row own *axes"]:
        """What its site holds at the positions of its stream."""
        if not self.order:
            return value
        sizes = [len(inputs.tokens[stream]) for stream in self.order]
        at = self.order.index(self.stream)
        return value.narrow(1, sum(sizes[:at]), sizes[at])

    @property
    def begins(self) -> bool:
        """Whether it is what enters the first block, and comes from no other stream."""
        return self.time == 0 and not self.fed


@dataclass(frozen=True)
class Receiver:
    """What is made of streams: a head's queries, keys or values, an MLP, the connector, the end.

    `reads`: the states it is made of, each with the time before which senders are in it. `site` holds what is made,
    `head` which part of it; of an end that is the state itself.
    """

    name: str
    reads: tuple[tuple[Site, int], ...]
    site: Site
    head: int | None = None

    @property
    def ends(self) -> bool:
        """Whether it is the end of a stream, from which the answer is read."""
        return self.site == self.reads[-1][0]

    @property
    def at_once(self) -> bool:
        """Whether all it reads is there at one time, so that no state that it reads comes from another."""
        return len({time for _, time in self.reads}) == 1

    def hears(self, sender: Sender) -> bool:
        """Whether a sender is in one of the states that it reads."""
        return any(stream_of(site) == sender.stream and sender.time < time for site, time in self.reads)


def stream_of(site: Site) -> str:
    """The stream that a state belongs to: that of its tower, or one of two."""
    return f"{site.tower}.{site.stream}" if site.stream else site.tower


def lead(site: Site) -> int:
    """How many axes of a site stand in front of its rows: step and guidance."""
    return site.axes.index("batch") if "batch" in site.axes else 0


def by_row(value: Float[Tensor, "..."], site: Site) -> Float[Tensor, "row ..."]:
    """What one evaluation has at a site with its rows in front: of steps and guidance rows there is one each."""
    more = value.dim() - (len(site.axes) - lead(site)) if lead(site) else 0
    return value.flatten(0, more) if more > 0 else value


def laid(value: Float[Tensor, "row ..."], site: Site) -> Float[Tensor, "..."]:
    """Rows as a site has them, with the axes in front of them."""
    return value[(None,) * lead(site)]


class _Layers:
    """The layers of one tower, and the weights by which its heads write, by their site."""

    def __init__(self, model: Model, tower: str) -> None:
        self.model, self.tower = model, tower
        self.weights: dict[str, Tensor] = {}

    def has(self, layer: int, part: str) -> bool:
        """Whether a layer has such a part."""
        return f"{self.tower}.{layer}.{part}" in self.model.sites

    def site(self, layer: int, part: str) -> Site:
        """A part of a layer."""
        return self.model.sites.one(f"{self.tower}.{layer}.{part}")

    def heads(self, layer: int, reads: tuple[tuple[Site, int], ...]) -> list[Receiver]:
        """The queries, keys and values of a layer, part by part."""
        found = []
        for part in ("q", "k", "v"):
            if self.has(layer, f"attn.{part}"):
                site = self.site(layer, f"attn.{part}")
                names = [f"{self.tower}.{layer}.attn[{h}].{part}" for h in range(site.sizes[site.head_axis or "head"])]
                found += [Receiver(name, reads, site, head) for head, name in enumerate(names)]
        return found


class Stream(_Layers):
    """The stream of one tower with its live layers; `joined`: with a connector from pictures to words."""

    def __init__(self, model: Model, tower: str, joined: bool) -> None:
        super().__init__(model, tower)
        self.joined = joined
        if f"{tower}.0.resid_mid" in model.sites and norms_behind(model, tower):
            raise MethodError(
                f"the blocks of '{tower}' norm their sums, so what they write does not add up",
                expected="blocks that norm what they read", do=OVER,
            )  # fmt: skip
        if f"{tower}.0.cross.z" in model.sites:
            raise MethodError(
                f"the '{tower}' tower also reads another tower in every block (cross-attention)",
                expected="towers that read one another at their ends, through a connector", do=OVER,
            )  # fmt: skip
        posts = model.sites[f"{tower}.*.resid_post"]
        self.layers = [site.layer for site in posts if not site.dead and site.layer is not None]
        self.end = next(site for site in posts if site.layer == self.layers[-1])
        for layer in self.layers:
            if self.has(layer, "attn.z"):
                try:
                    weight, _ = head_weights(model, tower, layer)
                except SiteError:  # a norm lies between: the heads of a layer write together
                    continue
                self.weights[f"{tower}.{layer}.attn.z"] = weight

    def senders(self) -> list[Sender]:
        """What writes, in order."""
        tower, start = self.tower, self.site(self.layers[0], "resid_pre")
        found = [Sender(f"{tower}.embed", tower, 0, start)]
        if self.joined and tower == "text":
            found.append(Sender(CONNECTOR, tower, 0, start, fed=True))
        for layer in self.layers:
            here, time = f"{tower}.{layer}", 2 * layer + 1
            z = f"{here}.attn.z"
            if z in self.weights:
                site = self.site(layer, "attn.z")
                found += [Sender(f"{here}.attn[{h}]", tower, time, site, h) for h in range(len(self.weights[z]))]
            elif self.has(layer, "attn.out"):
                found.append(Sender(f"{here}.attn", tower, time, self.site(layer, "attn.out")))
            for part, when in (("mixer", time), ("mlp", time + 1)):
                if self.has(layer, f"{part}.out"):
                    found.append(Sender(f"{here}.{part}", tower, when, self.site(layer, f"{part}.out")))
        return found

    def receivers(self, inputs: Inputs | None) -> list[Receiver]:
        """What is made of it, in order; without inputs a connector is taken to read the end alone."""
        tower, found = self.tower, []
        for layer in self.layers:
            here, time, before = f"{tower}.{layer}", 2 * layer + 1, self.site(layer, "resid_pre")
            found += self.heads(layer, ((before, time),))
            if self.has(layer, "mixer.out"):
                found.append(Receiver(f"{here}.mixer", ((before, time),), self.site(layer, "mixer.out")))
            if self.has(layer, "mlp.out"):
                mid = self.has(layer, "resid_mid")
                read = (self.site(layer, "resid_mid"), time + 1) if mid else (before, time)
                found.append(Receiver(f"{here}.mlp", (read,), self.site(layer, "mlp.out")))
        if self.joined and tower == "vision":
            reads = ((self.end, LAST),) if inputs is None else self._connected(inputs)
            found.append(Receiver(CONNECTOR, reads, self.model.sites.one("connector.out")))
        else:
            found.append(Receiver(f"{tower}.end", ((self.end, LAST),), self.end))
        return found

    def _connected(self, inputs: Inputs) -> tuple[tuple[Site, int], ...]:
        """The states of the vision tower that the connector is made of: those without which it says something else."""
        found = _made_of(self.model, inputs, self.states, "connector.out")
        return tuple((site, time if site != self.end else LAST) for site, time in found)

    @property
    def states(self) -> list[tuple[Site, int]]:
        """Its state at every place, with the time before which senders are in it."""
        begun = [(self.site(self.layers[0], "resid_pre"), 1)]
        return begun + [(self.site(layer, "resid_post"), 2 * layer + 3) for layer in self.layers]


class Joint(_Layers):
    """The two streams of a denoiser of joint attention, whose heads read both.

    A head of a block with two streams writes to the picture alone: what the block writes to the words is two senders,
    all its heads and its MLP, for what these are multiplied by has no site. In a block of one stream (Flux) each head,
    and the MLP, which reads both streams as well, writes to either.
    """

    def __init__(self, model: Model, words: tuple[tuple[Site, int], ...] = ()) -> None:
        super().__init__(model, DENOISER)
        self.words = words  # the states of prompt encoders that the words are made of
        self.layers = range(len(model.towers[DENOISER].blocks))
        odd = next((layer for layer in self.layers if not self._fits(layer)), None)
        if odd is not None:
            raise MethodError(
                f"block {odd} of the denoiser ({type(model.towers[DENOISER].blocks[odd]).__name__}) writes otherwise "
                "than the graph knows",
                expected="blocks of joint attention alone, as in SD3 and Flux", do=OVER,
            )  # fmt: skip
        self.blocks = picture_writes(model)
        for block in self.blocks:
            self.weights[str(block.z)] = block.weight
            if block.mlp_weight is not None:
                self.weights[str(block.mlp)] = block.mlp_weight[None]

    def _fits(self, layer: int) -> bool:
        """Whether a block adds one attention and one MLP to the picture, and the same, or nothing, to the words."""
        block: Any = self.model.towers[DENOISER].blocks[layer]
        known = self.has(layer, "image.attn.gate") or self.has(layer, "gate")
        return known and getattr(block, "attn2", None) is None

    def senders(self) -> list[Sender]:
        """What writes, in order, the picture's first."""
        begun = {one: self.site(0, f"{one}.resid_pre") for one in STREAMS}
        fed = {STREAMS[1]: bool(self.words)}
        found = [
            Sender(f"{DENOISER}.{one}.embed", f"{DENOISER}.{one}", 0, site, fed=fed.get(one, False))
            for one, site in begun.items()
        ]
        for block in self.blocks:
            found += self._two(block) if block.mlp_weight is None else self._one(block)
        return found

    def _two(self, block: Writes) -> list[Sender]:
        """What a block with a stream each for picture and words writes."""
        here, time = f"{DENOISER}.{block.layer}", 2 * block.layer + 1
        image, text = (f"{DENOISER}.{one}" for one in STREAMS)
        found = [
            Sender(f"{here}.image.attn[{head}]", image, time, block.z, head, block.gate)
            for head in range(len(block.weight))
        ]
        mlps = [Sender(f"{here}.image.mlp", image, time + 1, block.mlp, gate=block.mlp_gate)]
        if self.has(block.layer, "text.resid_post"):
            before, mid, behind = (self.site(block.layer, f"text.resid_{part}") for part in ("pre", "mid", "post"))
            z, mlp = self.site(block.layer, "text.attn.z"), self.site(block.layer, "text.mlp.out")
            found.append(Sender(f"{here}.text.attn", text, time, z, between=(mid, before)))
            mlps.append(Sender(f"{here}.text.mlp", text, time + 1, mlp, between=(behind, mid)))
        return [*found, *mlps]

    def _one(self, block: Writes) -> list[Sender]:
        """What a block of one stream writes to the picture and, where anything reads them behind it, to the words."""
        joint = self.model.towers[DENOISER].row.joint
        order = STREAMS if joint is None or joint.first == STREAMS[0] else STREAMS[::-1]
        told = STREAMS[:1] if block.layer == self.layers[-1] else STREAMS
        names, time = tuple(f"{DENOISER}.{one}" for one in order), 2 * block.layer + 1
        found, mlps = [], []
        for one in told:
            here, stream = f"{DENOISER}.{block.layer}.{one}", f"{DENOISER}.{one}"
            mlps.append(Sender(f"{here}.mlp", stream, time + 1, block.mlp, gate=block.gate, order=names))
            found += [
                Sender(f"{here}.attn[{head}]", stream, time, block.z, head, block.gate, order=names)
                for head in range(len(block.weight))
            ]
        return [*found, *mlps]

    def receivers(self, inputs: Inputs | None) -> list[Receiver]:
        """What is made of them, in order; first the words that they begin with, where encoders run before them."""
        begun = self.site(0, f"{STREAMS[1]}.resid_pre")
        found = [Receiver(f"{DENOISER}.{STREAMS[1]}.embed", self.words, begun)] if self.words else []
        for layer in self.layers:
            time = 2 * layer + 1
            reads = tuple((self.site(layer, f"{one}.resid_pre"), time) for one in STREAMS)
            found += self.heads(layer, reads)
            if self.has(layer, "mlp.pre"):
                found.append(Receiver(f"{DENOISER}.{layer}.mlp", reads, self.site(layer, "mlp.pre")))
            for one in STREAMS:
                if self.has(layer, f"{one}.resid_mid"):
                    read, out = (self.site(layer, f"{one}.{part}") for part in ("resid_mid", "mlp.out"))
                    found.append(Receiver(f"{DENOISER}.{layer}.{one}.mlp", ((read, time + 1),), out))
        end = self.site(self.layers[-1], "image.resid_post")
        found.append(Receiver(f"{DENOISER}.image.end", ((end, LAST),), end))
        return found


class Encoder(Stream):
    """The stream of a prompt encoder up to its last state that the words of a denoiser are made of."""

    def __init__(self, model: Model, tower: str) -> None:
        if f"{tower}.0.resid_pre" not in model.sites:
            raise MethodError(
                f"the prompt also goes through '{tower}' ({type(model.towers[tower].module).__name__}), whose blocks "
                "the graph does not know",
                expected="encoders whose blocks add up in a stream", exists=", ".join(model.sites.towers()),
                do="leave out `encoder=`: the graph then begins at the denoiser",
            )  # fmt: skip
        super().__init__(model, tower, joined=False)

    def until(self, words: Sequence[tuple[Site, int]]) -> None:
        """Leave out the layers behind all of these states."""
        last = max(time for site, time in words if site.tower == self.tower)
        self.layers = [layer for layer in self.layers if 2 * layer + 3 <= last]
        kept = {f"{self.tower}.{layer}.attn.z" for layer in self.layers}
        self.weights = {name: weight for name, weight in self.weights.items() if name in kept}

    def receivers(self, inputs: Inputs | None) -> list[Receiver]:
        """What is made of it; it has no end of its own."""
        return [one for one in super().receivers(inputs) if not one.ends]


def _from_words(model: Model, inputs: Inputs, *, look: bool) -> Sequence[Encoder | Joint]:
    """The streams of the prompt encoders and of the denoiser that reads them; without `look` nothing is run for it."""
    found = [Encoder(model, name) for name, tower in model.towers.items() if tower.prompted]
    if not look:
        return [*found, Joint(model, tuple(one.states[-1] for one in found))]
    begun = f"{DENOISER}.0.{STREAMS[1]}.resid_pre"
    words = _made_of(model, inputs, [state for one in found for state in one.states], begun)
    read = [one for one in found if any(site.tower == one.tower for site, _ in words)]
    for one in read:
        one.until(words)
    return [*read, Joint(model, words)]


def _made_of(
    model: Model, inputs: Inputs, states: Sequence[tuple[Site, int]], made: str
) -> tuple[tuple[Site, int], ...]:
    """Of these states those without which what is made says something else: each in turn with its axes moved on."""
    run = model.run(inputs, record=[*(site for site, _ in states), made], stop=True)
    held: list[Edit] = [Patch(site, run[site]) for site, _ in states]
    found = []
    for at, (site, time) in enumerate(states):
        other: Any = Patch(site, run[site].roll(1, -1))
        moved = model.run(inputs, record=made, edits=[*held[:at], other, *held[at + 1 :]], stop=True)
        if not torch.equal(moved[made], run[made]):
            found.append((site, time))
    return tuple(found)


def streams(model: Model, inputs: Inputs | None, *, look: bool = True) -> Sequence[Stream | Joint]:
    """The streams that inputs run through, those that write into others first; of no inputs all there are.

    Raises MethodError for a model whose blocks do not add up in a stream.
    """
    if f"{DENOISER}.0.image.resid_pre" in model.sites:
        if inputs is not None and inputs.call.loops:
            raise MethodError(
                "a whole drawing runs its denoiser once a step, and a graph is of one evaluation",
                expected="one step of the drawing", exists=f"a {inputs.call}", do="`model.inputs(prompt=…, step=3)`",
            )  # fmt: skip
        if inputs is not None and isinstance(inputs.call, Encoded):
            return _from_words(model, inputs, look=look)
        return [Joint(model)]
    begun = {tower: f"{tower}.0.resid_pre" for tower in TOWERS}
    here = {tower: model.sites.one(name) for tower, name in begun.items() if name in model.sites}
    towers = [tower for tower, site in here.items() if site.axes[:2] == ("batch", "token")]
    towers = [tower for tower in towers if inputs is None or tower in inputs.tokens]
    if not towers:
        raise MethodError(
            f"no stream of {type(model.module).__name__} to which all blocks add",
            expected="a model that matches or answers, on inputs that run through its towers",
            exists=", ".join(model.sites.towers()), do=f"{OVER}; `path_patching` needs a stream",
        )  # fmt: skip
    joined = "connector.out" in model.sites and {"vision", "text"} <= set(towers)
    return [Stream(model, tower, joined) for tower in towers]
