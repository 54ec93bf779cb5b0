#!/usr/bin/env bash
# An environment with cutaway and its peers (nnsight) side by side, for the benchmarks and tests/test_referee.py.
#
#   benchmarks/peers.sh [FOLDER]    (default .venv-peers)
#
#   PYTHON=python3.12     the interpreter to make it with
#   WITH=sae-lens         a further peer, for benchmarks/dictionaries.py: give that one a folder of its own
#   TORCH_INDEX=<url>     an extra package index, for instance one with CPU-only builds of torch
#
# Versions are those of constraints.txt. torch goes in first and alone, so that no later package chooses its build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv="${1:-.venv-peers}"
[[ -x "$venv/bin/python" ]] || "${PYTHON:-python3}" -m venv "$venv"
rules="$(mktemp)"
trap 'rm -f "$rules"' EXIT
cat constraints.txt > "$rules"
echo "torchvision<0" >> "$rules" # whatever asks for torchvision fails here: it has no CPU build everywhere and drags CUDA in

install() {
    "$venv/bin/python" -m pip --disable-pip-version-check install -q \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c "$rules" "$@"
}

install torch
"$venv/bin/python" -W ignore -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' || {
    echo "pip chose a torch with CUDA, and these benchmarks are for the CPU: pass TORCH_INDEX=<index of CPU-only builds>." >&2
    exit 1
}
install transformers diffusers "nnsight>=0.8,<0.9" jaxtyping safetensors pillow numpy xarray typer rich pytest beartype hypothesis
[[ -z "${WITH:-}" ]] || install scikit-learn matplotlib "h5netcdf[h5py]" "$WITH"
install --no-deps -e .
"$venv/bin/python" -c 'import cutaway, nnsight, torch, transformers; print(
    f"torch {torch.__version__}, transformers {transformers.__version__}, nnsight {nnsight.__version__}")'
echo "next: $venv/bin/python benchmarks/record.py"
