"""The words in which `blocks.py` and `towers.py` describe architectures: frozen dataclasses, nothing that runs a model.

A `Port` is where a tensor passes: what a module takes in or gives out. A `Block` says where the parts of one block
class are, a `Tower` where a stack of blocks and its ends are, a `Family` what a whole model adds to its towers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["in", "out", "mid", "scale", "q", "k", "v", "scores", "pattern"]
View = Literal["", "heads", "first_half", "second_half", "front_heads", "back", "dt", "B", "C"]

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
    """

    path: str
    z: str
    norm: str = ""
    out: str = ""
    caller: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Mlp:
    """An MLP sublayer: `pre` gives the pre-activations, `post` takes the activations, `out` adds to the residual."""

    pre: str
    post: str
    out: str
    norm: str = ""
    pre_view: View = ""


@dataclass(frozen=True)
class Block:
    """One block class. `post_norm` (or the attribute it names, `!` negates) puts each norm after its sum.

    `flat` blocks fold batch and token together inside their MLP. `residual=False` blocks name their own streams.
    """

    attn: Attn | None = None
    cross: Attn | None = None
    mlp: Mlp | None = None
    post_norm: bool | str = False
    flat: bool = False
    residual: bool = True
    extra: Mapping[str, Port] = field(default_factory=dict)


@dataclass(frozen=True)
class Tower:
    """One tower class: its default name, where its blocks are (in order of execution), what it has once.

    `prefix` are the kinds of the positions before the patches (an entry `register*NAME` repeats by a config value).
    `packed` towers have no batch axis: all pictures lie behind one another.
    """

    name: str
    layers: tuple[str, ...] = ()
    once: Mapping[str, Port] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()
    packed: bool = False
    causal: bool = False
    tokens: Literal["", "patches", "packed", "ids", "frames", "latent", "joint"] = ""


@dataclass(frozen=True)
class Family:
    """What a whole model adds: its family, ports outside its towers, how picture tokens lie among the text tokens.

    `feature_layer` names the config value that says which vision layer the rest of the model reads.
    """

    kind: Literal["contrastive", "generative", "diffusion", "encoder", "unknown"]
    once: Mapping[str, Port] = field(default_factory=dict)
    image_tokens: Literal["", "grid", "anyres", "thw", "query"] = ""
    feature_layer: str = ""
