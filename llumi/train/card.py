"""The model card, `README.md` of a model: what it is, what it was made from and how, how it did, and what it is not for.

It is made of manifests, the training log and tables of evaluations; it holds figures and names, and no text of a person.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq
import yaml

from llumi.errors import ConfigError
from llumi.models import EMBEDDED
from llumi.storage import Input, Manifest, Storage, store_errors
from llumi.train.curves import curves_svg

CARD = "README.md"
CURVES = "curves.svg"
TRAINING_LOG = "training_log.json"

Tree = Mapping[str, Any]

_ROLES = {
    "gm": "GM, the generation model: it drafts a supportive reply to a post.",
    "im": "IM, the improvement model: it revises a reply that a person drafted, and keeps the person's meaning and voice.",
}
_STAGES = {
    "sft": "Stage `sft`: supervised fine-tuning on replies that a community endorsed.",
    "dpo1": "Stage `dpo1`: direct preference optimisation (arXiv 2305.18290) on pairs from votes, its parent as reference.",
    "dpo2": "Stage `dpo2`: direct preference optimisation (arXiv 2305.18290) on pairs by people, its parent as reference.",
}
_NOT_SHOWN = {"base", "nvme_path", "mlflow_uri", "tensorboard", "logging_steps", "checkpoints_kept", "max_failures"}
"""Settings that name a place, or say nothing of the model that a stage gives."""

_TRAINING = (
    ("steps", "Steps", "{:,}"),
    ("num_tokens", "Tokens", "{:,}"),
    ("wall_seconds", "Wall time, start and publishing included", "{:,.0f} s"),
    ("tokens_per_second", "Tokens a second", "{:,.5g}"),
    ("samples_per_second", "Examples a second", "{:,.4g}"),
    ("mfu", "Model FLOPs utilisation", "{:.1%}"),
    ("memory_gib", "Peak memory of a worker", "{:,.4g} GiB"),
    ("checkpoint_seconds", "Time lost to checkpoints", "{:,.4g} s"),
)
_HELD_OUT = {
    "loss": "Loss",
    "mean_token_accuracy": "Tokens predicted right",
    "rewards/accuracies": "Pairs where the chosen reply wins",
    "rewards/margins": "Reward margin",
}
_LIMITS = """- **A person reads, edits and sends.** It drafts for someone who knows the post; nothing that it writes should
  reach anyone unread.
- **It is no crisis service**, and no substitute for one. It does not detect danger; show your own crisis resources beside
  what it writes.
- **It was not evaluated by clinicians.** No figure on this page is a measure of help or of safety.
- **Votes are not help.** It learned what a community liked, which can be the opposite of what helps, and the manners of
  that community.
- **Keep it inside.** It was trained on text of people in distress and may repeat some of it: do not publish it, and serve
  it only inside a network that you trust.
- **The licence of its base applies to it**, and so do the terms under which the text was obtained."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A model that another one was trained from; `created_at` is empty where it no longer stands as it was then."""

    reference: str
    sha256: str
    created_at: str = ""


@dataclass(frozen=True, slots=True)
class Base:
    """What the first ancestor is called outside, and its licence as the Hugging Face hub spells it; None: unknown."""

    name: str | None = None
    license: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One row of an evaluation's table for an arm of this model, beside the human reference of its section."""

    evaluation: str
    arm: str
    measure: str
    num_posts: int
    mean: float | None
    reference: str
    difference: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Card:
    """All that a card tells. `ancestors` come youngest first; `pairs` is None where they no longer stand as they were."""

    model: Manifest
    history: Sequence[Tree] = ()
    ancestors: Sequence[Ancestor] = ()
    base: Base = Base()
    pairs: Manifest | None = None
    measured: Sequence[Measured] = ()


def gather_card(storage: Storage, model: Manifest, history: Sequence[Tree]) -> Card:
    """The card of a model, evaluations aside; the model itself need not stand yet."""
    ancestors, base = _lineage(storage, model)
    entry = _input(model, "pairs/")
    pairs = storage.find(entry.name) if entry else None
    return Card(model, history, ancestors, base, pairs if pairs and pairs.as_input() == entry else None)


def standing_card(storage: Storage, name: str) -> Card:
    """The card of a model that stands, with the evaluations that name it; raises ArtifactError where it does not stand."""
    model = storage.manifest(f"models/{name}")
    log = _read(storage, model, TRAINING_LOG)
    card = gather_card(storage, model, json.loads(log) if log else [])
    return Card(card.model, card.history, card.ancestors, card.base, card.pairs, measured_of(storage, model))


def write_card(card: Card, folder: Path, readme: str = CARD, curves: str = CURVES) -> None:
    """Write the card and its curves into `folder`."""
    svg = curves_svg(card.history, card.model.name)
    if svg is not None:
        (folder / curves).write_text(svg, encoding="utf-8")
    (folder / readme).write_text(render_card(card, curves if svg is not None else None), encoding="utf-8")


def write_standing_card(storage: Storage, name: str, out: Path) -> None:
    """Write the card of a model that stands to a file, its curves beside it; raises ConfigError where that is not possible."""
    card = standing_card(storage, name)
    try:
        write_card(card, out.parent, out.name, f"{out.stem}-{CURVES}")
    except OSError as error:
        raise ConfigError(
            f"--out {out}: cannot be written ({error.strerror}); name a file in a folder of this user's"
        ) from None


def measured_of(storage: Storage, model: Manifest) -> list[Measured]:
    """What the evaluations that stand say of a model as it stands, by evaluation, arm and measure."""
    generations = {
        generation.name: generation.as_input()
        for generation in storage.list("generations")
        if model.as_input() in generation.inputs
    }
    rows = []
    for evaluation in storage.list("evaluations"):
        arms = {name for name, entry in generations.items() if entry in evaluation.inputs}
        if arms:
            rows += [_measured(evaluation.name, row) for row in _summary(storage, evaluation) if row["arm"] in arms]
    return rows


def stage_settings(train: Tree, stage: str) -> dict[str, Any]:
    """The settings below `train` that one stage has used, by dotted name; those that are null, and paths, are left out."""
    others = {"sft", "dpo1", "dpo2"} - {stage}
    unused = {"lora"} if train.get("method") == "full" else set()
    kept = {name: value for name, value in train.items() if name not in others | unused | _NOT_SHOWN}
    return dict(_leaves(kept))


def render_card(card: Card, curves: str | None = None) -> str:
    """The card as Markdown; `curves` is the image's file. What is not known of a model has no section."""
    sections = [
        ("What it is", _what(card)),
        ("Base and lineage", _lineage_table(card)),
        ("Pairs", _pairs(card)),
        ("Configuration", _configuration(card.model)),
        ("Training", _training(card.model)),
        ("Held-out figures", _held_out(card.model)),
        ("Curves", f"![Loss, and for preference stages rewards, by step]({curves})" if curves else ""),
        ("Evaluation", _evaluation(card)),
        ("Intended use and limits", _LIMITS),
    ]
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections if text)
    return f"{_front_matter(card)}\n# {card.model.name}\n\n{body}\n"


def _lineage(storage: Storage, model: Manifest) -> tuple[list[Ancestor], Base]:
    ancestors: list[Ancestor] = []
    current = model
    while parent := _input(current, "models/"):
        standing = storage.find(parent.name)
        if standing is None or standing.as_input() != parent:
            return [*ancestors, Ancestor(parent.name, parent.sha256)], Base()
        ancestors.append(Ancestor(parent.name, parent.sha256, standing.created_at))
        current = standing
    return ancestors, _base(storage, current)


def _base(storage: Storage, manifest: Manifest) -> Base:
    """What was brought in: its folder's name, and the licence that its own card declares."""
    if not manifest.inputs:
        return Base()
    source = manifest.inputs[0].name
    if source == EMBEDDED:
        return Base("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    readme = _read(storage, manifest, CARD)
    return Base(PurePosixPath(source).name, _declared_license(readme.decode("utf-8", "replace")) if readme else None)


def _declared_license(readme: str) -> str | None:
    front = re.match(r"---\n(.*?)\n---\n", readme, re.DOTALL)
    try:
        tree = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        return None
    declared = tree.get("license") if isinstance(tree, dict) else None
    return declared if isinstance(declared, str) and re.fullmatch(r"[a-z0-9.+-]+", declared) else None


def _read(storage: Storage, manifest: Manifest, path: str) -> bytes | None:
    """A file of an artifact; None where the artifact has none of that name."""
    if path not in [entry.path for entry in manifest.files]:
        return None
    with store_errors(storage.uri), storage.filesystem.open_input_file(storage.path(manifest.reference, path)) as stream:
        content: bytes = stream.read()
        return content


def _summary(storage: Storage, evaluation: Manifest) -> list[dict[str, Any]]:
    with store_errors(storage.uri):
        table = pq.read_table(storage.path(evaluation.reference, "summary.parquet"), filesystem=storage.filesystem)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _measured(evaluation: str, row: Tree) -> Measured:
    own = ("arm", "measure", "mean", "reference", "difference", "low", "high")
    return Measured(evaluation=evaluation, num_posts=row["n"], **{name: row[name] for name in own})


def _input(manifest: Manifest, prefix: str) -> Input | None:
    return next((entry for entry in manifest.inputs if entry.name.startswith(prefix)), None)


def _leaves(tree: Tree, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value


def _role_and_stage(model: Manifest) -> tuple[str, str] | None:
    """Out of the name: "gm-dpo1"; None for a model that was brought in."""
    role, _, stage = model.name.partition("-")
    return (role, stage) if role in _ROLES and stage in _STAGES else None


def _front_matter(card: Card) -> str:
    made = _role_and_stage(card.model)
    front: dict[str, Any] = {"license": card.base.license or "other"}
    if card.base.license is None:
        front["license_name"] = "licence-of-the-base"
    if card.base.name is not None:
        front["base_model"] = card.base.name
    front |= {"library_name": "transformers", "pipeline_tag": "text-generation"}
    front["tags"] = ["llumi", "peer-support", *(made or ())]
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n"


def _what(card: Card) -> str:
    model, made = card.model, _role_and_stage(card.model)
    brought_in = f"A model that was brought in from `{card.base.name or 'a folder'}`."
    lines = [_ROLES[made[0]], _STAGES[made[1]]] if made else [brought_in]
    lines.append(f"Made {_day(model.created_at)} by LLUMI {model.llumi_version}; fingerprint `{_short(model.fingerprint)}`.")
    paragraphs = ["\n".join(lines)]
    forgotten = model.counts.get("saw_forgotten")
    if forgotten:
        paragraphs.append(
            f"**It learned from text that was taken out of the pairs on {_day(forgotten['at'])}, at the wish of a person: stop "
            "serving it, and train it again.**"
        )
    return "\n\n".join(paragraphs)


def _lineage_table(card: Card) -> str:
    if not card.ancestors:
        return ""
    rows = [(one.reference, f"`{_short(one.sha256)}`", _day(one.created_at)) for one in card.ancestors]
    text = _table(("Trained from", "Hash", "Made"), rows)
    if card.base.name is None:
        return f"{text}\n\nWhat came before the last of them is not known: it no longer stands as it was."
    return f"{text}\n\nThe base is `{card.base.name}`, licence: {card.base.license or 'not known'}."


def _pairs(card: Card) -> str:
    entry = _input(card.model, "pairs/")
    if entry is None:
        return ""
    said = f"`{entry.name}`, hash `{_short(entry.sha256)}`"
    if card.pairs is None:
        said += "; they no longer stand as they were."
    else:
        preset = card.pairs.config.get("pairs", {}).get("preset")
        said += f", built {_day(card.pairs.created_at)}" + (f", preset `{preset}`." if preset else ".")
    splits = {split: card.model.counts[split] for split in ("train", "test") if split in card.model.counts}
    columns = list(dict.fromkeys(column for counts in splits.values() for column in counts))
    rows = [(split, *(_cell(counts.get(column, "")) for column in columns)) for split, counts in splits.items()]
    return f"{said}\n\n" + _table(("Split", *map(_plain, columns)), rows) if rows else said


def _configuration(model: Manifest) -> str:
    made = _role_and_stage(model)
    if made is None or "train" not in model.config:
        return ""
    settings = stage_settings(model.config["train"], made[1])
    return _table(("Setting of `train`", "Value"), [(f"`{name}`", f"`{_cell(value)}`") for name, value in settings.items()])


def _training(model: Manifest) -> str:
    rows = [(label, form.format(model.metrics[key])) for key, label, form in _TRAINING if key in model.metrics]
    return _table(("Figure", "Value"), rows) if rows else ""


def _held_out(model: Manifest) -> str:
    """The last evaluation on the held-out pairs, without what it cost."""
    figures = model.metrics.get("eval", {})
    kept = [name for name in (*_HELD_OUT, *sorted(figures.keys() - _HELD_OUT.keys())) if name in figures and not _is_cost(name)]
    rows = [(_HELD_OUT.get(name, f"`{name}`"), f"{figures[name]:,.4g}") for name in kept]
    return _table(("Figure", "Value"), rows) if rows else ""


def _is_cost(name: str) -> bool:
    return name in {"runtime", "epoch", "step"} or name.endswith("_per_second") or "num_" in name


def _evaluation(card: Card) -> str:
    if not card.measured:
        return "None yet."
    rows = [
        (
            row.evaluation,
            row.arm,
            _plain(row.measure),
            _cell(row.num_posts),
            _number(row.mean),
            row.reference,
            f"{_number(row.difference)} [{_number(row.low)}, {_number(row.high)}]",
        )
        for row in card.measured
    ]
    heads = ("Evaluation", "Arm", "Measure", "Posts", "Mean", "Reference", "Difference [interval]")
    return f"{_table(heads, rows)}\n\nMeasures of language; the evaluation's `report.html` says how to read each."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _cell(value: Any) -> str:
    """A value for a cell of a table."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return shown.replace("|", r"\|").replace("\n", " ")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _plain(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _short(digest: str) -> str:
    return digest[:16]


def _day(moment: str) -> str:
    return moment[:10] or "–"
