"""A second device on a machine that has none: `other:0`, `other:1`, in pure Python, as strict as an accelerator.

It is torch's own seat for devices from elsewhere (PrivateUse1). The memory is the CPU's, so that every operation is
computed there, on tensors that are the CPU's for as long as it takes. To everybody else they are tensors of a device:
with its name, storages, views and versions, of the type `Tensor`, and no operation takes tensors of two devices.
"""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME, COUNT = "other", 2
KEY = "PrivateUse1"
CPU, FOREIGN = 1, 12  # kDLCPU and kDLExtDev of DLPack, which knows a tensor's memory and the device it is said to be on
_LIBRARIES = []  # what is registered holds as long as these
_POINTER = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER.restype, _POINTER.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
# What takes tensors of two devices beside copies: places on the CPU in a tensor of a device.
PLACES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")
JOINED = ("aten::cat", "aten::stack")  # in which not even a number of the CPU may stand


class Module(_DummyBackendModule):
    def device_count(self) -> int:
        return COUNT


@cache
def install() -> None:
    """Bring the device into this process, where it stays; nothing is on it that is not put there."""
    _setup_privateuseone_for_python_backend(rename=NAME, backend_module=Module())
    everything, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(_computed, KEY)
    aten.impl("empty.memory_format", _empty, KEY)
    aten.impl("empty_strided", _empty_strided, KEY)
    aten.impl("as_strided", _as_strided, KEY)
    aten.impl("_copy_from", _copy_from, KEY)
    aten.impl("convolution_overrideable", _convolution, KEY)
    aten.impl("convolution_backward_overrideable", _convolution_backward, KEY)
    aten.impl("_fused_sdp_choice", lambda *args, **kwargs: 0, KEY)  # attention as a formula: no kernel of its own
    _LIBRARIES.extend((everything, aten))


@cache
def _known(op: Any) -> tuple[str, tuple[bool, ...], bool]:
    """The name of an operation, which of its arguments are tensors, and whether it gives views."""
    taken = tuple(isinstance(one.type, torch.TensorType) for one in op._schema.arguments)
    views = any(one.alias_info is not None and not one.alias_info.is_write for one in op._schema.returns)
    return op._schema.name, taken, views


def _computed(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Any operation: on the CPU, in the same memory."""
    name, taken, views = _known(op)
    args = tuple(_numbered(x) if tensor else x for x, tensor in zip(args, taken, strict=False))
    given, shape = tree_flatten((args, kwargs))
    device = _device(name, args, [x for x in given if isinstance(x, Tensor)])
    back: dict[int, tuple[Tensor, Tensor]] = {}

    def inner(x: Any) -> Any:
        if isinstance(x, torch.device) and x.type == NAME:
            return torch.device("cpu")
        if not isinstance(x, Tensor) or x.device.type != NAME:
            return x
        made = said_to_be(x, CPU, 0) if x.numel() else x.new_empty(x.shape, device="cpu")  # which may grow
        back[id(made)] = made, x
        return made

    def outer(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) not in back:
            return said_to_be(x, FOREIGN, device.index)
        old = back[id(x)][1]
        if old.shape != x.shape:
            old.data = said_to_be(x, FOREIGN, device.index)
        return old

    inside, named = tree_unflatten([inner(x) for x in given], shape)
    made = op(*inside, **named)
    if views:
        x = args[0]
        return tree_map(lambda y: _as_strided(x, y.shape, y.stride(), x.storage_offset() + y.storage_offset()), made)
    return tree_map(outer, made)


def _numbered(x: Any) -> Any:
    """A plain number as the tensor that an operation takes: torch has taken it out of one."""
    return torch.tensor(x, dtype=torch.float64 if type(x) is float else None) if type(x) in (bool, int, float) else x


def _device(name: str, args: Any, tensors: list[Tensor]) -> torch.device:
    """The one device that an operation's tensors lie on; RuntimeError if there are two."""
    device = next(x.device for x in tensors if x.device.type == NAME)
    if name in PLACES:  # where: also on the CPU; what, and into what: here
        kept = args[:1] + args[2:3]
        device, tensors = args[0].device, [x for x in tensors if x.device.type == NAME or any(x is y for y in kept)]
    wrong = [x for x in tensors if x.device != device and (x.device.type != "cpu" or x.dim() or name in JOINED)]
    if wrong:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {device} and "
            f"{wrong[0].device}! (in {name})"
        )
    return device


def said_to_be(x: Tensor, kind: int, index: int) -> Tensor:
    """A tensor in the same memory that is said to lie on another device."""
    capsule = torch._C._to_dlpack(x)
    where = _POINTER(capsule, b"dltensor")
    ctypes.c_int32.from_address(where + 8).value = kind  # behind the pointer to the numbers
    ctypes.c_int32.from_address(where + 12).value = index
    return torch._C._from_dlpack(capsule)


def _index(device: Any) -> int:
    return torch.device(device).index or 0


def _empty(size, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None) -> Tensor:
    made = torch.empty(size, dtype=dtype, device="cpu", memory_format=memory_format or torch.contiguous_format)
    return said_to_be(made, FOREIGN, _index(device))


def _empty_strided(size, stride, dtype=None, layout=None, device=None, pin_memory=None) -> Tensor:
    return said_to_be(torch.empty_strided(size, stride, dtype=dtype, device="cpu"), FOREIGN, _index(device))


def _as_strided(x: Tensor, size, stride, storage_offset=None) -> Tensor:
    """A view on the same storage."""
    at = x.storage_offset() if storage_offset is None else storage_offset
    return torch.ops.aten.alias.default(x).as_strided_(size, stride, at)


def _copy_from(x: Tensor, into: Tensor, non_blocking: bool = False) -> Tensor:
    """What all copies from one device to another come to."""
    here, there = (said_to_be(one, CPU, 0) if one.device.type == NAME else one for one in (x, into))
    there.copy_(here)
    return into


def _convolution(*args: Any) -> Tensor:
    return _computed(torch.ops.aten.convolution.default, *args)


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor | None, ...]:
    made = torch.ops.aten.convolution_backward.default
    return _computed(made, grad, x, weight, [weight.shape[0]], *rest)
