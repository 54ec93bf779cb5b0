"""Open a model: a hub id, a local folder, a `zoo:` or `tiny:` name, or an object that is already loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from cutaway.errors import LoadError, near
from cutaway.model.model import Model
from cutaway.model.wrapped import unwrapped

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def load(
    source: Any,
    *,
    processor: Any = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    attn: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Open a model and name its parts.

    `source`: a hub id; a folder with `config.json` or `model_index.json` and safetensors weights; `tiny:clip` (a random
    model) or `zoo:emoji-clip` (a trained one, in the package; `zoo:emoji-clip@untrained` is its floor); or a loaded
    transformers model or diffusers pipeline (then give its `processor`). `attn` is `sdpa` or `eager`. Raises
    LoadError; pickle checkpoints are refused.

    A loaded object stays as it is, dtype, device and mode included: runs put it into eval mode and give its mode back.
    Of a `DataParallel`, `torch.compile` or PEFT wrapper the model inside is opened, adapters in place: `model.module`.

    >>> load("tiny:vit")
    tiny:vit: ViTForImageClassification, encoder; vision (3 layers); 49 sites
    """
    if isinstance(dtype, str):
        dtype = _dtype(dtype)
    if not isinstance(source, str | Path):
        asked = {"dtype": dtype, "device": device, "device_map": device_map, "attn": attn, "revision": revision}
        return _loaded(source, processor, {name: value for name, value in asked.items() if value is not None})
    name = str(source)
    if name.startswith(("tiny:", "zoo:")):
        return _embedded(name, dtype or torch.float32, device, attn)
    options = {"revision": revision, "device_map": device_map, "trust_remote_code": trust_remote_code}
    options = {key: value for key, value in options.items() if value}
    folder = Path(name)
    if folder.exists():
        _check_folder(folder)
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise LoadError(
            f"'{name}' is neither a folder here nor a model",
            expected="a hub id (`openai/clip-vit-base-patch32`), a folder, `zoo:NAME`, `tiny:NAME`, or a loaded model",
            do="check the path; `cutaway sites --help` shows examples",
        )
    try:
        module, tools = _pretrained(name, folder, dtype, attn, options)
    except OSError as error:
        raise LoadError(
            f"'{name}' could not be read ({str(error).splitlines()[0]})",
            expected="a model on the hub or in a folder, with safetensors weights",
            do="check the name and the connection, or download it once and pass the folder",
        ) from error
    if device is not None and device_map is None:
        module = module.to(device)
    module = module.eval() if isinstance(module, nn.Module) else module
    return Model(module, processor or tools, name=name, revision=revision or "")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise LoadError(f"no dtype '{name}'", exists="float32, float64, bfloat16, float16")
    return found


def _loaded(source: Any, processor: Any, asked: dict[str, Any]) -> Model:
    if not isinstance(source, nn.Module) and not hasattr(source, "components"):
        raise LoadError(
            f"cannot open an object of type {type(source).__name__}",
            expected="a hub id, a folder, a `zoo:` or `tiny:` name, a transformers model or a diffusers pipeline",
        )
    module = unwrapped(source)
    model = Model(module, processor, name=str(getattr(module, "name_or_path", "") or type(module).__name__))
    differs = [name for name, value in asked.items() if not _is_so(model, name, value)]
    if differs:
        raise LoadError(
            f"`{differs[0]}={asked[differs[0]]}` would change the {type(module).__name__} that you opened yourself",
            expected="an object as it is to be read: it is never moved, cast or set to another attention",
            do="change it before you pass it (`module.to(…)`, `module.set_attn_implementation(…)`), or pass its name",
        )
    return model


def _is_so(model: Model, name: str, value: Any) -> bool:
    """Whether a loaded model is already as an option asks."""
    if name == "dtype":
        return bool(model.dtype == value)
    if name == "device":
        wanted, found = torch.device(value), model.device
        return wanted.type == found.type and wanted.index in (None, found.index)
    return name == "attn" and getattr(getattr(model.module, "config", None), "_attn_implementation", None) == value


def _embedded(name: str, dtype: torch.dtype, device: Any, attn: str | None) -> Model:
    """A model that comes with the package: `tiny:NAME` (random), `zoo:NAME` (trained), `zoo:NAME@untrained`."""
    from cutaway.zoo import tiny, trained

    kind, wanted = name.split(":", 1)
    if kind == "tiny" and wanted not in tiny.names():
        raise LoadError(
            f"no tiny model '{wanted}'", exists=near(wanted, tiny.names()), do="`tiny:clip` is a good start"
        )
    module, processor = (tiny if kind == "tiny" else trained).build(wanted, dtype=dtype, attn=attn)
    return Model(module.to(device) if device is not None else module, processor, name=name)


# --- folders and hub --------------------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        hint = "pickle files can run code when opened; convert to safetensors" if folder.suffix in PICKLES else ""
        raise LoadError(
            f"'{folder}' is a file", expected="the folder that holds `config.json`", do=hint or "pass its folder"
        )
    names = sorted(path.name for path in folder.iterdir())
    if "config.json" not in names and "model_index.json" not in names:
        raise LoadError(
            f"'{folder}' holds no model", expected="`config.json` (transformers) or `model_index.json` (diffusers)",
            exists=", ".join(names[:5]) or "an empty folder", do="pass the folder that `save_pretrained` wrote",
        )  # fmt: skip
    if not any(folder.rglob("*.safetensors")):
        pickles = [path.name for path in folder.rglob("*") if path.suffix in PICKLES]
        raise LoadError(
            f"'{folder}' has no safetensors weights" + (f", only the pickle {pickles[0]}" if pickles else ""),
            expected="*.safetensors",
            exists=", ".join(names[:5]),
            do="pickle files can run code when opened and are refused; convert with `model.save_pretrained(folder)`",
        )


def _pretrained(
    name: str, folder: Path, dtype: torch.dtype | None, attn: str | None, options: dict[str, Any]
) -> tuple[Any, Any]:
    chosen: dict[str, Any] = {"dtype": dtype} if dtype is not None else {}
    if _is_pipeline(name, folder):
        import diffusers

        return diffusers.DiffusionPipeline.from_pretrained(name, use_safetensors=True, **chosen, **options), None
    import transformers

    chosen |= {"attn_implementation": attn} if attn else {}
    shared = {key: value for key, value in options.items() if key != "device_map"}
    config = transformers.AutoConfig.from_pretrained(name, **shared)
    kind = _class_of(config, bool(options.get("trust_remote_code")))
    module = kind.from_pretrained(name, config=config, use_safetensors=True, **chosen, **options)
    return module, _tools(name, shared)


def _is_pipeline(name: str, folder: Path) -> bool:
    if folder.is_dir():
        return (folder / "model_index.json").exists()
    from huggingface_hub import file_exists
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        return bool(file_exists(name, "model_index.json"))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return False


def _class_of(config: Any, remote: bool) -> Any:
    import transformers

    names = config.architectures or []
    for name in names:
        if hasattr(transformers, name):
            return getattr(transformers, name)
    if remote:
        return transformers.AutoModel
    raise LoadError(
        f"no class {', '.join(names) or '(none named)'} in transformers {transformers.__version__}",
        expected="`architectures` in config.json to name a transformers class",
        do="load it yourself and pass the object, or trust_remote_code=True if you trust its code",
    )


def _tools(name: str, options: dict[str, Any]) -> Any:
    """The processor of a model; when its class needs torchvision, its image processor (Pillow) and tokenizer."""
    import transformers

    try:
        found = transformers.AutoProcessor.from_pretrained(name, **options)
    except (ImportError, ValueError, OSError, KeyError, AttributeError, TypeError):
        found = None
    if found is not None and (hasattr(found, "tokenizer") or hasattr(found, "decode") or hasattr(found, "image_mean")):
        return found
    parts: dict[str, Any] = {}
    for field, kind in (("tokenizer", "AutoTokenizer"), ("image_processor", "AutoImageProcessor")):
        try:
            parts[field] = getattr(transformers, kind).from_pretrained(name, **options)
        except (ImportError, ValueError, OSError, KeyError, AttributeError, TypeError):
            parts[field] = None
    return _Parts(**parts) if any(part is not None for part in parts.values()) else found


class _Parts:
    """A tokenizer and an image processor side by side."""

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
