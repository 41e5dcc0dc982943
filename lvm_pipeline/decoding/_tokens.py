"""Tokenizers of text decoders: of `prefix`, byte-level BPE trained on train concepts; of `lm`, its language model's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.errors import LvmError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_TEXT = "<end>"
END = 0  # id of the token after a text


@dataclass(frozen=True, kw_only=True)
class TextTokens:
    """Texts to token ids and back."""

    tokenizer: "Tokenizer"
    end: int = END  # token after a text

    def __post_init__(self) -> None:
        self.tokenizer.encode_special_tokens = True  # a text that contains the name of one is not cut there

    @property
    def size(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return the tokens of each text with the end token; those of a text that is too long are cut without one."""
        found = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[*each.ids, self.end][:max_tokens] for each in found]

    def decode(self, lines: Sequence[Sequence[int]]) -> list[str]:
        """Return the text of each line of tokens, up to its first end token, with single spaces."""
        whole = [line[: line.index(self.end)] if self.end in line else line for line in map(list, lines)]
        return [" ".join(text.split()) for text in self.tokenizer.decode_batch(whole)]

    def as_json(self) -> str:
        return self.tokenizer.to_str()


def train_tokenizer(texts: Iterable[str], *, vocabulary_size: int) -> TextTokens:
    """Train a tokenizer of at most `vocabulary_size` tokens, among them all bytes, so that it can encode every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return TextTokens(tokenizer=tokenizer)


def read_tokenizer(path: Path, *, end: int = END) -> TextTokens:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # noqa: BLE001 - the package raises plain exceptions for every fault of the file
        raise LvmError(f"{path} cannot be read as a tokenizer ({error}); train the decoder again.") from None
    return TextTokens(tokenizer=tokenizer, end=end)
