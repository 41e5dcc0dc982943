"""TMD codes by nearest label description: a stand-in for a table whose concepts have no codes.

The descriptions below are this project's own, one for each code from 1. A concept gets the codes whose descriptions lie
nearest to its vector, so that a code is a function of the vector and tells a model nothing that the vector does not.
Code zero stays for what could not be assigned.

Shapes: N = concepts, D = vector width.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lvm_pipeline.errors import LvmError
from lvm_pipeline.files import write_json
from lvm_pipeline.source.encoders.encoder import Encoder, unit_length
from lvm_pipeline.words import counted

ASSIGNMENT_FILE = "tmd_assignment.json"  # beside the concept table
METHOD = "nearest label description"

LABELS: Mapping[str, tuple[str, ...]] = {
    "domain": (
        "mathematics and logic",
        "physics and astronomy",
        "chemistry and materials",
        "plants, animals and ecology",
        "medicine and health",
        "engineering, transport and technology",
        "computers and information",
        "history and archaeology",
        "geography, countries, towns and places",
        "politics, government, law and war",
        "economy, business and finance",
        "society, religion and culture",
        "language, literature and philosophy",
        "arts, music, film and media",
        "sport and games",
    ),
    "task": (
        "a definition that says what something is",
        "a date, a year or a period",
        "a cause and its effect",
        "a comparison of two things",
        "a description of how something looks",
        "a description of how something works",
        "a list of parts or members",
        "a number, a measurement or a statistic",
        "the location of a place",
        "the life, birth, death or career of a person",
        "an event that happened",
        "a rule, a law or a requirement",
        "an opinion, a review or a criticism",
        "an example of something",
        "a name and its origin",
        "an award, a record or an achievement",
    ),
    "modifier": (
        "ancient or before 1900",
        "in the twentieth century",
        "recent, since 2000",
        "large, famous or important",
        "small, local or minor",
        "technical and detailed",
        "general and introductory",
        "successful or positive",
        "failed, harmful or negative",
        "uncertain, disputed or unknown",
        "official or formal",
        "everyday or popular",
    ),
}


@dataclass(frozen=True, kw_only=True)
class TmdAssignment:
    """What was assigned: `num_assigned` of the `num_without` concepts without codes, of `num_concepts` in all."""

    dataset_source: str
    space_id: str
    method: str
    labels: str
    num_concepts: int
    num_without: int
    num_assigned: int
    failures: dict[str, int] = field(default_factory=dict)  # of a language model, by kind

    def in_words(self) -> str:
        source = "vector" if self.method == METHOD else "text"
        failed = f"; {sum(self.failures.values()):,} got none" if self.failures else ""
        return (
            f"TMD codes of {self.num_assigned:,} of {counted(self.num_concepts, 'concept')} "
            f"were assigned by {self.method} "
            f"(labels {self.labels}), so they are a function of the {source}{failed}"
        )


def labels_hash() -> str:
    """Return a short hash of the label descriptions."""
    return hashlib.sha256(json.dumps(LABELS, sort_keys=True).encode()).hexdigest()[:8]


def nearest_codes(vectors: NDArray[np.float32], encoder: Encoder) -> NDArray[np.int16]:
    """Return domain, task and modifier of each concept, (N, 3), each from 1, by its vector (N, D).

    Each kind's mean description is subtracted first; otherwise the most general one is nearest to everything.

    Raises:
        LvmError: If the widths differ.
    """
    if vectors.shape[1] != encoder.vector_dim:
        raise LvmError(
            f"The concepts' vectors have {vectors.shape[1]} numbers and those of {encoder.space_id} "
            f"{encoder.vector_dim}; set the space that the vectors belong to."
        )
    codes = []
    for descriptions in LABELS.values():
        found = encoder.encode(descriptions)
        centred = unit_length(found - found.mean(axis=0))
        codes.append(1 + (vectors @ centred.T).argmax(axis=1))
    return np.stack(codes, axis=1).astype(np.int16)


def write_assignment(data_dir: Path, assignment: TmdAssignment, *, earlier: TmdAssignment | None = None) -> None:
    """Keep beside the concept table where its codes come from.

    What `earlier` assigned in the same way counts too: a call gives codes only to concepts that lack them.
    """
    if earlier is not None and (earlier.method, earlier.labels) == (assignment.method, assignment.labels):
        num_assigned = min(assignment.num_concepts, earlier.num_assigned + assignment.num_assigned)
        assignment = replace(assignment, num_assigned=num_assigned)
    write_json(data_dir / ASSIGNMENT_FILE, asdict(assignment))


def read_assignment(concepts_path: Path, dataset_source: str) -> TmdAssignment | None:
    """Return where the codes of a dataset source come from; None if they were not assigned here.

    Raises:
        LvmError: If the file that says so is damaged.
    """
    path = concepts_path.with_name(ASSIGNMENT_FILE)
    if not path.is_file():
        return None
    try:
        assignment = TmdAssignment(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise LvmError(f"{path} is damaged; delete it, and assign the codes again with `lvm tmd assign`.") from None
    return assignment if assignment.dataset_source == dataset_source else None
