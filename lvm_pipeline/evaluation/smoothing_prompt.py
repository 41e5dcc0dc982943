"""The question that turns a decoded text into a fluent passage, and how its answer is read.

There are two prompts. `full` gives the whole context with ids and codes and asks for citations
(`prompts/smoothing.jinja`). `short` is for language models too small to follow it: it asks to correct the draft and
shows no context; the control arm reads the last concept (`prompts/smoothing_short.jinja`). Texts of concepts are quoted
as data, never as instructions.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lvm_pipeline.chat import ChatRequest

PROMPTS_DIR = Path(__file__).parent / "prompts"
Prompt = Literal["full", "short"]
TEMPLATES: dict[Prompt, str] = {"full": "smoothing.jinja", "short": "smoothing_short.jinja"}
DATA_MARKS = ("BEGIN DATA ", "END DATA ")  # of the template
FEWEST_TOKENS, MOST_TOKENS = 128, 1024
TOKENS_PER_WORD = 4  # generous: about 1.3 in English, more in other languages, and twice the wanted length is allowed
CITATION = re.compile(r"\[\s*c\d+(?:[\s,;]+c\d+)*\s*\]")

Codes = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A target and what a language model is given about it."""

    target_row: int  # row of the target in the concept table
    article_id: str  # its article
    context: tuple[str, ...]  # texts of the concepts right before it, oldest first
    codes: tuple[Codes | None, ...]  # TMD codes of each of these; None where a concept has none
    decoded: str  # the prediction, decoded
    truth: str  # text of the target; no prompt contains it

    @property
    def context_ids(self) -> tuple[str, ...]:
        """What the prompt calls the concepts of the context."""
        return tuple(f"c{number}" for number in range(1, len(self.context) + 1))

    @property
    def usual_words(self) -> float:
        """Mean number of words of the context's concepts."""
        return max(1.0, sum(num_words(text) for text in self.context) / max(1, len(self.context)))


def num_words(text: str) -> int:
    return len(text.split())


def smoothing_request(passage: Passage, *, with_draft: bool, prompt: Prompt = "full") -> ChatRequest:
    """Return the question for one target; the control arm has no draft."""
    template = _template(prompt)
    passages = [
        {"id": name, "codes": codes, "text": text}
        for name, codes, text in zip(passage.context_ids, passage.codes, passage.context, strict=True)
    ]
    draft = passage.decoded if with_draft else None
    mark = hashlib.sha256(repr((passages, draft)).encode()).hexdigest()[:12]
    words = round(passage.usual_words)
    return ChatRequest(
        system=template.system(has_draft=with_draft, num_words=words),
        user=template.user(passages=passages, draft=draft, mark=mark),
        max_tokens=min(max(FEWEST_TOKENS, TOKENS_PER_WORD * words), MOST_TOKENS),
    )


def prompt_hash(prompt: Prompt) -> str:
    """Return a hash of the prompt's template, which identifies its version."""
    return hashlib.sha256((PROMPTS_DIR / TEMPLATES[prompt]).read_bytes()).hexdigest()[:12]


def read_answer(answer: str) -> tuple[str, tuple[str, ...]]:
    """Split an answer into its text and the ids that it cites, each once, in order."""
    cited = [name for found in CITATION.findall(answer) for name in re.findall(r"c\d+", found)]
    text = re.sub(r"\s+([.,;:!?])", r"\1", CITATION.sub("", answer))
    return " ".join(text.split()), tuple(dict.fromkeys(cited))


def repeats_data(answer: str) -> bool:
    """Whether an answer copies the data block of the question, as very small language models do."""
    return any(mark in answer for mark in DATA_MARKS)


def cites_context(cited: Sequence[str], passage: Passage) -> bool:
    """Whether an answer cites the context, and nothing else."""
    return bool(cited) and set(cited) <= set(passage.context_ids)


def _template(prompt: Prompt) -> Any:
    environment = Environment(
        loader=FileSystemLoader(PROMPTS_DIR), autoescape=False, undefined=StrictUndefined, keep_trailing_newline=False
    )
    return environment.get_template(TEMPLATES[prompt]).module
