"""What edges cost: exactly, beside one forward with hooks an edge; by EAP-IG, beside its authors' own code.

    python benchmarks/circuits.py                       exact scores beside plain hooks
    python benchmarks/circuits.py --reference FOLDER    and EAP-IG beside a checkout of github.com/hannamw/EAP-IG

The second needs transformer-lens 3.0 in the same environment (`pip install --no-deps transformer-lens==3.0.0 better_abc
fancy_einsum einops`); its `device='cuda'` is read as the CPU's. Where `make real` has fetched SmolLM2-135M, all of its
edges are scored too. Exact scores are checked against the hooks, and `eap` against their code, before the clock starts.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timing import QUICK, Contestant, Race, compete, timed
from torch import Tensor
from torch.nn.functional import linear
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import cutaway
from cutaway.methods import edge_attribution
from cutaway.methods.causal_tracing import Graph
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.targets import logit_diff

CLEAN = ["a red dog on the grass", "a blue dog on the grass"] * 4
OTHER = ["a red cat on the grass", "a blue cat on the grass"] * 4
TARGET = logit_diff("dog", "cat")
POINTS = 5
TOGETHER = 64  # copies of the pairs in one forward without edits: what the numbers alone cost
REAL = Path("real/smollm2-135m")
NAMES = (("Mary", "John"), ("Sarah", "Tom"), ("Emma", "James"), ("Alice", "Paul"))
Pair = tuple[Inputs, Inputs]


def sides(model: Model) -> Pair:
    """The pairs as inputs."""
    return model.inputs(text=CLEAN), model.inputs(text=OTHER)


# --- exactly, by plain hooks ------------------------------------------------------------------------------------------


class Hooked:
    """Every edge of a Llama by one forward with hooks: what a user would write, differences of writers kept."""

    def __init__(self, model: Model, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.here, there = sides(model)
        clean, corrupt = (model.run(inputs, record=graph.record) for inputs in (self.here, there))
        self.falls = graph.written(corrupt, "text") - graph.written(clean, "text")
        self.words = [model.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("dog", "cat")]

    def scores(self) -> Tensor:
        """All of them, (sender, receiver)."""
        clean, found = self._target(), torch.full(self.graph.edges.shape, torch.nan)
        for at, to in zip(*self.graph.edges.nonzero(), strict=True):
            with self._heard(self.graph.receivers[int(to)].name, self.falls[int(at)]):
                found[int(at), int(to)] = clean - self._target()
        return found

    def _target(self) -> float:
        logits = self.model.module(**self.here.tensors).logits[:, -1]
        return float((logits[:, self.words[0]] - logits[:, self.words[1]]).mean())

    @contextlib.contextmanager
    def _heard(self, name: str, fall: Tensor) -> Iterator[None]:
        words, layers = name.split("."), self.model.module.model.layers
        if name == "text.end":
            handles = [layers[-1].register_forward_hook(lambda _, __, out: out + fall)]
        elif words[2] == "mlp":
            norm, mlp = layers[int(words[1])].post_attention_layernorm, layers[int(words[1])].mlp
            seen: dict[str, Tensor] = {}
            handles = [
                norm.register_forward_pre_hook(lambda _, args: seen.update(x=args[0])),
                mlp.register_forward_hook(lambda _, __, ___: mlp.forward(norm.forward(seen["x"] + fall))),
            ]
        else:
            handles = self._head(layers[int(words[1])], int(words[2][5:-1]), words[3], fall)
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _head(self, block: Any, head: int, part: str, fall: Tensor) -> list[Any]:
        projection, wide = getattr(block.self_attn, f"{part}_proj"), block.self_attn.head_dim
        seen: dict[str, Tensor] = {}
        own = slice(head * wide, (head + 1) * wide)

        def change(_: Any, __: Any, out: Tensor) -> Tensor:
            new = out.clone()
            new[..., own] = linear(block.input_layernorm.forward(seen["x"] + fall), projection.weight[own])
            return new

        norm = block.input_layernorm.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
        return [norm, projection.register_forward_hook(change)]


def exactly(quick: bool) -> Iterator[Race]:
    """Every edge, by plain hooks and by sweeps; and what as many forwards in batches cost, to all layers, unedited."""
    for layers, width, heads in ((3, 32, 4), *(() if quick else ((6, 64, 8),))):
        config = LlamaConfig(
            vocab_size=cutaway.load("tiny:llama").module.config.vocab_size, hidden_size=width, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=4 * width, initializer_range=0.1,
        )  # fmt: skip
        model = cutaway.load(LlamaForCausalLM(config).eval(), processor=cutaway.load("tiny:llama").tokenizer)
        pair = sides(model)
        plain = Hooked(model, Graph.of(model, pair[0]))

        def ours(model: Model = model, pair: Pair = pair) -> Any:
            return edge_attribution(model, *pair, TARGET, how="exact", progress=False)

        def bare(model: Model = model, pair: Pair = pair, cells: int = int(plain.graph.edges.sum())) -> None:
            ids = pair[0].tensors["input_ids"]
            for start in range(0, cells, TOGETHER):
                model.module(input_ids=ids.repeat(min(TOGETHER, cells - start), 1))

        there, own = plain.scores(), torch.from_numpy(ours()["score"].values).float()
        assert torch.allclose(there, own, atol=1e-4, equal_nan=True)
        count = int(plain.graph.edges.sum())
        yield (
            f"every edge exactly: {layers} layers of {width}, {count} edges, {len(CLEAN)} pairs",
            [
                Contestant("plain hooks", plain.scores),
                Contestant("cutaway, exact", ours, goal=1 / 20),
                Contestant("as many rows without an edit", bare),
            ],
            QUICK if not quick else 1,
        )  # fmt: skip


# --- EAP-IG beside its authors' code ----------------------------------------------------------------------------------


def reference(folder: Path) -> tuple[Any, Any]:
    """Their package, with the CPU in the place of the GPU that it asks for by name."""
    copied = Path(tempfile.mkdtemp()) / "eap"
    copied.mkdir()
    for file in (folder / "src" / "eap").glob("*.py"):
        (copied / file.name).write_text(file.read_text(encoding="utf-8").replace("'cuda'", "'cpu'"), encoding="utf-8")
    sys.path.insert(0, str(copied.parent))
    return importlib.import_module("eap.attribute"), importlib.import_module("eap.graph").Graph


def theirs(hf: GPT2LMHeadModel, pair: Pair, words: list[int], folder: Path) -> Callable[[], Any]:
    """One call of their EAP-IG on the same weights."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights

    attribute, graph = reference(folder)
    c = hf.config
    config = HookedTransformerConfig(
        n_layers=c.n_layer, d_model=c.n_embd, n_ctx=c.n_positions, d_head=c.n_embd // c.n_head, n_heads=c.n_head,
        d_mlp=4 * c.n_embd, act_fn="gelu_new", d_vocab=c.vocab_size, normalization_type="LN", device="cpu",
        use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True,
    )  # fmt: skip
    hooked = HookedTransformer(config)
    hooked.load_state_dict(convert_gpt2_weights(hf, config), strict=False)
    ids = {"clean": pair[0].tensors["input_ids"], "other": pair[1].tensors["input_ids"]}

    def tokens(_: Any, which: str) -> tuple[Tensor, Tensor, Tensor, int]:
        found = ids[which[0]]
        return found, torch.ones_like(found), torch.full((len(found),), found.shape[1]), found.shape[1]

    class Batch(list):  # type: ignore[type-arg]
        """As many rows as there are, all by one name."""

        def __len__(self) -> int:
            return len(CLEAN)

    attribute.tokenize_plus = tokens
    given = [(Batch(["clean"]), Batch(["other"]), None)]

    def metric(logits: Tensor, *_: Any) -> Tensor:
        return -(logits[:, -1, words[0]] - logits[:, -1, words[1]]).sum()

    def call(method: str = "EAP-IG-inputs") -> Any:
        made = graph.from_model(hooked)
        with torch.enable_grad():
            attribute.attribute(hooked, made, given, metric, method=method, ig_steps=POINTS, quiet=True)
        return made

    return call


def by_gradients(folder: Path | None, quick: bool) -> Iterator[Race]:
    """EAP-IG at five points, on models of three sizes."""
    for layers, heads, width in ((3, 4, 32), *(() if quick else ((6, 8, 256), (12, 12, 384)))):
        tokenizer = cutaway.load("tiny:gpt2").tokenizer
        config = GPT2Config(
            vocab_size=len(tokenizer), n_positions=64, n_embd=width, n_layer=layers, n_head=heads, initializer_range=0.1
        )
        hf = GPT2LMHeadModel(config).eval()
        model = cutaway.load(hf, processor=tokenizer)
        pair = sides(model)

        def ours(model: Model = model, pair: Pair = pair) -> Any:
            return edge_attribution(model, *pair, TARGET, how="eap-ig", points=POINTS, progress=False)

        words = [tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in ("dog", "cat")]
        other = None
        if folder is not None:
            other = theirs(hf, pair, words, folder)
            mine = edge_attribution(model, *pair, TARGET, how="eap", progress=False)["score"]
            same = [(float(edge.score), float(mine.sel(**named(edge.name)))) for edge in other("EAP").edges.values()]
            assert max(abs(one - own) for one, own in same) < 1e-4 and len(same) == int(mine.notnull().sum())
        yield (
            f"EAP-IG at {POINTS} points: {layers} layers of {width}, {heads} heads, {len(CLEAN)} pairs",
            [Contestant("its authors' code", other, note="" if other else "needs --reference"),
             Contestant("cutaway, eap-ig", ours, goal=1 / 2 if other else None)],
            QUICK if not quick else 1,
        )  # fmt: skip


def named(edge: str) -> dict[str, str]:
    """Their name of an edge in ours: `a0.h1->a1.h2<q>`."""

    def node(name: str) -> str:
        if name == "input":
            return "text.embed"
        layer, _, head = name[1:].partition(".h")
        return f"text.{layer}.mlp" if name[0] == "m" else f"text.{layer}.attn[{head}]"

    sender, _, receiver = edge.partition("->")
    if receiver == "logits":
        return {"sender": node(sender), "receiver": "text.end"}
    plain, _, part = receiver.rstrip(">").partition("<")
    return {"sender": node(sender), "receiver": node(plain) + (f".{part}" if part else "")}


def on_real(quick: bool) -> Iterator[Race]:
    """All edges of SmolLM2-135M on four pairs about names, where it is there."""
    if not REAL.is_dir() or quick:
        return
    model = cutaway.load(REAL)
    told = "When {a} and {b} went to the store, {s} gave a drink to"
    clean, other = ([told.format(a=a, b=b, s=(a, b)[at]) for a, b in NAMES] for at in (0, 1))
    target = logit_diff([b for _, b in NAMES], [a for a, _ in NAMES])

    def ours(how: str) -> Callable[[], Any]:
        return lambda: edge_attribution(model, clean, other, target, how=how, progress=False)  # type: ignore[arg-type]

    count = int(Graph.of(model, model.inputs(text=clean)).edges.sum())
    yield (
        f"SmolLM2-135M: all {count} edges on {len(NAMES)} pairs",
        [Contestant("cutaway, eap", ours("eap")), Contestant("cutaway, eap-ig", ours("eap-ig"))], 1,
    )  # fmt: skip


def main() -> None:
    """Run the races."""
    given = timed(__doc__, QUICK, "small models, one round", reference=(Path, "a checkout of EAP-IG")).parse_args()
    races = (race for part in (
        exactly(given.quick), by_gradients(given.reference, given.quick), on_real(given.quick)
    ) for race in part)  # fmt: skip
    compete(given, races)


if __name__ == "__main__":
    main()
