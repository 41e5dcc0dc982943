"""Articles, rows and folders of encoders as people give them."""

import json

import numpy as np
import pyarrow as pa

from lvm_pipeline.source.encoders.encoder import unit_length

DIM = 8
IDENTITY = "torch.nn.modules.linear.Identity"


def article(name, num_concepts=6, **fields):
    return {"title": name, "concepts": [f"{name} says thing {i} of {name}." for i in range(num_concepts)], **fields}


def articles(num=12):
    return [article(f"article {chr(97 + i)}") for i in range(num)]


def rows(lengths=(3, 2), *, vector_type=None, **columns):
    """A table of articles with the given lengths; `columns` replace whole columns, a value None drops one."""
    num = sum(lengths)
    vectors = unit_length(np.random.default_rng(3).standard_normal((num, DIM)))
    values = {
        "article_id": [f"a{i}" for i, n in enumerate(lengths) for _ in range(n)],
        "position": [position for n in lengths for position in range(n)],
        "concept_text": [f"text {row}" for row in range(num)],
        "vector": pa.array(vectors.tolist(), vector_type or pa.list_(pa.float32())),
    } | columns
    return pa.table({name: column for name, column in values.items() if column is not None})


def write_model_folder(
    folder,
    *,
    modules=("Transformer", "Pooling", "Dense", "Normalize"),
    pooling=None,
    weights="safetensors",
    activation=IDENTITY,
):
    """Lay out a folder as sentence-transformers does, without usable weights."""
    entries = []
    for index, kind in enumerate(modules):
        path = "" if kind == "Transformer" else f"{index}_{kind}"
        entries.append({"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"})
        (folder / path).mkdir(parents=True, exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(entries))
    suffix = {"safetensors": "model.safetensors", "pickle": "pytorch_model.bin"}[weights]
    (folder / suffix).write_bytes(b"weights of the transformer")
    pooling = pooling or {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if "Dense" in modules:
        dense = {"in_features": 768, "out_features": 768, "bias": False, "activation_function": activation}
        (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
        (folder / "2_Dense" / "model.safetensors").write_bytes(b"weights of the dense layer")
    return folder
