"""What a module applies: the matrix and bias of a linear map, the gain and bias of a norm, whatever lies around them.

A plain layer is read. Anything else is asked: a map is what it does to the columns of the unit matrix, so adapters
(LoRA, DoRA, merged or not, one or several), packed weights and weights that live elsewhere need no rule of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cutaway.errors import SiteError
from cutaway.model.blocks import TRANSPOSED
from cutaway.model.paths import linear_shape
from cutaway.model.seats import is_rms, norm_scale
from cutaway.model.wrapped import at_rest, core, execution_device, present

LINEARS = ("torch.nn.modules.linear.Linear", "torch.nn.modules.linear.NonDynamicallyQuantizableLinear",
           "transformers.pytorch_utils.Conv1D")  # fmt: skip
LARGE = 2.0**10  # how far a unit is sent in, so that the bias takes no digits of half precision from a small weight
CHUNK = 2**24  # numbers of a product at a time


@torch.no_grad()
def linear_map(
    module: Any, name: str, dtype: torch.dtype = torch.float32
) -> tuple[Float[Tensor, "out d_in"], Float[Tensor, "out"]]:
    """Matrix (out, in) and bias that a module applies; SiteError if it is not linear. `dtype`: of its inputs.

    Of a layer that is not plain both are as exact as one call of it: its output must be that of the matrix to half the
    digits of its dtype. Hooks on the module are not part of it.
    """
    shape = linear_shape(module)
    if shape is None:
        raise SiteError(f"'{name}' is not a linear map but {type(module).__name__}", do="choose another site")
    if not _plain(module):
        return _asked(module, shape[0], name, dtype)
    with present(module):
        matrix = module.weight.detach()
        matrix = matrix.T if type(module).__name__ in TRANSPOSED else matrix
        bias = getattr(module, "bias", None)
        return matrix, torch.zeros_like(matrix[:, 0]) if bias is None else bias.detach()


def norm_weights(norm: Any) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Gain g and bias b of a norm y = g x' + b. Those of a LayerNorm are read; one without any has 1 and 0.

    Any other is asked for y(x) and y(-x): some RMSNorms keep the gain less one, adapters keep one of their own.
    """
    inner: Any = core(norm)
    if inner is norm and not is_rms(norm):
        if norm.weight is None:
            return torch.ones(norm.normalized_shape), torch.zeros(norm.normalized_shape)
        with present(norm):
            return norm.weight, torch.zeros_like(norm.weight) if norm.bias is None else norm.bias
    like = next(inner.parameters(), torch.zeros(0))
    size = inner.weight.shape if inner.weight is not None else inner.normalized_shape
    bare = None if like.numel() else torch.device("cpu")  # a norm without weights, as that of a denoiser's end
    x = torch.ones(size, dtype=like.dtype, device=execution_device([norm], bare))
    if not is_rms(norm):
        x[1::2] = -1
    there = (x - (0 if is_rms(norm) else x.mean())) / norm_scale(norm, x)
    up, down = norm.forward(x), norm.forward(-x)
    return (up - down) / (2 * there), (up + down) / 2


def _plain(module: Any) -> bool:
    """Whether a module does no more than its class says, with weights that are its matrix."""
    weight = getattr(module, "weight", None)
    own = "forward" not in vars(module) or hasattr(module, "_hf_hook")  # an offloaded one brings its weights first
    return own and _kind(module) in LINEARS and type(weight) is nn.Parameter and weight.is_floating_point()


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _asked(module: Any, size: int, name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Matrix and bias by what the module does to the columns of the unit matrix, and to zero."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.element_size() > 1:
        dtype = weight.dtype
    device = execution_device([module], torch.device("cpu"))
    with at_rest([module]):
        bias = module.forward(torch.zeros(1, size, dtype=dtype, device=device))[0]
        rows = max(1, CHUNK // (size + len(bias)))
        found = []
        for start in range(0, size, rows):
            units = torch.zeros(min(rows, size - start), size, dtype=dtype, device=device)
            units.diagonal(start).fill_(LARGE)
            found.append((module.forward(units) - bias) / LARGE)
        matrix = torch.cat(found).T
        x = torch.randn(4, size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
        given = module.forward(x)
    error = float((given - (x @ matrix.to(dtype).T + bias)).abs().max() / given.abs().max().clamp(min=1e-30))
    if not error <= torch.finfo(dtype).eps ** 0.5 / 2:
        raise SiteError(
            f"'{name}' is no linear map: {_kind(module)} gives {error:.1%} of its size more or less "
            "than any matrix does",
            expected="a matrix and a bias; a quantised layer rounds what enters it, differently for each input",
            exists="the activations before and after it, which are right",
            do="take weights from the model as it was before it was quantised or wrapped",
        )
    return matrix, bias
