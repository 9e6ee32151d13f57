import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest

from llumi.config import Config, load_config
from llumi.corpus.privacy import KEY_VARIABLE, Domain, Pseudonymizer, bare_name, is_pseudonym
from llumi.errors import ConfigError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    return load_config(None, [f"storage.uri={tmp_path}/store", f"privacy.key_file={tmp_path}/keys/privacy.key"])


def test_pseudonyms_depend_on_the_key_the_domain_and_the_name() -> None:
    one, other = Pseudonymizer.from_secret("a" * 32), Pseudonymizer.from_secret("b" * 32)
    pseudonyms = {
        one.pseudonym("author", "x"),
        one.pseudonym("post", "x"),
        one.pseudonym("comment", "x"),
        one.pseudonym("post", "y"),
    }
    pseudonyms |= {other.pseudonym("post", "x")}
    assert len(pseudonyms) == 5
    assert all(len(pseudonym) == 24 and int(pseudonym, 16) >= 0 for pseudonym in pseudonyms)
    assert one.pseudonym("post", "x") == Pseudonymizer.from_secret("a" * 32).pseudonym("post", "x")
    assert one.key_id != other.key_id


def test_pseudonyms_stay_the_same_from_version_to_version() -> None:
    one = Pseudonymizer.from_secret("a key for a test vector")
    assert one.pseudonym("author", "Finch") == "50ecec913464507a5c0abb98"
    assert one.pseudonym("post", "p1") == "06a7644dace0066d43dd0e18"


def test_it_travels_to_a_worker_and_does_not_show_its_key() -> None:
    one = Pseudonymizer.from_secret("a" * 32)
    one.pseudonym("post", "x")
    assert pickle.loads(pickle.dumps(one)).pseudonym("post", "x") == one.pseudonym("post", "x")
    assert one.key.hex() not in repr(one)
    assert repr(one) == "Pseudonymizer()"


def test_a_column_has_the_pseudonym_of_each_of_its_rows() -> None:
    one = Pseudonymizer.from_secret("a" * 32)
    raws = pl.Series("author", ["x", "", "y", "x", "\u00e9\U0001f499", "X"])
    column = one.column("author", raws)
    assert column.to_list() == [one.pseudonym("author", raw) if raw else "" for raw in raws]
    assert column.name == "author"
    assert column.dtype == pl.String
    assert one.column("author", raws.head(0)).to_list() == []
    assert one.column("author", pl.Series([""])).to_list() == [""]


def test_an_author_is_one_person_in_any_case_and_an_identifier_is_not() -> None:
    one = Pseudonymizer.from_secret("a" * 32)
    assert one.pseudonym("author", "Quiet_Maple") == one.pseudonym("author", "quiet_MAPLE")
    assert one.pseudonym("post", "aB") != one.pseudonym("post", "ab")


@pytest.mark.parametrize(
    ("domain", "written", "bare"),
    [
        ("post", " t3_p1\n", "p1"),
        ("post", "u/p1", "u/p1"),
        ("author", "u/finch", "finch"),
        ("author", "/u/finch", "finch"),
        ("author", "t3_finch", "t3_finch"),
        ("author", "u/", None),
        ("author", " ", None),
        ("author", "two words", None),
        ("author", "finch#", None),
    ],
)
def test_a_name_is_known_without_its_prefix(domain: Domain, written: str, bare: str | None) -> None:
    assert bare_name(domain, written) == bare


def test_a_pseudonym_is_told_from_a_name() -> None:
    assert is_pseudonym(Pseudonymizer.from_secret("a" * 32).pseudonym("post", "x"))
    assert not any(map(is_pseudonym, ("finch", "1kzq9f", "", "A" * 24, "a" * 23, "a" * 25)))


def test_no_two_of_many_names_share_a_pseudonym() -> None:
    names = pl.Series([f"name{number}" for number in range(20_000)])
    pseudonyms = Pseudonymizer.from_secret("a" * 32).column("author", names)
    assert pseudonyms.n_unique() == len(names)
    assert pseudonyms.str.contains("^[0-9a-f]{24}$").all()


def test_hashes_stand_for_rows_by_key_and_domain() -> None:
    one, other = Pseudonymizer.from_secret("a" * 32), Pseudonymizer.from_secret("b" * 32)
    raws = pl.Series([f"name{number % 500}" for number in range(1000)])
    hashes = one.hashed("post", raws)
    assert hashes.dtype == pl.UInt64
    assert hashes[:500].equals(hashes[500:])
    assert hashes.n_unique() == 500
    assert hashes.equals(Pseudonymizer.from_secret("a" * 32).hashed("post", raws))
    assert all((hashes != another).all() for another in (one.hashed("author", raws), other.hashed("post", raws)))
    assert hashes.gather([7, 3]).equals(one.hashed("post", raws.gather([7, 3])))  # wherever in a column a row stands


def test_the_key_is_made_once_and_for_this_user_alone(place: Config) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: Pseudonymizer.open(place).key, range(16)))
    assert len(keys) == 1
    path = place.privacy.key_file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_environment_wins_over_the_file(place: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a key from a secret store")
    assert Pseudonymizer.open(place) == Pseudonymizer.from_secret("a key from a secret store")
    assert not place.privacy.key_file.exists()


def test_keys_that_will_not_do(place: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = place.model_copy(update={"privacy": place.privacy.model_copy(update={"key_file": tmp_path / "store" / "k"})})
    with pytest.raises(ConfigError, match=r"lies inside storage\.uri"):
        Pseudonymizer.open(inside)
    place.privacy.key_file.parent.mkdir()
    place.privacy.key_file.write_text("short")
    with pytest.raises(ConfigError, match="at least 16"):
        Pseudonymizer.open(place)
    (tmp_path / "file").write_text("")
    blocked = place.model_copy(update={"privacy": place.privacy.model_copy(update={"key_file": tmp_path / "file" / "k"})})
    with pytest.raises(ConfigError, match="cannot be used"):
        Pseudonymizer.open(blocked)
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        Pseudonymizer.open(place)
