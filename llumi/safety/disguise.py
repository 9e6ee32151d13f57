"""Text that is written so that a reader sees a word and a rule does not: digits and signs for letters, look-alikes from other
alphabets, letters drawn apart or drawn out.

`undisguised` gives what a reader sees. It is asked beside the text as it stands, never in its place: "covid19" is none of this.
"""

import re
import unicodedata

_SIGNS = str.maketrans("0134578@$\u20ac!|", "oieastbaseil")
_CYRILLIC = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u043a\u043c\u0442\u043d\u0432\u0501",
    "aeopcyxijskmthbd",
)
_GREEK = str.maketrans("\u03b1\u03b5\u03bf\u03c1\u03c5\u03b9\u03ba\u03bd\u03c4\u0131\u0142", "aeopuikvtil")
_SIGN = r"[0134578@$!|\u20ac]"
_UNSEEN = re.compile("[\u00ad\u034f\u061c\u115f\u180e\u200b-\u200f\u2060-\u2064\ufe00-\ufe0f\ufeff]")
_MIXED = re.compile(rf"(?<![\w@.$])[a-z0-9@$!|\u20ac]*[a-z]{_SIGN}+[a-z][a-z0-9@$!|\u20ac]*", re.IGNORECASE)
_APART = re.compile(r"(?<![\w'])(?:[a-z][ .\-_*]){2,}[a-z](?![\w'])", re.IGNORECASE)
_DRAWN_OUT = re.compile(r"([a-z])\1{2,}", re.IGNORECASE)
_FOREIGN = r"[\u00ad\u00c0-\u1fff\u200b-\u200f\u2060-\u2064\u2c60-\uabff\uf900-\U0001d7ff]"
_LETTERS = r"[a-zA-Z]"
_SUSPECT = re.compile(
    rf"{_FOREIGN}|{_LETTERS}{_SIGN}+{_LETTERS}|\b{_LETTERS}(?:[ .\-_*]{_LETTERS}){{2}}\b|({_LETTERS})\1\1",
)
"""What none of these is in, is as it looks: a cheap search that most texts are done with."""


def undisguised(text: str) -> str:
    """The text with its words as a reader sees them; the same object where nothing is suspect."""
    if _SUSPECT.search(text) is None:
        return text
    letters = unicodedata.normalize("NFKD", _UNSEEN.sub("", text)).translate(_CYRILLIC).translate(_GREEK)
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    whole = _APART.sub(lambda match: re.sub(r"[^a-z]", "", match[0], flags=re.IGNORECASE), letters)
    return _DRAWN_OUT.sub(r"\1", _MIXED.sub(lambda match: match[0].translate(_SIGNS), whole))
