"""Training a Transformer, beside Transformers' on PyTorch and OpenNMT-tf's.

    python -m tests.benchmarks.train [small base] [--turns 5]

Needs the environments of tests/benchmarks/README.md, OpenNMT-tf's in the variable OPENNMT_TF_PYTHON (left out where it
is not set), and a quiet machine: other work slows all sides, but PyTorch, whose threads wait for each other after every
operation, far more. Each side is a process of its own that waits while the others work; each takes all cores.

A turn is one pass over four batches, one for each quarter of the tokens of pairs of 5 to 40 tokens (mean 20) sorted by
length, each of about 2,048 padded target tokens: forward, backward and Adam, with dropout 0.1, label smoothing 0.1, one
table for source, target and output, and no clipping. Counted are real target tokens; a ratio is the median over the
turns. With the same weights and no dropout all must first give the same loss, or nothing is timed. The share of the
peak is that of the best large matrix product of the same run; the work is three times the operations of the forward
pass over real tokens.

Last run (2026-11-27, 2 cores of an AMD EPYC with AVX2 (Zen 3) whose speed drifts, 103 to 174 GFLOP/s in a large
product; small at commit 8930491, 4 turns, base at d90d32d, 2 turns), real target tokens a second, with the share of
the peak and the time as a multiple of ours:

             ours         Transformers 5.24 / torch 2.13    OpenNMT-tf 2.32 / TensorFlow 2.13
    small   2,209  58 %   1,567  41 %  1.37                 1,620  43 %  1.43
    base      239         154          1.55                   168        1.42

On 2 cores of an Intel Xeon with AVX-512 (commit 638718e), before freed memory was kept, which takes a tenth off a step:

    small   3,413  47 %   2,384  33 %  1.41                 2,917  40 %  1.16
    base      531  58 %     344  38 %  1.52                   462  51 %  1.17
"""

import argparse
import itertools
import os
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.sizes import BOS, EOS, PAD, SIZES, TrainingBatch, draw_lengths, pad
from tests.benchmarks.workers import Worker
from tfseq2seq import cpu

BATCH_TOKENS = 2048  # padded target tokens
LABEL_SMOOTHING = DROPOUT = 0.1
ADAM = {"learning_rate": 1e-4, "betas": (0.9, 0.98), "epsilon": 1e-9}
SETTINGS = {**ADAM, "dropout": DROPOUT, "label_smoothing": LABEL_SMOOTHING}


class Ours:
    """Our model, trained as `fit` does."""

    def __init__(self, size, batches, jit_compile):
        cpu.prepare()  # as the command line does
        import tensorflow as tf

        from tfseq2seq.losses import TokenCrossEntropy
        from tfseq2seq.model import Seq2Seq
        from tfseq2seq.optimization import Adam

        self.batches = batches
        table = {
            "kind": "transformer", "layers": size.layers, "units": size.units, "heads": size.heads,
            "feed_forward_units": size.feed_forward_units, "norm": "post", "dropout": DROPOUT}
        self.model = Seq2Seq(
            {"embedding_units": size.units, "share_embeddings": "all", "encoder": table, "decoder": table},
            size.vocabulary_size, size.vocabulary_size)
        optimizer = Adam(ADAM["learning_rate"], *ADAM["betas"], ADAM["epsilon"])
        self.model.compile(optimizer, loss=TokenCrossEntropy(LABEL_SMOOTHING), jit_compile=jit_compile)
        optimizer.build(self.model.trainable_variables)
        self.model.make_train_function()
        ids = tf.TensorSpec([None, None], tf.int32)
        self.iterator = iter(tf.data.Dataset.from_generator(
            lambda: ((self._inputs(batch), batch.labels) for batch in itertools.cycle(batches)),
            output_signature=({"source": ids, "target": ids}, ids)))

    def set_weights(self, path):
        """The peer's weights, an .npz file."""
        from tests.peers.copying import set_marian

        set_marian(self.model, dict(np.load(path)))

    def count_parameters(self):
        """Number of trainable scalars."""
        return self.model.count_parameters()

    def losses(self):
        """Mean loss per real token of each batch, without dropout."""
        losses = []
        for batch in self.batches:
            logits = self.model(self._inputs(batch), training=False)
            losses.append(float(self.model.loss(batch.labels, logits)) / np.sum(batch.labels != PAD))
        return losses

    def train(self):
        """One pass over the batches; the last loss."""
        logs = [self.model.train_function(self.iterator) for _ in self.batches]
        return float(logs[-1]["loss"])

    def multiply(self, matrix):
        """The matrix times itself."""
        import tensorflow as tf

        return tf.matmul(matrix, matrix)[0, 0].numpy()

    def _inputs(self, batch):
        return {"source": batch.source, "target": batch.target}


class Theirs:
    """Marian's architecture in Transformers, trained by a loop of our own, as fast as it can be without compilation."""

    def __init__(self, size, batches):
        import torch

        from tests.benchmarks.rivals.hugging_face import make_marian

        self.torch = torch
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.batches = [TrainingBatch(*(torch.tensor(ids).long() for ids in batch)) for batch in batches]
        self.model = make_marian(size, DROPOUT)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), ADAM["learning_rate"], ADAM["betas"], ADAM["epsilon"], fused=True)

    def save_weights(self, path):
        """An .npz file of what `copying.set_marian` reads."""
        from tests.peers.copying import named_arrays

        weights = named_arrays(self.model)
        np.savez(path, **{
            name: value for name, value in weights.items() if "embed_" not in name and "lm_head" not in name})

    def count_parameters(self):
        """Number of trainable scalars."""
        return sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad)

    def losses(self):
        """Mean loss per real token of each batch, without dropout."""
        self.model.eval()
        with self.torch.no_grad():
            return [self._loss(batch).item() for batch in self.batches]

    def train(self):
        """One pass over the batches; the last loss."""
        self.model.train()
        for batch in self.batches:
            self.optimizer.zero_grad()
            loss = self._loss(batch)
            loss.backward()
            self.optimizer.step()
        return loss.item()

    def multiply(self, matrix):
        """The matrix times itself."""
        tensor = self.torch.from_numpy(matrix)
        return (tensor @ tensor)[0, 0].item()

    def _loss(self, batch):
        logits = self.model(
            input_ids=batch.source, attention_mask=batch.source != PAD, decoder_input_ids=batch.target,
            use_cache=False).logits
        return self.torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), ignore_index=PAD, label_smoothing=LABEL_SMOOTHING)


def make_batches(vocabulary_size):
    """One batch for each quarter of the tokens, shortest first."""
    random = np.random.default_rng(0)
    target = draw_lengths(random, 20_000, mean=19.5)
    source = np.clip(np.round(target + random.normal(0.0, 3.0, 20_000)), 5, 40).astype(int)
    longer = np.maximum(source, target)
    order = np.argsort(longer, kind="stable")
    quarters = np.cumsum(longer[order]) * 4 // (longer.sum() + 1)
    batches = []
    for quarter in range(4):
        pairs = order[quarters == quarter]
        chosen = random.choice(pairs, BATCH_TOKENS // longer[pairs].max(), replace=False)
        sources, targets = (
            [random.integers(4, vocabulary_size, length - 1) for length in lengths[chosen]]
            for lengths in (source, target))
        batches.append(TrainingBatch(
            pad([[*row, EOS] for row in sources]), pad([[BOS, *row] for row in targets]),
            pad([[*row, EOS] for row in targets])))
    return batches


def training_operations(size, batches):
    """Floating-point operations of one pass over the batches: three times those of the forward pass on real tokens."""
    units, layers = size.units, size.layers
    feed_forward = 4 * units * size.feed_forward_units
    per_source = layers * (8 * units**2 + feed_forward + 4 * units**2)  # the last: keys and values for the decoder
    per_target = layers * (12 * units**2 + feed_forward) + 2 * units * size.vocabulary_size
    total = 0
    for batch in batches:
        sources, targets = (np.sum(ids != PAD, 1) for ids in (batch.source, batch.labels))
        scores = sources**2 + targets**2 + sources * targets  # and mixing the values takes as many again
        total += per_source * sources.sum() + per_target * targets.sum() + layers * 4 * units * scores.sum()
    return 3 * int(total)


def peak(workers, steps=2048, repeats=10):
    """Operations a second of a large matrix product, the best of several sides."""
    matrix = np.random.default_rng(0).normal(size=(steps, steps)).astype(np.float32)
    return max(
        2 * steps**3 / min(worker.ask("multiply", matrix)[1] for _ in range(repeats)) for worker in workers)


def start_sides(name, batches, jit_compile):
    """Workers by label, ours first."""
    size = SIZES[name]
    sides = {
        "ours": Worker("tests.benchmarks.train:Ours", size, batches, jit_compile),
        "Transformers": Worker("tests.benchmarks.train:Theirs", size, batches)}
    if "OPENNMT_TF_PYTHON" in os.environ:
        lists = [TrainingBatch(*(ids.tolist() for ids in batch)) for batch in batches]  # for another NumPy
        sides["OpenNMT-tf"] = Worker(
            "tests.benchmarks.rivals.opennmt_training:OpenNMTTraining", size, lists, SETTINGS,
            python=os.environ["OPENNMT_TF_PYTHON"])
    return sides


def check(sides):
    """Makes all sides do the same work.

    Raises:
        ValueError: their losses or numbers of parameters differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "weights.npz")
        sides["Transformers"].ask("save_weights", path)
        for label, worker in sides.items():
            if label != "Transformers":
                worker.ask("set_weights", path)
    # OpenNMT-tf's norms have another epsilon, see `rivals.opennmt_tf`.
    for method, tolerance in (("count_parameters", 0), ("losses", 1e-4)):
        found = {label: worker.ask(method)[0] for label, worker in sides.items()}
        if not all(np.allclose(found["ours"], other, rtol=tolerance, atol=0) for other in found.values()):
            raise ValueError(f"All sides need the same {method}. Received: {found}.")


def compare(name, turns, jit_compile):
    """Prints one size's results."""
    size = SIZES[name]
    batches = make_batches(size.vocabulary_size)
    tokens = sum(int(np.sum(batch.labels != PAD)) for batch in batches)
    operations = training_operations(size, batches)
    sides = start_sides(name, batches, jit_compile)
    check(sides)
    for worker in [*sides.values()] * 2:  # warm-up: two steps of each shape
        worker.ask("train")
    best = peak([sides["ours"], sides["Transformers"]])
    shapes = ", ".join(f"{len(batch.target)} x {batch.target.shape[1]}" for batch in batches)
    print(f"{name}: batches {shapes}, {tokens:,} real target tokens; matmul {best / 1e9:.0f} GFLOP/s", flush=True)
    seconds = {label: [] for label in sides}
    for turn in range(turns):
        for label, worker in sides.items():
            seconds[label].append(worker.ask("train")[1])
        print(f"  turn {turn + 1}: " + ", ".join(
            f"{label} {tokens / each[-1]:,.0f} tokens/s" for label, each in seconds.items()), flush=True)
    for worker in sides.values():
        worker.stop()
    ours = np.array(seconds["ours"])
    for label, each in seconds.items():
        median = np.median(each)
        print(
            f"{name}{', XLA' if jit_compile else ''}: {label} {tokens / median:,.0f} tokens/s, "
            f"{operations / median / best:.0%} of the matmul peak, time / ours {np.median(each / ours):.2f}",
            flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=SIZES, default=["small", "base"])
    parser.add_argument("--turns", type=int, default=5, help="passes of each side; the ratio is the median")
    parser.add_argument("--jit-compile", action="store_true", help="train ours under XLA")
    arguments = parser.parse_args()
    for chosen in arguments.sizes:
        compare(chosen, arguments.turns, arguments.jit_compile)
