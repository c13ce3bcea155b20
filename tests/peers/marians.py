"""A small Marian of Transformers with random weights, and ours with the same ones: what the tests of searches share."""

import numpy as np
import tensorflow as tf
import torch
import transformers
from transformers.models.marian import modeling_marian

from tests.peers import copying
from tfseq2seq.model import Seq2Seq
from tfseq2seq.structures import BOS, EOS, PAD, UNK

VOCABULARY, UNITS, HEADS, INNER, LAYERS, LONGEST = 24, 16, 4, 24, 2, 24
SHARPNESS, END_BIAS = 0.6, 0.5  # of the logits, so that beams neither agree nor repeat one token up to the limit


def random_marian(seed):
    """Outputs differ between sources and end after 1 to some 20 tokens. PAD, UNK and BOS are never produced."""
    config = transformers.MarianConfig(
        vocab_size=VOCABULARY, d_model=UNITS, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER,
        activation_function="swish", dropout=0.0, scale_embedding=True, tie_word_embeddings=False,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, forced_eos_token_id=None,
        max_position_embeddings=64, attn_implementation="eager")
    model = transformers.MarianMTModel(config).eval()
    randomize(model, seed)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
        if isinstance(module, modeling_marian.MarianSinusoidalPositionalEmbedding):
            module.weight.data = torch.tensor(copying.interleaved_waves(module.create_weight().numpy()))
    return model


def randomize(model, seed):
    """Draws every weight anew; what ends an output, and what never may come, is the output's bias."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer_norm" in name or "layernorm" in name:
                weight.normal_(1.0 if name.endswith("weight") else 0.0, 0.2, generator=generator)
            elif weight.dim() == 1:
                weight.normal_(0.0, 0.1, generator=generator)
            else:
                weight.normal_(0.0, 0.5, generator=generator)
        model.lm_head.weight.normal_(0.0, SHARPNESS, generator=generator)
        model.final_logits_bias[0, [PAD, UNK, BOS]] = -1e4
        model.final_logits_bias[0, EOS] = END_BIAS


def ours(marian):
    """Our `Seq2Seq` with its weights."""
    table = {
        "kind": "transformer", "layers": LAYERS, "units": UNITS, "heads": HEADS, "feed_forward_units": INNER,
        "activation": "swish", "norm": "post", "dropout": 0.0}
    model = Seq2Seq(
        {"embedding_units": UNITS, "share_embeddings": "source_target", "encoder": table, "decoder": table},
        VOCABULARY, VOCABULARY)
    weights = copying.named_arrays(marian)
    copying.set_marian(model, weights)
    copying.set_output(model, weights["lm_head.weight"], weights["final_logits_bias"][0])
    return model


def random_sources(seed, count):
    """[B, S] ids of 2 to 8 tokens, ended by EOS, then PAD."""
    random = np.random.default_rng(seed)
    source = np.full([count, 9], PAD, np.int32)
    for row in source:
        length = random.integers(1, 9)
        row[: length] = random.integers(4, VOCABULARY, length)
        row[length] = EOS
    return source


def as_lists(found):
    """Of Hypotheses: for each source the token ids of its hypotheses that exist, EOS included, and their scores."""
    tokens, scores, lengths = (leaf.numpy() for leaf in (found.tokens, found.scores, found.lengths))
    return [
        [(row[:length].tolist(), float(score)) for row, score, length in zip(*parts, strict=True) if length]
        for parts in zip(tokens, scores, lengths, strict=True)]


def graph(model, **options):
    """`search` of our model as one traced function of the sources [B, S]."""
    from tfseq2seq.decoding import search

    @tf.function(autograph=False)
    def run(source):
        memory, state = model.start(model.encode(source))
        return search(
            model.step, state, memory, batch_size=tf.shape(source)[0], vocabulary_size=VOCABULARY,
            source_mask=source != PAD, max_length=LONGEST, **options)

    return lambda source: as_lists(run(tf.constant(source)))
