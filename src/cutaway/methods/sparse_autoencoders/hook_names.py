"""What TransformerLens, SAELens and ViT-Prisma call a place, and what it is called here.

Their names have no tower; `blocks.3.hook_resid_post` is `text.3.resid_post` in a language model and
`vision.3.resid_post` in a ViT. Queries and keys are left out: theirs are taken before rotary embedding. What enters an
MLP behind its norm (`ln2.hook_normalized`, `mlp.hook_in`) has no site here: name the one that is meant.
"""

from __future__ import annotations

import re

from cutaway.errors import SiteError, near
from cutaway.model.sites import Site

LAYERED = {
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_resid_post": "resid_post",
    "attn.hook_v": "attn.v", "attn.hook_z": "attn.z", "attn.hook_attn_scores": "attn.scores",
    "attn.hook_pattern": "attn.pattern", "hook_attn_out": "attn.out",
    "mlp.hook_pre": "mlp.pre", "mlp.hook_post": "mlp.post", "hook_mlp_out": "mlp.out",
}  # fmt: skip
ONCE = {"hook_embed": "embed", "ln_final.hook_normalized": "final"}
ALSO = {"hook_mlp_in": "resid_mid", "hook_attn_in": "resid_pre"}  # read, never written
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def site_of(hook: str, tower: str = "text") -> str:
    """The site of a hook in a tower; a name that is a site already is one.

    >>> site_of("blocks.3.hook_resid_post"), site_of("blocks.0.hook_mlp_out", "vision"), site_of("denoiser.1.mlp.out")
    ('text.3.resid_post', 'vision.0.mlp.out', 'denoiser.1.mlp.out')
    """
    found = _BLOCK.fullmatch(hook)
    part = ONCE.get(hook) if found is None else {**LAYERED, **ALSO}.get(found[2])
    if part is not None:
        return f"{tower}.{part}" if found is None else f"{tower}.{int(found[1])}.{part}"
    if "hook" in hook or hook.count(".") == 0:
        known = [*ONCE, *(f"blocks.0.{name}" for name in LAYERED)]
        raise SiteError(
            f"no site here is what '{hook}' names", expected="a hook of the table", exists=near(hook, known),
            do="say which site is meant: `site=` (of a transcoder also `target=`)",
        )  # fmt: skip
    return str(Site.parse(hook))


def hook_of(site: str | Site) -> str:
    """The hook of a site; where they have no name for it, the site's own.

    >>> hook_of("text.3.resid_post"), hook_of("vision.embed"), hook_of("denoiser.7.image.resid_post")
    ('blocks.3.hook_resid_post', 'hook_embed', 'denoiser.7.image.resid_post')
    """
    one = Site.parse(str(site))
    layered, once = ({part: hook for hook, part in table.items()} for table in (LAYERED, ONCE))
    if one.stream is None and one.layer is not None and one.part in layered:
        return f"blocks.{one.layer}.{layered[one.part]}"
    return once[one.part] if one.layer is None and one.part in once else str(one)
