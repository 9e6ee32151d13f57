"""What a sweep is asked for: which lists are swept, which points they span, and every refusal before anything starts."""

from pathlib import Path

import pytest

from llumi.errors import ConfigError
from llumi.train.grid import grid


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_lists_span_a_grid_whose_last_list_runs_fastest() -> None:
    points = grid(None, ["train.dpo1.beta=[0.05,0.1]", "train.seed=3", "train.dpo1.learning_rate=[1e-5,5e-5]"], "gm", "dpo1")
    swept = [(point.config.train.dpo1.beta, point.config.train.dpo1.learning_rate) for point in points]
    assert swept == [(0.05, 1e-5), (0.05, 5e-5), (0.1, 1e-5), (0.1, 5e-5)]
    assert all(point.config.train.seed == 3 for point in points)
    assert points[0].values == {"train.dpo1.beta": 0.05, "train.dpo1.learning_rate": 1e-5}
    assert str(points[0]) == "train.dpo1.beta=0.05 train.dpo1.learning_rate=1e-05"


def test_a_point_keeps_its_name_however_it_is_written_and_whatever_stands_beside_it() -> None:
    (first, _) = grid(None, ["train.dpo1.beta=[0.1,0.3]", "train.lora.rank=[8]"], "gm", "dpo1")
    (_, again) = grid(None, ["train.lora.rank=[8]", "train.seed=3", "train.dpo1.beta=[0.2,1.0e-1]"], "gm", "dpo1")
    (other,) = grid(None, ["train.dpo1.beta=[0.1]", "train.lora.rank=[8]"], "im", "dpo1")
    assert first.name == again.name
    assert first.name.startswith("gm-dpo1-")
    assert other.name == first.name.replace("gm", "im")
    names = {point.name for point in grid(None, ["train.dpo1.loss=[sigmoid,ipo]", "train.seed=[1,2,3]"], "gm", "dpo1")}
    assert len(names) == 6


def test_a_list_for_a_field_that_is_a_list_is_a_value() -> None:
    lists = ["corpus.languages=[en,de]", "train.lora.target_modules=[q_proj,v_proj]", "train.dpo1.beta=[0.1,0.2]"]
    points = grid(None, lists, "gm", "dpo1")
    assert [point.values for point in points] == [{"train.dpo1.beta": 0.1}, {"train.dpo1.beta": 0.2}]
    assert points[0].config.corpus.languages == ("en", "de")
    assert points[0].config.train.lora.target_modules == ("q_proj", "v_proj")
    modules = grid(None, ["train.lora.target_modules=[[q_proj],all-linear]"], "gm", "dpo1")
    assert [point.config.train.lora.target_modules for point in modules] == [("q_proj",), "all-linear"]


def test_other_settings_are_checked_with_each_point_and_not_without() -> None:
    points = grid(None, ["train.dpo1.loss=robust", "train.dpo1.label_smoothing=[0.1,0.2]"], "gm", "dpo1")
    assert [point.config.train.dpo1.label_smoothing for point in points] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ([], r"^nothing to sweep: give a list .*, such as --set train\.dpo1\.learning_rate=\[1e-5,5e-5\]$"),
        (["corpus.languages=[en]", "train.trl.warmup_steps=[1,2]"], "^nothing to sweep: "),
        (
            ["train.dpo1.beta=[0.1]", "train.dpo1.learning_rate=[1e-5,-1]"],
            r"^point train\.dpo1\.beta=0\.1 train\.dpo1\.learning_rate=-1: train\.dpo1\.learning_rate: -1 is not right; ",
        ),
        (["train.dpo1.loss=[sigmoid,robust]"], r'^point train\.dpo1\.loss="robust": train\.dpo1: loss robust needs label_smoo'),
        (["pairs.margin.min_gap=[1,2]"], r"^pairs\.margin\.min_gap: not to be swept, only fields below train\. are: "),
        (["generate.temperature=[0,1]"], r"^generate\.temperature: not to be swept, only fields below train\. are: "),
        (["train.base=[one,other]"], r"^train\.base: not to be swept: all points start from the same parent "),
        (["train.dpo1.pairs=[default,taught]"], r"^train\.dpo1\.pairs: not to be swept: "),
        (["train.dpo1.bta=[0.1,0.2]"], r"^train\.dpo1\.bta: no such key; did you mean beta\?$"),
        (["trian.dpo1.beta=[0.1,0.2]"], r"^trian: no such key; did you mean train\?$"),
        (["corpus.languages=[1,2]"], r"^corpus\.languages\.0: 1 is not right; "),
        (["train.dpo1.beta=[]"], r"^train\.dpo1\.beta: the list is empty; "),
        (["train.seed=[1,2,3]", "train.lora.rank=[4,8,16]"], r"^the lists span 9 points, above the 8 of --max-points; "),
    ],
)
def test_what_is_no_sweep_is_refused(overrides: list[str], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        grid(None, overrides, "gm", "dpo1", max_points=8)
