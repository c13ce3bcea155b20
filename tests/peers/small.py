"""Small models of Transformers, drawn at random and then trained for a moment, and what tests of searches share.

Random weights alone repeat one token up to the limit. After a hundred steps on pairs that cannot be learned for certain
(a source's tokens in reverse under another name, every fifth a random one, some of them twice), outputs end after some
two to twelve tokens, differ between sources, and beams have something to decide.
"""

import numpy as np
import tensorflow as tf
import torch
import transformers
from transformers.models.marian import modeling_marian

from tests.peers import copying
from tfseq2seq.decoding import search
from tfseq2seq.model import Seq2Seq
from tfseq2seq.structures import BOS, EOS, PAD, UNK

VOCABULARY, UNITS, HEADS, INNER, LAYERS, LONGEST = 24, 16, 4, 24, 2, 24
WORDS = VOCABULARY - 4  # ids that are no special token
_SIZES = {
    "vocab_size": VOCABULARY, "d_model": UNITS, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
    "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER, "dropout": 0.0, "tie_word_embeddings": False, "pad_token_id": PAD, "bos_token_id": BOS,
    "eos_token_id": EOS, "decoder_start_token_id": BOS, "forced_eos_token_id": None, "max_position_embeddings": 64,
    "attn_implementation": "eager"}


def make_marian():
    """A `MarianMTModel` with our waves and epsilon."""
    torch.manual_seed(1)
    model = transformers.MarianMTModel(
        transformers.MarianConfig(activation_function="swish", scale_embedding=True, **_SIZES))
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
        if isinstance(module, modeling_marian.MarianSinusoidalPositionalEmbedding):
            module.weight.data = torch.tensor(copying.interleaved_waves(module.create_weight().numpy()))
    return _train(model)


def make_bart():
    """A `BartForConditionalGeneration`."""
    torch.manual_seed(2)
    return _train(transformers.BartForConditionalGeneration(transformers.BartConfig(**_SIZES)))


def _train(model, steps=120, batch_size=64):
    """Trains the model; PAD, UNK and BOS are never produced from then on."""
    torch.set_num_threads(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad and "norm" not in name and weight.dim() > 1:
                weight.normal_(0.0, 0.25)
    random, optimizer = np.random.default_rng(3), torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(steps):
        source = random_sources(step, batch_size)
        target = np.full([batch_size, 12], PAD)
        for row, line in zip(target, source, strict=True):
            words = [(7 * (word - 4) + 3) % WORDS + 4 for word in line[line > EOS][::-1]]
            words = [word if random.random() < 0.8 else random.integers(4, VOCABULARY) for word in words]
            words = [word for word in words for _ in range(1 + (random.random() < 0.15))][:10]
            row[: len(words) + 2] = [BOS, *words, EOS]
        target = torch.tensor(target)
        logits = model(**as_inputs(source), decoder_input_ids=target[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.final_logits_bias[0, [PAD, UNK, BOS]] = -1e4
    return model.eval()


def random_sources(seed, count):
    """[B, S] ids of 1 to 8 tokens, ended by EOS, then PAD."""
    random = np.random.default_rng(seed)
    source = np.full([count, 9], PAD, np.int32)
    for row in source:
        length = random.integers(1, 9)
        row[:length] = random.integers(4, VOCABULARY, length)
        row[length] = EOS
    return source


def as_inputs(source):
    """What a model of Transformers reads of sources [B, S]."""
    return {"input_ids": torch.tensor(source), "attention_mask": torch.tensor(source != PAD)}


def make_ours(marian):
    """Our `Seq2Seq` with the weights of `make_marian`."""
    table = {
        "kind": "transformer", "layers": LAYERS, "units": UNITS, "heads": HEADS, "feed_forward_units": INNER,
        "activation": "swish", "norm": "post", "dropout": 0.0}
    model = Seq2Seq(
        {"embedding_units": UNITS, "share_embeddings": "none", "encoder": table, "decoder": table}, VOCABULARY,
        VOCABULARY)
    weights = copying.named_arrays(marian)
    copying.set_marian(model, weights)
    copying.set_untied(model, weights)
    return model


def search_ours(model, source, **options):
    """Our search with our model, run eagerly: for each source its hypotheses (tokens with EOS, score), best first."""
    memory, state = model.start(model.encode(tf.constant(source)))
    return _search(model.step, state, memory, source, options)


def search_theirs(model, source, **options):
    """Our search with a model of Transformers as its step function."""
    memory = encode_theirs(model, source, source != PAD)
    return _search(history_step(model), no_history(source), memory, source, options)


def encode_theirs(model, source, mask):
    """The memory that `history_step` reads, of sources [B, S] and which of their steps are real."""
    inputs = {"input_ids": torch.tensor(source), "attention_mask": torch.tensor(mask)}
    with torch.no_grad():
        return tf.constant(model.get_encoder()(**inputs).last_hidden_state.numpy()), tf.constant(mask)


def no_history(source):
    """The state of `history_step` before the first step."""
    return tf.zeros([len(source), 0], tf.int32)


def history_step(model, read=lambda history: history, write=lambda logits: logits):
    """A step function, for eager mode, that reads the whole history with a model of Transformers.

    Args:
        read: our ids to theirs.
        write: their logits to ours, [N, V].
    """
    def step(tokens, history, memory):
        history = tf.concat([history, tokens[:, None]], 1)
        hidden, mask = (torch.tensor(part.numpy()) for part in memory)
        beams = len(history) // len(mask)
        with torch.no_grad():
            logits = model(
                encoder_outputs=(hidden.repeat_interleave(beams, 0),), attention_mask=mask.repeat_interleave(beams, 0),
                decoder_input_ids=torch.tensor(read(history.numpy())).long()).logits[:, -1]
        return tf.constant(write(logits.numpy())), history, None

    return step


def _search(step, state, memory, source, options):
    options = {"max_length": LONGEST, **options}
    return as_lists(search(
        step, state, memory, batch_size=len(source), vocabulary_size=VOCABULARY, source_mask=tf.constant(source != PAD),
        **options))


def as_lists(found):
    """Of Hypotheses: for each source those that exist (tokens with EOS, score), best first."""
    tokens, scores, lengths = (leaf.numpy() for leaf in (found.tokens, found.scores, found.lengths))
    return [
        [(row[:length].tolist(), float(score)) for row, score, length in zip(*parts, strict=True) if length]
        for parts in zip(tokens, scores, lengths, strict=True)]


def assert_same(found, expected, scored=True, at_least=0.9):
    """The same tokens in the same order, and scores to 1e-4, of the sources whose expected outputs all end.

    Args:
        found, expected: for each source its hypotheses (tokens, score).
        at_least: share of the sources that must be among them.
    """
    whole = [row for row, each in enumerate(expected) if all(tokens[-1] == EOS for tokens, _ in each)]
    assert len(whole) >= at_least * len(expected)
    for row in whole:
        assert [tokens for tokens, _ in found[row]] == [tokens for tokens, _ in expected[row]]
    if scored:
        np.testing.assert_allclose(
            [score for row in whole for _, score in found[row]],
            [score for row in whole for _, score in expected[row]], atol=1e-4)
