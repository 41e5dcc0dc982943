"""What loading a file into the source table did, as data and in one sentence."""

from dataclasses import dataclass, field
from pathlib import Path

from lvm_pipeline.findings import listed
from lvm_pipeline.source.deduplication import SAME_VECTOR, Duplicate
from lvm_pipeline.source.records import BadRow, first_of
from lvm_pipeline.words import counted


@dataclass(frozen=True, kw_only=True)
class IngestReport:
    """Result of loading a file: `bad_rows` were not loaded; rows after `gaps` were loaded, with the gaps closed."""

    path: str
    dataset_source: str
    space_id: str
    num_articles: int
    num_concepts: int
    num_inserted: int
    num_known: int
    duplicates: list[Duplicate]
    bad_rows: list[BadRow]
    gaps: list[BadRow] = field(default_factory=list)
    num_replaced: int = 0  # articles whose earlier rows were deleted
    cut: list[str] = field(default_factory=list)  # ids of the concepts whose texts are longer than the encoder reads

    def sentence(self) -> str:
        """Say what was loaded, and what was not."""
        loaded = (
            f"Loaded {counted(self.num_inserted, 'new concept')} of {counted(self.num_articles, 'article')} from "
            f"{Path(self.path).name} as dataset source {self.dataset_source!r}, space {self.space_id}"
        )
        kind = self.bad_rows[0].kind if self.bad_rows else ""
        others = [
            _some(self.num_replaced, "article was replaced", "articles were replaced"),
            _some(self.num_known, "was already there", "were already there"),
            _some(len(self.duplicates), "duplicate was skipped", "duplicates were skipped"),
            _some(len(self.bad_rows), f"bad {kind} was skipped", f"bad {kind}s were skipped"),
            _some(len(self.gaps), "gap between positions was closed", "gaps between positions were closed"),
        ]
        sentences = [loaded, ", ".join(filter(None, others)).capitalize()]
        if same_vector := [each for each in self.duplicates if each.reason == SAME_VECTOR]:
            sentences.append(
                f"Only the vector is that of another concept for {len(same_vector):,} ({first_of(same_vector)})"
            )
        if self.cut:
            texts = counted(len(self.cut), "text is longer", "texts are longer")
            sentences.append(f"{texts} than the encoder reads, so the end is cut off: {listed(self.cut)}")
        return ". ".join(filter(None, sentences)) + "."


def _some(number: int, one: str, many: str) -> str:
    return counted(number, one, many) if number else ""
