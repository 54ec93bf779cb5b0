"""Open a model: a hub id, a local folder, a `zoo:` or `tiny:` name, or an object that is already loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]
from safetensors import SafetensorError
from torch import nn

from cutaway.errors import LoadError, near
from cutaway.model.dictionary import Dictionary, by_name, several
from cutaway.model.model import Model
from cutaway.model.wrapped import unwrapped
from cutaway.source import Source, left_out
from cutaway.zoo import parted

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
UNREACHED = (OSError, HTTPError, HFValidationError)  # the second: whatever http library the hub is asked with
UNFIT = (ValueError, RuntimeError, ImportError, AssertionError, SafetensorError)  # of what was read, or of an option
BROKEN = (ImportError, ValueError, OSError, KeyError, AttributeError, TypeError)  # what unreadable processors raise
TOOLS = {  # the parts of a processor: the class that opens them, the files that show that there is one
    "tokenizer": (
        "AutoTokenizer", ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model",
        "spiece.model", "sentencepiece.bpe.model"),
    ),
    "image_processor": ("AutoImageProcessor", ("preprocessor_config.json", "processor_config.json")),
}  # fmt: skip


def load(
    source: Any,
    *,
    processor: Any = None,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    attn: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    dictionary: str | Path | Dictionary | Sequence[str | Path | Dictionary] = (),
) -> Model:
    """Open a model and name its parts.

    `source`: a hub id; a folder with `config.json` or `model_index.json` and safetensors weights; `tiny:clip` (a random
    model) or `zoo:emoji-clip` (a trained one, in the package; `zoo:emoji-clip@untrained` is its floor); any of these in
    a `Source`, with its options; or a loaded transformers model or diffusers pipeline (then give its `processor`).
    `attn` is `sdpa` or `eager`. `device_map="auto"` puts the layers of a large model where there is room, at most
    `max_memory` (`{"cpu": "20GiB"}`) of each place, and leaves the rest on disk (docs/jobs.md). Raises LoadError, also
    for an option that would have no effect (`revision` of a `zoo:` name, `device` beside `device_map`); pickle
    checkpoints are refused. `dictionary`: one or several whose features are sites of the model (docs/dictionaries.md),
    by their folder, or `zoo:NAME` for one that comes with the package; `WORD=FOLDER` names one of several of a site.

    A loaded object stays as it is, dtype, device and mode included: runs put it into eval mode and give its mode back.
    Of a `DataParallel`, `torch.compile` or PEFT wrapper the model inside is opened, adapters in place: `model.module`.

    >>> load("tiny:vit")
    tiny:vit: ViTForImageClassification, encoder; vision (3 layers); 49 sites
    """
    if isinstance(source, Source):
        said = {item.name: getattr(source, item.name) for item in fields(source)}
        said["dictionary"] = (*source.dictionary, *several(dictionary))
        return load(said.pop("name"), processor=processor, **said)
    options = {
        "revision": revision, "device_map": device_map, "max_memory": max_memory, "trust_remote_code": trust_remote_code
    }  # fmt: skip
    plain = _opened(source, processor, dtype_of(dtype), device_of(device), attn, options)
    found = by_name(several(dictionary))
    return plain.with_dictionaries(check=True, **found) if found else plain


def _opened(source: Any, processor: Any, dtype: Any, device: Any, attn: str | None, options: dict[str, Any]) -> Model:
    """The model without dictionaries."""
    if not isinstance(source, str | Path):
        asked = {"dtype": dtype, "device": device, "attn": attn, **options} | {"trust_remote_code": None}
        return _loaded(source, processor, {name: value for name, value in asked.items() if value is not None})
    name = str(source)
    options = {key: value for key, value in options.items() if value}
    _check_options(name, device, options)
    again = _again(name, dtype, device, attn, options)
    if parted(name)[0]:
        with _said(name):
            module, tools = _embedded(name, dtype or torch.float32, attn)
        return Model(module if device is None else module.to(device), tools, name=name, source=again)
    folder = Path(name)
    if folder.exists():
        _check_folder(folder)
    elif name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise LoadError(
            f"'{name}' is neither a folder here nor a model",
            expected="a hub id (`openai/clip-vit-base-patch32`), a folder, `zoo:NAME`, `tiny:NAME`, or a loaded model",
            exists=_namesakes(name), do="check the path; `cutaway sites --help` shows examples",
        )  # fmt: skip
    with _said(name):
        module, tools = _pretrained(name, folder, dtype, attn, options, processor)
    if device is not None:
        module = module.to(device)
    module = module.eval() if isinstance(module, nn.Module) else module
    return Model(module, tools, name=name, revision=options.get("revision", ""), source=None if processor else again)


def _again(
    name: str, dtype: torch.dtype | None, device: torch.device | None, attn: str | None, options: dict[str, Any]
) -> Source:
    """How another process opens the same."""
    precision = None if dtype is None else str(dtype).removeprefix("torch.")
    return Source(name, None if device is None else str(device), precision, attn=attn, **options)


def _check_options(name: str, device: torch.device | None, options: dict[str, Any]) -> None:
    """Refuse what would have no effect: how files are fetched, for a model that has none; two ways to be placed."""
    kind = parted(name)[0]
    if kind and options:
        first, *_ = options
        raise LoadError(
            f"`{first}={options[first]}` means nothing for '{name}', which comes with the package",
            expected="options that such a model is opened by", exists="dtype, device, attn",
            do=f"leave `{first}` out, or name a model of the hub or a folder",
        )  # fmt: skip
    if "max_memory" in options and "device_map" not in options:
        raise LoadError(
            f"`max_memory={options['max_memory']}` limits the places of a `device_map`, and there is none",
            expected="`device_map` beside it", do='`device_map="auto"`, or leave `max_memory` out',
        )  # fmt: skip
    if device is not None and "device_map" in options:
        raise LoadError(
            f"`device={device}` and `device_map={options['device_map']}` both say where '{name}' is to lie",
            expected="one of the two", exists="`device` puts all of it in one place, `device_map` its parts in several",
            do="leave one of them out",
        )  # fmt: skip


def dtype_of(wanted: torch.dtype | str | None) -> torch.dtype | None:
    """The dtype of that name; weights are floats, so the others are refused."""
    found = getattr(torch, wanted, None) if isinstance(wanted, str) else wanted
    if wanted is not None and found not in DTYPES:
        raise LoadError(
            f"a model cannot be opened in dtype '{str(wanted).removeprefix('torch.')}'",
            expected="a dtype that weights can be computed in",
            exists=", ".join(str(one).removeprefix("torch.") for one in DTYPES),
            do="name one of these, or open a quantised model with its own library and pass the object",
        )
    return found


def device_of(wanted: torch.device | str | None) -> torch.device | None:
    """The device of that name, once something can be put there; a LoadError says what this machine has."""
    if wanted is None:
        return None
    try:
        found = torch.device(wanted)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        here = torch.accelerator.current_accelerator()
        count = torch.accelerator.device_count()
        more = "" if here is None else f", {', '.join(f'{here.type}:{index}' for index in range(count))}"
        raise LoadError(
            f"there is no device '{wanted}' ({_why(error)})", expected="a device of this machine",
            exists=f"cpu{more}", do="leave `device` out, or install a torch that was built for it",
        ) from error  # fmt: skip
    return found


@contextmanager
def _said(name: str) -> Iterator[None]:
    """What the libraries raise when they open a model, as a LoadError."""
    try:
        yield
    except LoadError:
        raise
    except UNREACHED as error:
        raise LoadError(
            f"'{name}' could not be read ({_why(error)})",
            expected="a model on the hub or in a folder, with safetensors weights",
            exists="without a connection: folders, `zoo:NAME`, `tiny:NAME`, and what was downloaded before",
            do="check the name and the connection, or download it once and pass the folder",
        ) from error
    except UNFIT as error:
        raise LoadError(
            f"'{name}' cannot be opened ({_why(error)})",
            expected="a config and whole weights that belong together, and for `attn` a kernel that is installed",
            exists="`attn` may be sdpa or eager",
            do="check the files and options, or open it with its own library and pass the object",
        ) from error


def _why(error: BaseException) -> str:
    """The first sentence of what another library says."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shorten(lines[0].split(". ")[0].rstrip("."), 160, placeholder=" …")


def _namesakes(name: str) -> str:
    """The models of the package that are called so, when the word before the colon was left out."""
    from cutaway.zoo import tiny, trained

    plain = name.partition("@")[0]
    known = {"tiny": tiny.names(), "zoo": list(trained.TRAINED)}
    return ", ".join(f"{kind}:{name}" for kind, names in known.items() if plain in names)


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


def _embedded(name: str, dtype: torch.dtype, attn: str | None) -> tuple[Any, Any]:
    """A model that comes with the package: `tiny:NAME` (random), `zoo:NAME` (trained), `zoo:NAME@untrained`."""
    from cutaway.zoo import tiny, trained

    kind, wanted = parted(name)
    if kind == "tiny" and wanted not in tiny.names():
        raise LoadError(
            f"no tiny model '{wanted}'", expected="a name of `cutaway tiny`", exists=near(wanted, tiny.names()),
            do="`tiny:clip` is a good start; tiny models are never trained, so they have no `@untrained`"
            if "@" in wanted else "`tiny:clip` is a good start",
        )  # fmt: skip
    return (tiny if kind == "tiny" else trained).build(wanted, dtype=dtype, attn=attn)


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
    name: str, folder: Path, dtype: torch.dtype | None, attn: str | None, options: dict[str, Any], processor: Any
) -> tuple[Any, Any]:
    """The model and its processor, the given one if there is one."""
    chosen: dict[str, Any] = {"dtype": dtype} if dtype is not None else {}
    if _is_pipeline(name, folder, options.get("revision")):
        from diffusers import DiffusionPipeline

        named = DiffusionPipeline.load_config(name, **{key: options[key] for key in ("revision",) if key in options})
        chosen |= left_out(named)
        return DiffusionPipeline.from_pretrained(name, use_safetensors=True, **chosen, **options), None
    import transformers

    chosen |= {"attn_implementation": attn} if attn else {}
    shared = {key: value for key, value in options.items() if key not in ("device_map", "max_memory")}
    config = transformers.AutoConfig.from_pretrained(name, **shared)
    kind = _class_of(config, bool(options.get("trust_remote_code")))
    module, told = kind.from_pretrained(
        name, config=config, use_safetensors=True, output_loading_info=True, **chosen, **options
    )
    if told["missing_keys"]:
        some = sorted(told["missing_keys"])
        raise LoadError(
            f"'{name}' has no weights for {', '.join(some[:3])}{f' and {len(some) - 3} more' if some[3:] else ''}, "
            "which would stay random",
            expected=f"weights for all of {kind.__name__}, the class that config.json names",
            do="get the weights that belong to this config, or open it yourself and pass the object",
        )
    return module, processor or _tools(name, shared)


def _is_pipeline(name: str, folder: Path, revision: str | None) -> bool:
    """Whether there is a pipeline's index; without a connection, whether what was downloaded before has one."""
    if folder.is_dir():
        return (folder / "model_index.json").exists()
    from huggingface_hub import file_exists, try_to_load_from_cache

    try:
        return bool(file_exists(name, "model_index.json", revision=revision))
    except UNREACHED:
        files = ("config.json", "model_index.json")
        kept = [file for file in files if isinstance(try_to_load_from_cache(name, file, revision=revision), str)]
        if not kept:
            raise
        return "model_index.json" in kept


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
    """The processor of a model; when its class needs torchvision, its image processor (Pillow) and tokenizer.

    None, or a part that is None, means that there is none: one that is there and cannot be read is an error. Some
    tokenizer classes open without any file, with an empty vocabulary; that is none too.
    """
    import transformers

    revision = options.get("revision")
    spelled = any(_file(name, file, revision) for file in TOOLS["tokenizer"][1])
    try:
        whole = transformers.AutoProcessor.from_pretrained(name, **options)
    except BROKEN as error:
        failed = error
    else:
        fronts = [getattr(whole, part, None) for part in ("image_processor", "feature_extractor")]
        return whole if spelled or not hasattr(whole, "tokenizer") else next(filter(None, fronts), None)
    parts: dict[str, Any] = {}
    for part, (kind, files) in TOOLS.items():
        there = {file: path for file in files if (path := _file(name, file, revision))}
        try:
            parts[part] = getattr(transformers, kind).from_pretrained(name, **options) if there else None
        except BROKEN as error:
            raise _damaged(name, there, error if part == "tokenizer" else failed) from error
    return _Parts(**parts) if any(part is not None for part in parts.values()) else None


def _file(name: str, file: str, revision: str | None) -> Path | None:
    """Where a file of a model lies on this machine, once it is fetched; None when there is none."""
    from transformers.utils import cached_file

    try:
        return Path(cached_file(name, file, revision=revision))
    except OSError:
        return None


def _damaged(name: str, there: dict[str, Path], error: Exception) -> LoadError:
    damaged = [file for file, path in there.items() if file.endswith(".json") and not _is_json(path)]
    return LoadError(
        f"the file {' or '.join(damaged or there)} of '{name}' cannot be read ({type(error).__name__}: {_why(error)})",
        expected="the files that `save_pretrained` wrote, whole, and the packages that they need",
        exists=", ".join(there),
        do="get the file again, install what is missing, or pass a processor of your own (`processor=`)",
    )


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


class _Parts:
    """A tokenizer and an image processor side by side."""

    def __init__(self, tokenizer: Any, image_processor: Any) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
