"""Copies the weights of PyTorch modules into our layers.

Weights are dicts of NumPy arrays under PyTorch's names, as `named_arrays` gives them, so that nothing here needs torch.
A PyTorch map is [outputs, inputs] and ours [inputs, outputs]. A peer without a bias leaves ours at 0, where it starts.
"""

import numpy as np


def named_arrays(module):
    """A PyTorch module's weights."""
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def part(weights, prefix):
    """The weights of the submodule of a name."""
    return {name[len(prefix) + 1:]: value for name, value in weights.items() if name.startswith(f"{prefix}.")}


def set_linear(layer, *maps):
    """One map, or several whose outputs stand side by side, each {"weight": [outputs, inputs], "bias": [outputs]}."""
    kernel = np.concatenate([one["weight"] for one in maps]).T
    _build(layer, (None, kernel.shape[0]))
    layer.kernel.assign(kernel)
    if "bias" in maps[0]:
        layer.bias.assign(np.concatenate([one["bias"] for one in maps]))


def set_normalization(layer, weights):
    """LayerNorm with a bias, RMSNorm without."""
    _build(layer, (None, *weights["weight"].shape))
    layer.scale.assign(weights["weight"])
    if "bias" in weights:
        layer.bias.assign(weights["bias"])


def set_table(layer, table):
    """An embedding, or learned positions."""
    _build(layer, (None,))
    layer.table.assign(table)


def set_relative_bias(layer, table):
    """One number a bucket and head."""
    if not layer.built:
        layer.build((None,), (None,))
    layer.table.assign(table)


def set_lstm(layer, weights, suffix="l0"):
    """PyTorch's gates are i, f, g, o, as ours; it has two biases that are always added."""
    _set_recurrent(
        layer, weights[f"weight_ih_{suffix}"], weights[f"weight_hh_{suffix}"],
        weights[f"bias_ih_{suffix}"] + weights[f"bias_hh_{suffix}"])


def set_gru(layer, weights, suffix="l0"):
    """PyTorch's gates are r, z, n; ours z, r, n."""

    def reorder(name):
        reset, update, candidate = np.split(weights[f"{name}_{suffix}"], 3)
        return np.concatenate([update, reset, candidate])

    biases = np.stack([reorder("bias_ih"), reorder("bias_hh")])
    _set_recurrent(layer, reorder("weight_ih"), reorder("weight_hh"), biases)


def torch_attention(weights):
    """Query, key, value and output maps of a `torch.nn.MultiheadAttention`."""
    kernels, biases = np.split(weights["in_proj_weight"], 3), np.split(weights["in_proj_bias"], 3)
    maps = [{"weight": kernel, "bias": bias} for kernel, bias in zip(kernels, biases, strict=True)]
    return [*maps, part(weights, "out_proj")]


def named_attention(weights, names=("q_proj", "k_proj", "v_proj", "out_proj")):
    """The same of an attention in Transformers, whose maps have names of their own."""
    return [part(weights, name) for name in names]


def t5_attention(weights, heads):
    """The same of T5, which does not divide the scores by sqrt(D): its query map makes up for it."""
    query, *others = named_attention(weights, ("q", "k", "v", "o"))
    return [{"weight": query["weight"] * (query["weight"].shape[0] // heads) ** 0.5}, *others]


def set_self_attention(layer, maps):
    """Query, key, value and output maps."""
    query, key, value, output = maps
    set_linear(layer.query_key_value, query, key, value)
    set_linear(layer.output_projection, output)


def set_cross_attention(layer, maps):
    """Query, key, value and output maps."""
    query, key, value, output = maps
    set_linear(layer.query, query)
    set_linear(layer.key_value, key, value)
    set_linear(layer.output_projection, output)


def set_torch_layer(layer, weights):
    """`torch.nn.TransformerEncoderLayer`, or `TransformerDecoderLayer` into a layer with cross-attention."""
    set_self_attention(layer.self_attention, torch_attention(part(weights, "self_attn")))
    residuals = [layer.self_residual, layer.feed_residual]
    if layer.cross_attention is not None:
        set_cross_attention(layer.cross_attention, torch_attention(part(weights, "multihead_attn")))
        residuals.insert(1, layer.cross_residual)
    for number, residual in enumerate(residuals, 1):
        set_normalization(residual.normalize, part(weights, f"norm{number}"))
    set_linear(layer.feed_forward.expand, part(weights, "linear1"))
    set_linear(layer.feed_forward.contract, part(weights, "linear2"))


def set_marian_layer(layer, weights):
    """A layer of Marian's encoder or decoder."""
    set_self_attention(layer.self_attention, named_attention(part(weights, "self_attn")))
    set_normalization(layer.self_residual.normalize, part(weights, "self_attn_layer_norm"))
    if layer.cross_attention is not None:
        set_cross_attention(layer.cross_attention, named_attention(part(weights, "encoder_attn")))
        set_normalization(layer.cross_residual.normalize, part(weights, "encoder_attn_layer_norm"))
    set_linear(layer.feed_forward.expand, part(weights, "fc1"))
    set_linear(layer.feed_forward.contract, part(weights, "fc2"))
    set_normalization(layer.feed_residual.normalize, part(weights, "final_layer_norm"))


def set_marian(model, weights):
    """A `MarianMTModel` with one table for source, target and output into a post-norm `Seq2Seq` with one table.

    What is left to make the two equal: the peer's waves (see `interleaved_waves`) and epsilon, and tables that it does
    not share (see `set_untied`).
    """
    set_table(model.target_embedding, weights["model.shared.weight"])
    for stack, side in ((model.encoder.stack, "encoder"), (model.decoder.stack, "decoder")):
        for number, layer in enumerate(stack.blocks):
            set_marian_layer(layer, part(weights, f"model.{side}.layers.{number}"))


def set_untied(model, weights):
    """What a `MarianMTModel` with three tables has apart, into a `Seq2Seq` with as many; the rest is `set_marian`'s."""
    for side, embedding in (("encoder", model.source_embedding), ("decoder", model.target_embedding)):
        set_table(embedding, weights[f"model.{side}.embed_tokens.weight"])
    model.output_layer.kernel.assign(weights["lm_head.weight"].T)
    model.output_layer.bias.assign(weights["final_logits_bias"][0])


def interleaved_waves(waves):
    """Marian's positions [P, D], first all sines, then all cosines, in the order of the paper: in turn."""
    return np.stack(np.split(waves, 2, axis=1), -1).reshape(waves.shape)


def set_t5_layer(layer, weights, heads):
    """A layer of T5 v1.1's encoder, or of its decoder into a layer with cross-attention."""
    set_self_attention(layer.self_attention, t5_attention(part(weights, "layer.0.SelfAttention"), heads))
    residuals = [layer.self_residual, layer.feed_residual]
    if layer.cross_attention is not None:
        set_cross_attention(layer.cross_attention, t5_attention(part(weights, "layer.1.EncDecAttention"), heads))
        residuals.insert(1, layer.cross_residual)
    for number, residual in enumerate(residuals):
        set_normalization(residual.normalize, part(weights, f"layer.{number}.layer_norm"))
    feed_forward = part(weights, f"layer.{len(residuals) - 1}.DenseReluDense")
    set_linear(layer.feed_forward.expand, part(feed_forward, "wi_0"), part(feed_forward, "wi_1"))
    set_linear(layer.feed_forward.contract, part(feed_forward, "wo"))


def _set_recurrent(layer, kernel, recurrent_kernel, bias):
    if not layer.built:
        layer.build((None, None, kernel.shape[1]))
    layer.kernel.assign(kernel.T)
    layer.recurrent_kernel.assign(recurrent_kernel.T)
    layer.bias.assign(bias)


def _build(layer, shape):
    if not layer.built:
        layer.build(shape)
