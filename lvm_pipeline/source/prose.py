"""Extract English sentences from documentation strings, without markup, tables, code and parameter lists.

Supported styles are plain text, reStructuredText, numpydoc (underlined headings) and Google sections (`Args:` and an
indented body).
"""

import inspect
import re
from collections.abc import Iterator

from lvm_pipeline.source.articles import MAX_WORDS, split_sentences

Block = list[str]  # lines of one paragraph


def _words(text: str) -> set[str]:
    """Read a comma-separated list."""
    return {" ".join(word.split()) for word in text.split(",")}


PROSE_SECTIONS = _words(
    """
    note, notes, warning, warnings, summary, extended summary, description, overview, details, background,
    remarks, introduction, caution, important, hint, tip, algorithm, discussion
    """
)
OTHER_SECTIONS = _words(
    """
    parameters, other parameters, keyword arguments, arguments, args, returns, return, yields, return value,
    receives, raises, warns, see also, references, reference, bibliography, example, examples, usage,
    attributes, methods, functions, classes, routines, options, authors, author, license, contents
    """
)
PROSE_DIRECTIVES = {"note", "warning", "tip", "important", "hint", "caution", "attention", "admonition", "topic"}
SMALL_WORDS = """
    a an and are as at be by can for from has if in is it its not of on or that the this to when which with will
""".split()  # noqa: SIM905 - read as a list of words
FORMULA_WORDS = """
    where were into than then let define defined satisfies satisfy solves satisfying according following follows
    equation formula form problem system like such see using either e.g namely consider available equals given
""".split()  # noqa: SIM905 - a sentence that ends in one was followed by a formula or a list
OPEN_ENDS = {*SMALL_WORDS, *FORMULA_WORDS}
UNWANTED_WORDS = _words(
    """
    copyright, license, licensed, licence, licenced, warranty, warranties, redistribute, redistribution,
    redistributions, doctest, deprecated, docstring, pickle, pickled, pickles
    """
)
_UNWANTED_PART = re.compile(r"::|==| = |\+=|->|\.\.\.|__|https?:|www\.|TODO|FIXME|XXX|See also")
_CODE = re.compile(r"[\\|{}<>^~$@#%]|(?<!\w)[_*]\w|[:=+*/]\s*[+*/=]|\w\([^)]*=")
_WHOLE = re.compile(r"[\"'(]?[A-Z].*(?:[.!?]|[.!?][)\"'])$")
_CITATION = re.compile(r"\s*\[[#*]?\w*\](?:_|(?=[.,;\s]|$))")  # footnotes too
_MARKDOWN_LINK = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_ROLE = re.compile(r":[\w:+-]+:`([^`]*)`")
_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_OLD_QUOTES = re.compile(r"`([\w.-]+)'")
_LITERAL = re.compile(r"`+([^`]*)`+_{0,2}")
_EMPHASIS = re.compile(r"\*\*([^*]+)\*\*|(?<!\w)\*([^*\s][^*]*?)\*(?!\w)")
_LOOSE_STOP = re.compile(r"\s+([.,;:!?)])(?=\s|$)")
_DASH = re.compile(r"\s+(?:--|\u2013|\u2014)\s+")
_UNDERLINE = re.compile(r"^\s*([-=~^\"'`*+#.])\1{2,}\s*$")
_SECTION = re.compile(r"^(\s*)([A-Z][A-Za-z]+(?: [A-Za-z]+)?)\s*:{1,2}\s*$")
_DIRECTIVE = re.compile(r"^(\s*)\.\.(?:\s+|$)(?:([\w:-]+)::)?")
_FIELD = re.compile(r"^(\s*)(?::[A-Za-z][^:]*:|@\w+)(?:\s|$)")
_ITEM = re.compile(r"^(\s*)(?:[-*+•]|\(?(?:\d{1,2}|[a-zA-Z])[.)])\s+(?=\S)")
_TABLE = re.compile(r"\S {3,}\S|\S\t+\S|^\s*[+|]|={3,}|-{4,}")


def prose_paragraphs(docstring: str) -> list[list[str]]:
    """Return the English sentences of each paragraph, in order; paragraphs without any are omitted."""
    paragraphs = ([s for s in _sentences(block) if reads_as_english(s)] for block in _prose_blocks(docstring))
    return [paragraph for paragraph in paragraphs if paragraph]


def reads_as_english(sentence: str) -> bool:
    """Return whether a sentence is complete English prose: no code, no formula, no licence."""
    words = sentence.split()
    if not 4 <= len(words) <= MAX_WORDS or not _WHOLE.match(sentence) or _CODE.search(sentence):
        return False
    bare = [word.strip(".,;:!?()\"'[]") for word in words]
    num_plain = sum(word.replace("-", "").replace("'", "").isalpha() for word in bare)
    is_plain = (
        num_plain >= 0.75 * len(words) and max(map(len, words)) <= 36 and sentence.count("(") == sentence.count(")")
    )
    lower = {word.lower() for word in bare}
    if not is_plain or lower.isdisjoint(SMALL_WORDS) or not lower.isdisjoint(UNWANTED_WORDS):
        return False
    return _UNWANTED_PART.search(sentence) is None


def _sentences(block: Block) -> list[str]:
    """Split a paragraph into sentences; add the full stop if only that is missing."""
    sentences = split_sentences(_plain(" ".join(block)))
    if sentences and sentences[-1][-1].isalnum() and sentences[-1].rsplit(None, 1)[-1].lower() not in OPEN_ENDS:
        sentences[-1] += "."
    return sentences


def _plain(text: str) -> str:
    """Remove inline markup but keep its words."""
    if "[" in text:
        text = _MARKDOWN_LINK.sub(r"\1", _CITATION.sub("", text))
    if "`" in text:
        text = _OLD_QUOTES.sub(r"'\1'", _LINK.sub(r"\1", _ROLE.sub(_role_text, text)))
        text = _LITERAL.sub(r"\1", text)
    if "*" in text:
        text = _EMPHASIS.sub(lambda match: match[1] or match[2], text)
    return _DASH.sub(" - ", _LOOSE_STOP.sub(r"\1", text)).strip()


def _role_text(match: re.Match[str]) -> str:
    """Return the text that a cross-reference shows: its title or else its target; `~a.b.C` shows C."""
    shown = re.sub(r"\s*<[^>]*>$", "", match[1]).lstrip("!")
    return shown.rsplit(".", 1)[-1] if shown.startswith("~") else shown.lstrip(".")


def _prose_blocks(docstring: str) -> Iterator[Block]:
    """Yield the paragraphs and list items of a documentation string that can contain prose."""
    lines = _without_dropped_parts(inspect.cleandoc(docstring).expandtabs().splitlines())
    block: Block = []
    for line in [*lines, ""]:
        if line.strip():
            if block and _ITEM.match(line):
                yield from _kept(block)
                block = []
            block.append(line)
            continue
        if block:
            yield from _kept(block)
            block = []


def _kept(block: Block) -> Iterator[Block]:
    """Yield the block if it is a paragraph or a list item, but not if it is indented, a table or a definition."""
    item = _ITEM.match(block[0])
    if item:
        block = [block[0][item.end() :], *block[1:]]
    elif any(_indent(line) > 0 for line in block):  # code, or a term and its definition
        return
    is_table = sum(_TABLE.search(line) is not None for line in block) * 4 >= len(block)
    if is_table or block[0].lstrip().startswith(">>>"):
        return
    yield [line.strip() for line in block]


def _without_dropped_parts(lines: list[str]) -> list[str]:
    """Remove sections without prose, directives, field lists and doctests; dedent the bodies that stay."""
    kept: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        if index + 1 < len(lines) and line.strip() and _UNDERLINE.match(lines[index + 1]):
            kept.append("")
            index += 2
            if line.strip().rstrip(":").lower() in OTHER_SECTIONS:
                index = _next_heading(lines, index)
        elif _UNDERLINE.match(line):
            kept.append("")
            index += 1
        elif (part := _indented_part(line)) is not None:
            end = _end_of_body(lines, index + 1, indent=_indent(line))
            body = inspect.cleandoc("\n" + "\n".join(lines[index + 1 : end])).splitlines() if part else []
            kept += ["", *body, ""]
            index = end
        elif line.lstrip().startswith(">>>"):
            kept.append("")
            index = next((i for i in range(index, len(lines)) if not lines[i].strip()), len(lines))
        else:
            kept.append(line)
            index += 1
    return kept


def _indented_part(line: str) -> bool | None:
    """Return whether the indented body after a line is prose; None if the line does not start a body."""
    if section := _SECTION.match(line):
        return section[2].lower() in PROSE_SECTIONS
    if directive := _DIRECTIVE.match(line):
        return directive[2] in PROSE_DIRECTIVES
    return False if _FIELD.match(line) else None


def _next_heading(lines: list[str], index: int) -> int:
    """Return the line of the next underlined heading."""
    for i in range(index, len(lines) - 1):
        if lines[i].strip() and _indent(lines[i]) == 0 and _UNDERLINE.match(lines[i + 1]):
            return i
    return len(lines)


def _end_of_body(lines: list[str], index: int, *, indent: int) -> int:
    """Return the first line from `index` on that is not empty and not indented more than `indent`."""
    return next((i for i in range(index, len(lines)) if lines[i].strip() and _indent(lines[i]) <= indent), len(lines))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
