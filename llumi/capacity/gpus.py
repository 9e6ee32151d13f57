"""The GPUs that a plan can be made for, by NVIDIA's data sheets."""

from dataclasses import dataclass

from llumi.errors import ConfigError
from llumi.train.throughput import peak_flops_of


@dataclass(frozen=True)
class Gpu:
    """One GPU: dense bf16 FLOP/s, memory, and bytes a second from its memory and to another GPU of its node (one way)."""

    name: str
    cuda_name: str
    memory_bytes: int
    memory_bandwidth: float
    link_bandwidth: float

    @property
    def peak_flops(self) -> float:
        """Dense bf16 FLOP/s, from the table of the training figures."""
        peak = peak_flops_of(self.cuda_name)
        assert peak is not None, self.cuda_name  # noqa: S101  (a test looks every one up)
        return peak


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("b200", "NVIDIA B200", 180 * 10**9, 8.0e12, 900e9),  # HGX B200 data sheet; NVLink 1.8 TB/s both ways
        Gpu("h200", "NVIDIA H200", 141 * 10**9, 4.8e12, 450e9),  # H200 data sheet, SXM; NVLink 900 GB/s both ways
        Gpu("h100", "NVIDIA H100 80GB HBM3", 80 * 10**9, 3.35e12, 450e9),  # H100 data sheet, SXM
        Gpu("a100", "NVIDIA A100-SXM4-80GB", 80 * 10**9, 2.039e12, 300e9),  # A100 data sheet, SXM, 80 GB; NVLink 600 GB/s
        Gpu("a100-40", "NVIDIA A100-SXM4-40GB", 40 * 10**9, 1.555e12, 300e9),  # A100 data sheet, 40 GB
        Gpu("l40s", "NVIDIA L40S", 48 * 10**9, 0.864e12, 32e9),  # L40S data sheet; PCIe 4.0 x16, 64 GB/s both ways
        Gpu("a40", "NVIDIA A40", 48 * 10**9, 0.696e12, 32e9),  # A40 data sheet; without a bridge, PCIe 4.0 x16
        Gpu("a10", "NVIDIA A10", 24 * 10**9, 0.6e12, 32e9),  # A10 data sheet; PCIe 4.0 x16
        Gpu("rtx4090", "NVIDIA GeForce RTX 4090", 24 * 10**9, 1.008e12, 32e9),  # Ada white paper, appendix; PCIe 4.0 x16
    )
}


def find_gpu(name: str) -> Gpu:
    """The GPU of this name; raises ConfigError with those that there are."""
    if name.lower() not in GPUS:
        raise ConfigError(f"--gpu {name}: none that a plan knows; there are {', '.join(GPUS)}")
    return GPUS[name.lower()]
