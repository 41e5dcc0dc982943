"""How close is a decoded text to the true one?

    token F1      words of both texts in lower case, counted as bags: 2 x shared / (words of one + words of the other)
    BLEU          of the whole sample (sacrebleu), 0 to 1
    ROUGE-L       F-measure of the longest common subsequence of words (rouge-score), mean over texts
    exact match   share of texts that are equal apart from whitespace

Words are runs of letters and digits of any script; for ROUGE-L they are the same ones as for token F1. BLEU has
sacrebleu's own words, also of any script. Texts need spaces between words: a Japanese sentence without any is one word.

Shapes: S = texts.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WORD = re.compile(r"\w+")
BLEU_SCALE = 100.0  # of sacrebleu


def token_f1(texts: Sequence[str], truths: Sequence[str]) -> NDArray[np.float64]:
    """Return the token F1 of each text, shape (S,); 1 for two texts without words, 0 if one has none."""
    return np.array([_token_f1(text, truth) for text, truth in zip(texts, truths, strict=True)], np.float64)


def bleu(texts: Sequence[str], truths: Sequence[str]) -> float:
    """Return the BLEU of the sample, 0 to 1."""
    from sacrebleu import corpus_bleu

    return corpus_bleu(list(texts), [list(truths)]).score / BLEU_SCALE


def rouge_l(texts: Sequence[str], truths: Sequence[str]) -> float:
    """Return the mean F-measure of ROUGE-L."""
    from rouge_score.rouge_scorer import RougeScorer

    # the default tokenizer drops every letter but a to z
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    found = [scorer.score(truth, text)["rougeL"].fmeasure for text, truth in zip(texts, truths, strict=True)]
    return float(np.mean(found))


def exact_match(texts: Sequence[str], truths: Sequence[str]) -> float:
    """Return the share of texts that equal the true one apart from whitespace."""
    return float(np.mean([text.split() == truth.split() for text, truth in zip(texts, truths, strict=True)]))


class _Words:
    """A tokenizer for rouge-score."""

    def tokenize(self, text: str) -> list[str]:
        return _words(text)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _token_f1(text: str, truth: str) -> float:
    words, wanted = Counter(_words(text)), Counter(_words(truth))
    total = words.total() + wanted.total()
    return 2 * (words & wanted).total() / total if total else 1.0
