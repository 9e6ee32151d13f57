"""The typed form of `ray_config.yaml`: one frozen tree, every default beside its field.

`load_config` reads the file, applies `--set a.b=c` overrides and checks the whole tree. An error names the dotted path,
the value, and what would be right. Secrets are not here: the store's credentials come from `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY`, the key of the pseudonyms from `LLUMI_PRIVACY_KEY` or `privacy.key_file`.
"""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llumi.errors import ConfigError
from llumi.prompts import Role

Stage = Literal["sft", "dpo1", "dpo2"]
DEFAULT_FILE = Path("ray_config.yaml")
ARTIFACT_NAME = r"^[a-z0-9][a-z0-9._-]*$"


class Section(BaseModel):
    """A branch of the tree: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class StorageConfig(Section):
    """Where artifacts live: a local folder, or `s3://bucket/prefix` on any S3 endpoint."""

    uri: str = Field("llumi-data", min_length=1)
    endpoint_url: str | None = None
    region: str = "us-east-1"


class RayConfig(Section):
    """Which cluster to use: its address, "auto" for the one this machine belongs to, or null for a local one."""

    address: str | None = None
    num_cpus: int | None = Field(None, ge=1)


class PrivacyConfig(Section):
    """The key that turns identifiers into pseudonyms; made on first use, kept apart from every artifact."""

    key_file: Path = Path("~/.config/llumi/privacy.key")


class SafetyConfig(Section):
    """The rules by which posts and replies are judged, and what the service says itself; null is what LLUMI ships.

    `rules` and `answers` stand in the place of LLUMI's file. `resources` are the crisis lines of some countries, in the place
    of LLUMI's lines for these; all other countries keep theirs, and an emergency number that the file does not name stays.
    `likeness`: where the rules find no risk in a post of the service, it is also compared with made-up posts at risk, and a
    reply in which they find nothing with harmful ones.
    """

    rules: Path | None = None
    resources: Path | None = None
    answers: Path | None = None
    likeness: bool = True


class CorpusConfig(Section):
    """The dumps and what cleaning drops: `NAME_submissions` and `NAME_comments`, or the monthly `RS_*` and `RC_*`.

    `exclude` is a file with one `post ID` or `author NAME` a line. `languages` are two-letter codes; none keeps all. A
    month is `early` where more than `early_share` of its scores are 1: they were taken before people had voted.
    """

    uri: str = Field("llumi-data/sample", min_length=1)
    communities: tuple[str, ...] = ()
    truncated: Literal["refuse", "keep"] = "refuse"
    min_characters: int = Field(1, ge=1)
    max_characters: int = Field(40_000, ge=1)  # the longest text that Reddit takes
    min_tokens: int = Field(3, ge=0)  # of a reply, by the tokenizer of train.base
    max_tokens: int = Field(1024, ge=1)
    bots: tuple[str, ...] = ("AutoModerator",)
    languages: tuple[str, ...] = ()
    early_months: Literal["drop", "keep"] = "drop"
    early_share: float = Field(0.95, gt=0, le=1)
    exclude: Path | None = None

    @model_validator(mode="after")
    def _lengths_in_order(self) -> Self:
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters {self.min_characters} is above max_characters {self.max_characters}")
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} is above max_tokens {self.max_tokens}")
        return self


class MarginConfig(Section):
    """Preset `margin`: a reply endorsed at least `min_gap` above another reply to the same post.

    The pair's weight is log((1 + s_c) / (1 + s_r)) for scores that are counted from 0, shrunk by n / (n + `shrinkage`)
    where n is the number of votes that stand behind it.
    """

    min_gap: int = Field(2, ge=1)
    shrinkage: float = Field(5.0, ge=0)


class ShpConfig(Section):
    """Preset `shp` (Stanford Human Preferences, Ethayarajh et al. 2022, arXiv 2110.08420)."""

    min_score: int = Field(2, ge=1)
    min_ratio: float = Field(2.0, ge=1)


class PaperConfig(Section):
    """Preset `paper` (arXiv 2605.30273): chosen from the top, rejected from the bottom of a community's scores."""

    chosen_top: float = Field(0.02, gt=0, lt=1)
    rejected_bottom: float = Field(0.15, gt=0, lt=1)
    min_gap: int = Field(15, ge=1)

    @model_validator(mode="after")
    def _no_overlap(self) -> Self:
        if self.chosen_top + self.rejected_bottom > 1:
            raise ValueError(
                f"chosen_top {self.chosen_top} and rejected_bottom {self.rejected_bottom} overlap; their sum must be at most 1"
            )
        return self


class RevisionConfig(Section):
    """IM's pairs: which revision is near enough to its draft to be one (cosine of sentence embeddings).

    Below the window the model would learn to replace, above it to copy. `source` none builds no pairs for IM. About
    `max_pairs` pairs are compared, and at most as many drafts given to a teacher; `num_gpus` is the share of each actor.
    """

    source: Literal["votes", "none"] = "votes"
    min_similarity: float = Field(0.7, ge=-1, le=1)
    max_similarity: float = Field(0.985, ge=-1, le=1)
    max_pairs: int = Field(50_000, ge=1)
    num_actors: int = Field(1, ge=1)
    num_gpus: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _window_in_order(self) -> Self:
        if self.min_similarity >= self.max_similarity:
            raise ValueError(f"min_similarity {self.min_similarity} is not below max_similarity {self.max_similarity}")
        return self


class PairsConfig(Section):
    """Which reply is chosen over which, how many pairs a post may give, and what is held out.

    `order` asks that the chosen reply came `later` or `earlier` than the rejected one, or that both had a `matched` time
    to be voted on; null is the preset's own (`later` for shp, `any` for the others). `length_balance` keeps pairs of
    like length (`match`), or weighs pairs so that the longer reply is as often the worse one (`weigh`). `split_by` author
    puts all posts of an author on one side, and nobody who wrote for training is in the test split.
    """

    name: str = Field("default", pattern=ARTIFACT_NAME)
    preset: Literal["margin", "paper", "shp"] = "margin"
    margin: MarginConfig = MarginConfig()
    paper: PaperConfig = PaperConfig()
    shp: ShpConfig = ShpConfig()
    order: Literal["any", "later", "earlier", "matched"] | None = None
    matched_ratio: float = Field(2.0, gt=1)
    length_balance: Literal["none", "match", "weigh"] = "none"
    length_ratio: float = Field(1.5, gt=1)
    near_duplicates: Literal["drop", "keep"] = "drop"
    split_by: Literal["author", "post"] = "author"
    max_pairs_per_post: int | None = Field(None, ge=1)  # null is the preset's own: 5 for shp, 4 for the others
    sft_replies_per_post: int = Field(1, ge=1)
    sft_min_score: int = 2
    revisions: RevisionConfig = RevisionConfig()
    test_fraction: float = Field(0.1, gt=0, lt=1)
    num_buckets: int = Field(8, ge=1, le=4096)


class LoraConfig(Section):
    """Low-rank adapters (arXiv 2106.09685), trained in place of the whole model and merged before publishing."""

    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"


class StageConfig(Section):
    """How long and how fast one stage learns; `max_steps` -1 means whole epochs."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int = Field(-1, ge=-1)
    learning_rate: float = Field(gt=0)
    batch_size_per_worker: int = Field(2, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _some_steps(self) -> Self:
        if self.max_steps == 0:
            raise ValueError("max_steps 0 trains nothing; give a positive number, or -1 for whole epochs")
        return self


class SftStageConfig(StageConfig):
    """Supervised fine-tuning on endorsed replies; `packing` fills each row of `max_length` with several whole examples."""

    learning_rate: float = Field(2e-4, gt=0)
    packing: bool = False


class DpoStageConfig(StageConfig):
    """A preference stage; `beta` weighs the distance to the reference model (arXiv 2305.18290, eq. 7).

    `loss` is `sigmoid` (DPO), `ipo` (arXiv 2310.12036), `conservative` (cDPO: labels are wrong with probability
    `label_smoothing`), `robust` (arXiv 2403.00409, the unbiased form of it), or `margin` (ODPO, arXiv 2402.10571: the
    pair's weight times `margin_scale` is the offset by which the chosen reply must win). `pairs` names the artifact
    that is learned from; null is `pairs.name`. `length_buckets` puts pairs of like length into one batch. `share_prompt`
    computes each prompt once for both of its replies, where the model's family allows it.
    """

    learning_rate: float = Field(5e-5, gt=0)
    beta: float = Field(0.1, gt=0)
    loss: Literal["sigmoid", "ipo", "conservative", "robust", "margin"] = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    margin_scale: float = Field(1.0, gt=0)
    length_buckets: bool = True
    share_prompt: bool = True
    pairs: str | None = Field(None, pattern=ARTIFACT_NAME)

    @model_validator(mode="after")
    def _smoothing_where_it_counts(self) -> Self:
        smooths = self.loss in ("conservative", "robust")
        if smooths and self.label_smoothing == 0:
            raise ValueError(f"loss {self.loss} needs label_smoothing, the share of labels that are wrong, such as 0.1")
        if not smooths and self.label_smoothing:
            raise ValueError(f"label_smoothing has no effect on loss {self.loss}; set loss to conservative or robust")
        return self


class HumanStageConfig(DpoStageConfig):
    """The preference stage on pairs that people chose: few, so it learns in smaller steps."""

    learning_rate: float = Field(2e-5, gt=0)
    pairs: str | None = Field("human", pattern=ARTIFACT_NAME)


class TrainConfig(Section):
    """Training on Ray Train with DeepSpeed ZeRO and TRL; `trl` and `deepspeed` pass the libraries' own keys through.

    `method` qlora holds the parent in four bits (bitsandbytes). `offload` moves what ZeRO shards to the memory of the
    host, or to `nvme_path`. `gradient_checkpointing` null is on with GPUs alone. `too_long` says what becomes of an
    example above `max_length` tokens: it is left out, or its prompt is cut in the middle (the reply never is), or the run
    refuses to start. `eval_steps` null evaluates the held-out split once, at the end; with it, the checkpoint of the lowest
    held-out loss can be published instead of the last step (`publish` best). `peak_tflops` is what one GPU can
    do, for the utilisation; null looks it up by name. `mlflow_uri` also writes the curves to an MLflow server.
    """

    base: str = "smollm2-135m-instruct"
    method: Literal["lora", "qlora", "full"] = "lora"
    lora: LoraConfig = LoraConfig()
    num_workers: int = Field(2, ge=1)
    use_gpu: bool = False
    cpus_per_worker: int = Field(1, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 2
    offload: Literal["none", "cpu", "nvme"] = "none"
    nvme_path: Path | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    gradient_checkpointing: bool | None = None
    max_length: int = Field(512, ge=16)
    too_long: Literal["drop", "truncate", "refuse"] = "drop"
    max_eval_examples: int = Field(256, ge=0)
    eval_steps: int | None = Field(None, ge=1)
    publish: Literal["last", "best"] = "last"
    seed: int = Field(17, ge=0)
    logging_steps: int = Field(1, ge=1)
    checkpoint_steps: int = Field(50, ge=1)
    checkpoints_kept: int = Field(2, ge=1)
    max_failures: int = Field(2, ge=0)
    peak_tflops: float | None = Field(None, gt=0)
    tensorboard: bool = True
    mlflow_uri: str | None = None
    sft: SftStageConfig = SftStageConfig()
    dpo1: DpoStageConfig = DpoStageConfig()
    dpo2: HumanStageConfig = HumanStageConfig()
    trl: dict[str, Any] = {}
    deepspeed: dict[str, Any] = {}

    def stage(self, stage: Stage) -> SftStageConfig | DpoStageConfig:
        """The section of one stage."""
        match stage:
            case "sft":
                return self.sft
            case "dpo1":
                return self.dpo1
            case "dpo2":
                return self.dpo2

    @model_validator(mode="after")
    def _best_can_be_known(self) -> Self:
        if self.publish == "best" and (self.eval_steps is None or self.checkpoint_steps % self.eval_steps):
            raise ValueError(
                "publish best needs an evaluation at every checkpoint; set eval_steps to a divisor of checkpoint_steps, "
                f"such as {self.checkpoint_steps}"
            )
        return self

    @model_validator(mode="after")
    def _hardware_fits(self) -> Self:
        if self.offload != "none" and self.zero_stage == 0:
            raise ValueError(
                f"offload {self.offload} moves what ZeRO shards, and zero_stage 0 shards nothing; set zero_stage 1 to 3"
            )
        if self.offload == "nvme" and self.zero_stage != 3:
            raise ValueError(f"offload nvme needs zero_stage 3, not {self.zero_stage}")
        if (self.offload == "nvme") != (self.nvme_path is not None):
            raise ValueError("offload nvme and nvme_path, a folder on every node's NVMe disk, need each other")
        if self.offload != "none" and not self.use_gpu:
            raise ValueError(f"offload {self.offload} frees the memory of GPUs; without use_gpu there is none to free")
        return self


class EngineSettings(Section):
    """What an engine is told, whichever it is; `vllm` passes keys of vLLM's own through, where that is the engine.

    `echo_seconds_per_token` is how long `echo` takes for a word, as a model would.
    """

    max_batch_size: int = Field(16, ge=1)
    max_wait_seconds: float = Field(0.01, ge=0)
    num_cpus: float = Field(1, gt=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    vllm: dict[str, Any] = {}
    echo_seconds_per_token: float = Field(0, ge=0)

    @property
    def ranks(self) -> int:
        """The processes that `vllm` asks to hold one model together: tensor times pipeline parallel."""
        return math.prod(int(self.vllm.get(f"{way}_parallel_size", 1)) for way in ("tensor", "pipeline"))

    @field_validator("vllm")
    @classmethod
    def _ranks_are_numbers(cls, keys: dict[str, Any]) -> dict[str, Any]:
        for way in ("tensor", "pipeline"):
            size = keys.get(f"{way}_parallel_size", 1)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{way}_parallel_size {size!r} is not right; it should be a number of processes")
        return keys


class EngineConfig(EngineSettings):
    """What runs the model: `hf` anywhere, `vllm` on GPUs, `echo` to try the service without one.

    `num_gpus` is what each engine takes, all of it on one node. `hf` uses one GPU or a share of it; `vllm` cuts the model
    over as many as it has (tensor parallel), or takes a share of one and of its memory.
    """

    kind: Literal["hf", "vllm", "echo"] = "hf"
    num_gpus: float = Field(0, ge=0)

    @model_validator(mode="after")
    def _gpus_fit_the_kind(self) -> Self:
        _check_gpus(self, self.kind, self.num_gpus)
        return self


class ServeEngineConfig(EngineSettings):
    """The engine of the service: `auto` takes what suits the cluster and what is installed (see llumi/engine/choice.py).

    `num_gpus` null is a GPU for each engine where the cluster has them; what is set counts.
    """

    kind: Literal["auto", "hf", "vllm", "echo"] = "auto"
    num_gpus: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _gpus_fit_the_kind(self) -> Self:
        _check_gpus(self, self.kind, self.num_gpus or 0)
        return self


def _check_gpus(engine: EngineSettings, kind: str, num_gpus: float) -> None:
    if num_gpus > 1 and num_gpus != int(num_gpus):
        raise ValueError(f"num_gpus {num_gpus:g} is no number of GPUs; give a whole number, or a share of one")
    if num_gpus > 1 and kind == "hf":
        raise ValueError(f"num_gpus {num_gpus:g}: kind hf uses one GPU; set num_gpus 1, or kind vllm")
    if kind in ("auto", "vllm") and num_gpus and engine.ranks > 1 and engine.ranks != num_gpus:
        raise ValueError(
            f"num_gpus {num_gpus:g} and vllm's parallel sizes ({engine.ranks} processes) differ; "
            "leave the sizes out, and the model is cut over num_gpus"
        )


class EndpointConfig(Section):
    """A service in this network that speaks OpenAI's chat route, such as a model that is in use already.

    `url` ends where `/chat/completions` follows; `model` is the name by which the service knows it. `key_variable` names
    the environment variable that holds the key, where the service asks for one.
    """

    url: str = Field(pattern=r"^https?://[^/]+.*[^/]$")
    model: str
    key_variable: str | None = None
    max_in_flight: int = Field(8, ge=1)
    timeout_seconds: float = Field(120, gt=0)


class GenerateConfig(Section):
    """Bulk generation over the held-out posts; `max_posts` null takes them all.

    `endpoints` gives names to services that are compared with the models: `llumi generate gm NAME` asks one.
    """

    engine: EngineConfig = EngineConfig()
    endpoints: dict[Annotated[str, Field(pattern=ARTIFACT_NAME)], EndpointConfig] = {}
    num_actors: int = Field(1, ge=1)
    max_posts: int | None = Field(None, ge=1)
    max_new_tokens: int = Field(200, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    seed: int = Field(17, ge=0)


class EmpathyConfig(Section):
    """Folders of local classifiers, one for each mechanism of empathy, on every node; null leaves its measure out."""

    emotional_reactions: Path | None = None
    interpretations: Path | None = None
    explorations: Path | None = None


class EvaluateConfig(Section):
    """The comparison of human replies and models, paired by post, and the report that shows it.

    Replies are of like length where the longer has at most `length_ratio` times the words of the shorter. `equivalence`
    gives measures a margin in their own unit, declared before the figures are seen: within it, a mean difference does not
    matter. A margin in standard deviations would be an estimate from the same replies, and move with them. A reply repeats
    training text from `memorised_words` words in a row; `show_refused` replies of each arm and safety rule are shown as text.
    `ratings` are folders of `llumi rate export`, on the machine that evaluates, whose outcome the report shows.
    """

    name: str = Field("default", pattern=ARTIFACT_NAME)
    num_bootstrap: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1)
    seed: int = Field(17, ge=0)
    length_ratio: float = Field(1.25, gt=1)
    memorised_words: int = Field(12, ge=4)
    show_refused: int = Field(0, ge=0)
    equivalence: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}
    empathy: EmpathyConfig = EmpathyConfig()
    ratings: tuple[Path, ...] = ()


class CanaryConfig(Section):
    """A second model that answers a share of a role's requests, `weight`, before it answers all of them.

    `model` and `adapter` as in the role's own section.
    """

    model: str | None = None
    adapter: str | None = None
    weight: float = Field(gt=0, lt=1)


class ScalingConfig(Section):
    """How many replicas answer.

    Where every replica has `max_ongoing_requests`, `max_queued` more wait; whoever comes then is told to come later. More
    replicas start once the load asked for them for `upscale_seconds`, fewer stay once it did not for `downscale_seconds`.
    """

    min_replicas: int = Field(1, ge=1)
    max_replicas: int = Field(1, ge=1)
    target_ongoing_requests: float = Field(8, gt=0)
    max_ongoing_requests: int = Field(32, ge=1)
    max_queued: int = Field(64, ge=1)
    upscale_seconds: float = Field(30, ge=0)
    downscale_seconds: float = Field(600, ge=0)

    @model_validator(mode="after")
    def _replicas_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self

    def scales_otherwise(self) -> list[str]:
        """The keys of this section that are not at their defaults."""
        return [key for key, field in ScalingConfig.model_fields.items() if getattr(self, key) != field.default]


class RoleConfig(ScalingConfig):
    """One served model and how it scales; null serves the newest stage that stands (dpo2, else dpo1, else sft, else base).

    `adapter` (LoRA, in PEFT's layout) answers in its place: `models/NAME` of the store, or a folder on every node. `model`
    is then what the adapter sits on; null is the base. A `canary` scales by the same figures, and by itself.
    """

    model: str | None = None
    adapter: str | None = None
    canary: CanaryConfig | None = None

    @model_validator(mode="after")
    def _adapter_in_one_place(self) -> Self:
        given = self.adapter
        if given is not None and not given.startswith("models/") and not Path(given).expanduser().is_absolute():
            raise ValueError(f"adapter {given} is another folder for each process; give models/NAME or an absolute path")
        return self


class GuardConfig(Section):
    """The guard between the models and whoever asks: what it cannot judge within `timeout_seconds` is not sent."""

    timeout_seconds: float = Field(2, gt=0)


class ServeConfig(Section):
    """GM and IM behind one router; they scale and fail apart, unless `shared_base`.

    With `shared_base` each replica holds the base once, and an adapter for each model that was trained from it with LoRA; all
    of them answer for both roles and scale by `shared`. The roles' own sections then say which models, not how many replicas.

    `country` (such as IE) chooses the crisis lines that stand in an answer where the request names none. `allowed` are phone
    numbers and web domains that a model may write, besides those of the crisis lines.

    A request has `timeout_seconds`, of which its body may take `body_seconds`. `audit` is the folder of the audit log on the
    router's node; null is `audit` in a local store, and ~/.local/state/llumi/audit where the store is S3.
    """

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    engine: ServeEngineConfig = ServeEngineConfig()
    gm: RoleConfig = RoleConfig()
    im: RoleConfig = RoleConfig()
    shared_base: bool = False
    shared: ScalingConfig = ScalingConfig()
    max_new_tokens: int = Field(300, ge=1)
    temperature: float = Field(0.7, ge=0)
    top_p: float = Field(0.95, gt=0, le=1)
    timeout_seconds: float = Field(120, gt=0)
    country: str = Field("*", pattern=r"^(\*|[A-Za-z]{2})$")
    allowed: tuple[str, ...] = ()
    guard: GuardConfig = GuardConfig()
    body_seconds: float = Field(20, gt=0)
    max_body_bytes: int = Field(2**20, ge=1024)
    audit: Path | None = None

    @model_validator(mode="after")
    def _audit_in_one_place(self) -> Self:
        if self.audit is not None and not self.audit.expanduser().is_absolute():
            raise ValueError(f"audit {self.audit} is another folder for each process; give an absolute path")
        return self

    @model_validator(mode="after")
    def _scaling_in_one_place(self) -> Self:
        for name, section in {"gm": self.gm, "im": self.im}.items() if self.shared_base else ():
            for key in section.scales_otherwise():
                raise ValueError(f"{name}.{key} has no effect with shared_base; set shared.{key}")
        for key in [] if self.shared_base else self.shared.scales_otherwise():
            raise ValueError(f"shared.{key} has no effect without shared_base; set gm.{key} and im.{key}, or shared_base=true")
        return self

    def role(self, role: Role) -> RoleConfig:
        """The section of one role."""
        return self.gm if role == "gm" else self.im

    @property
    def pools(self) -> list[ScalingConfig]:
        """What scales by itself: both roles, or what they share."""
        return [self.shared] if self.shared_base else [self.gm, self.im]

    def scaling(self, role: Role) -> ScalingConfig:
        """How the replicas scale that answer for a role."""
        return self.shared if self.shared_base else self.role(role)


class RateConfig(Section):
    """The human rating page, and the rules that a study is created with.

    `database` is `sqlite:///FILE` or `postgresql://USER@HOST/NAME`; its password comes from PGPASSWORD or ~/.pgpass, never
    from here. `public_url` is how raters reach the page, where that is not `host` and `port`; `country` (such as IE)
    chooses the crisis lines that they see, `contact` whom they can ask. Nobody gets more than `pages_per_rater` pages; of
    these, `check_share` ask for certain answers and `repeat_share` come a second time. A page that was opened is kept for
    its rater for `lease_seconds`. Posts of the tiers in `risks` are shown, no others.
    """

    host: str = "127.0.0.1"
    port: int = Field(8010, ge=1, le=65535)
    public_url: str | None = Field(None, pattern=r"^https?://[^/\s]+$")
    database: str = Field("sqlite:///llumi-data/rate.db", pattern=r"^(sqlite:///|postgresql://)")
    raters_per_item: int = Field(3, ge=1)
    pages_per_rater: int = Field(30, ge=1)
    seed: int = Field(17, ge=0, lt=2**31)
    lease_seconds: float = Field(1800, gt=0)
    check_share: float = Field(0.07, ge=0, le=0.5)
    repeat_share: float = Field(0.07, ge=0, le=0.5)
    risks: tuple[Literal["none", "possible", "imminent"], ...] = ("none", "possible")
    country: str = Field("*", pattern=r"^(\*|[A-Za-z]{2})$")
    contact: str | None = None

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        if re.match(r"^[a-z]+://[^/@]*:[^/@]*@", self.database):
            raise ValueError("database: holds a password; take it out, and set PGPASSWORD or ~/.pgpass")
        return self


class Config(Section):
    """One deployment of LLUMI."""

    storage: StorageConfig = StorageConfig()
    ray: RayConfig = RayConfig()
    privacy: PrivacyConfig = PrivacyConfig()
    safety: SafetyConfig = SafetyConfig()
    corpus: CorpusConfig = CorpusConfig()
    pairs: PairsConfig = PairsConfig()
    train: TrainConfig = TrainConfig()
    generate: GenerateConfig = GenerateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    serve: ServeConfig = ServeConfig()
    rate: RateConfig = RateConfig()


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read `path` (default: `ray_config.yaml` where it stands, else the defaults) and apply `a.b=value` overrides.

    Raises ConfigError with one line that names the dotted key, its value, and what would be right.
    """
    tree = _read_yaml(path)
    for override in overrides:
        _apply_override(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(error))) from None


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        if not DEFAULT_FILE.exists():
            return {}
        path = DEFAULT_FILE
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give a YAML file with --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", None) or "not UTF-8"
        raise ConfigError(f"{where}: not valid YAML ({problem})") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}; a mapping of sections is expected (corpus:, pairs:, ...)")
    return tree


def read_override(override: str) -> tuple[tuple[str, ...], Any]:
    """The keys and the value of "a.b=value"; a value that is no YAML is text."""
    dotted, equals, text = override.partition("=")
    keys = tuple(dotted.strip().split("."))
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: not of the form a.b=value, such as --set pairs.margin.min_gap=3")
    try:
        return keys, yaml.safe_load(text)
    except yaml.YAMLError:
        return keys, text


def _apply_override(tree: dict[str, Any], override: str) -> None:
    keys, value = read_override(override)
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if branch is None:
            branch = tree[key] = {}
        if not isinstance(branch, dict):
            raise ConfigError(f"--set {override}: {key} is a value, not a section")
        tree = branch
    tree[keys[-1]] = value


def _explain(error: ValidationError) -> Iterable[str]:
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            yield f"{path}: no such key{_nearest(problem['loc'])}"
        elif problem["type"] == "missing":
            yield f"{path}: missing; it has no default"
        elif problem["type"] == "value_error":
            yield f"{path}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
        else:
            expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
            yield f"{path}: {problem['input']!r} is not right; it should be {expected}"


def _nearest(location: tuple[int | str, ...]) -> str:
    """The key that was probably meant, or the keys that there are."""
    section: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        section = annotation
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
