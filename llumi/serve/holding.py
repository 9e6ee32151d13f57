"""What a replica holds: a model's weights, an adapter on them or none, and the version that clients are told."""

import re
from dataclasses import dataclass
from pathlib import Path

from llumi.adapters import adapter_hash, check_adapter_fits, fetch_adapter
from llumi.errors import ArtifactError
from llumi.models import fetch_model
from llumi.serve.api import ServedModel
from llumi.storage import Storage, digest

VERSION_LENGTH = 12
ECHO = "echo"


@dataclass(frozen=True)
class Holding:
    """The artifact `models/<model>`, and the `adapter` that answers in its place: `models/NAME` or a folder."""

    served: ServedModel
    model: str
    adapter: str | None = None

    @classmethod
    def find(cls, storage: Storage, model: str, adapter: str | None = None) -> "Holding":
        """As both stand now; raises ArtifactError or ModelError where they cannot serve."""
        version = storage.manifest(f"models/{model}").as_input().sha256
        if storage.is_local:  # no copy is needed to see at once what a replica would only find minutes later
            fetch_model(storage, model)
        if adapter is None:
            return cls(ServedModel(model, version[:VERSION_LENGTH]), model)
        folder = fetch_adapter(storage, adapter)
        if storage.is_local:
            check_adapter_fits(folder, fetch_model(storage, model))
        version = digest({"model": version, "adapter": adapter_hash(folder)})
        shown = re.sub(r"[^\w.-]", "-", Path(adapter).name)
        return cls(ServedModel(shown, version[:VERSION_LENGTH]), model, adapter)

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
