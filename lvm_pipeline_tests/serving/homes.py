"""A small home whose vectors are of a real encoder (LSA), with trained trials, and a server on it."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import uvicorn

from lvm_pipeline.lineage.trials import TrialFolder, link_model, trial_folder, write_trial
from lvm_pipeline.settings import Settings
from lvm_pipeline.source.encoders.lsa import fit_lsa
from lvm_pipeline.source.encoders.registry import remember_encoder
from lvm_pipeline.training.config import TrainingConfig
from lvm_pipeline.training.data import load_training_data
from lvm_pipeline.training.loop import train
from lvm_pipeline_tests.synthetic import synthetic_table, write_synthetic_sequences, write_table

LENGTHS = [9, 12, 7, 14] * 6
TOPICS = (
    "river water fish boat bank stream flood bridge",
    "music song band guitar concert voice drum record",
    "star planet orbit moon telescope light galaxy comet",
    "bread flour oven yeast dough baker salt crust",
)


def make_home(home, **options):
    """Write concepts, sequences and the encoder; return the settings."""
    settings = Settings(home=home, device="cpu", num_threads=1, **options)
    table = synthetic_table(LENGTHS)
    texts = texts_of(LENGTHS)
    encoder = fit_lsa(texts)
    remember_encoder(encoder, encoders_dir=settings.encoders_dir)
    vectors = np.asarray(encoder.encode(texts), np.float32)
    columns = {name: table[name] for name in table.column_names}
    columns["concept_text"] = pa.array(texts)
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    write_table(pa.table(columns), settings.concepts_path, space_id=encoder.space_id)
    write_synthetic_sequences(settings.concepts_path, settings.sequences_path)
    return settings


def texts_of(lengths):
    rng = np.random.default_rng(0)
    texts = []
    for index, length in enumerate(lengths):
        words = TOPICS[index % len(TOPICS)].split()
        for position in range(length):
            chosen = " ".join(rng.permutation(words)[:5])
            texts.append(f"Sentence {position} of text {index} is about the {chosen} number{len(texts)}.")
    return texts


def train_trial(settings, **options) -> TrialFolder:
    """Train a small model into a trial folder; `models/<architecture>` leads to it."""
    config = (
        TrainingConfig(
            **{"preset": "smoke", "epochs": 1, "num_threads": 1, **options}, model={"hidden_dim": 16, "num_layers": 1}
        )
        if options.get("architecture") != "linear"
        else TrainingConfig(**{"preset": "smoke", "num_threads": 1, **options})
    )
    folder = trial_folder(settings, config.trial.trial_id)
    write_trial(folder, config.trial)
    data = load_training_data(settings.concepts_path, settings.sequences_path, settings.vectors_dir)
    train(config, data, output_dir=folder.model_dir)
    link_model(settings, config.architecture, folder)
    return folder


@contextmanager
def running(app):
    """Run an application behind a real uvicorn on loopback; yields its address."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def call(url, body=None, *, content_type="application/json", host=None):
    """Return status, headers and text of an answer; a dict or list is sent as JSON."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    headers = {"Content-Type": content_type, **({} if host is None else {"Host": host})}
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()
