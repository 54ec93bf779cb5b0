"""What the tests share: one opened model an architecture, an input for each, and ways to compare outcomes."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import cutaway
from cutaway.model.inputs import Inputs
from cutaway.model.model import Model
from cutaway.model.run import Run
from cutaway.model.sites import Site
from cutaway.model.targets import outcome
from cutaway.zoo import tiny

UNKNOWN = ("siglip2", "t5")  # no table row: only raw sites
KNOWN = [name for name in tiny.names() if name not in UNKNOWN]
PIPELINES = [name for name in KNOWN if tiny.TINY[name].family == "diffusion"]
PROMPTED = [name for name in PIPELINES if "text" in tiny.TINY[name].modalities]
TEXT = "a red dog on the left"
PT = {"output": "pt"}
OWN, OTHER = ["a red dog", "a cat on a mat"], ["a blue dog", "a fox on a mat"]  # prompts that differ in one word
ROUNDING = 1e-12  # of float64, in numbers of about 1
THEIRS = {"_output_capturing_hooks_installed", "_diffusers_hook"}  # what the libraries add on the first call


# --- models and inputs ------------------------------------------------------------------------------------------------


def fresh(name: str, attn: str | None = None) -> Model:
    """A tiny model in float64 that nothing has run on."""
    return cutaway.load(f"tiny:{name}", dtype="float64", attn=attn)


def red_unit(unit: int = 5) -> Model:
    """A CLIP one unit of whose first state is how red a patch is, and no more."""
    model = fresh("clip")
    with torch.no_grad():
        embeddings = model.module.vision_model.embeddings
        embeddings.position_embedding.weight[:, unit] = 0
        embeddings.patch_embedding.weight[unit] = torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    return model


@cache
def opened(name: str, attn: str | None = None) -> Model:
    """The same, built once; tests leave it as they found it."""
    return fresh(name, attn)


def asked(name: str, guidance: float | None = None) -> dict[str, Any]:
    """What a pipeline is asked to draw, in words of `model.inputs`: a prompt, a class, or nothing."""
    kinds: dict[str, dict[str, Any]] = {"text": {"prompt": "a red dog", "size": (32, 32)}, "label": {"label": 3}}
    what = next((kinds[kind] for kind in tiny.TINY[name].modalities if kind in kinds), None)
    return {} if what is None else {**what, "guidance": guidance}


@cache
def given(name: str) -> Inputs:
    """An input on which every tower of the model runs, with several tokens everywhere."""
    model, modalities = opened(name), tiny.TINY[name].modalities
    if name in PIPELINES:
        return model.inputs(**asked(name, guidance=3.0), steps=2)
    if "audio" in modalities:
        return model.inputs(audio=noise(8000).numpy(), text=TEXT)
    if name == "bart":
        ids = model.tokenizer([TEXT], return_tensors="pt")
        return model.inputs(**ids, decoder_input_ids=ids["input_ids"].flip(1)[:, :5])
    image = tiny.picture() if "image" in modalities else None
    return model.inputs(image=image, text=TEXT if "text" in modalities else None)


@cache
def clean(name: str, attn: str | None = None) -> Run:
    """A run without edits that recorded every site."""
    model = opened(name, attn)
    return model.run(given(name), record=list(model.sites), **drawn(model))


@cache
def one_step(name: str) -> Inputs:
    """One evaluation of a pipeline's denoiser."""
    return opened(name).inputs(**asked(name), steps=2, step=1)


@cache
def one_drawing(name: str) -> Inputs:
    """The shortest drawing with guidance."""
    return opened(name).inputs(**asked(name, guidance=3.0), steps=1)


@cache
def shortest(name: str, once: bool) -> tuple[Inputs, Run]:
    """The cheapest inputs on which a site runs, and their run without edits; `once`: a pipeline's denoiser alone."""
    model = opened(name)
    if name not in PIPELINES:
        return given(name), clean(name)
    inputs = one_step(name) if once else one_drawing(name)
    sites = [site for site in model.sites if not once or model.towers[site.tower].stepped]
    return inputs, model.run(inputs, record=sites, **({} if once else drawn(model)))


def draws(model: Model) -> bool:
    """Whether what is opened is a pipeline, by its row in the tables."""
    return model.family.kind == "diffusion"


def drawn(model: Model) -> dict[str, Any]:
    """How to run a pipeline so that its pictures come as tensors; nothing for other models."""
    return PT if draws(model) else {}


def library_call(model: Model, inputs: Inputs, **options: Any) -> Any:
    """The plain call of the library, nothing of ours around it."""
    if not inputs.call.loops:
        return model.module(**inputs.tensors, **options)
    call = dict(inputs.tensors)
    generator = torch.Generator("cpu").manual_seed(call.pop("seed"))
    return model.module(**call, generator=generator, output_type="pt", **options)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Accurate(TorchFunctionMode):
    """Where the library computes in float32 inside a float64 model (RMS norms, softmaxes, scans), it stays in float64.

    Otherwise the last digit of one row's product, which depends on how many rows there are, grows there to the
    last digit of float32.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            return args[0].double() if args[0].dtype == torch.float64 else func(*args)
        wide = {key: torch.float64 if value is torch.float32 else value for key, value in (kwargs or {}).items()}
        return func(*(torch.float64 if value is torch.float32 else value for value in args), **wide)


# --- comparing --------------------------------------------------------------------------------------------------------


def tensors(outputs: Any) -> list[Tensor]:
    """Every tensor of an output, nested outputs included."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if hasattr(outputs, "images"):
        return [outputs.images]
    parts = outputs.to_tuple() if hasattr(outputs, "to_tuple") else outputs if isinstance(outputs, tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def identical(a: Any, b: Any) -> bool:
    """Equal bit for bit, NaN equal to NaN."""
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return bool(pairs) and all(
        x.shape == y.shape and x.dtype == y.dtype and torch.equal(x.nan_to_num(nan=9e9), y.nan_to_num(nan=9e9))
        for x, y in pairs
    )


def alike(a: Any, b: Any) -> bool:
    """Equal up to rounding: the same weights elsewhere in memory may give another last digit on some processors."""
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return bool(pairs) and all(
        x.dtype == y.dtype and gap(x.nan_to_num(9e9), y.nan_to_num(9e9)) < ROUNDING for x, y in pairs
    )


def gap(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors of one shape; infinite where only one is a number."""
    assert a.shape == b.shape, f"{tuple(a.shape)} is not {tuple(b.shape)}"
    return (a.double() - b.double()).abs().nan_to_num(nan=torch.inf).max().item()


def moved(run: Run, other: Run) -> float:
    """How far the final tensors of two runs are apart."""
    return gap(outcome(run), outcome(other))


# --- the state of a model ---------------------------------------------------------------------------------------------


def modules(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """Every module of a model or pipeline with its path."""
    for root_name, root in model.engine.roots.items():
        for path, module in root.named_modules():
            yield f"{root_name}.{path}", module


def is_capture(hook: Any) -> bool:
    """Whether a hook is one that the library puts on by itself, the first time it is asked for hidden states."""
    return str(getattr(hook, "__module__", "")).startswith("transformers.")


def state(model: Model) -> dict[str, tuple[Any, ...]]:
    """All that a session could leave behind: hooks, processors, configs, attributes of instances."""
    found = {}
    for path, module in modules(model):
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        ours = tuple(id(hook) for hook in hooks if not is_capture(hook))
        parts = tuple(id(getattr(module, name, None)) for name in ("config", "processor"))
        attn = getattr(getattr(module, "config", None), "_attn_implementation", None)
        found[path] = (ours, parts, attn, frozenset(vars(module)) - THEIRS)
    return found


def captures(model: Model) -> int:
    """How many capture hooks of the library lie on the model."""
    return sum(is_capture(hook) for _, module in modules(model) for hook in module._forward_hooks.values())


def chill(model: Model) -> None:
    """Take the library's own capture hooks off again, so that the model is as newly built."""
    for _, module in modules(model):
        for key in [key for key, hook in module._forward_hooks.items() if is_capture(hook)]:
            del module._forward_hooks[key]
        vars(module).pop("_output_capturing_hooks_installed", None)


def warm(model: Model, inputs: Inputs) -> None:
    """Run the plain library once, hidden states asked for, so that its capture hooks lie on the model."""
    library_call(model, inputs, **({} if inputs.call.loops else {"output_hidden_states": True}))


def ends(model: Model) -> list[Site]:
    """Every site; of a pipeline those of the first and last layer of each block class, and what a tower has once."""
    if not draws(model):
        return list(model.sites)
    kept = set()
    for tower in model.towers.values():
        layers: dict[type, list[int]] = {}
        for layer, block in enumerate(tower.blocks):
            layers.setdefault(type(block), []).append(layer)
        kept |= {(tower.name, layer) for found in layers.values() for layer in (found[0], found[-1])}
    return [site for site in model.sites if site.layer is None or (site.tower, site.layer) in kept]
