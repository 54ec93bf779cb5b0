"""A dictionary by its folder, whoever wrote it: this package, SAELens or ViT-Prisma."""

from __future__ import annotations

from pathlib import Path

from cutaway.errors import StoreError
from cutaway.methods.sparse_autoencoders import prisma, saelens
from cutaway.methods.sparse_autoencoders.autoencoder import SparseAutoencoder
from cutaway.store.fitted import CONFIG, TENSORS


def opened(folder: str | Path) -> SparseAutoencoder:
    """The dictionary in a folder, in single precision; nothing in it is run.

    Folders of other tools do not say which model they belong to: the model must be the one that they were trained on.
    """
    folder = Path(folder)
    inside = {one.name for one in folder.iterdir()} if folder.is_dir() else set()
    if {CONFIG, TENSORS} <= inside:
        return SparseAutoencoder.load(folder).single()
    if saelens.CONFIG in inside:
        return saelens.read(folder)
    if CONFIG in inside:
        return prisma.read(folder)
    raise StoreError(
        f"no dictionary lies at '{folder}'", exists=", ".join(sorted(inside)[:5]) or "no such folder, or nothing in it",
        expected="what `save` writes, or a folder of SAELens (cfg.json) or ViT-Prisma (config.json)",
        do="check the path",
    )  # fmt: skip
