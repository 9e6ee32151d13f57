"""What people said, in the report: our figures, the paper's beside them, and the reason where there is none."""

import re
from pathlib import Path

import pytest

from llumi.config import EvaluateConfig
from llumi.evaluate.ratings import Estimate
from llumi.evaluate.report_ratings import ratings_part
from llumi.evaluate.studies import RatedStudy, read_studies
from tests.evaluate.studies import write_study
from tests.evaluate.test_report import Page

GM = {"human-reply": "human-0", "gm-base": "model-0", "gm-dpo2": "model-1"}
IM = {"human-draft": "human-0", "human-reply": "human-1", "im-dpo1": "model-0"}


def study(folder: Path, arms: tuple[str, str], raters: int = 3) -> RatedStudy:
    config = EvaluateConfig(num_bootstrap=200, ratings=(write_study(folder, arms, raters),))
    return read_studies(config)[0]


def part_of(*studies: RatedStudy) -> str:
    return ratings_part(studies, [GM, IM], 0.95)


def said(html: str) -> str:
    return " ".join(" ".join(Page(html).text).split())


def test_without_a_study_there_is_no_part() -> None:
    assert part_of() == ""


def test_scores_stand_beside_the_paper_s(tmp_path: Path) -> None:
    told = said(part_of(study(tmp_path / "first", ("gm-base", "gm-dpo2"))))
    assert "from 210 raters and 1,680 rated pairs" in told
    assert "3 raters judged 12 posts on 36 pages" in told
    for score in ("DPO2 of the paper 4.41 no interval given", "GPT-5-nano in the paper 4.34", "4.06 no", "3.97 no"):
        assert told.count(score) == 1
    # Scores of write_study: 3 and 4 by turns for the second arm, so 3.5 and one less for the first, over its 12 posts.
    rows = re.findall(r"gm-(base|dpo2) (\d\.\d\d) \[(\d\.\d\d), (\d\.\d\d)\] 12", told)
    assert len(rows) == 10
    assert {(arm, float(low) <= float(mean) <= float(high)) for arm, mean, low, high in rows} == {
        ("base", True),
        ("dpo2", True),
    }
    assert "173" not in told.partition("how replies were scored")[2]


def test_choices_of_a_revision_stand_beside_the_paper_s(tmp_path: Path) -> None:
    rated = study(tmp_path / "first", ("human-draft", "im-dpo1"))
    html = part_of(rated)
    told = said(html)
    share = rated.outcome.win_rates["im-dpo1", "human-draft"].share
    assert isinstance(share, Estimate)
    assert f"im-dpo1 over human draft 27 0 9 75.0 % [{100 * share.low:.1f}, {100 * share.high:.1f}]" in told
    assert "IM of the paper over the original 173 – – 173 of 211: 82.0 % [76.2, 86.6]" in told
    assert "Same voice" in told
    # The paper's scores are of drafted replies, which nobody judged here.
    assert "4.41" not in told
    assert "log-odds of being preferred to the human draft" in told
    assert told.count("im-dpo1 +1.10 [") == 1


def test_a_single_rater_agrees_with_nobody_and_the_page_says_so(tmp_path: Path) -> None:
    told = said(part_of(study(tmp_path / "first", ("gm-base", "gm-dpo2"), raters=1)))
    assert "1 rater judged 12 posts" in told
    assert "One rater judged alone: whether raters agree cannot be told." in told
    assert "Krippendorff" not in told
    assert "no rater was shown anything twice" in told


def test_an_arm_has_the_colour_that_it_has_on_the_page(tmp_path: Path) -> None:
    html = part_of(study(tmp_path / "first", ("gm-dpo2", "gm-other")))
    assert re.search(r"var\(--model-1\)'></i>gm-dpo2", html)
    assert re.search(r"var\(--model-2\)'></i>gm-other", html)


@pytest.mark.parametrize("num_studies", [1, 2])
def test_ids_are_unique_and_plots_have_words(num_studies: int, tmp_path: Path) -> None:
    page = Page(part_of(*(study(tmp_path / f"s{n}", ("gm-base", "gm-dpo2")) for n in range(num_studies))))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(page.all("svg")) == len(page.all("desc")) == 2 * num_studies
    assert not re.search(r"https?:|<script", "".join(page.text))
