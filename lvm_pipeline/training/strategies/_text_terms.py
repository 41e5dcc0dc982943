"""Terms that score a prediction by the text that a frozen decoder writes for it.

Shapes: n = positions that count, m = positions drawn, D = vector width.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lvm_pipeline.concepts.store import read_columns
from lvm_pipeline.decoding._contract import Decoder, DifferentiableDecoder
from lvm_pipeline.source.encoders.encoder import Encoder
from lvm_pipeline.training.batches import Batch
from lvm_pipeline.training.data import TrainingData
from lvm_pipeline.training.terms import TermModule, TermSources

NUM_COMPARED = 32  # train texts from which the cross-entropy of guessing is estimated


class TextCrossEntropy(TermModule):
    """Cross-entropy per token of the true texts given the predictions, divided by that given the mean vector.

    Gradients reach the prediction through the decoder, whose own weights stay as they are.
    """

    def __init__(self, sources: TermSources, decoder: DifferentiableDecoder, *, num_drawn: int):
        """Read the texts and score some of them given the mean vector.

        Args:
            sources: The texts, and the train concepts.
            decoder: Frozen, on the device of the training.
            num_drawn: Positions whose texts are scored at each step, drawn at random (m).
        """
        super().__init__()
        data = sources.data
        self.num_drawn, self._texts = num_drawn, texts_of(data)
        self._decoder = (decoder,)  # in a tuple, since its weights are neither trained nor kept in the checkpoint
        rows = data.train_rows()
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, NUM_COMPARED).astype(int))]
        mean = np.asarray(data.train_sample()).mean(axis=0, keepdims=True)
        with torch.no_grad():
            vectors = torch.from_numpy(np.repeat(mean, len(chosen), axis=0)).to(sources.vectors.device)
            self._guessing = float(decoder.nll(vectors, [self._texts[int(row)] for row in chosen.tolist()]).mean())

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        """Return the cross-entropy of the texts of some targets, divided by that of guessing; see the contract."""
        (decoder,) = self._decoder
        positions = drawn(len(predictions), self.num_drawn, predictions.device)
        texts = [self._texts[int(row)] for row in batch.rows[batch.is_target][positions].tolist()]
        with torch.autocast(predictions.device.type, enabled=False):
            losses = decoder.nll(predictions[positions].float(), texts)
        return losses.mean() / self._guessing


class Reencoded(TermModule):
    """Decode predictions to texts, encode these again, and compare with the targets: one minus the cosine.

    Text has no gradient, so that of the encoded text is passed on to the prediction as it is (straight-through).
    """

    def __init__(self, decoder: Decoder, encoder: Encoder, *, num_drawn: int):
        """Take a decoder and the encoder of its space; `num_drawn` positions are decoded at each step (m)."""
        super().__init__()
        self.num_drawn, self._parts = num_drawn, (decoder, encoder)

    def forward(self, predictions: Tensor, batch: Batch, states: Tensor | None) -> Tensor:
        """Return the mean of one minus the cosine; see the contract."""
        decoder, encoder = self._parts
        positions = drawn(len(predictions), self.num_drawn, predictions.device)
        chosen, targets = predictions[positions], batch.chosen_targets()[positions]
        vectors = chosen.detach().float().cpu().numpy()
        encoded = torch.from_numpy(np.asarray(encoder.encode(decoder.decode(vectors)), np.float32)).to(chosen.device)
        with torch.autocast(predictions.device.type, enabled=False):
            passed_on = encoded + chosen.float() - chosen.float().detach()
            return 1 - F.cosine_similarity(passed_on, targets.float(), dim=-1).mean()


def drawn(size: int, num: int, device: torch.device) -> Tensor:
    """Draw `num` of `size` positions, (m,), from torch's random state."""
    return torch.randperm(size)[:num].to(device)


def texts_of(data: TrainingData) -> list[str]:
    assert data.concepts_path is not None
    column = read_columns(data.concepts_path, ["concept_text"])["concept_text"]
    return [text or "" for text in column.to_pylist()]
