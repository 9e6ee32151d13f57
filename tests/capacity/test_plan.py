"""A plan holds together, says what does not fit, and the page shows what the command prints."""

import json
import random
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llumi.capacity.failures import best_interval, lost_share
from llumi.capacity.figures import Range, short
from llumi.capacity.gpus import GPUS
from llumi.capacity.inputs import Hardware, Question
from llumi.capacity.plan import CapacityPlan, plan_capacity
from llumi.capacity.shapes import MODELS, size_of
from llumi.capacity.training import network_bytes, on_gpus
from llumi.cli import app
from llumi.config import TrainConfig
from llumi.errors import ConfigError, LlumiError

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
BLOCKS = re.findall(r"```bash\n(llumi plan [^\n]*)\n```\n\n```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def plan(comments: float = 1e7, gpus: int = 8, model: str = "7b", share: float = 1.0, **train: object) -> CapacityPlan:
    hardware = Hardware(GPUS["h100"], gpus, 8, 32, 12.5e9, 1e9, 2e-3)
    return plan_capacity(Question(comments, share, MODELS[model], TrainConfig.model_validate(train), hardware, 1000))


def test_more_comments_take_longer_and_more_gpus_do_not():
    small, large, wide = plan(), plan(1e9), plan(1e9, gpus=64)
    assert large.pairs.seconds.typical > small.pairs.seconds.typical
    assert large.sft.hours.typical == pytest.approx(100 * small.sft.hours.typical, rel=0.01)
    assert wide.sft.hours.typical == pytest.approx(large.sft.hours.typical / 8, rel=0.01)
    assert wide.failures.hours_between_failures.typical < large.failures.hours_between_failures.typical
    assert large.generation is not None
    assert wide.generation is not None
    assert wide.generation.hours.typical == pytest.approx(large.generation.hours.typical / 8, rel=0.01)


def test_lines_of_others_are_passed_over_faster_than_wanted_ones_are_read():
    assert plan(1e9, share=0.001).pairs.work_seconds.typical < 0.5 * plan(1e9).pairs.work_seconds.typical


def test_a_slow_store_decides_over_the_work_of_a_build():
    hardware = Hardware(GPUS["h100"], 8, 8, 256, 12.5e9, 1e8, 0)
    pairs = plan_capacity(Question(1e9, 0.001, MODELS["7b"], TrainConfig(), hardware, 1)).pairs
    assert pairs.transfer_seconds.typical > pairs.work_seconds.typical
    rest = pairs.seconds.typical - pairs.scratch_read_seconds.typical
    assert rest == pytest.approx(pairs.transfer_seconds.typical, rel=0.05)


def test_hours_of_a_stage_are_those_of_the_training_plan():
    """At full rows and 35 %: what `llumi train --dry-run` reckons for as many examples."""
    from llumi.train.plan import ASSUMED_UTILISATION, plan_steps, stage_flops

    found = plan(3.1e5, method="full", zero_stage=3, max_length=2048)
    train = on_gpus(found.question)
    steps = plan_steps(train, "sft", round(found.sft.examples.typical))
    work = stage_flops(size_of(MODELS["7b"], train), train, "sft", steps)
    assert work is not None
    hours = work / (8 * GPUS["h100"].peak_flops * ASSUMED_UTILISATION) / 3600
    assert found.sft.hours.typical == pytest.approx(hours)
    assert found.sft.examples.typical == pytest.approx(42_503, rel=0.01)


def test_what_does_not_fit_is_said_with_what_would():
    notes = plan(gpus=1, model="70b", method="full", zero_stage=3).notes
    assert any("full under ZeRO-3 does not fit a h100" in note and "qlora under ZeRO-0 would" in note for note in notes)
    assert any("cannot generate there" in note for note in notes)
    assert not any("does not fit" in note for note in plan(gpus=8, model="7b", method="full", zero_stage=3).notes)


def test_the_walls_of_a_large_corpus_are_said():
    notes = " ".join(plan(2.4e10).notes)
    assert "a task holds a bucket" in notes
    assert "pairs build reads scratch" in notes
    assert "far more than fine-tuning needs" in notes
    assert "reads scratch" not in " ".join(plan(1e7).notes)


def test_bytes_of_a_step_follow_zero():
    """ZeRO, section 7: stages 1 and 2 send twice the gradients, stage 3 half as much again."""
    size = size_of(MODELS["7b"], TrainConfig(method="full"))
    sent = {
        stage: network_bytes(size, on_gpus(plan(gpus=64, method="full", zero_stage=stage).question), 1) for stage in (1, 2, 3)
    }
    assert sent[1] == sent[2] == pytest.approx(2 * 2 * size.parameters * 63 / 64)
    assert sent[3] == pytest.approx(1.5 * sent[2])
    assert network_bytes(size, on_gpus(plan(gpus=1, method="full").question), 1) == 0


def test_the_interval_loses_less_than_its_neighbours_and_is_near_to_young():
    for write, between in ((10.0, 3600.0), (60.0, 24 * 3600.0), (600.0, 7200.0)):
        best = best_interval(write, between)
        losses = [lost_share(best * factor, write, between, 60) for factor in (0.5, 1.0, 2.0)]
        assert losses[1] == min(losses)
    assert best_interval(1.0, 1e6) == pytest.approx((2 * 1e6) ** 0.5, rel=0.01)
    assert best_interval(100.0, 40.0) == 40.0


def test_the_interval_loses_the_least_in_a_simulation():
    """Exponential failures, worked through one by one: half and twice the interval finish later."""
    write, between, work = 30.0, 3600.0, 400_000.0

    def wall_seconds(interval: float) -> float:
        chance, done, clock = random.Random(17), 0.0, 0.0
        while done < work:
            failure, spent = chance.expovariate(1 / between), interval + write
            if failure < spent:
                clock += failure
            else:
                clock += spent
                done += interval
        return clock

    best = best_interval(write, between)
    assert wall_seconds(best) < min(wall_seconds(best / 3), wall_seconds(best * 3))


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0123, "0.012"), (9.87, "9.9"), (23.4, "23"), (1234, "1,200"), (2.4e10, "24 billion")]
)
def test_two_digits(value: float, shown: str):
    assert short(value) == shown


def test_a_range_turns_round_where_it_is_a_speed():
    assert Range(1, 2, 4).under(8) == Range(2, 4, 8)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "9b"), "--model 9b: none that a plan knows; there are 135m, 7b"),
        (("--model", "7b", "--gpu", "tpu"), "--gpu tpu: none that a plan knows"),
        (("--model", "7b", "--share", "0"), "--share 0: the share"),
        (("--model", "7b", "--set", "train.lora.target_modules=[none]"), "names no linear layer"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LlumiError) as raised:
        run("--comments", "1e6", "--gpus", "1", *arguments)
    assert isinstance(raised.value, ConfigError)
    assert says in str(raised.value)


def test_json_has_every_figure_and_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (found,) = json.loads(run("--comments", "1e6", "--gpus", "8", "--model", "7b", "--json"))["plans"]
    assert found["sft"]["hours"].keys() == {"low", "typical", "high"}
    assert {figure["kind"] for figure in found["rests_on"]} == {"measured", "published", "assumed"}
    assert found["notes"][0].startswith("no figure of a GPU was measured")


def test_the_page_has_commands():
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize(("command", "shown"), BLOCKS)
def test_the_page_shows_what_the_command_prints(command: str, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    printed = run(*shlex.split(command.replace("\\\n", " "))[2:])
    assert [line.rstrip() for line in printed.splitlines()] == [line.rstrip() for line in shown.splitlines()]
