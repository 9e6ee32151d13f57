"""Empathy by EPITOME's three mechanisms, judged by classifiers that a team brings; LLUMI carries none, and asks no hub.

A classifier reads a post and a reply to it, and says how strongly the reply communicates one mechanism (Sharma, Miner,
Atkins and Althoff 2020, A computational approach to understanding empathy expressed in text-based mental health support,
EMNLP): 0 not, 1 weakly, 2 strongly.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llumi.config import EmpathyConfig
from llumi.errors import ModelError
from llumi.evaluate.statistics import FloatArray
from llumi.models import check_model_files
from llumi.storage import Input, digest

NUM_LEVELS = 3
MAX_TOKENS = 512
"""Of post and reply together; what is longer loses the end of its longer text."""


def empathy_inputs(config: EmpathyConfig) -> list[Input]:
    """The classifiers that are configured, each with a hash over its files; raises ModelError for a folder that is none."""
    return [Input(f"evaluate.empathy.{mechanism}", _digest(mechanism, folder)) for mechanism, folder in _configured(config)]


class EmpathyJudge:
    """The loaded classifiers of all mechanisms that are configured."""

    def __init__(self, config: EmpathyConfig) -> None:
        """Load them; raises ModelError where a folder holds no classifier of three levels."""
        self._classifiers = {mechanism: Classifier(mechanism, folder) for mechanism, folder in _configured(config)}

    def levels(self, replies: Sequence[str], posts: Sequence[str]) -> dict[str, FloatArray]:
        """The levels of each configured mechanism, shape (len(replies),); NaN where the reply or its post is blank."""
        return {mechanism: classifier.levels(replies, posts) for mechanism, classifier in self._classifiers.items()}


class Classifier:
    """A sequence-classification model of one mechanism, on the CPU."""

    def __init__(self, mechanism: str, folder: Path) -> None:
        """Load it from its folder; raises ModelError where that holds none, or one of other than three levels."""
        _check(mechanism, folder)
        from safetensors import SafetensorError
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"evaluate.empathy.{mechanism}: {folder} cannot be loaded as a classifier ({reason})") from None
        if self._model.config.num_labels != NUM_LEVELS:
            raise ModelError(
                f"evaluate.empathy.{mechanism}: {folder} tells {self._model.config.num_labels} labels apart; "
                f"give a classifier of the {NUM_LEVELS} levels 0 (not), 1 (weakly) and 2 (strongly)"
            )

    def levels(self, replies: Sequence[str], posts: Sequence[str]) -> FloatArray:
        """The likeliest level of each reply, shape (len(replies),); NaN where the reply or its post is blank."""
        pairs = zip(replies, posts, strict=True)
        return np.array([self._level(reply, post) if reply.strip() and post.strip() else np.nan for reply, post in pairs])

    def _level(self, reply: str, post: str) -> float:
        import torch

        max_length = min(self._tokenizer.model_max_length, MAX_TOKENS)
        # Alone in its batch, a reply's level does not depend on its company.
        encoded = self._tokenizer(post, reply, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            return float(self._model(**encoded).logits[0].argmax())


def _configured(config: EmpathyConfig) -> Iterator[tuple[str, Path]]:
    for mechanism in EmpathyConfig.model_fields:
        folder = getattr(config, mechanism)
        if folder is not None:
            yield mechanism, folder.expanduser()


def _check(mechanism: str, folder: Path) -> None:
    try:
        check_model_files(folder)
    except ModelError as error:
        raise ModelError(f"evaluate.empathy.{mechanism}: {error}; every node needs the classifier at this place") from None


def _digest(mechanism: str, folder: Path) -> str:
    _check(mechanism, folder)
    return digest({path.name: _sha256(path) for path in folder.iterdir() if path.is_file()})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
