"""Decoders of tensorflow-addons, converted, against what it gave for them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.converters.theirs import fixture_folder
from tfseq2seq import converters
from tfseq2seq.config import parse_recipe
from tfseq2seq.converters import ConversionError
from tfseq2seq.converters.addons import load_decoder
from tfseq2seq.converters.base import assign
from tfseq2seq.decoding import search
from tfseq2seq.decoding.processors import free_end_at
from tfseq2seq.model import build_model
from tfseq2seq.structures import BOS, EOS, PAD, AttentionMemory, RecurrentState


class Loaded:
    def __init__(self, name):
        folder = fixture_folder("tfa")
        self.about = json.loads((folder / f"{name}.json").read_text())
        self.expected = np.load(folder / f"{name}.expected.npz")
        self.model, self.ids = load_decoder(str(folder / f"{name}.json"))
        memory, lengths = self.expected["memory"], self.expected["memory_lengths"]
        self.mask = np.arange(memory.shape[1]) < lengths[:, None]
        keys, values = self.model.decoder.attention.project(tf.constant(memory))
        self.memory = AttentionMemory(keys, values, tf.constant(self.mask))
        rows = len(memory)
        # What a decoder of this shape starts with.
        encoded = self.model.encode(tf.fill([rows, 1], EOS))._replace(
            memory=tf.constant(memory), mask=tf.constant(self.mask))
        feed = self.model.start(encoded)[1].feed
        states = tuple(
            tuple(tf.constant(self.expected[f"initial_state/cell{i}/{part}"]) for part in "hc")
            for i in range(self.about["options"]["layers"]))
        self.state = RecurrentState(states, feed)

    def theirs(self, rows):
        """Rows of their ids, each up to its end, in ours."""
        end = self.about["options"]["end_id"]
        rows = [row.tolist() for row in rows]
        return [self.ids.ours[row[: row.index(end)] if end in row else row].tolist() for row in rows]

    def search(self, **options):
        model, most = self.model, self.about["options"]["maximum_iterations"] + 1

        @tf.function(autograph=False)
        def run():
            return search(
                model.stepper(), self.state, self.memory, batch_size=len(self.mask),
                vocabulary_size=len(self.ids.rows), source_mask=tf.constant(self.mask),
                max_length=most, count_forced_end=False, reshapers=[free_end_at(most)], **options)

        return run()


@pytest.fixture(scope="module", params=["bahdanau_normed", "luong_scaled"])
def loaded(request):
    return Loaded(request.param)


def test_the_logits_and_the_attention_are_theirs(loaded):
    expected = loaded.expected
    ids, lengths = expected["teacher_forced/input_ids"], expected["teacher_forced/lengths"]
    ours = tf.constant(np.concatenate([np.full([len(ids), 1], BOS), loaded.ids.ours[ids[:, 1:]]], 1), tf.int32)
    assert (ids[:, 0] == loaded.about["options"]["start_id"]).all()
    output, attention = loaded.model.decoder(
        loaded.model.embed_target(ours), loaded.state, loaded.memory, training=False)
    logits = loaded.model.output_layer(output).numpy()[:, :, loaded.ids.ours]
    for b, length in enumerate(lengths):
        theirs = expected["teacher_forced/logits"][b, :length]
        np.testing.assert_allclose(logits[b, :length], theirs, atol=1e-5 * np.abs(theirs).max())
        np.testing.assert_allclose(
            attention[b, :length], expected["teacher_forced/alignments"][b, :length], atol=1e-5)


def test_the_search_finds_theirs(loaded):
    greedy = loaded.search(beam_size=1, length_penalty=0.0)
    lengths = loaded.expected["greedy/lengths"]
    rows = [row[:n] for row, n in zip(loaded.expected["greedy/sample_id"], lengths, strict=True)]
    found = [[id_ for id_ in row if id_ not in (PAD, EOS)] for row in greedy.tokens[:, 0].numpy().tolist()]
    # An answer that is cut has one token less than there is room for: the forced end takes a step.
    assert found == loaded.theirs(rows)
    for name, run in loaded.about["beam_runs"].items():
        width, alpha, beta = (
            run[key] for key in ("beam_width", "length_penalty_weight", "coverage_penalty_weight"))
        answers = loaded.search(
            beam_size=width, num_hypotheses=width, length_penalty=alpha, coverage_penalty=beta, finish="shared")
        for b in range(len(lengths)):
            ours = [[id_ for id_ in row if id_ not in (PAD, EOS)] for row in answers.tokens[b].numpy().tolist()]
            theirs = loaded.theirs(loaded.expected[f"{name}/predicted_ids"][b].T)
            # Late changes of places show in their scores but not in their ids.
            assert sorted(ours) == sorted(theirs), (name, b)
            if alpha == beta == 0:
                assert ours == theirs


OPTIONS = {
    "attention": "luong", "embedding": 3, "units": 8, "layers": 1, "attention_layer_size": None, "attention_units": 8,
    "output_attention": False, "start_id": 1, "end_id": 2, "memory_depth": 8, "source_vocabulary": "words",
    "target_vocabulary": "words", "encoder": {"layers": 1, "units": 4, "bidirectional": True}}


def write(folder, options=None, leave_out=(), **more):
    """A model of random weights; its encoder in Keras."""
    random = np.random.default_rng(0)
    shapes = {
        "source_embedding": (6, 3), "embedding": (6, 3), "attention/memory_layer/kernel": (8, 8),
        "output/kernel": (8, 6)}
    for name, inputs, units in (("encoder/forward0", 3, 4), ("encoder/backward0", 3, 4), ("cell0", 3 + 8, 8)):
        shapes |= {f"{name}/kernel": (inputs, 4 * units), f"{name}/recurrent_kernel": (units, 4 * units),
                   f"{name}/bias": (4 * units,)}
    arrays = {
        name: random.normal(size=shape).astype(np.float32) for name, shape in {**shapes, **more}.items()
        if name not in leave_out}
    (folder / "words").write_text("\n".join(["<unk>", "<s>", "</s>", "a", "b", "c"]) + "\n")
    (folder / "mine.json").write_text(json.dumps({"options": {**OPTIONS, **(options or {})}}))
    np.savez(folder / "mine.weights.npz", **arrays)
    return arrays


def convert(folder):
    return converters.convert("addons", str(folder / "mine.json"))


def test_a_model_with_its_encoder_becomes_a_run(tmp_path):
    arrays = write(tmp_path)
    conversion = convert(tmp_path)
    run = parse_recipe({**conversion.tables, "name": "mine", "data": {
        **conversion.tables["data"], "tokenizers_from": "."}})
    model = build_model(run.model, 8, 8)
    assign(model, conversion.weights)
    layer = keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))
    layer.build((None, None, 3))
    layer.set_weights([arrays[f"encoder/{way}0/{name}"] for way in ("forward", "backward") for name in (
        "kernel", "recurrent_kernel", "bias")])
    expected = layer(arrays["source_embedding"][[[3, 5, 4]]])
    (row,) = conversion.source_tokenizer.encode(tf.constant(["a c b"])).to_list()
    memory = model.encode(tf.constant([[*row, EOS]])).memory
    np.testing.assert_allclose(memory[:, :3], expected, atol=1e-6)
    assert run.model.decoder.attentional_vector == "context" and run.model.decoder.output == "state"


@pytest.mark.parametrize(("arguments", "message"), [
    ({"leave_out": ["source_embedding"]}, "holds a decoder alone"),
    ({"leave_out": ["cell0/bias"]}, "the weight cell0/bias is missing"),
    ({"odd": (2,)}, "1 weights have no place .* odd"),
    ({"options": {"attention": "monotonic"}}, "attention must be one of 'luong', 'bahdanau' .* 'monotonic'"),
    ({"options": {"target_vocabulary": None}}, "the options need target_vocabulary"),
])
def test_what_does_not_fit_is_named(arguments, message, tmp_path):
    write(tmp_path, **arguments)
    with pytest.raises(ConversionError, match=message):
        convert(tmp_path)


def test_pickled_arrays_are_never_read(tmp_path):
    write(tmp_path)
    np.savez(tmp_path / "mine.weights.npz", embedding=np.array([{}], object))
    with pytest.raises(ConversionError, match="plain arrays"):
        convert(tmp_path)
