"""Sites: the places where an activation can be read and written, and the table of those a model has.

A site prints as `tower.layer.part` (`vision.3.attn.z`), with the stream in between for blocks that carry two
(`denoiser.7.image.resid_post`) and no layer for what a tower has once (`text.embed`). `raw.PATH` is the output of
any module of the model by its own path.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from cutaway.errors import SiteError, near

STREAMS = ("image", "text")
HEAD_AXES = ("head", "kv_head")
POSITIONS = ("token", "query", "key")


@dataclass(frozen=True)
class Site:
    """One place: where it is (identity) and what it holds there (axes, sizes; not part of the identity).

    >>> str(Site.parse("denoiser.7.image.resid_post")), Site.parse("text.embed").layer
    ('denoiser.7.image.resid_post', None)

    `axes` name every dimension in order; `sizes` gives those the architecture fixes (`d_model`, `head`), the rest
    (`batch`, `token`, `query`, `key`, `step`) depend on the input. `dead` says why writing here changes nothing.
    """

    tower: str
    layer: int | None
    part: str
    stream: str | None = None
    axes: tuple[str, ...] = field(default=(), compare=False)
    sizes: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)
    label: str = field(default="", compare=False)
    dead: str = field(default="", compare=False)

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read a site back from its printed form."""
        words = text.split(".")
        if len(words) < 2 or not all(words):
            raise SiteError(
                f"'{text}' is not a site",
                expected="`tower.layer.part`, for example `vision.3.attn.z`, or `tower.part`, for example `text.embed`",
                do="`model.sites` lists the sites of a model",
            )
        tower, rest = words[0], words[1:]
        if tower == "raw":
            return cls("raw", None, ".".join(rest))
        layer = int(rest.pop(0)) if rest[0].isdecimal() and len(rest) > 1 else None
        stream = rest.pop(0) if len(rest) > 1 and layer is not None and rest[0] in STREAMS else None
        return cls(tower, layer, ".".join(rest), stream)

    def __str__(self) -> str:
        return self._name

    @cached_property
    def _name(self) -> str:
        words = (self.tower, self.layer, self.stream, self.part)
        return ".".join(str(word) for word in words if word is not None)

    @property
    def shape(self) -> str:
        """The axes with the sizes that are known before a run, e.g. `(batch, token, head=12, d_head=64)`."""
        return "(" + ", ".join(f"{a}={self.sizes[a]}" if a in self.sizes else a for a in self.axes) + ")"

    @property
    def head_axis(self) -> str | None:
        """The axis a `head=` selector acts on, if there is one."""
        return next((axis for axis in HEAD_AXES if axis in self.axes), None)


class SiteTable:
    """The sites of a model, in the order of execution; `table[pattern]` selects and never returns nothing."""

    def __init__(self, sites: Iterable[Site], raw: Iterable[str] = ()) -> None:
        self._sites = {str(site): site for site in sites}
        self._order = {name: i for i, name in enumerate(self._sites)}
        self._raw = {f"raw.{path}": Site("raw", None, path) for path in raw if path}

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites.values())

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, site: object) -> bool:
        return str(site) in self._sites or str(site) in self._raw

    def __getitem__(self, pattern: str | Site) -> list[Site]:
        """The sites that match a name or a shell-style pattern (`vision.*.resid_post`, `text.[0-3].attn.z`)."""
        key = str(pattern)
        pool = self._raw if key.startswith("raw.") else self._sites
        found = [pool[key]] if key in pool else [pool[name] for name in fnmatch.filter(pool, key)]
        if not found:
            raise self._missing(key)
        return found

    def one(self, name: str | Site) -> Site:
        """The one site of this name; a pattern that matches several is an error."""
        found = self[name]
        if len(found) > 1:
            raise SiteError(
                f"'{name}' names {len(found)} sites where one is needed",
                exists=near(str(name), map(str, found)),
                do="name the layer",
            )
        return found[0]

    def select(self, record: str | Site | Iterable[str | Site]) -> list[Site]:
        """The union of several names or patterns, each site once, in the order of the table."""
        patterns = [record] if isinstance(record, str | Site) else list(record)
        chosen = {str(site): site for pattern in patterns for site in self[pattern]}
        return sorted(chosen.values(), key=lambda site: self._order.get(str(site), len(self._order)))

    def towers(self) -> dict[str, int]:
        """Each tower with its number of layers."""
        found: dict[str, int] = {}
        for site in self:
            found[site.tower] = max(found.get(site.tower, 0), 0 if site.layer is None else site.layer + 1)
        return found

    def _missing(self, key: str) -> SiteError:
        towers = self.towers()
        tower, *rest = key.split(".")
        if tower not in towers and tower != "raw" and not set(tower) & set("*?["):
            listing = ", ".join(f"{name} ({n} layers)" if n else name for name, n in towers.items()) or "no named tower"
            return SiteError(
                f"'{key}': no tower '{tower}'",
                exists=listing,
                do="`model.sites` prints every site; `raw.PATH` reaches any module by its own path",
            )
        if rest and rest[0].isdecimal() and tower in towers and int(rest[0]) >= towers[tower]:
            last = towers[tower] - 1
            hint = ".".join((tower, str(last), *rest[1:]))
            return SiteError(
                f"'{key}': layer {rest[0]} is out of range",
                expected=f"a layer of tower '{tower}' from 0 to {last}",
                do=f"did you mean `{hint}`? `model.sites['{tower}.*.{'.'.join(rest[1:]) or 'resid_post'}']` lists them",
            )
        pool = self._raw if tower == "raw" else self._sites
        return SiteError(
            f"'{key}' matches no site",
            expected="a name or a shell-style pattern such as `vision.*.resid_post`",
            exists=near(key, pool),
            do="`model.sites` prints every site",
        )

    def __repr__(self) -> str:
        width = max((len(str(site)) for site in self), default=0)
        return "\n".join(
            f"{site!s:<{width}}  {site.shape}{'  dead: ' + site.dead if site.dead else ''}" for site in self
        )
