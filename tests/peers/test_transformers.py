"""Our layers, stacks and a whole model against those of Transformers, with their weights."""

import numpy as np
import pytest
import tensorflow as tf

from tests.peers import copying
from tfseq2seq.decoders import TransformerDecoder
from tfseq2seq.encoders import TransformerEncoder
from tfseq2seq.layers.multihead import CrossAttention, SelfAttention, causal_bias, padding_bias
from tfseq2seq.layers.normalization import NORMALIZATIONS
from tfseq2seq.layers.padding import RealSteps
from tfseq2seq.layers.positions import RelativeBias, rotate
from tfseq2seq.layers.transformer import TransformerLayer
from tfseq2seq.model import Seq2Seq

REASON = "needs PyTorch and Transformers: see tests/peers/README.md"
torch = pytest.importorskip("torch", reason=REASON)
transformers = pytest.importorskip("transformers", reason=REASON)
t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason=REASON)
llama = pytest.importorskip("transformers.models.llama.modeling_llama", reason=REASON)
marian = pytest.importorskip("transformers.models.marian.modeling_marian", reason=REASON)
pytestmark = pytest.mark.peers

HEADS, UNITS, INNER, LAYERS = 4, 16, 24, 2
RANDOM = np.random.default_rng(0)
SOURCE = RANDOM.normal(size=(3, 7, UNITS)).astype(np.float32)  # [B, S, D]
SOURCE_MASK = np.arange(7) < np.array([[7], [3], [5]])
TARGET = RANDOM.normal(size=(3, 6, UNITS)).astype(np.float32)  # [B, T, D]
TARGET_MASK = np.arange(6) < np.array([[6], [4], [1]])
LATER = np.triu(np.full([6, 6], -1e9, np.float32), 1)[None, None]  # added to the scores


def randomize(module):
    """Draws every weight anew: norms start at 1 and biases at 0, where a mistake would not show."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(0.1, 0.3, generator=generator)
    return module.eval()


def attention_bias(mask):
    """[B, S] bool to what Transformers adds to scores."""
    return torch.tensor(np.where(mask, 0.0, -1e9).astype(np.float32)[:, None, None])


def assert_same(found, expected, mask):
    """On real steps; what a peer leaves on padding is its own affair."""
    np.testing.assert_allclose(found.numpy()[mask], expected.detach().numpy()[mask], atol=1e-5)


def t5_config():
    """T5 v1.1's."""
    return transformers.T5Config(
        vocab_size=8, d_model=UNITS, d_kv=UNITS // HEADS, d_ff=INNER, num_layers=LAYERS, num_heads=HEADS,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, attn_implementation="eager")


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("num_buckets, max_distance", [(32, 128), (8, 20)])
def test_every_distance_has_t5s_bucket(bidirectional, num_buckets, max_distance):
    offsets = np.arange(-300, 301)
    layer = RelativeBias(HEADS, bidirectional, num_buckets, max_distance)
    expected = t5.T5Attention._relative_position_bucket(
        torch.tensor(offsets), bidirectional, num_buckets, max_distance)
    np.testing.assert_array_equal(layer.buckets(tf.constant(offsets, tf.int32)), expected.numpy())


def test_the_relative_bias_is_t5s():
    twin = randomize(t5.T5Attention(t5_config(), has_relative_attention_bias=True))
    layer = RelativeBias(HEADS, bidirectional=True)
    copying.set_relative_bias(layer, copying.named_arrays(twin)["relative_attention_bias.weight"])
    np.testing.assert_allclose(
        layer(tf.range(6), tf.range(200)), twin.compute_bias(6, 200)[0].detach().numpy(), atol=1e-6)


def test_a_t5_encoder_and_decoder_are_ours():
    twin = randomize(t5.T5Model(t5_config()))
    weights = copying.named_arrays(twin)
    settings = {
        "layers": LAYERS, "units": UNITS, "heads": HEADS, "feed_forward_units": INNER,
        "activation": "gelu_tanh", "gated": True, "norm": "pre", "normalization": "rms", "positions": "relative"}
    encoder, decoder = TransformerEncoder(**settings), TransformerDecoder(**settings)
    for stack, side in ((encoder.stack, "encoder"), (decoder.stack, "decoder")):
        for number, layer in enumerate(stack.blocks):
            copying.set_t5_layer(layer, copying.part(weights, f"{side}.block.{number}"), HEADS)
        copying.set_normalization(stack.normalize, copying.part(weights, f"{side}.final_layer_norm"))
        copying.set_relative_bias(
            stack.relative, weights[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"])
    expected = twin(
        inputs_embeds=torch.tensor(SOURCE), attention_mask=torch.tensor(SOURCE_MASK),
        decoder_inputs_embeds=torch.tensor(TARGET), decoder_attention_mask=torch.tensor(TARGET_MASK))
    encoded = encoder(tf.constant(SOURCE), mask=tf.constant(SOURCE_MASK))
    memory, state = decoder.start(encoded)
    output, _ = decoder(tf.constant(TARGET), state, memory, mask=tf.constant(TARGET_MASK))
    assert_same(encoded.memory, expected.encoder_last_hidden_state, SOURCE_MASK)
    assert_same(output, expected.last_hidden_state, TARGET_MASK)


@pytest.mark.parametrize("peer", ["T5LayerNorm", "LlamaRMSNorm"])
def test_the_rms_norm_is_theirs(peer):
    twin = randomize(getattr(t5 if peer.startswith("T5") else llama, peer)(UNITS, eps=1e-6))
    layer = NORMALIZATIONS["rms"]()
    copying.set_normalization(layer, copying.named_arrays(twin))
    small = 1e-2 * SOURCE
    assert_same(layer(tf.constant(small)), twin(torch.tensor(small)), np.ones_like(SOURCE_MASK))


def llama_config():
    return transformers.LlamaConfig(
        vocab_size=8, hidden_size=UNITS, intermediate_size=INNER, num_hidden_layers=1, num_attention_heads=HEADS,
        rms_norm_eps=1e-6, attn_implementation="eager")


def test_rotary_positions_are_llamas():
    query, keys = (RANDOM.normal(size=(2, HEADS, 50, 8)).astype(np.float32) for _ in range(2))
    config = llama_config()
    config.head_dim = 8
    cosine, sine = llama.LlamaRotaryEmbedding(config)(torch.tensor(query), torch.arange(50)[None])
    expected = llama.apply_rotary_pos_emb(torch.tensor(query), torch.tensor(keys), cosine, sine)
    for vectors, turned in zip((query, keys), expected, strict=True):
        np.testing.assert_allclose(rotate(tf.constant(vectors), tf.range(50)), turned.numpy(), atol=1e-5)


def test_a_llama_layer_is_ours():
    config = llama_config()
    twin = randomize(llama.LlamaDecoderLayer(config, layer_idx=0))
    weights = copying.named_arrays(twin)
    layer = TransformerLayer(
        UNITS, HEADS, INNER, "swish", gated=True, norm="pre", normalization="rms", rotary=True)
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    copying.set_self_attention(
        layer.self_attention, copying.named_attention(copying.part(weights, "self_attn"), names))
    copying.set_normalization(layer.self_residual.normalize, copying.part(weights, "input_layernorm"))
    copying.set_normalization(layer.feed_residual.normalize, copying.part(weights, "post_attention_layernorm"))
    mlp = copying.part(weights, "mlp")
    copying.set_linear(layer.feed_forward.expand, copying.part(mlp, "gate_proj"), copying.part(mlp, "up_proj"))
    copying.set_linear(layer.feed_forward.contract, copying.part(mlp, "down_proj"))
    target = torch.tensor(TARGET)
    expected = twin(
        target, attention_mask=torch.tensor(LATER),
        position_embeddings=llama.LlamaRotaryEmbedding(config)(target, torch.arange(6)[None]))
    steps = RealSteps(tf.constant(TARGET_MASK))
    rows, _ = layer.read(steps.pack(tf.constant(TARGET)), steps, causal_bias(6), tf.range(6))
    assert_same(steps.unpack(rows), expected, TARGET_MASK)


def marian_config(**options):
    return transformers.MarianConfig(
        d_model=UNITS, encoder_layers=LAYERS, decoder_layers=LAYERS, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=INNER, decoder_ffn_dim=INNER, activation_function="swish",
        dropout=0.0, scale_embedding=True, pad_token_id=0, eos_token_id=3, decoder_start_token_id=2,
        max_position_embeddings=64, attn_implementation="eager", **options)


def test_marians_attention_is_ours():
    twin = randomize(marian.MarianAttention(UNITS, HEADS, config=marian_config(), layer_idx=0))
    maps = copying.named_attention(copying.named_arrays(twin))
    within, across = SelfAttention(UNITS, HEADS), CrossAttention(UNITS, HEADS)
    copying.set_self_attention(within, maps)
    copying.set_cross_attention(across, maps)
    source, target = tf.constant(SOURCE), tf.constant(TARGET)
    steps, bias = RealSteps(tf.constant(SOURCE_MASK)), padding_bias(tf.constant(SOURCE_MASK))
    mixed, _ = within.attend(*within.split(within.project(source)), bias)
    expected, _ = twin(torch.tensor(SOURCE), attention_mask=attention_bias(SOURCE_MASK))
    assert_same(within.output(mixed), expected, SOURCE_MASK)
    mixed, _ = across.attend(across.query(target), *across.project(steps.pack(source), steps), bias)
    expected, _ = twin(
        torch.tensor(TARGET), key_value_states=torch.tensor(SOURCE), attention_mask=attention_bias(SOURCE_MASK))
    assert_same(across.output(mixed), expected, np.ones_like(TARGET_MASK))


def test_a_whole_marian_model_is_ours():
    size = 12
    twin = randomize(transformers.MarianMTModel(marian_config(vocab_size=size)))
    table = {
        "kind": "transformer", "layers": LAYERS, "units": UNITS, "heads": HEADS, "feed_forward_units": INNER,
        "activation": "swish", "norm": "post", "dropout": 0.0}
    model = Seq2Seq(
        {"embedding_units": UNITS, "share_embeddings": "all", "encoder": table, "decoder": table}, size, size)
    copying.set_marian(model, copying.named_arrays(twin))
    for module in twin.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
        if isinstance(module, marian.MarianSinusoidalPositionalEmbedding):
            waves = copying.interleaved_waves(module.create_weight().numpy())
            module.weight.data = torch.tensor(waves)
    source, target = (RANDOM.integers(4, size, mask.shape) * mask for mask in (SOURCE_MASK, TARGET_MASK))
    expected = twin(
        input_ids=torch.tensor(source), attention_mask=torch.tensor(SOURCE_MASK),
        decoder_input_ids=torch.tensor(target), decoder_attention_mask=torch.tensor(TARGET_MASK)).logits
    logits = model({"source": tf.constant(source, tf.int32), "target": tf.constant(target, tf.int32)})
    np.testing.assert_array_equal(model.count_parameters(), sum(
        weight.numel() for weight in twin.parameters() if weight.requires_grad))
    assert_same(logits, expected, TARGET_MASK)
