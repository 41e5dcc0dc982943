"""Serve the champion, or one trial, over HTTP."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lvm_pipeline.concepts.schema import read_concepts_metadata
from lvm_pipeline.errors import LvmError
from lvm_pipeline.lineage.decoders import KINDS, load_text_decoder, searching
from lvm_pipeline.lineage.prediction import why_no_champion
from lvm_pipeline.lineage.space_encoder import space_encoder
from lvm_pipeline.lineage.trials import named_trial
from lvm_pipeline.serving.host_names import THIS_MACHINE, own_names
from lvm_pipeline.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lvm_pipeline.decoding._contract import Decoder
    from lvm_pipeline.inference.nearest import ConceptIndex
    from lvm_pipeline.serving.model import ServedModel, Source
    from lvm_pipeline.source.encoders.encoder import Encoder

logger = logging.getLogger(__name__)


def serve(
    settings: Settings,
    *,
    trial: str | None = None,
    encoder_name: str | None = None,
    host: str,
    port: int,
    on_start: Callable[[], None],
) -> None:
    """Serve a trial (by id or the beginning of one), or the champion, until the process is interrupted.

    On this machine's own address, requests under other host names than its own and that of `serve_url` are refused:
    a web site whose name resolves to this machine must not read the concepts through a visitor's browser.

    `encoder_name` is for a space whose encoder is not recorded, see `space_encoder`; `on_start` is called when the
    model is loaded.

    Raises:
        LvmError: If there is no such model, or the port is in use.
    """
    import uvicorn

    from lvm_pipeline.adapters.loopback import is_free

    if not is_free(port):
        raise LvmError(f"Port {port} is in use; choose another with --port or LVM_SERVE_PORT.")
    _served_model(settings, trial)  # a missing one is reported before PyTorch is imported, which takes seconds
    names = own_names(settings.serve_url, variable="LVM_SERVE_URL")
    host_names = names if host in THIS_MACHINE else None
    app = serving_app(settings, trial=trial, encoder_name=encoder_name, host_names=host_names)
    on_start()
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False)


def serving_app(
    settings: Settings,
    *,
    trial: str | None = None,
    encoder_name: str | None = None,
    host_names: Sequence[str] | None = None,
) -> "FastAPI":
    """Return the application; `host_names` as in `Serving`."""
    import torch

    from lvm_pipeline.serving.app import Serving, make_app
    from lvm_pipeline.serving.batcher import Batcher
    from lvm_pipeline.serving.holder import ModelHolder
    from lvm_pipeline.serving.metrics import Metrics

    torch.set_num_threads(settings.num_threads)
    load = loader_of(settings, encoder_name=encoder_name)
    holder = ModelHolder(source_of(settings, trial=trial), load, poll_seconds=settings.serve_poll_seconds)
    return make_app(
        Serving(
            holder=holder,
            batcher=Batcher(),
            metrics=Metrics(),
            max_body_bytes=settings.serve_max_body_megabytes * 2**20,
            try_article=_pages(settings, encoder_name),
            host_names=host_names,
        )
    )


def _pages(settings: Settings, encoder_name: str | None) -> Callable[[str], str]:
    """Return a function that makes the page of an article; models are loaded at its first call and when they change.

    It makes one page at a time, since a model reads one article at a time.
    """
    from lvm_pipeline.lineage.trying import ArticleTrier, article_trier
    from lvm_pipeline.serving.try_page import try_page

    lock, loaded = threading.Lock(), dict[str, ArticleTrier]()

    def page(text: str) -> str:
        with lock:
            links = sorted(settings.models_dir.glob("*"))
            models = [f"{link.resolve()} {_stamp(link / 'trained_model.json')}" for link in links]
            state = " ".join([*models, _stamp(settings.concepts_path, settings.sequences_path)])
            if state not in loaded:
                trier = article_trier(settings, encoder_name=encoder_name)
                loaded.clear()
                loaded[state] = trier
            return try_page(loaded[state](text), has_form=True)

    return page


def _stamp(*paths: Path) -> str:
    """Return what changes when one of some files does."""
    return " ".join(str(path.stat().st_mtime_ns if path.exists() else 0) for path in paths)


def source_of(settings: Settings, *, trial: str | None = None) -> "Callable[[], Source]":
    """Return a function that says which model should be served now."""
    from lvm_pipeline.serving.model import Source

    def find() -> Source:
        model_dir, version = _served_model(settings, trial)
        decoders = [settings.decoders_dir / kind for kind in KINDS]
        stamp = _stamp(model_dir / "trained_model.json", settings.concepts_path, *decoders)
        return Source(model_dir=model_dir, version=version, stamp=stamp)

    return find


def _served_model(settings: Settings, trial: str | None) -> tuple[Path, str | None]:
    """Return folder and registered version of a trial's model, or of the champion's. Raises LvmError for none."""
    from lvm_pipeline.adapters import mlflow_registry

    if trial is not None:
        return named_trial(settings, trial).model_dir, None
    champion = mlflow_registry.champion(settings)
    if champion is None:
        raise LvmError(why_no_champion(settings, "--model"))
    return champion.model_dir, champion.version


def loader_of(settings: Settings, *, encoder_name: str | None = None) -> "Callable[[Source], ServedModel]":
    """Return a function that loads a model with the concept table, encoder and decoders of its space."""
    from lvm_pipeline.inference.contexts import ContextPredictor
    from lvm_pipeline.serving.model import ServedModel
    from lvm_pipeline.source.space_fingerprint import FILE, read_fingerprint
    from lvm_pipeline.training.settle import find_device
    from lvm_pipeline.training.trained_model import load_trained_model

    def load(source: "Source") -> ServedModel:
        model, info = load_trained_model(source.model_dir, device=find_device(settings.device))
        encoder = space_encoder(settings, info.space_id, name=encoder_name)
        served = ServedModel(
            source=source,
            predictor=ContextPredictor(
                model,
                info,
                max_concepts=settings.serve_max_concepts,
                fingerprint=read_fingerprint(source.model_dir / FILE),
            ),
            index=_index(settings, info.space_id),
            encoder=encoder,
            decoders=_decoders(settings, info.space_id, encoder),
        )
        if served.search is not None:
            served.search.prepare()
        return served

    return load


def _index(settings: Settings, space_id: str) -> "ConceptIndex | None":
    """Return the promoted concepts; None where there are none of this space, or they cannot be read."""
    from lvm_pipeline.decoding.faiss_bank import kind_of_bank
    from lvm_pipeline.inference.nearest import open_index

    kind_of_bank(settings.search)  # refuses one that is not installed
    path = settings.concepts_path
    try:
        if not path.is_file() or read_concepts_metadata(path).space_id != space_id:
            return None
        return open_index(path, settings.vectors_dir, space_id=space_id, search=settings.search)
    except LvmError as error:
        logger.warning("The concepts are not searched: %s", error)
        return None


def _decoders(settings: Settings, space_id: str, encoder: "Encoder | None") -> "dict[str, Decoder]":
    """Return the trained decoders of a space that can be loaded; the nearest concept needs none."""
    found: dict[str, Decoder] = {}
    for kind in KINDS:
        if not (settings.decoders_dir / kind).is_dir():
            continue
        try:
            decoder = load_text_decoder(settings, kind)
        except LvmError as error:
            logger.warning("The decoder %s is not used: %s", kind, error)
            continue
        if decoder.space_id == space_id:
            found[kind] = searching(settings, decoder, encoder)
    return found
