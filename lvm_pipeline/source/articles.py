"""Articles: a title and its concepts in order. Plain text is cut into concepts at sentence boundaries."""

import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

MIN_WORDS = 20  # of a concept, if its article has as many
ENOUGH_WORDS = 30  # a concept of this length takes no further sentence
MAX_WORDS = 60

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lvm-pipeline")
ABBREVIATIONS = """
    e.g i.e cf vs dr mr mrs ms prof st no nos fig figs eq eqs sec secs ch vol pp al approx ca incl resp
    jan feb mar apr jun jul aug sep sept oct nov dec u.s u.k
""".split()  # noqa: SIM905 - read as a list of words
OPENING, CLOSING = "\"'(\\[\u201c\u2018", "\"')\\]\u201d\u2019"  # quotes and brackets, straight and curled
# Scripts without spaces between words: ideographs and kana, of which two make about a word, and Thai, Lao, Burmese,
# Khmer and Tibetan, of which five letters do.
IDEOGRAPHS = "\\u3000-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\uff00-\\uffef"
LETTERS = "\\u0e00-\\u0fff\\u1000-\\u109f\\u1780-\\u17ff"
FULL_STOPS = "\u3002\uff01\uff1f\uff61\u0f0d\u104b\u17d4"  # no space follows them
_BOUNDARY = re.compile(
    rf"(?<=[.!?\u2026])([{CLOSING}]*)\s+(?=[{OPENING}]*[^\W_a-z])|(?<=[{FULL_STOPS}])([{CLOSING}\u300d\u300f\uff09]*)\s*(?=\S)"
)
_CLAUSE_END = re.compile(r"[;:,\uff0c\u3001\uff1b\uff1a]\s*$|^\s*[\u2013\u2014-]+$")
_WORD = re.compile(
    rf"\s*(?:[{IDEOGRAPHS}]{{1,2}}|[{LETTERS}]{{1,5}}[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*|[^\s{IDEOGRAPHS}{LETTERS}]+)"
)
_ENDS_WITHOUT_SPACE = re.compile(rf"[{IDEOGRAPHS}]$")


@dataclass(frozen=True, kw_only=True)
class Article:
    """The ordered concepts of one source page."""

    article_id: str
    title: str
    concepts: tuple[str, ...]


def make_article_id(source: str, title: str, *, occurrence: int = 0) -> str:
    """Return the id of an article, a UUID of its source, its title and the occurrence of that title."""
    name = f"{source}/{title}" if occurrence == 0 else f"{source}/{title}/{occurrence}"
    return str(uuid.uuid5(NAMESPACE, name))


def make_cpe_id(dataset_source: str, article_id: str, position: int) -> str:
    """Return the id of a concept, a UUID of its source, its article and its position in the file."""
    return str(uuid.uuid5(NAMESPACE, f"{dataset_source}/{article_id}#{position}"))


def concepts_of_text(text: str) -> list[str]:
    """Cut text into concepts of 20 to 60 words; paragraphs are separated by empty lines.

    Sentences stay whole, except those of more than 60 words, which are cut after a comma, colon or
    semicolon if they have one. Text of fewer than 20 words is one concept. No word is lost. In languages without
    spaces, two ideographs or five letters count as a word.
    """
    paragraphs = (split_sentences(paragraph) for paragraph in re.split(r"\n[^\S\n]*\n", text.replace("\r\n", "\n")))
    return group_sentences(paragraphs)


def split_sentences(paragraph: str) -> list[str]:
    """Split one paragraph into sentences and collapse white space; abbreviations and initials do not end a sentence."""
    text = " ".join(paragraph.split())
    sentences, start = [], 0
    for match in _BOUNDARY.finditer(text):
        if not _ends_in_abbreviation(text[start : match.start()]):
            sentences.append(text[start : match.end(1) if match[1] is not None else match.end(2)])
            start = match.end()
    return [sentence for sentence in [*sentences, text[start:]] if sentence]


def group_sentences(paragraphs: Iterable[Sequence[str]]) -> list[str]:
    """Join sentences to concepts of 20 to 60 words, in order.

    A concept ends when it has 30 words, when the next sentence would make it longer than 60, and at the end of a
    paragraph when it has 20. A remainder of fewer than 20 words is appended to the previous concept if both fit into
    60 words.
    """
    concepts: list[list[str]] = [[]]
    for paragraph in paragraphs:
        for sentence in paragraph:
            for piece in _pieces(_words_after(concepts[-1], sentence)):
                if concepts[-1] and len(concepts[-1]) + len(piece) > MAX_WORDS:
                    _close(concepts)
                concepts[-1].extend(piece)
                if len(concepts[-1]) >= ENOUGH_WORDS:
                    _close(concepts)
        if len(concepts[-1]) >= MIN_WORDS:
            _close(concepts)
    _close(concepts)
    return ["".join(words).strip() for words in concepts if words]


def _words_after(words: list[str], sentence: str) -> list[str]:
    """Cut a sentence into words, each with the white space before it; in scripts without spaces, into about words."""
    is_joined = bool(words) and _ENDS_WITHOUT_SPACE.search(words[-1]) is not None
    return _WORD.findall(sentence if is_joined else f" {sentence}")


def _close(concepts: list[list[str]]) -> None:
    """End the last concept and start an empty one; a short one is appended to the previous one if both fit."""
    is_short = len(concepts[-1]) < MIN_WORDS
    if is_short and len(concepts) > 1 and len(concepts[-2]) + len(concepts[-1]) <= MAX_WORDS:
        words = concepts.pop()
        concepts[-1].extend(_words_after(concepts[-1], "".join(words).strip()))
    concepts.append([])


def _ends_in_abbreviation(text: str) -> bool:
    if not text.endswith("."):
        return False
    word = text.rsplit(None, 1)[-1].strip(OPENING + CLOSING).removesuffix(".")
    return word.lower() in ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "I")


def _pieces(words: list[str]) -> Iterator[list[str]]:
    """Cut a sentence of more than 60 words after the last clause that fits, or else at 60 words."""
    while len(words) > MAX_WORDS:
        ends = [i for i in range(MIN_WORDS, MAX_WORDS) if _CLAUSE_END.search(words[i])]
        cut = (ends[-1] + 1) if ends else MAX_WORDS
        yield words[:cut]
        words = words[cut:]
    yield words
