"""LoRA adapters that share a model, so that each row of a batch has its own.

PEFT reads them; then its layers are replaced by ones that hold the factors of all adapters side by side. The whole batch goes
through these in two products, and a mask between them leaves each row the ranks of its own adapter. PEFT's own way gathers
each adapter's rows in every layer, and made a step on a CPU take half as long again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch import nn
from torch.nn import functional

from llumi.errors import ModelError

_MORE_THAN_LORA = (
    "modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters", "lora_bias", "use_dora",
)  # fmt: skip
"""Settings of PEFT by which an adapter changes more than linear layers, or these otherwise."""


class RowAdapters:
    """Which adapter each row of a batch has, for all layers: set before each pass.

    `mask` has shape (rows, 1, ranks of all adapters), and is none where no row has one.
    """

    def __init__(self, ranks: Mapping[str, int], like: torch.Tensor) -> None:
        self._masks = {name: torch.cat([like.new_full((rank,), name == own) for own, rank in ranks.items()]) for name in ranks}
        self._none = like.new_zeros(sum(ranks.values()))
        self.mask: torch.Tensor | None = None

    def choose(self, names: Sequence[str | None]) -> None:
        """The adapter of each row, or none."""
        self.mask = torch.stack([self._masks.get(name or "", self._none) for name in names])[:, None] if any(names) else None


class AdaptedLinear(nn.Module):  # type: ignore[misc]  # torch is untyped
    """A linear layer and the factors of all adapters: `down` (ranks, inputs) and `up` (ranks, outputs)."""

    def __init__(self, layer: nn.Module, down: torch.Tensor, up: torch.Tensor, rows: RowAdapters) -> None:
        super().__init__()
        self.layer, self.down, self.up, self._rows = layer, down, up, rows

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of shape (rows, tokens, inputs)."""
        outputs: torch.Tensor = self.layer(inputs)
        if self._rows.mask is None:
            return outputs
        if inputs.dim() != 3:
            raise RuntimeError("an adapter changes a layer that does not see the rows of a batch")
        between = functional.linear(inputs, self.down) * self._rows.mask
        outputs.view(-1, outputs.shape[-1]).addmm_(between.view(-1, between.shape[-1]), self.up)
        return outputs


def adapt(model: Any, folders: Mapping[str, Path]) -> RowAdapters:
    """Put the adapters that lie in `folders` into `model`, which is on its device already; gives what chooses among them.

    Raises ModelError for one that PEFT cannot read, or that is more than LoRA of linear layers.
    """
    called = {f"adapter-{number}": name for number, name in enumerate(folders)}  # PEFT takes no dots in a name
    read = None
    for own, name in called.items():
        read = _read(read or model, folders[name], own)
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    ranks = {name: max(layer.r.get(own, 0) for layer in layers.values()) for own, name in called.items()}
    like = next(model.parameters())
    rows = RowAdapters(ranks, like)
    for path, layer in layers.items():
        base = layer.get_base_layer()
        down, up = _factors(layer, [(own, ranks[name]) for own, name in called.items()])
        model.set_submodule(path, AdaptedLinear(base, down.to(like), up.to(like), rows))
    return rows


def _read(model: Any, folder: Path, name: str) -> PeftModel:
    """`model` with PEFT's layers for one adapter more."""
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(folder, name)
        else:
            model = PeftModel.from_pretrained(model, folder, name)
    except Exception as error:  # each way to be broken brings an error of its own
        reason = (str(error).splitlines() or [""])[0][:200]
        raise ModelError(f"{folder}: PEFT cannot load it ({type(error).__name__}: {reason})") from None
    settings = model.peft_config[name]
    more = [key for key in _MORE_THAN_LORA if getattr(settings, key)]
    more += ["bias"] if settings.bias != "none" else []
    more += [type(layer).__name__ for layer in model.modules() if isinstance(layer, LoraLayer) and type(layer) is not Linear]
    if more:
        raise ModelError(f"{folder}: more than LoRA of linear layers ({more[0]}), which hf cannot mix in a batch; merge it")
    return model


def _factors(layer: Any, ranks: Sequence[tuple[str, int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of all adapters in one layer, scaled, each at its place and filled up with 0 to its rank."""
    down, up = [], []
    for name, rank in ranks:
        own = layer.r.get(name, 0)
        a = layer.lora_A[name].weight if own else torch.zeros((0, layer.in_features))
        b = layer.lora_B[name].weight * layer.scaling[name] if own else torch.zeros((layer.out_features, 0))
        down.append(functional.pad(a.detach(), (0, 0, 0, rank - own)))
        up.append(functional.pad(b.detach(), (0, rank - own)))
    return torch.cat(down), torch.cat(up, dim=1).T.contiguous()
