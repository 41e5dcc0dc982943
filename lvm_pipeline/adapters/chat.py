"""A language model behind an OpenAI-compatible server: Ollama, llama.cpp, vLLM or a hosted one.

Answers are cached by content: the same question to the same model of the same server is asked once. Failures are not
cached. Every request is bounded in time, in bytes and in attempts.
"""

import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field, SecretStr, ValidationError

from lvm_pipeline.chat import ChatAnswer, ChatFailure, ChatRequest, FailureKind
from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import mark_used, prune_cache, write_json
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from openai import OpenAI

NUM_RETRIES = 2  # after the first attempt; the waits between them are those of the client, under ten seconds
MAX_BYTES = 1_000_000  # of a whole response
MAX_CHARACTERS_PER_TOKEN = 12  # an answer that is longer was not held to `max_tokens`
NUM_CACHED = 20_000
NO_KEY = "none"  # servers on this machine ask for no key, but the client wants one
THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # written by reasoning models before the answer


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)


class _NoAnswerError(Exception):
    """A response that is no answer, or none at all."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.failure = ChatFailure(kind=kind, reason=reason)


@dataclass(frozen=True, kw_only=True)
class ChatClient:
    url: str  # base URL of the server, most often ending in `/v1`
    name: str  # name of the model at the server
    key: SecretStr  # secret of the server; in no representation and no message
    timeout_seconds: float  # longest time for one attempt
    cache_dir: Path  # folder of the answers
    num_retries: int = NUM_RETRIES  # further attempts after errors of the connection, time-outs and 5xx responses

    def ask(self, request: ChatRequest) -> ChatAnswer | ChatFailure:
        """Answer one question from the cache or the server, or say why there is no answer."""
        path = self.cache_dir / f"{self._key_of(request)}.json"
        known = _read_cached(path)
        if known is not None:
            mark_used(path)
            return ChatAnswer(text=known, is_cached=True)
        try:
            text = self._answer(request)
        except _NoAnswerError as error:
            return error.failure
        write_json(path, {"model": self.name, "request": asdict(request), "answer": text})
        prune_cache(self.cache_dir, "*.json", num_kept=NUM_CACHED)
        return ChatAnswer(text=text)

    def _key_of(self, request: ChatRequest) -> str:
        content = {"url": self.url, "model": self.name, **asdict(request)}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _answer(self, request: ChatRequest) -> str:
        try:
            choice = _Completion.model_validate_json(self._response(request)).choices[0]
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "response"
            raise _NoAnswerError(
                "malformed", f"the response is not a chat completion ({where}: {first['msg']})"
            ) from None
        text = THOUGHTS.sub("", choice.message.content or "").strip()
        if choice.finish_reason == "length" or len(text) > MAX_CHARACTERS_PER_TOKEN * request.max_tokens:
            raise _NoAnswerError("too long", f"the answer was longer than {request.max_tokens} tokens")
        if not text:
            raise _NoAnswerError("empty", "the answer has no text")
        return text

    def _response(self, request: ChatRequest) -> bytes:
        import httpx2
        import openai

        try:
            with self._client.chat.completions.with_streaming_response.create(
                model=self.name,
                messages=[{"role": "system", "content": request.system}, {"role": "user", "content": request.user}],
                temperature=0,
                seed=0,
                max_tokens=request.max_tokens,
            ) as response:
                body, started = bytearray(), time.monotonic()
                for part in response.iter_bytes():
                    body += part
                    if len(body) > MAX_BYTES:
                        raise _NoAnswerError("too long", f"the response was longer than {MAX_BYTES:,} bytes")
                    if time.monotonic() - started > self.timeout_seconds:  # a server that sends byte by byte
                        raise _NoAnswerError("timeout", f"no whole response within {self.timeout_seconds:g} s")
                return bytes(body)
        except (openai.APITimeoutError, httpx2.TimeoutException):
            raise _NoAnswerError("timeout", f"no response within {self.timeout_seconds:g} s") from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise _NoAnswerError("unreachable", self._hidden(f"no connection to the server ({error})")) from None
        except openai.APIStatusError as error:
            raise _NoAnswerError(
                "refused", self._hidden(f"the server answered {error.status_code}: {error.message}")
            ) from None
        except openai.OpenAIError as error:
            raise _NoAnswerError("malformed", self._hidden(str(error))) from None

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        return OpenAI(
            base_url=self.url,
            api_key=self.key.get_secret_value(),
            timeout=self.timeout_seconds,
            max_retries=self.num_retries,
        )

    def _hidden(self, text: str) -> str:
        """Return the first line of a message of the server, without the key."""
        line, key = next(iter(text.strip().splitlines()), "")[:300], self.key.get_secret_value()
        return line if key == NO_KEY else line.replace(key, "***")


def open_chat(settings: Settings) -> ChatClient:
    """Return the chat model that the settings name. No server is asked yet. Raises LvmError if they name none."""
    needed = {"LVM_CHAT_URL": settings.chat_url, "LVM_CHAT_MODEL": settings.chat_model}
    if not settings.chat_url or not settings.chat_model:
        missing = " and ".join(variable for variable, value in needed.items() if not value)
        raise LvmError(
            f"No language model is set up; set {missing} to an OpenAI-compatible server (Ollama, llama.cpp, vLLM) and "
            "its model."
        )
    return ChatClient(
        url=settings.chat_url,
        name=settings.chat_model,
        key=settings.chat_key or SecretStr(NO_KEY),
        timeout_seconds=settings.chat_timeout_seconds,
        cache_dir=settings.chat_cache_dir,
    )


def _read_cached(path: Path) -> str | None:
    """Return a cached answer; None if there is none that can be read."""
    try:
        answer = json.loads(path.read_text(encoding="utf-8"))["answer"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer if isinstance(answer, str) and answer else None
