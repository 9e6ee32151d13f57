from pathlib import Path

import pytest

from llumi.corpus.exclude import Exclusions, read_exclusions
from llumi.errors import CorpusError


def of(folder: Path, text: str) -> Exclusions:
    (folder / "exclude.txt").write_text(text, encoding="utf-8")
    return read_exclusions(folder / "exclude.txt")


def test_no_file_excludes_nobody(tmp_path: Path) -> None:
    assert read_exclusions(None) == Exclusions() == of(tmp_path, "")


def test_names_in_every_form_that_people_write(tmp_path: Path) -> None:
    posts = "# who asked\npost t3_AbC1\npost abc2  # a comment\n\n"
    authors = "  author u/Quiet_Maple\r\nauthor\tquiet_maple\nauthor U/other-one\n"
    assert of(tmp_path, posts + authors) == Exclusions(frozenset({"abc1", "abc2"}), frozenset({"quiet_maple", "other-one"}))


@pytest.mark.parametrize("wrong", ["author", "post a b", "reply abc1", "author: someone", "someone"])
def test_a_line_of_another_form_is_named_by_its_number_alone(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(CorpusError, match=r"exclude\.txt:3: expected `post ID` or `author NAME`$") as error:
        of(tmp_path, f"post p1\n\n{wrong}\n")
    assert "someone" not in str(error.value)


def test_a_file_that_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"corpus\.exclude .*nowhere: cannot be read \(No such file"):
        read_exclusions(tmp_path / "nowhere")
    (tmp_path / "exclude.txt").write_bytes(b"author \xff\n")
    with pytest.raises(CorpusError, match=r"cannot be read \(not UTF-8\); give a text file"):
        read_exclusions(tmp_path / "exclude.txt")
