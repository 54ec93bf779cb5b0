"""What every method returns: labelled arrays, where they come from, and ways to keep, tabulate and draw them."""

from __future__ import annotations

import base64
import html
import importlib
import io
import json
import re
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cutaway.errors import CutawayError, near

R = TypeVar("R", bound="Result")
_PROVENANCE, _KIND = "provenance", "result"
_OWN = re.compile(r"(cutaway(?:\.[a-z][a-z0-9_]*)+)(?:\.[A-Z]\w*)+$")  # the module of a class of this package


class ResultError(CutawayError, ValueError):
    """A result that cannot be saved, opened or drawn."""


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from. `seconds` is wall time; `peak_bytes` the most memory the process has held so far."""

    method: str
    source: str
    model: str = ""
    revision: str = ""
    sites: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    made: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        method: str,
        source: str,
        *,
        started: float,
        model: Any = None,
        sites: tuple[str, ...] = (),
        seed: int | None = None,
        **options: Any,
    ) -> Provenance:
        """Fill in what can be known: `started` is `time.perf_counter()` when the method began.

        `model` is the Model, or the provenance of the result that this one is made from.
        """
        plain: dict[str, Any] = json.loads(json.dumps(options, default=str))
        name = model.model if isinstance(model, Provenance) else getattr(model, "name", "")
        return cls(
            method, source, name, getattr(model, "revision", ""), sites, plain, seed,
            round(time.perf_counter() - started, 3), peak_bytes(), datetime.now(UTC).isoformat(timespec="seconds"),
            versions(),
        )  # fmt: skip

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Provenance:
        """What `to_json` wrote."""
        raw = json.loads(text)
        return cls(**{**raw, "sites": tuple(raw["sites"])})


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Base of all results: `data` (an `xarray.Dataset` with named dimensions and coordinates) and `provenance`.

    A subclass names its `main` variable, draws itself in `_draw` and may give a shorter table in `summary`.

    >>> import tempfile
    >>> made = Result(xarray.Dataset({"score": ("layer", [0.25, 0.75])}), Provenance("demo", "nobody, 2026"))
    >>> path = made.save(Path(tempfile.mkdtemp()) / "demo.nc")
    >>> load(path)
    Result(demo: layer 2)
    """

    data: xarray.Dataset
    provenance: Provenance

    main: ClassVar[str] = ""
    _kinds: ClassVar[dict[str, type[Result]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        Result._kinds[full_name(cls)] = cls

    def __getitem__(self, name: str) -> xarray.DataArray:
        """One variable or coordinate."""
        if name not in self.data.variables:
            raise ResultError(
                f"{type(self).__name__} has no variable '{name}'", expected="a variable or coordinate of `data`",
                exists=near(name, map(str, self.data.variables)), do="print `result.data` to see them all",
            )  # fmt: skip
        return self.data[name]

    # --- keeping ------------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write one netCDF file; a file that is there already is an error unless `overwrite`."""
        path = Path(path)
        if path.exists() and not (overwrite and path.is_file()):
            raise ResultError(
                f"'{path}' exists already", expected="a path where nothing is", do="choose another, or overwrite=True"
            )
        if not path.parent.is_dir():
            raise ResultError(
                f"there is no folder '{path.parent}'", expected="a path in a folder that exists", do="make it first"
            )
        extra = {_KIND: full_name(type(self)), _PROVENANCE: self.provenance.to_json()}
        part = path.with_name(path.name + ".part")
        try:
            self.data.assign_attrs(extra).to_netcdf(part, engine="h5netcdf")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls: type[R], path: str | Path) -> R:
        """Open what `save` wrote; a result of another kind is an error."""
        found = load(path)
        if not isinstance(found, cls):
            raise ResultError(
                f"'{path}' holds a {type(found).__name__}", expected=f"a {cls.__name__}",
                do=f"use `{type(found).__name__}.load`, or `cutaway.methods.result.load`, which opens any of them",
            )  # fmt: skip
        return found

    # --- looking ------------------------------------------------------------------------------------------------------

    def to_dataframe(self, name: str | None = None) -> Any:
        """A variable (the main one unless named) as a tidy `pandas.DataFrame`, one row a number."""
        chosen = self[name or self.main or next(iter(map(str, self.data)))]
        return chosen.rename(chosen.name or "value").to_dataframe().reset_index()

    def summary(self) -> Any:
        """A small table of what matters most, as a `pandas.DataFrame`."""
        return self.to_dataframe().head(20)

    def note(self) -> str:
        """What a reader of the summary must know; empty where it speaks for itself."""
        return ""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw on the given axes or on a new figure (`axes.figure`); no global state is touched."""
        if ax is None:
            ax = Figure(figsize=(6.4, 3.8), dpi=120, layout="constrained").subplots()
        self._draw(ax)
        return ax

    def _draw(self, ax: Axes) -> None:
        shown = self[self.main or next(iter(map(str, self.data)))]
        if shown.ndim == 1:
            ax.plot(range(shown.size), shown.values, marker="o")
            ax.set_xticks(range(shown.size), [str(label) for label in labels(shown, str(shown.dims[0]))])
            ax.set(xlabel=str(shown.dims[0]), ylabel=str(shown.name))
        elif shown.ndim == 2:
            heat(ax, shown, str(shown.name))
        else:
            raise ResultError(
                f"'{shown.name}' has {shown.ndim} dimensions and no drawing of its own", expected="one or two",
                exists=", ".join(map(str, shown.dims)), do="select along some: `result[…].isel(…)`",
            )  # fmt: skip

    def to_html(self) -> str:
        """A self-contained fragment: title, figure, table, provenance; nothing is fetched when it is shown."""
        buffer = io.BytesIO()
        self.plot().figure.savefig(buffer, format="png")
        picture = base64.b64encode(buffer.getvalue()).decode("ascii")
        title = html.escape(self.provenance.method.replace("_", " "))
        rows = "".join(
            f"<dt>{html.escape(key)}</dt><dd>{html.escape(_said(value))}</dd>"
            for key, value in asdict(self.provenance).items()
            if value not in ("", None, (), {})
        )
        table = self.summary().to_html(index=False, border=0, float_format=lambda x: f"{x:.3f}")
        return (
            f'<section class="cutaway-result"><h3>{title}</h3>'
            f'<figure><img alt="{html.escape(repr(self))}" src="data:image/png;base64,{picture}"></figure>'
            f"{table}<details><summary>provenance</summary><dl>{rows}</dl></details></section>"
        )

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.data.sizes.items())
        of = f" of {self.provenance.model}" if self.provenance.model else ""
        return f"{type(self).__name__}({self.provenance.method}{of}: {sizes})"


def load(path: str | Path) -> Any:
    """Open a saved result as the class it was; only netCDF is read, nothing in the file is run.

    A class of this package is imported when a file names it. One of your own is known once you have imported its
    module: nothing else is ever imported because a file says so.
    """
    path = Path(path)
    if not path.is_file():
        raise ResultError(f"no result at '{path}'", expected="a file that `result.save` wrote", do="check the path")
    try:
        data = xarray.load_dataset(path, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise ResultError(
            f"'{path.name}' cannot be read ({type(error).__name__})",
            expected="a netCDF file that `result.save` wrote",
            do="check which file it is, or compute the result again",
        ) from error
    missing = [name for name in (_KIND, _PROVENANCE) if name not in data.attrs]
    if missing:
        raise ResultError(
            f"'{path.name}' says nothing of its {missing[0]}", expected="a file that `save` wrote",
            do="open it with `xarray.open_dataset`",
        )  # fmt: skip
    kind, told = (str(data.attrs.pop(name)) for name in (_KIND, _PROVENANCE))
    try:
        return _class_of(kind, path.name)(data, Provenance.from_json(told))
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise ResultError(
            f"'{path.name}' has no provenance that can be read", expected="what `save` wrote", do="save it again"
        ) from error


def full_name(kind: type) -> str:
    """The name by which a file knows its class: module and qualified name."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _class_of(name: str, file: str) -> type[Result]:
    """The class of that full name: an imported one, or one of this package."""
    if name == full_name(Result):
        return Result
    module = _OWN.match(name)
    if name not in Result._kinds and module:
        with suppress(ModuleNotFoundError):
            found = getattr(importlib.import_module(module[1]), name.rpartition(".")[2], None)
            if isinstance(found, type) and issubclass(found, Result):  # handed on by that module, made in another
                return found
    if name not in Result._kinds:
        home, _, word = name.rpartition(".")
        raise ResultError(
            f"'{file}' holds a '{word or name}' of '{home}', which is not imported",
            expected="a result of this package, or of a module that you have imported",
            exists=near(name, Result._kinds),
            do=f"import {home}, if you trust it, and open the file again; or read it with `xarray.open_dataset`",
        )
    return Result._kinds[name]


def origin(result: Result) -> dict[str, object]:
    """What a view says of where its numbers come from: the provenance without what is empty."""
    return {name: value for name, value in asdict(result.provenance).items() if value not in ("", None, (), {}, 0)}


# --- helpers for methods ----------------------------------------------------------------------------------------------


def labels(array: xarray.DataArray, dim: str) -> list[Any]:
    """The coordinate of a dimension, or its numbers where it has none."""
    return list(array[dim].values) if dim in array.coords else list(range(array.sizes[dim]))


LONG = 4  # letters of a label that has room beside fifteen others


def heat(ax: Axes, shown: xarray.DataArray, title: str = "", *, diverging: bool = False) -> None:
    """A labelled heat map of two dimensions with a colour bar; `diverging` centres the colours on zero."""
    down, across = map(str, shown.dims)
    most = float(abs(shown).max()) or 1.0
    limits = {"cmap": "RdBu_r", "vmin": -most, "vmax": most} if diverging else {"cmap": "viridis"}
    image = ax.imshow(shown.values, aspect="auto", **limits)
    for dim, axis in ((down, ax.yaxis), (across, ax.xaxis)):
        names = labels(shown, dim)
        step = max(1, len(names) // 16)
        axis.set_ticks(range(0, len(names), step), [str(name) for name in names[::step]])
    if any(len(tick.get_text()) > LONG for tick in ax.get_xticklabels()):
        ax.tick_params(axis="x", rotation=90)
        ax.tick_params(labelsize=6)
    ax.set(xlabel=across, ylabel=down, title=title)
    ax.figure.colorbar(image, ax=ax)


def versions() -> dict[str, str]:
    """Versions of what a number depends on."""
    from cutaway import __version__

    loaded = {name: getattr(sys.modules.get(name), "__version__", "") for name in ("transformers", "sklearn")}
    return {"cutaway": __version__, "torch": torch.__version__, **{k: str(v) for k, v in loaded.items() if v}}


def peak_bytes() -> int:
    """The most memory held so far: of the accelerator when one is used, else of the process; 0 where unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def drawn(outputs: Any) -> dict[str, Any]:
    """The pictures of a drawing as a variable, `drawn` (picture, y, x, channel) in 0 … 255; {} where there are none."""
    pictures = [np.asarray(one.convert("RGB")) for one in getattr(outputs, "images", ())]
    return {"drawn": (("picture", "y", "x", "channel"), np.stack(pictures))} if pictures else {}
