"""Invariants and findings: what must hold of the data and the models, and what a check found."""

from lvm_pipeline.findings.finding import (
    MAX_LISTED,
    Finding,
    InvariantError,
    Severity,
    blocking_failures,
    listed,
    raise_on_blocking,
)
from lvm_pipeline.findings.invariant import Invariant, InvariantCheck, declared_in, invariant
