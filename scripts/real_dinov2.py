"""DINOv2-small out of an ONNX file that was exported with a decoder behind it: its weights by name, its config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config

PREFIX = "backbone."
END = "/backbone/layernorm/Add_1_output_0"  # what leaves the last norm
WIDTH, HEADS, PATCH = 384, 6, 14
SIDE = 224  # pixels that the file takes
TRAINED = 518  # pixels of the grid of its position embeddings, 37 × 37 patches


def convert(onnx_file: bytes, to: Path) -> None:
    """Write the backbone of an ONNX file as a folder that `transformers` opens; needs `onnx`."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_model_from_string(onnx_file).graph
    given = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    products = {node.name: node.input[1] for node in graph.node if node.op_type == "MatMul" and node.input[1] in given}
    to.mkdir(parents=True, exist_ok=True)
    save_file(weights(given, products), to / "model.safetensors", {"format": "pt"})
    config(layers_of(given)).save_pretrained(to)
    (to / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n", encoding="utf-8")


def weights(given: Mapping[str, np.ndarray], products: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The weights under the names of `transformers`.

    An exporter folds the transpose of a linear layer into its weight and drops the name: `products` says which product
    of the graph takes which. Position embeddings come in two parts, of the class token and of patches.
    """
    found = {name: value for name, value in given.items() if name.startswith(PREFIX)}
    for product, name in products.items():
        module = product.strip("/").removesuffix("/MatMul").replace("/", ".")
        found[f"{module}.weight"] = given[name].T
    grid = (TRAINED // PATCH) ** 2
    first, rest = (_only(given, (1, count, WIDTH)) for count in (1, grid))
    found[f"{PREFIX}embeddings.position_embeddings"] = np.concatenate([first, rest], 1)
    found[f"{PREFIX}embeddings.mask_token"] = np.zeros((1, WIDTH))  # pre-training alone uses it; it is not in the file
    inside = {name.removeprefix(PREFIX): value for name, value in found.items() if name.startswith(PREFIX)}
    return {name: torch.from_numpy(np.array(value, dtype=np.float32, order="C")) for name, value in inside.items()}


def layers_of(given: Mapping[str, Any]) -> int:
    """How many blocks there are."""
    return len({name.split(".")[3] for name in given if name.startswith(f"{PREFIX}encoder.layer.")})


def config(layers: int) -> Dinov2Config:
    """The shape of the model."""
    return Dinov2Config(
        hidden_size=WIDTH, num_hidden_layers=layers, num_attention_heads=HEADS, mlp_ratio=4, image_size=TRAINED,
        patch_size=PATCH, layer_norm_eps=1e-6, architectures=["Dinov2Model"], dtype="float32",
    )  # fmt: skip


def reference(onnx_file: bytes, pixels: np.ndarray) -> np.ndarray:
    """What leaves the last norm when the ONNX file itself is run, in numpy: (batch, 1 + patches, width)."""
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.utils import Extractor

    whole = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(onnx_file))
    inside = Extractor(whole).extract_model([whole.graph.input[0].name], [END])
    return ReferenceEvaluator(inside).run(None, {whole.graph.input[0].name: pixels})[0]


def _only(given: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The one nameless tensor of a shape."""
    found = [value for name, value in given.items() if value.shape == shape and not name.startswith(PREFIX)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} nameless tensors of shape {shape}, where one is expected")
    return found[0]


PROCESSOR = {
    "image_processor_type": "BitImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE},
    "resample": 3, "do_center_crop": False, "do_convert_rgb": True, "do_rescale": True, "rescale_factor": 1 / 255,
    "do_normalize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
