"""Our model and our search."""

import numpy as np

from tests.benchmarks import weights
from tests.benchmarks.rivals.side import LENGTH_PENALTY, MAX_LENGTH, TensorFlowSide
from tests.benchmarks.sizes import BOS, Size, pad
from tfseq2seq import cpu


class Ours(TensorFlowSide):
    """Our search over the model, in one traced function for any batch.

    A batch is divided among the cores of its stream, as by a recipe with so many `decode.parts`.
    """

    def __init__(self, size, path, streams):
        cpu.prepare()  # as the command line does
        super().__init__(streams, op_threads=1)
        self.model = (make_transformer if isinstance(size, Size) else _recurrent)(size, weights.load(path))
        # The formula of the rivals: n^alpha in Transformers and CTranslate2, GNMT's in OpenNMT-tf and Addons.
        self.length_penalty_kind = "length" if isinstance(size, Size) else "gnmt"

    def score(self, rows, targets):
        """log p of each target, in nats, by teacher forcing: what any side's answers are worth."""
        from tfseq2seq.decoding.scoring import score_targets

        inputs = {"source": pad(rows), "target": pad([[BOS, *target[:-1]] for target in targets])}
        return score_targets(self.model(inputs, training=False), pad(targets)).numpy().tolist()

    def _search(self, source, beam_size):
        found = self._find(
            source, vocabulary_size=self.model.target_vocabulary_size, beam_size=beam_size,
            length_penalty=LENGTH_PENALTY, length_penalty_kind=self.length_penalty_kind, max_length=MAX_LENGTH)
        return found.tokens[:, 0], found.log_probabilities[:, 0]

    def _find(self, source, **options):
        from tfseq2seq.model_search import find_in_parts

        return find_in_parts([self.model], source, self.threads, **options)


class OursCompiled(Ours):
    """The same, compiled by XLA: what a recipe with `decode.jit_compile = true` does for a source that comes alone.

    One thread an operation: with so few rows a second one gains nothing.
    """

    def _find(self, source, **options):
        from tfseq2seq.model_search import find_compiled

        return find_compiled([self.model], source, MAX_LENGTH, **options)


def make_transformer(size, arrays):
    """The `Seq2Seq` of a `Size` with these weights."""
    from tests.peers.copying import set_marian
    from tfseq2seq.model import Seq2Seq

    table = {
        "kind": "transformer", "layers": size.layers, "units": size.units, "heads": size.heads,
        "feed_forward_units": size.feed_forward_units, "norm": "post", "dropout": 0.0}
    model = Seq2Seq(
        {"embedding_units": size.units, "share_embeddings": "all", "encoder": table, "decoder": table},
        size.vocabulary_size, size.vocabulary_size)
    set_marian(model, arrays)
    return model


def _recurrent(size, arrays):
    from tfseq2seq.model import Seq2Seq

    encoder = {
        "kind": "recurrent", "layers": size.layers, "units": size.units // 2, "bidirectional": True, "dropout": 0.0}
    decoder = {
        "kind": "attentional", "layers": size.layers, "units": size.units, "attention": "general",
        "input_feeding": True, "bridge": "copy", "dropout": 0.0}
    model = Seq2Seq(
        {"embedding_units": size.units, "encoder": encoder, "decoder": decoder}, size.vocabulary_size,
        size.vocabulary_size)

    def assign(name, weight):
        weight.assign(np.reshape(arrays[name], weight.shape))

    cells = [(f"decoder.{layer}", cell) for layer, cell in enumerate(model.decoder.cells)]
    for direction in ("forward", "backward"):
        cells += [
            (f"encoder.{layer}.{direction}", cell) for layer, cell in enumerate(getattr(model.encoder, direction))]
    for name, cell in cells:
        for part in ("kernel", "recurrent_kernel", "bias"):
            assign(f"{name}.{part}", getattr(cell, part))
    assign("source_table", model.source_embedding.table)
    assign("target_table", model.target_embedding.table)
    assign("attention.kernel", model.decoder.attention.key_projection.kernel)
    assign("combine.kernel", model.decoder.combine.kernel)
    assign("output.kernel", model.output_layer.kernel)
    assign("output.bias", model.output_layer.bias)
    return model
