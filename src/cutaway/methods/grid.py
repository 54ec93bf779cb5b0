"""A number for each position of a picture, laid on the picture's grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray
from jaxtyping import Int
from numpy import ndarray


def folded(
    values: xarray.DataArray, rows: Int[ndarray, "token"], cols: Int[ndarray, "token"],
    names: tuple[str, str] = ("row", "col"),
) -> xarray.DataArray:  # fmt: skip
    """Values over `token` on the grid of a picture: (…, row, col), `names` the two axes.

    `rows` and `cols` say where each token lies, negative where on no grid. Where no token lies stands what means
    nothing: NaN, "" among texts, -1 among whole numbers.

    >>> import xarray
    >>> line = xarray.DataArray([9.0, 1.0, 2.0, 3.0], dims="token")
    >>> folded(line, np.array([-1, 0, 0, 1]), np.array([-1, 0, 1, 1])).values
    array([[ 1.,  2.],
           [nan,  3.]])
    """
    here = np.flatnonzero(rows >= 0)
    kept = values.isel(token=here).transpose(..., "token")
    shape = (int(rows.max()) + 1, int(cols[here].max()) + 1)
    laid = np.full((*kept.shape[:-1], *shape), nothing(kept.values), kept.dtype)
    laid[..., rows[here], cols[here]] = kept.values
    others = [str(dim) for dim in kept.dims[:-1]]
    coords = {dim: kept[dim] for dim in others if dim in kept.coords}
    return xarray.DataArray(laid, dims=(*others, *names), coords=coords, name=values.name)


def nothing(values: ndarray) -> Any:
    """What stands where there is no position: "" for texts, -1 for whole numbers, else NaN."""
    return {"U": "", "O": "", "i": -1}.get(values.dtype.kind, np.nan)
