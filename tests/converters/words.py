"""A converted model whose text is cut at white space, and what it answers."""

import json
import tempfile

import numpy as np
import tensorflow as tf

from tests.converters.theirs import fixture_folder
from tfseq2seq import converters
from tfseq2seq.config import parse_recipe
from tfseq2seq.converters.base import assign
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.structures import BOS, EOS, PAD


def padded(rows):
    """Lists of ids to [N, T] int32."""
    return tf.ragged.constant([list(map(int, row)) for row in rows], tf.int32).to_tensor(PAD)


class Converted:
    """A fixture of a system, converted.

    Attributes:
        expected: what the other system gave, from expected.json.
        arrays: the same from teacher_forced.npz, where it lies there.

    Args:
        system: a name of `converters.SYSTEMS`.
        name: of a fixture, or a folder.
    """

    def __init__(self, system, name):
        self.folder = fixture_folder(name) if isinstance(name, str) else name
        self.conversion = converters.convert(system, str(self.folder))
        with tempfile.TemporaryDirectory() as folder:
            self.run = parse_recipe({**self.conversion.tables, "name": "imported", "data": {
                **self.conversion.tables["data"], "tokenizers_from": folder}})
        self.source, self.target = self.conversion.source_tokenizer, self.conversion.target_tokenizer
        self.ids = self.conversion.their_ids
        self.model = build_model(self.run.model, self.source.vocabulary_size, self.target.vocabulary_size)
        assign(self.model, self.conversion.weights)
        expected = self.folder / "expected.json"
        self.expected = json.loads(expected.read_text(encoding="utf-8")) if expected.exists() else {}
        arrays = self.folder / "teacher_forced.npz"
        self.arrays = np.load(arrays) if arrays.exists() else {}

    def read(self, lines):
        """Lines to source ids, ended by EOS."""
        return padded([[*row, EOS] for row in self.source.encode(tf.constant(lines)).to_list()])

    def logits(self, lines, targets):
        """[N, T, V'] teacher-forced logits in the order of their ids, of their target ids without start and end."""
        inputs = padded([[BOS, *self.ids.ours[row]] for row in targets])
        return self.model({"source": self.read(lines), "target": inputs}).numpy()[:, :, self.ids.ours]

    def answers(self, lines, **decode):
        """Hypotheses of the recipe's search with other values of [decode]."""
        table = {**self.run.decode.model_dump(mode="json"), **decode}
        table["num_hypotheses"] = number = table["beam_size"]
        run = parse_recipe({**self.run.model_dump(mode="json"), "decode": table})
        generator = Generator(self.model, self.source, self.target, run.decode, 1000)
        search = tf.function(
            lambda text: generator.hypotheses(text, number, "greedy" if number == 1 else "beam")[2], autograph=False,
            input_signature=[tf.TensorSpec([None], tf.string)])
        found = search(tf.constant(lines))
        return type(found)(*(leaf.numpy() for leaf in found))

    def ours(self, ids):
        return self.ids.ours[list(ids)].tolist()


def ids_of(found, row, place):
    """Ids of a hypothesis without the end."""
    return [id_ for id_ in found.tokens[row, place].tolist() if id_ not in (PAD, EOS)]
