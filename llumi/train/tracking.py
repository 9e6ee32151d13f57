"""The curves of a run on an MLflow server, where `train.mlflow_uri` names one: figures, and the numbers of the config.

No text goes there but the names of the model and of the run.
"""

import importlib.util
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from llumi.config import Stage, TrainConfig
from llumi.errors import ConfigError
from llumi.train.card import stage_settings

EXPERIMENT = "llumi"
RUN_TAG = "llumi.run"


def check_mlflow(train: TrainConfig) -> None:
    """Raise ConfigError where `train.mlflow_uri` is set and MLflow's client is not installed on this node."""
    if train.mlflow_uri is not None and importlib.util.find_spec("mlflow") is None:
        raise ConfigError(
            "train.mlflow_uri: MLflow's client is not installed on this node; run `pip install mlflow-skinny`, or leave it out"
        )


class MlflowRun:
    """One run of the experiment `llumi`, which outlives the attempts of a training run.

    MLflow cannot take a point back: what an earlier attempt has sent already is not sent again.
    """

    def __init__(self, train: TrainConfig, stage: Stage, model: str, run: str) -> None:
        self._train = train
        self._stage = stage
        self._model = model
        self._run = run
        self._client: Any = None
        self._run_id = ""
        self._sent: dict[str, int] = {}

    def open(self, resumed: bool) -> None:
        """Go on with the run of an attempt that was cut off, else begin one; raises ConfigError where no server answers."""
        check_mlflow(self._train)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient(tracking_uri=self._train.mlflow_uri)
        try:
            self._run_id = self._standing(client, resumed) or self._begin(client)
            self._sent = {kind: _last_step(client, self._run_id, kind) for kind in ("train", "eval")}
        except MlflowException as error:
            # What MLflow says may quote the address, and that may hold a password.
            raise ConfigError(f"train.mlflow_uri: no MLflow server answers there ({error.error_code}); correct it") from None
        self._client = client

    def log(self, figures: Mapping[str, Any], step: int) -> None:
        """Send the figures of one step, named "train/..." or "eval/..."; where that fails, training goes on without."""
        kind = "eval" if any(name.startswith("eval/") for name in figures) else "train"
        if self._client is None or step <= self._sent[kind]:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(value), now, step) for name, value in figures.items() if isinstance(value, int | float)]
        self._try(lambda client: client.log_batch(self._run_id, metrics=metrics))

    def finish(self) -> None:
        """Mark the run as finished."""
        self._try(lambda client: client.set_terminated(self._run_id))

    def _try(self, send: Callable[[Any], object]) -> None:
        if self._client is None:
            return
        try:
            send(self._client)
        except Exception as error:  # whatever a server does, it ends no training
            self._client = None
            logging.getLogger("llumi").warning(
                "MLflow no longer answers (%s): the curves end here, training_log.json has all figures", type(error).__name__
            )

    def _standing(self, client: Any, resumed: bool) -> str | None:
        """The run of an earlier attempt, or None; one that is finished was of another training with the same settings."""
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        condition = f"tags.`{RUN_TAG}` = '{self._run}'" + ("" if resumed else " and attributes.status = 'RUNNING'")
        found = client.search_runs([experiment.experiment_id], condition, max_results=1)
        return found[0].info.run_id if found else None

    def _begin(self, client: Any) -> str:
        from mlflow.entities import Param

        experiment = client.get_experiment_by_name(EXPERIMENT)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
        run = client.create_run(experiment_id, run_name=f"{self._model}-{self._run}", tags={RUN_TAG: self._run})
        settings = stage_settings(self._train.model_dump(mode="json"), self._stage)
        numbers = [Param(name, str(value)) for name, value in settings.items() if isinstance(value, int | float)]
        client.log_batch(run.info.run_id, params=numbers)
        return str(run.info.run_id)


def _last_step(client: Any, run_id: str, kind: str) -> int:
    return max((metric.step for metric in client.get_metric_history(run_id, f"{kind}/loss")), default=-1)
