"""The models that the contracts are tested over: every kind of encoder with every kind of decoder, then each option.

The first case of a kind bears its name and stands in a pair with the first case of every kind of the other side. A
further case shows what its kind can also do, and stands in one or two pairs. `PAIRS` names them all.
"""

import functools

import keras
import numpy as np
import pytest

from tfseq2seq.config import Model
from tfseq2seq.model import build_model
from tfseq2seq.structures import BOS, EOS, PAD

SOURCE_IDS, TARGET_IDS = 11, 10  # sizes of the vocabularies
PLAIN = {"units": 8, "layers": 2, "dropout": 0.0}
RECURRENT = {"kind": "recurrent", **PLAIN, "units": 4}  # two directions make it 8 wide
CONVOLUTIONAL = {"kind": "convolutional", **PLAIN, "max_positions": 16}
TRANSFORMER = {"kind": "transformer", **PLAIN, "heads": 2, "feed_forward_units": 16}
CONFORMER = {"kind": "conformer", **PLAIN, "heads": 2, "feed_forward_units": 16, "kernel_size": 5}
ATTENTIONAL = {"kind": "attentional", **PLAIN}
LEARNED = {"positions": "learned", "max_positions": 16}
# As other systems build it.
BARE = {
    "use_bias": False, "scale_attention": False, "head_units": 6, "waves": "timing", "first_position": 1,
    "normalize_embeddings": True, "epsilon": 1e-3}
DROPPED = {"dropout": 0.1, "dropout_per_sequence": True}

# Name -> the table of a recipe.
ENCODERS = {
    "recurrent": RECURRENT,
    "convolutional": CONVOLUTIONAL,
    "transformer": TRANSFORMER,
    "pyramidal": {"kind": "pyramidal", **PLAIN, "units": 4, "layers": 3},
    "conformer": {**CONFORMER},
    "subsampling": {"kind": "subsampling", **PLAIN},
    "sequence": {"kind": "sequence", "encoders": [{**CONVOLUTIONAL, "layers": 1}, {**RECURRENT, "layers": 1}]},
    "parallel": {"kind": "parallel", "encoders": [
        {**RECURRENT, "layers": 1}, {**TRANSFORMER, **LEARNED, "layers": 1}]},
    "recurrent-gru-one-way-residual-layer-norm-mean": {
        "kind": "recurrent", **PLAIN, **DROPPED, "cell": "gru", "bidirectional": False, "residual": True,
        "normalization": "layer", "pooling": "mean"},
    "recurrent-rms-norm-attentive": {**RECURRENT, "normalization": "rms", "pooling": "attentive"},
    "recurrent-max": {**RECURRENT, "cell": "gru", "dropout": 0.1, "pooling": "max"},
    "recurrent-merged-states": {**RECURRENT, "units": 8, "merge_states": True},
    "recurrent-apart-alternating-reset-before-residual": {
        **RECURRENT, "directions": "apart", "last_states": "alternating", "cell": "gru_reset_before", "residual": True,
        "residual_layers": 1, "dropout": 0.1},
    "recurrent-first-layer-both-ways-layer-norm-lstm": {
        **RECURRENT, "units": 8, "bidirectional_layers": 1, "last_states": "backward", "cell": "layer_norm_lstm"},
    "convolutional-kernel-5-max": {**CONVOLUTIONAL, "kernel_size": 5, "dropout": 0.1, "pooling": "max"},
    "convolutional-attentive": {**CONVOLUTIONAL, "layers": 1, "pooling": "attentive"},
    "transformer-post-norm-rms-norm-gelu-relative-max": {
        **TRANSFORMER, "norm": "post", "normalization": "rms", "activation": "gelu", "positions": "relative",
        "pooling": "max", "dropout": 0.1},
    "transformer-gated-swish-rotary-attentive": {
        **TRANSFORMER, "gated": True, "activation": "swish", "positions": "rotary", "pooling": "attentive",
        "attention_dropout": 0.1},
    "transformer-learned": {**TRANSFORMER, **LEARNED, "feed_forward_dropout": 0.1},
    "transformer-no-positions-gelu-tanh": {**TRANSFORMER, "positions": "none", "activation": "gelu_tanh"},
    "transformer-no-bias-unscaled-timing-normalized": {**TRANSFORMER, **BARE},
    "transformer-halves": {**TRANSFORMER, "waves": "halves", "first_position": 2},
    "pyramidal-gru-layer-norm-mean": {
        "kind": "pyramidal", **PLAIN, "units": 4, "cell": "gru", "normalization": "layer", "dropout": 0.1,
        "pooling": "mean"},
    "conformer-relative": {**CONFORMER, "positions": "relative", "dropout": 0.1, "pooling": "max"},
    "subsampling-once": {"kind": "subsampling", **PLAIN, "layers": 1, "pooling": "attentive", "dropout": 0.1},
    "subsampled-conformer-sinusoidal": {"kind": "sequence", "encoders": [
        {"kind": "subsampling", **PLAIN}, {**CONFORMER, "positions": "sinusoidal", "layers": 1}]},
    "sequence-of-three": {"kind": "sequence", "encoders": [
        {**RECURRENT, "layers": 1}, {**CONVOLUTIONAL, "layers": 1},
        {**TRANSFORMER, "layers": 1, "pooling": "attentive"}]},
    "parallel-with-states": {"kind": "parallel", "encoders": [
        {**RECURRENT, "layers": 1}, {**RECURRENT, "cell": "gru", "layers": 1}]},
}
DECODERS = {
    "recurrent": {**PLAIN, "kind": "recurrent"},
    "attentional": ATTENTIONAL,
    "transformer": TRANSFORMER,
    "recurrent-gru-residual-rms-norm-pooled": {
        **PLAIN, **DROPPED, "kind": "recurrent", "cell": "gru", "residual": True, "normalization": "rms",
        "bridge": "pooled"},
    "recurrent-copy": {**PLAIN, "kind": "recurrent", "bridge": "copy"},
    "recurrent-first-state-alone": {**PLAIN, "kind": "recurrent", "reads_context": False},
    "attentional-copy": {**ATTENTIONAL, "bridge": "copy"},
    "attentional-additive-gru-residual-layer-norm-pooled": {
        **ATTENTIONAL, "attention": "additive", "cell": "gru", "residual": True, "normalization": "layer",
        "bridge": "pooled", "dropout": 0.1},
    "attentional-normed-additive-input-feeding": {
        **ATTENTIONAL, **DROPPED, "attention": "normed_additive", "input_feeding": True, "residual": True},
    "attentional-dot-zero": {**ATTENTIONAL, "attention": "dot", "bridge": "zero"},
    "attentional-scaled-dot-dense": {**ATTENTIONAL, "attention": "scaled_dot", "bridge": "dense"},
    "attentional-concat": {**ATTENTIONAL, "attention": "concat", "layers": 1},
    "attentional-location": {**ATTENTIONAL, "attention": "location", "location_width": 3},
    "attentional-coverage": {**ATTENTIONAL, "attention": "coverage"},
    "attentional-location-input-feeding": {
        **ATTENTIONAL, "attention": "location", "location_width": 3, "input_feeding": True, "dropout": 0.1},
    "attentional-multi-head-input-feeding": {
        **ATTENTIONAL, "attention": "multi_head", "heads": 2, "input_feeding": True, "cell": "gru"},
    "attentional-scaled-general-linear-copy": {
        **ATTENTIONAL, "units": 4, "layers": 4, "cell": "gru_reset_before", "bridge": "copy", "input_feeding": True,
        "attention": "scaled_general", "attentional_units": 6, "attentional_activation": "none",
        "attentional_bias": True},
    "attentional-bottom-previous-context-state": {
        **ATTENTIONAL, **DROPPED, "cell": "layer_norm_lstm", "bridge": "copy", "input_feeding": True,
        "attention": "additive", "attention_units": 6, "attention_bias": True, "attending_layer": "bottom",
        "upper_context": "current", "attentional_vector": "context", "output": "state", "residual": True,
        "residual_layers": 1},
    "transformer-post-norm-gelu-rotary": {
        **TRANSFORMER, "norm": "post", "activation": "gelu", "positions": "rotary", "dropout": 0.1},
    "transformer-rms-norm-gated-relative": {
        **TRANSFORMER, "normalization": "rms", "gated": True, "activation": "swish", "positions": "relative"},
    "transformer-learned": {**TRANSFORMER, **LEARNED, "attention_dropout": 0.1},
    "transformer-no-positions-gelu-tanh": {
        **TRANSFORMER, "positions": "none", "activation": "gelu_tanh", "feed_forward_dropout": 0.1},
    "transformer-no-bias-unscaled-timing-normalized": {**TRANSFORMER, **BARE},
    "transformer-halves": {**TRANSFORMER, "waves": "halves", "first_position": 2},
}
# What is tied, where a pair's name has it; both sides then have one vocabulary, as they have for copying.
TIED = ("source_target", "target_output", "all")
COPYING = "copying"
COPY_SLOTS = 2


def first_of_each_kind(cases):
    """Names of the first case of each kind."""
    return list({table["kind"]: name for name, table in reversed(cases.items())}.values())[::-1]


KIND_PAIRS = [
    f"{encoder}+{decoder}" for encoder in first_of_each_kind(ENCODERS) for decoder in first_of_each_kind(DECODERS)]
# Each kind of encoder and of decoder, for what takes long.
FEW_PAIRS = [
    "recurrent+recurrent", "convolutional+attentional", "transformer+transformer", "sequence+transformer",
    "pyramidal+attentional", "conformer+transformer", "subsampling+recurrent", "parallel+attentional"]
PAIRS = [
    *KIND_PAIRS,
    "recurrent-gru-one-way-residual-layer-norm-mean+recurrent-gru-residual-rms-norm-pooled",
    "recurrent-rms-norm-attentive+recurrent",
    "recurrent-max+attentional-additive-gru-residual-layer-norm-pooled",
    "recurrent-merged-states+recurrent-copy",
    "recurrent-merged-states+attentional-copy",
    "recurrent+attentional-scaled-dot-dense+source_target",
    "recurrent+attentional-normed-additive-input-feeding+all",
    "recurrent-apart-alternating-reset-before-residual+attentional-scaled-general-linear-copy",
    "recurrent-first-layer-both-ways-layer-norm-lstm+attentional-bottom-previous-context-state",
    "recurrent+recurrent-first-state-alone",
    "convolutional-kernel-5-max+recurrent+target_output",
    "convolutional-attentive+recurrent-gru-residual-rms-norm-pooled",
    "transformer-post-norm-rms-norm-gelu-relative-max+transformer-post-norm-gelu-rotary",
    "transformer-gated-swish-rotary-attentive+recurrent",
    "transformer-learned+attentional-dot-zero",
    "transformer-no-positions-gelu-tanh+transformer-no-positions-gelu-tanh",
    "transformer+transformer-learned+all",
    "transformer-no-bias-unscaled-timing-normalized+transformer-no-bias-unscaled-timing-normalized",
    "transformer-halves+transformer-halves",
    "pyramidal-gru-layer-norm-mean+attentional-location-input-feeding",
    "conformer-relative+transformer-rms-norm-gated-relative",
    "subsampling-once+recurrent",
    "subsampled-conformer-sinusoidal+attentional-location",
    "sequence-of-three+attentional-concat",
    "parallel-with-states+transformer-rms-norm-gated-relative",
    "parallel-with-states+attentional-multi-head-input-feeding",
    "recurrent+attentional-coverage+copying",
    "transformer+transformer+all+copying",
]
EACH_CASE = FEW_PAIRS + PAIRS[len(KIND_PAIRS) :]  # each encoder and each decoder at least once
# Search sees of an encoder only what the decoder makes of it: each decoder, and whatever copies.
DECODER_PAIRS = [
    *{pair.split("+")[1]: pair for pair in reversed(PAIRS)}.values(), *(pair for pair in PAIRS if COPYING in pair)]
SEARCHED_PAIRS = list(dict.fromkeys([*FEW_PAIRS, *DECODER_PAIRS, *KIND_PAIRS]))

# An EOS inside is one more token to all but the parallel encoder, which begins its next source there.
SOURCE = np.array([[4, 5, EOS, 6, 7, EOS], [8, EOS, 9, EOS, PAD, PAD]], np.int32)
TARGET = np.array([[BOS, 4, 5, 6], [BOS, 7, PAD, PAD]], np.int32)
LABELS = np.array([[4, 5, 6, EOS], [7, EOS, PAD, PAD]], np.int32)


def others_slowly(pairs, few):
    """The pairs as parameters of a test; those that are not among `few` take their time with `pytest -m slow`."""
    return [pair if pair in few else pytest.param(pair, marks=pytest.mark.slow) for pair in pairs]


def model_config(pair):
    """`tfseq2seq.config.Model` of a pair."""
    encoder, decoder, *more = pair.split("+")
    tied = [each for each in more if each in TIED]
    return Model(
        embedding_units=6, share_embeddings=tied[0] if tied else "none", encoder=ENCODERS[encoder],
        decoder=DECODERS[decoder], copying=COPYING in more, copy_slots=COPY_SLOTS)


def make(pair, precision="float32"):
    """A model of a pair's own, the same at every call.

    No weight is left at 0 or 1, as many are at first: a bias or scale that a path forgets must show.
    """
    keras.utils.set_random_seed(1)
    one_vocabulary = pair.endswith((*TIED, COPYING))
    model = build_model(model_config(pair), TARGET_IDS if one_vocabulary else SOURCE_IDS, TARGET_IDS, precision)
    random = np.random.default_rng(2)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(0.0, 0.2, variable.shape))
    return model


@functools.cache
def shared(pair):
    """The pair's model that all tests share, which must leave it as it is."""
    return make(pair)
