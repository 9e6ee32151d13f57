"""What a replica holds: a model's weights, an adapter on them or none, and the version that clients are told."""

import re
from dataclasses import dataclass
from pathlib import Path

from llumi.adapters import ADAPTER_FOLDER, adapter_hash, adapter_settings, check_adapter_fits, fetch_adapter
from llumi.errors import ArtifactError, ModelError
from llumi.models import fetch_model
from llumi.serve.api import ServedModel
from llumi.storage import Storage, digest

VERSION_LENGTH = 12
ECHO = "echo"
BASE = "base"

_APART = "set serve.shared_base=false"


@dataclass(frozen=True)
class Holding:
    """The artifact `models/<model>`, and the `adapter` that answers in its place: `models/NAME` or a folder."""

    served: ServedModel
    model: str
    adapter: str | None = None

    @classmethod
    def find(cls, storage: Storage, model: str, adapter: str | None = None) -> "Holding":
        """As both stand now; raises ArtifactError or ModelError where they cannot serve."""
        version = _version(storage, model)
        if storage.is_local:  # no copy is needed to see at once what a replica would only find minutes later
            fetch_model(storage, model)
        if adapter is None:
            return cls(_served(storage, model), model)
        folder = fetch_adapter(storage, adapter)
        if storage.is_local:
            check_adapter_fits(folder, fetch_model(storage, model))
        if adapter.startswith("models/") and adapter_settings(folder).get("revision") == version:
            return cls(_served(storage, adapter.removeprefix("models/")), model, adapter)  # both together are that very model
        version = digest({"model": version, "adapter": adapter_hash(folder)})
        shown = re.sub(r"[^\w.-]", "-", Path(adapter).name)
        return cls(ServedModel(shown, version[:VERSION_LENGTH]), model, adapter)

    @classmethod
    def on_base(cls, storage: Storage, model: str, adapter: str | None = None) -> "Holding":
        """The same as an adapter on `models/base`, which several can share; raises ModelError where it is none."""
        if model == BASE:
            return cls.find(storage, model, adapter)
        if adapter:
            raise ModelError(f"{adapter}: sits on models/{model}; leave that out, so that it sits on models/base, or {_APART}")
        manifest = storage.manifest(f"models/{model}")
        if not manifest.files_under(ADAPTER_FOLDER):
            in_full = manifest.config.get("train", {}).get("method") == "full"
            why = "trained in full" if in_full else "no adapter: a model before it was trained in full, or it is older"
            raise ModelError(f"{manifest.reference}: {why}; {_APART}, or train it with train.method=lora")
        settings = adapter_settings(fetch_adapter(storage, manifest.reference))
        if settings.get("revision") != _version(storage, BASE):
            raise ModelError(f"{manifest.reference}: trained from another models/base than stands; train it again, or {_APART}")
        return cls.find(storage, BASE, manifest.reference)

    @classmethod
    def of_echo(cls, name: str | None) -> "Holding":
        """The engine that needs none."""
        return cls(ServedModel(name or ECHO, "0"), name or ECHO)

    def require(self, storage: Storage) -> None:
        """Raise ArtifactError unless these very weights stand in the store: all replicas of a version have the same."""
        standing = Holding.find(storage, self.model, self.adapter).served
        if standing != self.served:
            raise ArtifactError(
                f"models/{self.served.name}: version {self.served.version} was replaced by {standing.version}, and is not in "
                "the store any more; serve what stands with: llumi serve deploy"
            )


def _served(storage: Storage, model: str) -> ServedModel:
    return ServedModel(model, _version(storage, model)[:VERSION_LENGTH])


def _version(storage: Storage, model: str) -> str:
    return storage.manifest(f"models/{model}").as_input().sha256
