"""What other systems answered, as their fixtures hold it, and the same from what was converted."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq import converters
from tfseq2seq.config import parse_recipe
from tfseq2seq.converters.base import assign
from tfseq2seq.converters.transformers.generation import decode_table
from tfseq2seq.generation import Generator
from tfseq2seq.model import build_model
from tfseq2seq.structures import BOS, EOS, PAD


def fixture_folder(name):
    """A folder beside the data sets; the test is skipped where it is not there."""
    folder = Path(os.environ.get("TFSEQ2SEQ_DATA", "data")) / ".." / "fixtures" / name
    if not folder.is_dir():
        pytest.skip(f"needs the fixture {name} beside the folder that TFSEQ2SEQ_DATA names")
    return folder.resolve()


class Converted:
    """A Transformers fixture, converted, with what Transformers gave for it."""

    def __init__(self, name):
        self.folder = fixture_folder(name)
        self.expected = json.loads((self.folder / "expected.json").read_text(encoding="utf-8"))
        self.conversion = converters.convert("transformers", str(self.folder))
        self.run = parse_recipe({**self.conversion.tables, "name": name, "data": {
            **self.conversion.tables["data"], "tokenizers_from": "."}})
        self.source, self.target = self.conversion.source_tokenizer, self.conversion.target_tokenizer
        self.ids = self.conversion.their_ids
        self.padding = int(self.ids.rows[PAD])
        self.model = build_model(self.run.model, self.source.vocabulary_size, self.target.vocabulary_size)
        assign(self.model, self.conversion.weights)
        self.examples = self.expected["examples"]
        self.speech = "audio" in self.examples[0]
        self.texts = [
            str(self.folder / example["audio"]) if self.speech else example["text"] for example in self.examples]

    def sources(self):
        """[B, S] our ids of their padded batch, or features."""
        if self.speech:
            contents = tf.constant([(self.folder / example["audio"]).read_bytes() for example in self.examples])
            return self.source.read(contents, self.run.data.max_source_length)[0].numpy()
        batch = self.expected["padded_batch"]
        ids, mask = np.array(batch["input_ids"]), np.array(batch["attention_mask"])
        return np.where(mask == 1, self.ids.ours[ids], PAD)

    def encoded(self):
        return self.model.encode(tf.constant(self.sources(), tf.float32 if self.speech else tf.int32))

    def answers(self, run, folder=None):
        """What the search finds with the settings of a run of theirs: text, score and ids of each hypothesis.

        With a folder the search is saved there, loaded again, and that answers, from raw strings or recordings.
        """
        settings = self.expected["runs"][run]["settings"]
        prompt = self.conversion.prompt_length
        table = decode_table(settings, self.ids, 10_000, prompt)
        decode = parse_recipe({**self.run.model_dump(mode="json"), "decode": {
            **table, "num_hypotheses": table["beam_size"]}}).decode
        forced = settings.get("forced_bos_token_id")
        target = self.target.framed([] if forced is None else [int(self.ids.ours[forced])])
        if self.speech:
            target = self.target  # the prompt stands in every run
        generator = Generator(self.model, self.source, target, decode, 10_000)
        number = decode.beam_size

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
        def answer(texts):
            strings, _, found = generator._answers(texts, number, "greedy" if number == 1 else "beam")
            return {"text": strings["text"], "score": strings["score"], "tokens": found.tokens}

        texts = generator.load(self.texts)
        if folder is None:
            answered = answer(texts)
        else:
            module = tf.Module()
            module.generator = generator  # its variables and tables go along
            options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
            tf.saved_model.save(module, str(folder), signatures={"answer": answer}, options=options)
            answered = tf.saved_model.load(str(folder)).signatures["answer"](texts)
        return [answered[name].numpy() for name in ("text", "score", "tokens")]

    def theirs(self, ids):
        """Our ids of an answer of theirs, without the decoder's prompt and the end."""
        found = [int(self.ids.ours[id_]) for id_ in ids[self.conversion.prompt_length :]]
        return found[:-1] if found[-1] == EOS else found


def check_encoder(converted):
    """Largest difference from the moments and corners that are known, relative to the largest."""
    memory = converted.encoded().memory.numpy()
    worst = 0.0
    for row, example in zip(memory, converted.examples, strict=True):
        expected = example["encoder_output"]
        steps = expected["shape"][0]
        real = row[:steps]
        found = [real[0, :8] - expected["first8"], real[-1, -8:] - expected["last8"],
                 real.mean() - expected["mean"], real.std() - expected["std"]]
        assert np.abs(row[steps:]).max(initial=0) == 0
        worst = max(worst, max(np.abs(part).max() for part in found) / np.abs(real).max())
    return worst


def check_logits(converted):
    """Largest difference of the teacher-forced logits relative to the largest, and of the log-probabilities."""
    sources, worst, worst_probability = converted.sources(), 0.0, 0.0
    for each in converted.expected["teacher_forced"]:
        ids = [BOS, *converted.ids.ours[each["decoder_input_ids"][1:]]]
        source = sources[each["example"]]
        source = source[None] if converted.speech else source[source != PAD][None]
        inputs = {
            "source": tf.constant(source, tf.float32 if converted.speech else tf.int32),
            "target": tf.constant([ids], tf.int32)}
        logits = converted.model(inputs)[0].numpy()
        for row, expected in each["rows"].items():
            found = logits[int(row)][converted.ids.ours]
            worst = max(worst, np.abs(found - expected).max() / np.abs(expected).max())
        log_probabilities = tf.nn.log_softmax(logits).numpy()
        found = [log_probabilities[j, id_] for j, id_ in enumerate(ids[1:])]
        worst_probability = max(
            worst_probability, np.abs(np.array(found) - each["log_prob_next"][: len(found)]).max())
        np.testing.assert_array_equal(logits[:, converted.ids.ours].argmax(1), each["argmax"])
    return worst, worst_probability


def check_search(converted, run, folder=None):
    """Asserts that ids and texts are theirs; returns the largest difference of scores, relative to those above 1."""
    texts, scores, tokens = converted.answers(run, folder)
    worst = 0.0
    for i, example in enumerate(converted.examples):
        expected = example.get(run)
        if expected is None:
            continue
        single = isinstance(expected["text"], str)
        for j, ids in enumerate([expected["ids"]] if single else expected["ids"]):
            found = [id_ for id_ in tokens[i, j].tolist() if id_ not in (PAD, EOS)]
            found = found[converted.conversion.prompt_length - 1 :]
            assert found == converted.theirs(ids), (run, i, j)
            text = expected["text"] if single else expected["text"][j]
            assert texts[i, j].decode() == text, (run, i, j)
            padded = self_padded(converted, ids)
            if not single and not padded:
                score = expected["scores"][j]
                worst = max(worst, abs(scores[i, j] - score) / max(1.0, abs(score)))
    return worst


def self_padded(converted, ids):
    """Whether an answer has the padding token inside, whose positions Transformers does not count in M2M100."""
    return converted.expected["family"] == "m2m_100" and converted.padding in ids
