from pathlib import Path

import pytest

from llumi.config import Config, load_config
from llumi.errors import ConfigError

ROOT = Path(__file__).parents[1]


def test_the_shipped_file_and_the_demo_are_right() -> None:
    assert load_config(ROOT / "ray_config.yaml").storage.uri == "llumi-data"
    assert load_config(ROOT / "llumi" / "demo.yaml").generate.max_posts == 10


def test_defaults_file_and_overrides_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config() == Config()
    (tmp_path / "ray_config.yaml").write_text("pairs: {margin: {min_gap: 7}}\ntrain: {seed: 3}\n")
    config = load_config(None, ["train.seed=4", "serve.gm.model=gm-sft", "corpus.communities=[a, b]"])
    assert (config.pairs.margin.min_gap, config.train.seed, config.serve.gm.model) == (7, 4, "gm-sft")
    assert config.corpus.communities == ("a", "b")


def test_an_override_replaces_one_value_and_keeps_the_defaults_beside_it() -> None:
    config = load_config(None, ["train.dpo1.max_steps=3"])
    assert config.train.dpo1.max_steps == 3
    assert config.train.dpo1.learning_rate == Config().train.dpo1.learning_rate


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("pairs.mergin.min_gap=3", "pairs.mergin: no such key; did you mean margin?"),
        ("piars.name=x", "piars: no such key; did you mean pairs?"),
        ("train.sft.zzz=1", "train.sft.zzz: no such key; there are epochs, max_steps, learning_rate"),
        ("pairs.margin.min_gap=0", "pairs.margin.min_gap: 0 is not right; it should be greater than or equal to 1"),
        ("pairs.margin.min_gap=lots", "pairs.margin.min_gap: 'lots' is not right; it should be a valid integer"),
        ("pairs.preset=best", "pairs.preset: 'best' is not right; it should be 'margin', 'paper' or 'shp'"),
        ("pairs.paper.chosen_top=0.9", "pairs.paper: chosen_top 0.9 and rejected_bottom 0.15 overlap"),
        ("train.sft.max_steps=0", "train.sft: max_steps 0 trains nothing; give a positive number, or -1 for whole epochs"),
        ("serve.audit=logs", "serve: audit logs is another folder for each process; give an absolute path"),
        ("serve.gm.min_replicas=3", "serve.gm: min_replicas 3 is above max_replicas 1"),
        (
            "serve.gm.adapter=adapters/gm",
            "serve.gm: adapter adapters/gm is another folder for each process; give models/",
        ),
        ("generate.engine.num_gpus=2", "generate.engine: num_gpus 2: kind hf uses one GPU; set num_gpus 1, or kind vllm"),
        (
            "serve.engine.num_gpus=1.5",
            "serve.engine: num_gpus 1.5 is no number of GPUs; give a whole number, or a share",
        ),
        ("serve.engine.vllm.tensor_parallel_size=two", "serve.engine.vllm: tensor_parallel_size 'two' is not right"),
        ("evaluate.equivalence.words=0", "evaluate.equivalence.words: 0 is not right; it should be greater than 0"),
        ("pairs", "--set pairs: not of the form a.b=value"),
        ("storage.uri.deep=1", "storage.uri: {'deep': 1} is not right; it should be a valid string"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_key(
    override: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_the_parallel_sizes_of_vllm_agree_with_num_gpus() -> None:
    sizes = "vllm={tensor_parallel_size: 2, pipeline_parallel_size: 2}"
    for kind, num_gpus in (("auto", 4), ("vllm", 4), ("vllm", 0)):
        load_config(None, [f"serve.engine.kind={kind}", f"serve.engine.{sizes}", f"serve.engine.num_gpus={num_gpus}"])
    with pytest.raises(ConfigError, match=r"serve\.engine: num_gpus 2 and vllm's parallel sizes \(4 processes\) differ; leave"):
        load_config(None, [f"serve.engine.{sizes}", "serve.engine.num_gpus=2"])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("pairs: [1", r"config\.yaml:\d+: not valid YAML"),
        ("- a\n- b\n", r"config\.yaml: holds a list; a mapping of sections is expected"),
        ("pairs:\n  presett: margin\n", r"pairs\.presett: no such key; did you mean preset\?"),
    ],
)
def test_a_wrong_file_is_one_line(content: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match=line):
        load_config(tmp_path / "config.yaml")


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\); give a YAML file"):
        load_config(tmp_path / "none.yaml")
