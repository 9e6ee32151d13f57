"""The measures of a report: what each one is, how to read it, and whom it is compared with."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from llumi.embedding import EMBEDDING_MODEL
from llumi.evaluate.counts import MATTR_WINDOW
from llumi.prompts import Role
from llumi.records import HUMAN_DRAFT, HUMAN_REPLY

HUMAN_ARMS: dict[Role, tuple[str, ...]] = {"gm": (HUMAN_REPLY,), "im": (HUMAN_DRAFT, HUMAN_REPLY)}
"""The human arms of a role's section, its reference first."""

_COSINE = f"Cosine of the two sentence embeddings ({EMBEDDING_MODEL}, the first 256 word pieces of each text)."
_LISTS = "By open word lists in the place of LIWC’s."
_ACROSS = "A figure of the whole arm, shared out over its replies: a single dot says little, and may lie outside the range."
_CLASSIFIER = "0 (not), 1 (weakly) or 2 (strongly), by the classifier that the configuration names."
_EPITOME = "Sharma et al. 2020, EMNLP (EPITOME)"
_REIMERS = "Reimers and Gurevych 2019, arXiv 1908.10084"


Fidelity = Literal["replication", "approximation"]
"""Whether a measure is what its source defines, or stands in for it with other word lists or models."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure per reply. `column` names it in the tables; `digits` is how many decimals are worth reading."""

    column: str
    label: str
    digits: int
    definition: str
    reading: str
    source: str
    fidelity: Fidelity = "replication"
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
        "complexity",
        "Words in a sentence",
        1,
        "Complexity as the mean length of a sentence: words / sentences.",
        "Higher asks more of a tired reader. Lists and short lines make it low.",
        "Lu 2010, International Journal of Corpus Linguistics 15(4)",
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
        "categorical_dynamic",
        "Categorical-dynamic index",
        1,
        "30 + articles + prepositions − personal pronouns − impersonal pronouns − auxiliary verbs − conjunctions − adverbs − "
        "negations, each in percent of the words. " + _LISTS,
        "Higher is more analytic and formal, lower more personal and telling. Replies among peers tend to be low.",
        "Pennebaker et al. 2014, PLOS ONE 9(12)",
        "approximation",
    ),
    Measure(
        "style_matching",
        "Style matching with the post",
        3,
        "Mean over nine classes of function words of 1 − |p1 − p2| / (p1 + p2 + 0.0001), with p their percent of the words of "
        "reply and post. " + _LISTS,
        "Higher writes more like the post. Short texts miss classes by chance and come out low: read it beside the words.",
        "Ireland and Pennebaker 2010, Journal of Personality and Social Psychology 99(3)",
        "approximation",
    ),
    Measure(
        "accommodation",
        "Accommodation to the post",
        3,
        "P(a reply uses a class of function words, given that its post does) − P(a reply uses it), in the mean over the "
        f"classes that some posts use and others do not. {_ACROSS} {_LISTS}",
        "Above 0 replies follow their posts, beyond what they use anyway. Long texts use every class, and bring it near 0.",
        "Danescu-Niculescu-Mizil, Gamon and Dumais 2011, WWW",
        "approximation",
    ),
    Measure(
        "politeness",
        "Politeness",
        2,
        "Polite less impolite strategies in a sentence (thanks, greeting, apology, hedges; bare questions), told by phrases "
        "of our own. A beginning with “you”, impolite in the source’s requests, is left out: “You are not alone” is none.",
        "Higher uses more markers of politeness. They were found in requests: an interested “How are you sleeping?” begins "
        "with a question word, and counts against.",
        "Danescu-Niculescu-Mizil et al. 2013, ACL",
        "approximation",
    ),
    Measure(
        "sentiment",
        "Sentiment",
        3,
        "Mean over the sentences of VADER’s compound valence, from −1 (dark) to 1 (bright).",
        "Higher uses brighter words. It hears words, not meaning: naming a sorrow that the post told of makes it lower.",
        "Hutto and Gilbert 2014, ICWSM",
        "approximation",
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
    Measure(
        "diversity",
        "Diversity among replies",
        3,
        f"Mean cosine distance between the sentence embeddings of all pairs of an arm’s replies. {_ACROSS}",
        "Higher answers each post in its own way. An arm that says much the same to everyone comes near 0.",
        "mean pairwise distance; jackknife of Arvesen 1969, Annals of Mathematical Statistics 40(6)",
    ),
    Measure(
        "emotional_reactions",
        "Empathy: emotional reactions",
        2,
        f"How strongly the reply shows warmth, compassion or concern. {_CLASSIFIER}",
        "Higher shows more of it.",
        _EPITOME,
        "approximation",
    ),
    Measure(
        "interpretations",
        "Empathy: interpretations",
        2,
        f"How strongly the reply conveys that it understands what the post feels and tells. {_CLASSIFIER}",
        "Higher shows more of it.",
        _EPITOME,
        "approximation",
    ),
    Measure(
        "explorations",
        "Empathy: explorations",
        2,
        f"How strongly the reply asks after what the post leaves unsaid. {_CLASSIFIER}",
        "Higher shows more of it. A reply may do well without.",
        _EPITOME,
        "approximation",
    ),
)


def measures_of(role: Role, columns: Collection[str]) -> list[Measure]:
    """The measures of a role's section, of those that a table with these columns holds; nearness to the draft is IM's alone.

    A table has the measures of empathy whose classifiers are configured.
    """
    return [measure for measure in MEASURES if measure.column in columns and (role == "im" or not measure.needs_draft)]
