"""An adapter is served whole, as its hashes say, and on the model that it was trained on; else one line says what is wrong."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llumi.adapters import adapter_hash, adapter_rank, check_adapter_fits, fetch_adapter
from llumi.config import StorageConfig
from llumi.errors import ArtifactError, ModelError
from llumi.storage import Manifest, Storage
from tests.adapters import write_adapter

NAMES = ("adapter_config.json", "adapter_model.safetensors")


def write_model(folder: Path, *, hidden: int = 8, layers: int = 2, prefix: str = "model.", **settings: object) -> Path:
    """As much of a model as tells its modules and their sizes."""
    folder.mkdir(parents=True)
    sizes = {"self_attn.q_proj": (hidden, hidden), "mlp.down_proj": (hidden, 3 * hidden)}
    modules = {f"{prefix}layers.{layer}.{name}": size for layer in range(layers) for name, size in sizes.items()}
    save_file({f"{name}.weight": np.zeros(size, np.float32) for name, size in modules.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def adapter(tmp_path: Path, model: Path) -> Path:
    return write_adapter(tmp_path / "adapter", model)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(StorageConfig(uri=str(tmp_path / "store")))


def publish(storage: Storage, adapter: Path, name: str = "gm-sft") -> Manifest:
    """A trained model whose artifact holds the adapter that was merged into it."""
    draft = storage.begin("models", name)
    files = [draft.write("config.json", b"{}"), draft.write("model.safetensors", b"the merged weights")]
    files += [draft.write(f"adapter/{file.name}", file.read_bytes()) for file in adapter.iterdir()]
    return draft.publish(files, fingerprint="", config={}, inputs=[])


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def sums(folder: Path, prefix: str = "") -> str:
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {prefix}{name}\n" for name in NAMES)


def one_line(problem: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(problem.value)


def test_a_stored_adapter_is_fetched_and_held_against_the_manifest(storage: Storage, adapter: Path):
    publish(storage, adapter)
    folder = fetch_adapter(storage, "models/gm-sft")
    assert {file.name for file in folder.iterdir()} == set(NAMES)
    assert adapter_hash(folder) == adapter_hash(adapter)
    flip_a_byte(folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"adapter/adapter_model\.safetensors: not what its hash says") as problem:
        fetch_adapter(storage, "models/gm-sft")
    assert one_line(problem)


def test_a_stored_adapter_travels_without_the_model_around_it(
    s3_storage: StorageConfig, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LLUMI_CACHE", str(tmp_path / "cache"))
    storage = Storage.open(s3_storage)
    publish(storage, adapter)
    folder = fetch_adapter(storage, "models/gm-sft")
    assert adapter_hash(folder) == adapter_hash(adapter)
    assert {file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()} == set(NAMES)
    assert fetch_adapter(storage, "models/gm-sft") == folder
    publish(storage, adapter, "gm-dpo1")
    storage.write("models/gm-dpo1/adapter/adapter_model.safetensors", b"something else")
    with pytest.raises(ModelError, match=r"gm-dpo1/adapter/adapter_model\.safetensors: not what the manifest says") as problem:
        fetch_adapter(storage, "models/gm-dpo1")
    assert one_line(problem)


def test_an_artifact_may_be_an_adapter_itself(storage: Storage, adapter: Path):
    draft = storage.begin("models", "mine")
    draft.publish(draft.upload(adapter), fingerprint="", config={}, inputs=[])
    assert adapter_hash(fetch_adapter(storage, "models/mine")) == adapter_hash(adapter)


def test_a_model_without_an_adapter_and_one_that_is_not_there_are_named(storage: Storage):
    draft = storage.begin("models", "base")
    draft.publish([draft.write("config.json", b"{}")], fingerprint="", config={}, inputs=[])
    with pytest.raises(ModelError, match=r"models/base: holds no LoRA adapter; one trained with train\.method lora does"):
        fetch_adapter(storage, "models/base")
    with pytest.raises(ArtifactError, match=r"models/gm-sft: no such artifact \(gm-sft\); there are: base"):
        fetch_adapter(storage, "models/gm-sft")


@pytest.mark.parametrize("listed", ["sums-inside", "sums-beside", "manifest-beside"])
def test_a_folder_is_held_against_the_hashes_that_lie_with_it(listed: str, storage: Storage, adapter: Path):
    match listed:
        case "sums-inside":
            (adapter / "SHA256SUMS").write_text(sums(adapter))
        case "sums-beside":
            (adapter.parent / "SHA256SUMS").write_text(sums(adapter, "./adapter/") + f"{'0' * 64}  other/file\n")
        case "manifest-beside":
            publish(storage, adapter)
            adapter = Path(storage.path("models/gm-sft/adapter"))
    assert fetch_adapter(storage, str(adapter)) == adapter
    flip_a_byte(adapter / "adapter_model.safetensors")
    with pytest.raises(
        ModelError, match=r"adapter_model\.safetensors: not what its hash says; copy the adapter again"
    ) as problem:
        fetch_adapter(storage, str(adapter))
    assert one_line(problem)


def test_without_hashes_a_whole_adapter_is_enough(storage: Storage, adapter: Path):
    (adapter.parent / "SHA256SUMS").write_text(f"{'0' * 64}  another-folder/file\n")
    assert fetch_adapter(storage, str(adapter)) == adapter


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (shutil.rmtree, "no such folder; give a LoRA adapter in PEFT's layout"),
        (lambda folder: (folder / NAMES[0]).unlink(), r"no adapter_config\.json; give a LoRA adapter"),
        (lambda folder: (folder / NAMES[0]).write_text("{"), r"adapter_config\.json: not JSON; copy the adapter again"),
        (lambda folder: (folder / NAMES[0]).write_text('{"peft_type": "IA3"}'), "peft_type is IA3; only LORA adapters"),
        (lambda folder: (folder / NAMES[1]).unlink(), r"no adapter_model\.safetensors; copy the whole adapter"),
        (lambda folder: (folder / NAMES[1]).write_bytes((folder / NAMES[1]).read_bytes()[:-9]), "torn, or no safetensors"),
        (lambda folder: (folder / NAMES[1]).write_bytes(b"weights"), "torn, or no safetensors"),
        (lambda folder: (folder / "SHA256SUMS").write_text("weights ok"), "SHA256SUMS: not what sha256sum writes"),
        (lambda folder: (folder / "SHA256SUMS").write_text(f"{'0' * 64}  {NAMES[0]}"), r"adapter_config\.json: not what its"),
        (
            lambda folder: (folder / "SHA256SUMS").write_text(sums(folder).splitlines()[0]),
            "in no line of the list of hashes",
        ),
        (lambda folder: (folder / "manifest.json").write_text('{"files": 3}'), r"manifest\.json: not a manifest of LLUMI"),
    ],
)
def test_what_is_no_whole_adapter_is_one_line(damage, line: str, storage: Storage, adapter: Path):
    damage(adapter)
    with pytest.raises(ModelError, match=line) as problem:
        fetch_adapter(storage, str(adapter))
    assert one_line(problem)


def test_an_adapter_fits_the_model_it_was_trained_on_wherever_its_names_begin(adapter: Path, model: Path, tmp_path: Path):
    check_adapter_fits(adapter, model)
    check_adapter_fits(adapter, write_model(tmp_path / "inner", prefix=""))


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"hidden": 16}, r"down_proj has size 24, and 48 in .*other; it was trained on another model"),
        ({"layers": 1}, r"changes model\.layers\.1\.mlp\.down_proj, which .*other has not; it was trained on another model"),
    ],
)
def test_an_adapter_of_another_model_is_one_line(other: dict[str, int], line: str, adapter: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=line) as problem:
        check_adapter_fits(adapter, write_model(tmp_path / "other", **other))
    assert one_line(problem)


def test_sizes_of_packed_weights_and_of_no_safetensors_are_left_to_the_engine(adapter: Path, tmp_path: Path):
    check_adapter_fits(adapter, write_model(tmp_path / "packed", hidden=4, quantization_config={"bits": 4}))
    bare = write_model(tmp_path / "bare", hidden=4)
    (bare / "model.safetensors").unlink()
    check_adapter_fits(adapter, bare)


def test_the_rank_is_the_largest_of_all_modules(model: Path, tmp_path: Path):
    assert adapter_rank(write_adapter(tmp_path / "plain", model, rank=4)) == 4
    assert adapter_rank(write_adapter(tmp_path / "mixed", model, settings={"rank_pattern": {"q_proj": 24}})) == 24
