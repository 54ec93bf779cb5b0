"""Models that others have wrapped, compiled, offloaded or put into training: what is opened, and how it comes to rest.

A wrapper is opened at the model inside it, whose parts have the names a user knows. For the length of a run the model
rests: eval mode, no compiled calls (they leave out hooks that came later), no checkpoints (they run blocks again in
`backward`, when the hooks are off). Each flag is put back as it was found, submodule by submodule.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from cutaway.errors import LoadError

_SWITCH, _ASKED = threading.Lock(), 0
_STANCE: Any = None
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(source: Any) -> Any:
    """The model inside `DataParallel`, `torch.compile` and PEFT wrappers, adapters in place; anything else as it is.

    Raises LoadError for a PEFT model whose wrapper does more than call the model inside.
    """
    if isinstance(source, PARALLEL):
        return unwrapped(source.module)
    if isinstance(inner := vars(source).get("_modules", {}).get("_orig_mod"), nn.Module):  # of `torch.compile`
        return unwrapped(inner)
    if isinstance(source, nn.Module) and type(source).__module__.startswith("peft."):
        return unwrapped(_base(source))
    return source


def _base(peft: Any) -> nn.Module:
    """The model inside a PEFT wrapper that only calls it: LoRA and its kin, which sit in the modules."""
    configs = [peft.peft_config[name] for name in peft.active_adapters]
    tuner = peft.base_model
    home = next(kind.__name__ for kind in type(tuner).__mro__ if "forward" in vars(kind))
    what = ""
    if any(config.is_prompt_learning for config in configs):
        what = "it puts learned tokens in front of every input"
    elif any(getattr(config, "alora_invocation_tokens", None) for config in configs):
        what = "its adapter acts from a certain word on, which the wrapper looks for"
    elif home not in ("BaseTuner", "AdaLoraModel", "Module"):  # AdaLoRA's adds a loss while it trains
        what = f"{home} runs the model in a way of its own"
    if what:
        kinds = ", ".join(sorted({str(getattr(c.peft_type, "value", c.peft_type)) for c in configs}))
        raise LoadError(
            f"this {type(peft).__name__} ({kinds}) is more than the model inside it: {what}",
            expected="an adapter that sits in the modules (LoRA, IA3, LoHa, OFT, …)",
            exists=f"the model without it, {type(getattr(tuner, 'model', tuner)).__name__}",
            do="open that one, and know that the adapter is missing: `cutaway.load(peft_model.get_base_model())`",
        )
    return tuner.model


def core(module: nn.Module) -> nn.Module:
    """The layer that an adapter lies around; a module without one itself."""
    for name in ("base_layer", "original_module"):
        if isinstance(below := getattr(module, name, None), nn.Module):
            return core(below)
    return module


@contextmanager
def present(module: nn.Module) -> Iterator[None]:
    """The weights of an offloaded module, brought for the length of the block."""
    hook: Any = getattr(module, "_hf_hook", None)
    if hook is None or not any(parameter.is_meta for parameter in module.parameters(recurse=False)):
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def execution_device(roots: Iterable[nn.Module], otherwise: torch.device | None = None) -> torch.device:
    """Where inputs belong: where the first parameter lies or, for offloaded weights, where they are brought to."""
    for root in roots:
        for module in root.modules():
            device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
            if device is not None:
                return torch.device(device)
            for parameter in module.parameters(recurse=False):
                if parameter.device.type != "meta":
                    return parameter.device
    if otherwise is not None:
        return otherwise
    raise LoadError(
        "this model has no weights, only their shapes (device 'meta')",
        expected="weights in memory, or offloaded by accelerate, which brings them when they are needed",
        do="its sites can be listed; to run it, load it with its weights",
    )


@contextmanager
def at_rest(roots: Iterable[nn.Module], *, eval_mode: bool = True) -> Iterator[None]:
    """Modules as they can be watched: in eval mode (if asked for), not compiled, not checkpointed; then as before."""
    changed: list[tuple[dict[str, Any], str, Any]] = []
    named = ("training", "gradient_checkpointing") if eval_mode else ("gradient_checkpointing",)
    owned = _owned(roots)
    with _eager() if any(map(_compiled, owned)) else nullcontext():
        try:
            for own in owned:
                # A flag alone: `eval()` of some adapters would merge them. The last is torch's `CheckpointWrapper`.
                flags: list[tuple[str, Any]] = [(name, False) for name in named if own.get(name)]
                flags += [("checkpoint_fn", _called)] if "checkpoint_fn" in own else []
                for name, value in flags:
                    changed.append((own, name, own[name]))
                    own[name] = value
            yield
        finally:
            for own, name, value in reversed(changed):
                own[name] = value


def _owned(roots: Iterable[nn.Module]) -> list[dict[str, Any]]:
    """What every module below the roots holds, each once: the same as `modules()`, several times faster."""
    found: dict[int, dict[str, Any]] = {}
    waiting = [vars(root) for root in roots]
    while waiting:
        own = waiting.pop()
        if id(own) not in found:
            found[id(own)] = own
            waiting += [vars(below) for below in own["_modules"].values() if below is not None]
    return list(found.values())


def _compiled(own: dict[str, Any]) -> bool:
    """Whether calls of a module go through the compiler, as a whole or in its forward."""
    return own.get("_compiled_call_impl") is not None or (
        "forward" in own and hasattr(own["forward"], "_torchdynamo_orig_callable")
    )


@contextmanager
def _eager() -> Iterator[None]:
    """Nothing compiled is used, in any thread, until the last one that asked for this is done: the switch is global."""
    global _ASKED, _STANCE  # noqa: PLW0603, it counts who needs the library's own global switch
    with _SWITCH:
        if not _ASKED:
            _STANCE = torch.compiler.set_stance("force_eager")
        _ASKED += 1
    try:
        yield
    finally:
        with _SWITCH:
            _ASKED -= 1
            if not _ASKED:
                _STANCE.__exit__(None, None, None)


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)
