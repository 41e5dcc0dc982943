"""The interface of a chat language model, and its answers.

A server that fails gives a `ChatFailure`, never an answer whose text is an error message.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

FailureKind = Literal["unreachable", "timeout", "refused", "malformed", "empty", "too long"]


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    system: str  # instructions
    user: str  # the data that the instructions refer to
    max_tokens: int  # longest answer in tokens; a longer one is a failure


@dataclass(frozen=True, kw_only=True)
class ChatAnswer:
    """The text of an answer; `is_cached` if it comes from the cache and no server was asked."""

    text: str
    is_cached: bool = False


@dataclass(frozen=True, kw_only=True)
class ChatFailure:
    kind: FailureKind
    reason: str

    @property
    def is_of_server(self) -> bool:
        """Whether other questions will most likely fail in the same way."""
        return self.kind in {"unreachable", "timeout", "refused"}


class ChatModel(Protocol):
    """A language model behind a server."""

    @property
    def name(self) -> str: ...

    def ask(self, request: ChatRequest) -> ChatAnswer | ChatFailure: ...
