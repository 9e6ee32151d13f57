"""The measures of a report: what each one is, how to read it, and whom it is compared with."""

from dataclasses import dataclass

from llumi.embedding import EMBEDDING_MODEL
from llumi.evaluate.language import MATTR_WINDOW
from llumi.prompts import Role
from llumi.records import HUMAN_DRAFT, HUMAN_REPLY

HUMAN_ARMS: dict[Role, tuple[str, ...]] = {"gm": (HUMAN_REPLY,), "im": (HUMAN_DRAFT, HUMAN_REPLY)}
"""The human arms of a role's section, its reference first."""

_COSINE = f"Cosine of the two sentence embeddings ({EMBEDDING_MODEL}, the first 256 word pieces of each text)."
_REIMERS = "Reimers and Gurevych 2019, arXiv 1908.10084"


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure per reply. `column` names it in the tables; `digits` is how many decimals are worth reading."""

    column: str
    label: str
    digits: int
    definition: str
    reading: str
    source: str
    needs_draft: bool = False

    def arms(self, role: Role, model_arms: list[str]) -> list[str]:
        """The arms that have this measure in a role's section, the reference first."""
        human = [arm for arm in HUMAN_ARMS[role] if not (self.needs_draft and arm == HUMAN_DRAFT)]
        return human + model_arms


MEASURES = (
    Measure(
        "words",
        "Words",
        1,
        "Runs of letters and digits, held together by inner apostrophes and hyphens.",
        "Higher is longer. Neither way is better in itself; a reply cut at the token limit is shorter than meant.",
        "count",
    ),
    Measure(
        "sentences",
        "Sentences",
        1,
        "Stretches with a letter that end at . ! ? or an ellipsis before white space, or at a line break.",
        "Higher is longer. Beside the words it shows whether sentences are long.",
        "count",
    ),
    Measure(
        "coleman_liau",
        "Reading grade",
        1,
        "Coleman-Liau index: 0.0588 L − 0.296 S − 15.8, with L letters and S sentences per 100 words.",
        "Higher is harder to read. Roughly a school grade, but unstable for short texts: read it as an order.",
        "Coleman and Liau 1975, Journal of Applied Psychology 60(2)",
    ),
    Measure(
        "repeatability",
        "Repeated words",
        3,
        "Share of words that came before in the same reply: 1 − types / tokens.",
        "Higher repeats more. It grows with length by itself: read it beside the words.",
        "complement of the type-token ratio, Templin 1957",
    ),
    Measure(
        "mattr",
        "Variety of words",
        3,
        f"Moving-average type-token ratio: mean share of different words over windows of {MATTR_WINDOW} words.",
        "Higher is more varied. Length hardly moves it once a reply fills the window.",
        "Covington and McFall 2010, Journal of Quantitative Linguistics 17(2)",
    ),
    Measure(
        "similarity_to_post",
        "Nearness to the post",
        3,
        _COSINE,
        "Higher stays nearer to what the post speaks of. A reply that parrots the post comes near 1, which is no merit.",
        _REIMERS,
    ),
    Measure(
        "similarity_to_draft",
        "Nearness to the draft",
        3,
        _COSINE + " Compared with another person's reply to the same post, since a draft is at 1 from itself.",
        "Higher keeps more of the draft's meaning. A revision that changes nothing is at 1.",
        _REIMERS,
        needs_draft=True,
    ),
)


def measures_of(role: Role) -> list[Measure]:
    """The measures of a role's section; nearness to the draft is IM's alone."""
    return [measure for measure in MEASURES if role == "im" or not measure.needs_draft]
