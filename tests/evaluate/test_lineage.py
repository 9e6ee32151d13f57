"""The picture of a lineage: every artifact once, to the right of what it was made of."""

import re
import xml.etree.ElementTree as ET

from llumi.evaluate.lineage import lineage_figure
from llumi.lineage import Ancestor

ANCESTORS = [
    Ancestor("corpus", "outside"),
    Ancestor("pairs/default", "stands", ("corpus",)),
    Ancestor("/a & b/base", "outside"),
    Ancestor("models/base", "stands", ("/a & b/base",)),
    Ancestor("models/gm-sft", "replaced"),
    Ancestor("generations/gm-sft", "stands", ("models/gm-sft", "pairs/default")),
    Ancestor("generations/gm-base", "stands", ("models/base", "pairs/default")),
]


def drawn() -> ET.Element:
    made_of = ["pairs/default", "generations/gm-sft", "generations/gm-base"]
    return ET.fromstring(lineage_figure("evaluations/spring", made_of, {each.name: each for each in ANCESTORS}))


def test_every_artifact_stands_right_of_what_it_was_made_of() -> None:
    at = {box.findtext("title"): box.find("rect") for box in drawn().iter("g")}
    assert set(at) == {each.name for each in ANCESTORS} | {"evaluations/spring"}
    for each in ANCESTORS:
        for given in each.inputs:
            assert float(at[given].get("x")) < float(at[each.name].get("x"))
    assert len({(box.get("x"), box.get("y")) for box in at.values()}) == len(at)
    assert at["evaluations/spring"].get("x") == max((box.get("x") for box in at.values()), key=float)


def test_what_does_not_stand_is_dashed_and_said() -> None:
    figure = drawn()
    dashed = {box.findtext("title") for box in figure.iter("g") if box.find("rect").get("stroke-dasharray")}
    assert dashed == {"corpus", "/a & b/base", "models/gm-sft"}
    assert "models/gm-sft (replaced since)" in figure.find(".//desc").text
    assert len(list(figure.iter("path"))) == 3 + sum(len(each.inputs) for each in ANCESTORS)


def test_it_has_the_colours_of_the_page() -> None:
    assert not re.search(r"#[0-9a-f]{3,6}\b|rgb", ET.tostring(drawn(), encoding="unicode"))
