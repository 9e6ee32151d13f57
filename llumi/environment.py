"""The environment in which every process of LLUMI runs: no telemetry, no hub, an S3 client that MinIO understands.

Applied when `llumi` is imported, before any library that reads these variables, and handed to the workers of a
cluster through Ray's runtime environment. One switch decides over the ways out, whatever the libraries' own variables
say: `LLUMI_OFFLINE`, which is on unless it is 0. Of all else a variable that the operator has set wins.
"""

import logging
import os

OFFLINE_VARIABLE = "LLUMI_OFFLINE"

_REPORTS_OFF = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray reports even that its reports are off, where a cluster was started with `ray start`; to a closed port, then.
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "disabled",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # The builds that LLUMI takes have nothing to send (see pyproject.toml); those from 1.29 on would, unless they are told.
    "ORT_DISABLE_TELEMETRY": "1",
}
HUBS_OFF = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
"""Those of them that keep the hub clients from asking."""

_HUBS_ON = dict.fromkeys(HUBS_OFF, "0")

OUTBOUND_OFF = _REPORTS_OFF | HUBS_OFF
"""Every switch that keeps Ray, Hugging Face, TRL, vLLM, MLflow and ONNX Runtime from speaking to anyone outside."""

QUIET = {
    # MinIO answers HTTP 411 to the trailing checksums that newer S3 clients add; read once, when pyarrow's S3 starts.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    # Without it pyarrow asks the cloud's metadata address for credentials that are not there.
    "AWS_EC2_METADATA_DISABLED": "true",
    # A server that does not answer is asked again for minutes otherwise, while training waits.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_TRAIN_V2_ENABLED": "1",
    # How soon Ray Train notices that its ranks are done, or that one died; its default of 2 s is waited for twice a run.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # Ray would say on stdout, among the figures of --json, that a small machine has many workers; most of them wait.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker processes have been started on node",
    # A task that asks for no GPU keeps the CUDA_VISIBLE_DEVICES of its node.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Serve's own threads beside those of a router or a replica would only hand each request to and fro.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}
"""What the libraries need to behave alike on every node."""


_DEAD_END = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": "127.0.0.1,127.0.0.2,localhost"}
"""Ray's head asks the metadata address of three clouds where it is, even with usage reports off; here it asks a closed port."""

_OWN = "LLUMI_OWN_"


def apply() -> None:
    """Close the ways out of this process and its children, and set what else is not set yet.

    In a worker of a local cluster undo `head_environment`, too.
    """
    for name in _DEAD_END:
        own = os.environ.pop(_OWN + name, None)
        if own is not None:
            os.environ[name] = own
    os.environ.update(_outbound())
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    # On some CPUs bitsandbytes looks for a kernel on a hub, and says at every import that it may not.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def head_environment() -> dict[str, str]:
    """The variables for the processes of a local cluster: its head asks nobody, its workers keep the operator's own proxies.

    Workers inherit them from the head, and find their own again when they import `llumi`.
    """
    return _DEAD_END | {_OWN + name: os.environ.get(name, "") for name in _DEAD_END}


def worker_environment() -> dict[str, str]:
    """The variables for a worker on another node, for Ray's `runtime_env={"env_vars": ...}`."""
    return _outbound() | QUIET


def _outbound() -> dict[str, str]:
    """The switch as it stands, and what follows: nobody is reported to either way, hubs are reached where it is 0."""
    offline = os.environ.get(OFFLINE_VARIABLE, "1").strip() != "0"
    return _REPORTS_OFF | ({OFFLINE_VARIABLE: "1"} | HUBS_OFF if offline else {OFFLINE_VARIABLE: "0"} | _HUBS_ON)
