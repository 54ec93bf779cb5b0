"""The words in which `blocks.py` and `towers.py` describe architectures: frozen dataclasses, nothing that runs a model.

A `Port` is where a tensor passes: what a module takes in or gives out. A `Block` says where the parts of one block
class are, a `Tower` where a stack of blocks and its ends are, a `Family` what a whole model adds to its towers, a
`Drawing` what a pipeline does with its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["in", "out", "mid", "scale", "q", "k", "v", "scores", "pattern"]
View = Literal["", "heads", "first_half", "second_half", "front_heads", "back", "dt", "B", "C"]

# Of each kind of family, the tower where it is steered and the one that its answer comes out of.
ENDS = {"contrastive": ("vision", "vision"), "generative": ("text", "text"), "diffusion": ("text", "denoiser")}

TOKENS = ("batch", "token", "d_model")
POOLED = ("batch", "d_model")
HEADS = ("batch", "token", "head", "d_head")
KV_HEADS = ("batch", "token", "kv_head", "d_head")
ATTENTION = ("batch", "head", "query", "key")
UNITS = ("batch", "token", "d_mlp")
SCALE = ("batch", "token")
PLANES = ("batch", "channel", "height", "width")


@dataclass(frozen=True)
class Port:
    """Where one tensor passes: module `path` (relative to the block or tower), direction, and which view of it.

    `mid` is the input of a norm that is also the running residual: it is written in place, so that both the norm and
    the skip connection see the write. `scale` is the denominator of a norm, one number a token. `unless` names a true
    attribute of the block that makes the part absent; `optional` allows the path to be missing.
    """

    path: str
    kind: Kind = "out"
    axes: tuple[str, ...] = TOKENS
    index: int = 0
    keyword: str = ""
    view: View = ""
    unless: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Attn:
    """An attention sublayer: its module, its output projection, what it adds to the residual, the norm before it.

    `caller` is the module that calls the attention function when that is not `path` itself (BERT's inner `self`).
    `v` is the projection whose last outputs are the values, if it is known: alone, or behind queries and keys.
    `adaptive` names a true attribute of the block where its norm is of the step or class and gives more than states.
    """

    path: str
    z: str
    norm: str = ""
    out: str = ""
    caller: str = ""
    optional: bool = False
    v: str = ""
    adaptive: str = ""


@dataclass(frozen=True)
class Mlp:
    """An MLP sublayer: `pre` gives the pre-activations, `post` takes the activations, `out` adds to the residual.

    `pre_view` is the part of `pre` that goes through the non-linearity, where the module `gate` (if named) is a gate.
    """

    pre: str
    post: str
    out: str
    norm: str = ""
    pre_view: View = ""
    gate: str = ""


@dataclass(frozen=True)
class Block:
    """One block class. `post_norm` (or the attribute it names, `!` negates) puts each norm after its sum.

    `flat` blocks fold batch and token together inside their MLP. `residual=False` blocks name their own streams. A true
    attribute named by `unless` makes a module of the class another thing than this row tells of.
    """

    attn: Attn | None = None
    cross: Attn | None = None
    mlp: Mlp | None = None
    post_norm: bool | str = False
    flat: bool = False
    residual: bool = True
    extra: Mapping[str, Port] = field(default_factory=dict)
    unless: str = ""


@dataclass(frozen=True)
class Joint:
    """How the streams of a joint-attention denoiser lie behind one another.

    `first` of them is the picture or the text; the text is what the prompt `encoders` of these numbers give (those that
    are there). A position holds `patch` by `patch` places of the latent picture; 0: the config says how many. Where the
    encoder `gap` of the pipeline is not there, the text ends in as many empty positions as a prompt may have there.
    """

    first: Literal["image", "text"]
    encoders: tuple[int, ...]
    patch: int = 0
    gap: str = ""


@dataclass(frozen=True)
class Tower:
    """One tower class: its default name, where its blocks are (in order of execution), what it has once.

    `prefix` are the kinds of the positions before the patches (an entry `register*NAME` repeats by a config value).
    `packed` towers have no batch axis: all pictures lie behind one another. `pooled` is where it is read at its end: at
    its class token, its first end token, its last one, or at all of them through a pooling attention head; a decoder is
    read at the last token of its row, through the unembedding, without a word here. `endless` prompt encoders have no
    positions of their own, so that the pipeline says how long a prompt is. `joint` is of denoisers that attend to
    picture and text at once, `apart` of those that are called a second time at a timestep for what guidance is against.
    `reads`: the linear maps of a denoiser that read the prompt, by their paths (of a block's with its part's site in
    front), and the argument that each reads.
    """

    name: str
    layers: tuple[str, ...] = ()
    once: Mapping[str, Port] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    packed: bool = False
    causal: bool = False
    tokens: Literal["", "patches", "packed", "ids", "frames", "latent", "joint"] = ""
    pooled: Literal["", "cls", "eos", "last", "pool"] = ""
    endless: bool = False
    joint: Joint | None = None
    apart: bool = False
    reads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """What a whole model adds: its family, ports outside its towers, how picture tokens lie among the text tokens.

    `feature_layer` names the config value that says which vision layer the rest of the model reads. `marks`: a picture
    without a place in the text is given one by a mark in front, unless the model's processor puts it there by itself.
    `beside` are tensors of its processor that only this model needs. Behind its unembedding, `shift` is a bias it keeps
    itself, `cap` the config value that it squashes logits to.
    """

    kind: Literal["contrastive", "generative", "diffusion", "encoder", "unknown"]
    once: Mapping[str, Port] = field(default_factory=dict)
    image_tokens: Literal["", "grid", "anyres", "thw", "query"] = ""
    feature_layer: str = ""
    marks: bool = True
    beside: tuple[str, ...] = ()
    shift: str = ""
    cap: str = ""

    @property
    def steered(self) -> str:
        """The tower that is steered unless one is named; "" where the family is not known."""
        return ENDS.get(self.kind, ("", ""))[0]

    @property
    def answers(self) -> str:
        """The tower that the answer comes out of; "" where the family is not known."""
        return ENDS.get(self.kind, ("", ""))[1]


@dataclass(frozen=True)
class Drawing:
    """What a pipeline does with its towers: the rows that it puts into one batch under guidance, in order.

    `early` is a prompt encoder that it reads before its last layer, and how many layers before. A flag of the pipeline
    says whether it is guided; where it has none `scale` is the argument that is above 1 then.
    """

    guided: tuple[str, ...] = ("uncond", "cond")
    early: tuple[str, int] | None = None
    scale: str = ""
