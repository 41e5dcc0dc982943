"""sequences -> text_decoder: writes a text for a vector, so that predictions can be read."""

from typing import Literal

import dagster as dg
from pydantic import Field

from lvm_pipeline import lineage
from lvm_pipeline.defs import metadata
from lvm_pipeline.defs.checks import lvm_errors_as_failures
from lvm_pipeline.defs.partitions import GPU_POOL
from lvm_pipeline.defs.progress import stage_shown
from lvm_pipeline.defs.sequences import sequences
from lvm_pipeline.settings import Settings, with_options
from lvm_pipeline.words import counted


class DecoderOptions(dg.Config):
    """Options of this run. Fields that are left out keep the value of their environment variable."""

    kind: Literal["prefix", "lm"] = Field(
        default="prefix",
        description="prefix: a small language model; lm: soft tokens for LVM_DECODER_LANGUAGE_MODEL, which is frozen.",
    )
    steps: int | None = Field(
        default=None, ge=1, description="Optimiser steps. (Default: LVM_DECODER_STEPS; for lm, 400.)"
    )
    seed: int | None = Field(default=None, description="Seed. (Default: LVM_SEED.)")
    again: bool = Field(default=False, description="Train even if nothing has changed.")


@dg.asset(deps=[sequences], pool=GPU_POOL, group_name="text", kinds={"pytorch"})
def text_decoder(config: DecoderOptions, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """A small language model of the train concepts that writes a text for a vector; reports decode predictions with it.

    It is not trained again with the same data, code and options, unless `again` is set.
    """
    from lvm_pipeline.decoding.lm import LmOptions

    with lvm_errors_as_failures(), stage_shown(settings, "text_decoder"):
        chosen = with_options(settings, {"decoder_steps": config.steps, "seed": config.seed})
        options = LmOptions(steps=config.steps, seed=chosen.seed) if config.kind == "lm" and config.steps else None
        decoder = lineage.train_text_decoder(chosen, kind=config.kind, options=options, again=config.again)
        info = decoder.info
        version = info.name, info.fingerprints["sequences"][:32], info.code_version, f"{info.loss:.9f}"
        return dg.MaterializeResult(
            data_version=dg.DataVersion(" ".join(version)),
            metadata={
                metadata.VERDICT: f"Loss {info.loss:.3f} after {counted(info.num_steps, 'step')}.",
                **metadata.numbers(vars(info)),
                "was_trained_now": decoder.was_trained,
                "space_id": info.space_id,
                "options": dg.MetadataValue.json(info.options),
                "fingerprints": dg.MetadataValue.json(info.fingerprints),
                "path": dg.MetadataValue.path(decoder.path),
            },
        )
