"""TMD codes by a language model: the other way to give codes to concepts that have none.

The model chooses from the same descriptions as `tmd_labels` (template `prompts/tmd.jinja`). Codes are validated
and failures recorded. All codes are kept in a journal, so that an interrupted assignment continues where it stopped.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lvm_pipeline.chat import ChatFailure, ChatModel, ChatRequest
from lvm_pipeline.source.schema import Tmd
from lvm_pipeline.source.tmd_labels import LABELS

METHOD = "the language model {name}"
PROMPTS_DIR, TEMPLATE = Path(__file__).parent / "prompts", "tmd.jinja"
MAX_TOKENS = 64
MAX_CHARACTERS = 2000  # of a concept; what follows says little about its kind
NUM_FAILURES = 3  # of the server, in a row; then it is not asked again

OnConcept = Callable[[int, int], None]  # concepts done, concepts in all


@dataclass(frozen=True, kw_only=True)
class ChatAssignment:
    """What a language model chose: the codes by concept, and the number of failures by reason."""

    codes: dict[str, Tmd]
    failures: dict[str, int]


def choose_codes(
    concepts: Sequence[tuple[str, str]], chat: ChatModel, *, journal: Path, progress: OnConcept | None = None
) -> ChatAssignment:
    """Ask a language model for the codes of concepts, given as id and text.

    After three failures of its server in a row it is not asked again. `journal` is a file with one JSON line for each
    concept that got codes; a concept with the same id, text, prompt and model is not asked for again.
    """
    known = _read_journal(journal)
    prompt = prompt_hash()
    codes: dict[str, Tmd] = {}
    failures: Counter[str] = Counter()
    num_failed = 0  # of the server, in a row
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as written:
        written.write("\n" if _ends_in_a_cut_line(journal) else "")
        for number, (cpe_id, text) in enumerate(concepts, start=1):
            key = hashlib.sha256(json.dumps([cpe_id, text, chat.name, prompt]).encode()).hexdigest()
            if key in known:
                codes[cpe_id] = known[key]
            elif num_failed >= NUM_FAILURES:
                failures["not asked"] += 1
            else:
                answer = chat.ask(code_request(text))
                is_of_server = isinstance(answer, ChatFailure) and answer.is_of_server
                num_failed = num_failed + 1 if is_of_server else 0
                found = answer.kind if isinstance(answer, ChatFailure) else read_codes(answer.text) or "no valid codes"
                if isinstance(found, Tmd):
                    codes[cpe_id] = found
                    written.write(json.dumps({"key": key, "codes": found}) + "\n")
                    written.flush()
                else:
                    failures[found] += 1
            if progress is not None:
                progress(number, len(concepts))
    return ChatAssignment(codes=codes, failures=dict(failures))


def code_request(text: str) -> ChatRequest:
    """Return the question for one concept; its text is data and cannot end the marked part of the message."""
    template: Any = (
        Environment(loader=FileSystemLoader(PROMPTS_DIR), autoescape=False, undefined=StrictUndefined)
        .get_template(TEMPLATE)
        .module
    )
    mark = hashlib.sha256(text.encode()).hexdigest()[:12]
    user = template.user(text=text[:MAX_CHARACTERS], mark=mark)
    return ChatRequest(system=template.system(labels=LABELS), user=user, max_tokens=MAX_TOKENS)


def read_codes(answer: str) -> Tmd | None:
    """Return the codes of an answer; None unless it holds one JSON object with a known code of each kind."""
    found = re.findall(r"\{[^{}]*\}", answer)
    if len(found) != 1:
        return None
    try:
        values = json.loads(found[0])
    except ValueError:
        return None
    codes = [values.get(kind) for kind in LABELS]
    is_valid = all(
        isinstance(code, int) and not isinstance(code, bool) and 1 <= code <= len(descriptions)
        for code, descriptions in zip(codes, LABELS.values(), strict=True)
    )
    return Tmd(*codes) if is_valid else None


def prompt_hash() -> str:
    """Return a short hash of prompt and descriptions."""
    content = (PROMPTS_DIR / TEMPLATE).read_bytes() + json.dumps(LABELS, sort_keys=True).encode()
    return hashlib.sha256(content).hexdigest()[:8]


def _ends_in_a_cut_line(journal: Path) -> bool:
    """Whether a crash has cut the last line."""
    content = journal.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def _read_journal(path: Path) -> dict[str, Tmd]:
    """Return the codes so far; a line that was cut by a crash is left out."""
    if not path.is_file():
        return {}
    known = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            known[entry["key"]] = Tmd(*entry["codes"])
        except (ValueError, KeyError, TypeError):
            continue
    return known
