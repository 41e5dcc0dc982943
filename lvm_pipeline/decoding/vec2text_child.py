"""Runs in the environment of vec2text, where this package is not installed; imports nothing of it.

Reads one JSON line {"weights": FOLDER, "vectors": NPZ FILE, "steps": N, "beam": N, "device": NAME} and writes one:
{"texts": [...]} or {"error": "..."}. The folder holds `inversion` and `corrector` (weights), `base` (weights and
tokenizer of their T5) and `embedder` (the encoder); `base` and `embedder` are downloaded from the model hub if they
are missing.
"""

import importlib
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

BATCH = 16


def decode(request: dict[str, Any]) -> list[str]:
    """Return one text for each vector of the request."""
    numpy: Any = importlib.import_module("numpy")
    torch: Any = importlib.import_module("torch")
    with numpy.load(request["vectors"], allow_pickle=False) as file:
        vectors = torch.from_numpy(file["vectors"]).to(request["device"])
    corrector, invert = load(Path(request["weights"]), request["device"])
    texts = []
    with torch.no_grad():
        for start in range(0, len(vectors), BATCH):
            texts += invert(
                vectors[start : start + BATCH],
                corrector=corrector,
                num_steps=request["steps"] or None,
                sequence_beam_width=request["beam"],
            )
    return [text.strip() for text in texts]


def load(weights: Path, device: str) -> tuple[Any, Any]:
    """Return the corrector and the function that inverts."""
    evaluate: Any = importlib.import_module("evaluate")
    evaluate.load = lambda *_, **__: None  # the trainers ask for metrics on the hub, which decoding does not need
    models = importlib.import_module("vec2text.models")
    inversion: Any = importlib.import_module("vec2text.models.inversion")
    if (weights / "embedder").is_dir():
        inversion.load_embedder_and_tokenizer = lambda name, **_: local_embedder(name, weights / "embedder")
    parts = {}
    for name, kind in (("inversion", models.InversionModel), ("corrector", models.CorrectorEncoderModel)):
        config = kind.config_class.from_pretrained(str(weights / name))
        if (weights / "base").is_dir():
            config.model_name_or_path = str(weights / "base")
        parts[name] = kind.from_pretrained(str(weights / name), config=config).to(device).eval()
    api = importlib.import_module("vec2text.api")
    return api.load_corrector(parts["inversion"], parts["corrector"]), api.invert_embeddings


def local_embedder(name: str, folder: Path) -> tuple[Any, Any]:
    """Return encoder and tokenizer of a folder: sentence-transformers for `..._st`, else the encoder of a T5."""
    if name.endswith("_st"):
        model = importlib.import_module("sentence_transformers").SentenceTransformer(str(folder))
        return model, model.tokenizer
    transformers = importlib.import_module("transformers")
    model = transformers.AutoModel.from_pretrained(str(folder)).encoder
    return model, transformers.AutoTokenizer.from_pretrained(str(folder))


def main() -> None:
    """Answer one request; output of the libraries goes to stderr."""
    request = json.loads(sys.stdin.readline())
    try:
        with redirect_stdout(sys.stderr):
            answer: dict[str, Any] = {"texts": decode(request)}
    except (OSError, ValueError, RuntimeError, ImportError, AttributeError, KeyError, AssertionError) as error:
        answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
