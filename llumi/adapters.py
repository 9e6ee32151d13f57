"""LoRA adapters in PEFT's layout: fetched, held against their hashes, and against the model that they sit on.

A store's adapter lies in `adapter/` of a model artifact, or is the artifact itself; one that was trained elsewhere is a folder
of this machine. Its hashes are those of a `manifest.json` of LLUMI or of `SHA256SUMS`, in the folder or beside it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llumi.errors import ArtifactError, ModelError
from llumi.storage import MANIFEST, Storage, digest

ADAPTER_FOLDER = "adapter"
SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
SUMS = "SHA256SUMS"

_PART = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.weight")
_PLACE = re.compile(r"[^.]+\.\d+\..+")
"""What names a module of a layer, whatever stands before it: `layers.3.mlp.up_proj` of `model.layers.3.mlp.up_proj`."""


def fetch_adapter(storage: Storage, name_or_path: str) -> Path:
    """The adapter `models/NAME` of the store, or that of a folder, as a checked local folder.

    Raises ArtifactError where the store has none of that name, ModelError where a file is torn or is not what its hash says.
    """
    if name_or_path.startswith("models/"):
        return _from_store(storage, name_or_path)
    folder = Path(name_or_path).expanduser()
    check_adapter_folder(folder)
    _check_hashes(folder, _known_hashes(folder))
    return folder


def check_adapter_folder(folder: Path) -> None:
    """Raise ModelError unless `folder` holds a whole LoRA adapter."""
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such folder; give a LoRA adapter in PEFT's layout")
    kind = adapter_settings(folder).get("peft_type")
    if kind != "LORA":
        raise ModelError(f"{folder / SETTINGS}: peft_type is {kind}; only LORA adapters are served")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder}: no {WEIGHTS}; copy the whole adapter")
    tensor_shapes(folder / WEIGHTS)


def check_adapter_fits(adapter: Path, model: Path) -> None:
    """Raise ModelError where a module that `adapter` changes is not in `model`, or is of another size.

    Looks at the names and shapes in both headers, of modules within layers; a model whose weights are no safetensors, and the
    sizes of one whose weights are packed, are left to the engine.
    """
    files = sorted(model.glob("*.safetensors"))
    modules = {_place(name.removesuffix(".weight")): shape for file in files for name, shape in tensor_shapes(file).items()}
    if not modules:
        return
    packed = "quantization_config" in json.loads((model / "config.json").read_bytes())
    transposed = bool(adapter_settings(adapter).get("fan_in_fan_out"))
    for name, shape in tensor_shapes(adapter / WEIGHTS).items():
        part = _PART.fullmatch(name)
        if part is None or not (place := _place(part[1])):
            continue
        if place not in modules:
            raise ModelError(f"{adapter}: changes {part[1]}, which {model} has not; it was trained on another model")
        size_out, size_in = modules[place][:: -1 if transposed else 1]
        here, there = (shape[1], size_in) if part[2] == "A" else (shape[0], size_out)
        if here != there and not packed:
            raise ModelError(f"{adapter}: {part[1]} has size {here}, and {there} in {model}; it was trained on another model")


def adapter_settings(folder: Path) -> dict[str, Any]:
    """The `adapter_config.json` of an adapter; raises ModelError where there is none."""
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except OSError:
        raise ModelError(f"{folder}: no {SETTINGS}; give a LoRA adapter in PEFT's layout") from None
    except ValueError:
        raise ModelError(f"{folder / SETTINGS}: not JSON; copy the adapter again") from None
    return settings


def adapter_rank(folder: Path) -> int:
    """The largest rank of an adapter's modules."""
    settings = adapter_settings(folder)
    patterns: dict[str, int] = settings.get("rank_pattern") or {}
    return max(int(settings.get("r", 0)), *patterns.values(), 0)


def adapter_hash(folder: Path) -> str:
    """The SHA-256 that changes with an adapter's weights or settings."""
    return digest([_sha256(folder / name) for name in (SETTINGS, WEIGHTS)])


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in a safetensors file by tensor, of which only the header is read; raises ModelError where it is torn."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as weights:
            return {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: torn, or no safetensors ({type(error).__name__}); copy it again") from None


def _from_store(storage: Storage, reference: str) -> Path:
    manifest = storage.manifest(reference)
    inside = f"{ADAPTER_FOLDER}/" if manifest.files_under(ADAPTER_FOLDER) else ""
    hashes = {entry.path.removeprefix(inside): entry.sha256 for entry in manifest.files if entry.path.startswith(inside)}
    if SETTINGS not in hashes:
        raise ModelError(f"{storage.uri}/{reference}: holds no LoRA adapter; one trained with train.method lora does")
    try:
        folder = storage.fetch(reference, inside.rstrip("/")) / inside
    except ArtifactError as error:
        raise ModelError(str(error)) from None
    _check_hashes(folder, hashes)
    check_adapter_folder(folder)
    return folder


def _known_hashes(folder: Path) -> Mapping[str, str]:
    """The hashes of an adapter's files, where a list names them; none where there is no list."""
    for at, inside in ((folder, ""), (folder.parent, f"{folder.name}/")):
        for listed in (_manifest_hashes(at / MANIFEST), _sums(at / SUMS)):
            ours = {name.removeprefix(inside): sha256 for name, sha256 in listed.items() if name.startswith(inside)}
            if ours:
                return ours
    return {}


def _manifest_hashes(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        return {entry["path"]: entry["sha256"] for entry in json.loads(path.read_bytes())["files"]}
    except (ValueError, KeyError, TypeError):
        raise ModelError(f"{path}: not a manifest of LLUMI; copy it again, or take it away") from None


def _sums(path: Path) -> dict[str, str]:
    """The lines of `sha256sum`: the hash, a space, a space or star, the name."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line) for line in lines if line.strip()]
    if None in found:
        raise ModelError(f"{path}: not what sha256sum writes; make it again, or take it away")
    return {match[2]: match[1] for match in found if match}


def _check_hashes(folder: Path, hashes: Mapping[str, str]) -> None:
    """Hold the files that an engine reads against `hashes`, which must name both where it names any."""
    for name in (SETTINGS, WEIGHTS) if hashes else ():
        if name not in hashes:
            raise ModelError(f"{folder / name}: in no line of the list of hashes that lies with it; make the list again")
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: no {name}; copy the whole adapter")
        if _sha256(folder / name) != hashes[name]:
            raise ModelError(f"{folder / name}: not what its hash says; copy the adapter again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(module: str) -> str:
    place = _PLACE.search(module)
    return place[0] if place else ""
