"""Let every trained architecture predict an article."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.models import promoted_data
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.given_file import STDIN, FileKind, kind_of, plain_file

if TYPE_CHECKING:
    from lvm_pipeline.inference.nearest import ConceptIndex
    from lvm_pipeline.inference.trying import Predictor, TriedArticle
    from lvm_pipeline.source.encoders.encoder import Encoder

LINEAR = "linear"
LINEAR_FORECAST = "linear forecast"


@dataclass(frozen=True, kw_only=True)
class ArticleTrier:
    """The latest trial of each architecture, the linear forecast, and the encoder and concepts they need."""

    space_id: str
    encoder: "Encoder"
    index: "ConceptIndex"
    predictors: "Mapping[str, Predictor]"
    left_out: Mapping[str, str]

    def __call__(self, text: str) -> "TriedArticle":
        """Cut a text into concepts, encode them and predict after each.

        Raises:
            LvmError: If it has fewer than two concepts, or too many.
        """
        from lvm_pipeline.inference.trying import MAX_CONCEPTS, try_article
        from lvm_pipeline.source.articles import concepts_of_text

        texts = concepts_of_text(text)
        vectors = self.encoder.encode(texts) if 2 <= len(texts) <= MAX_CONCEPTS else self.index.bank.vectors[:0]
        return try_article(
            texts, vectors, self.predictors, index=self.index, space_id=self.space_id, left_out=self.left_out
        )


def article_trier(settings: Settings, *, encoder_name: str | None = None) -> ArticleTrier:
    """Load all models of the promoted concepts' space; `encoder_name` as in `space_encoder`.

    Raises:
        LvmError: If there are no concepts, or the encoder of their space is not on this machine.
    """
    space_id = read_concepts_metadata(settings.concepts_path).space_id  # refuses before PyTorch is imported
    from lvm_pipeline.inference.nearest import open_index

    encoder = space_encoder(settings, space_id, name=encoder_name)
    if encoder is None:
        raise LvmError(
            f"The encoder of the concepts' space {space_id} is not recorded in {settings.encoders_dir}, so the article "
            "cannot be encoded; name it with --encoder or LVM_ENCODER."
        )
    predictors, left_out = _trained(settings, space_id)
    if LINEAR not in predictors:
        predictors[LINEAR_FORECAST] = _linear_forecast(settings)
    return ArticleTrier(
        space_id=space_id,
        encoder=encoder,
        index=open_index(settings.concepts_path, settings.vectors_dir, space_id=space_id, search=settings.search),
        predictors=predictors,
        left_out=left_out,
    )


def page_of(settings: Settings, path: Path) -> Path:
    """Return where the page of an article goes: articles of one name in several folders have pages of their own."""
    where = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:8]
    return settings.reports_dir / "try" / f"{'stdin' if path == STDIN else path.stem}-{where}.html"


def read_article(path: Path) -> str:
    """Read the text of an article; `-` is standard input. Raises LvmError if the file is no text that can be read."""
    with plain_file(path) as plain:
        kind = kind_of(plain)
        if kind is not FileKind.LINES:
            raise LvmError(f"{path} is a file of {kind}; give a plain text file.")
        try:
            return plain.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise LvmError(f"{path} is not UTF-8 (byte {error.start}); give a plain text file.") from None


def _trained(settings: Settings, space_id: str) -> "tuple[dict[str, Predictor], dict[str, str]]":
    """Return the latest model of each architecture as a predictor, and why others are left out."""
    from lvm_pipeline.inference.trying import reader
    from lvm_pipeline.lineage.trials import move_earlier_layout
    from lvm_pipeline.training.settle import find_device
    from lvm_pipeline.training.trained_model import load_trained_model

    move_earlier_layout(settings)
    predictors, left_out = {}, {}
    for link in sorted(settings.models_dir.glob("*")):
        if not link.is_symlink():
            continue
        try:
            model, info = load_trained_model(link, space_id=space_id, device=find_device(settings.device))
        except LvmError as error:
            left_out[link.name] = str(error)
            continue
        if info.is_oracle:
            left_out[link.name] = "it reads the TMD code of its own target."
        else:
            predictors[link.name] = reader(model, info)
    return predictors, left_out


def _linear_forecast(settings: Settings) -> "Predictor":
    """Fit the linear forecast on the train articles, or read the one that an evaluation kept."""
    import numpy as np

    from lvm_pipeline.evaluation.kept_fits import kept_forecast
    from lvm_pipeline.evaluation.scoring import targets_of

    data = promoted_data(settings)
    forecast = kept_forecast(
        targets_of(data, split="train", context_mode="articles"),
        fingerprint=data.sequences.metadata.fingerprint,
        cache_dir=settings.baselines_dir,
    )

    def predict(vectors: "np.ndarray") -> "np.ndarray":
        ends = np.arange(1, len(vectors) + 1)
        return forecast.predict(vectors, np.zeros_like(ends), ends)

    return predict
