"""OpenNMT-tf on TensorFlow 2.13: its encoders, decoders and `dynamic_decode`, joined as its own models join them."""

from tests.benchmarks import weights
from tests.benchmarks.rivals.side import LENGTH_PENALTY, MAX_LENGTH, TensorFlowSide
from tests.benchmarks.sizes import BOS, EOS, PAD, Size
from tests.peers.copying import named_attention, part


class OpenNMT(TensorFlowSide):
    """A traced function for any batch, as its inference runs one."""

    def __init__(self, size, path, streams):
        super().__init__(streams)
        build = build_transformer if isinstance(size, Size) else _build_recurrent
        self.source_table, self.target_table, self.encoder, self.decoder = build(size, weights.load(path))

    def _search(self, source, beam_size):
        from opennmt.utils.decoding import BeamSearch, GreedySearch
        from tensorflow_addons.seq2seq import tile_batch

        tf = self.tf
        lengths = tf.reduce_sum(tf.cast(source != PAD, tf.int32), 1)
        memory, state, lengths = self.encoder(tf.gather(self.source_table, source), sequence_length=lengths)
        state = _as_cells_keep_it(state)
        strategy = GreedySearch()
        if beam_size > 1:
            strategy = BeamSearch(beam_size, length_penalty=LENGTH_PENALTY)
            memory, lengths, state = tf.nest.map_structure(
                lambda part: None if part is None else tile_batch(part, beam_size), (memory, lengths, state))
        initial = self.decoder.initial_state(memory=memory, memory_sequence_length=lengths, initial_state=state)
        found = self.decoder.dynamic_decode(
            self.target_table, tf.fill(tf.shape(source)[:1], BOS), end_id=EOS, initial_state=initial,
            decoding_strategy=strategy, maximum_iterations=MAX_LENGTH)
        return found.ids[:, 0], found.log_probs[:, 0]


def _as_cells_keep_it(state):
    """The encoder gives tuples (h, c), Keras' stacked cells have lists, and the bridge wants the same of both."""
    return None if state is None else tuple(list(parts) for parts in state)


def build_transformer(size, arrays, dropout=0.0, **more):
    """Tables of source and target, which are one, encoder and decoder, with weights named as Marian's.

    Args:
        size: `Size`.
        arrays: NumPy arrays by name.
        dropout, more: of encoder and decoder.
    """
    import tensorflow as tf
    from opennmt.decoders import SelfAttentionDecoder
    from opennmt.encoders import SelfAttentionEncoder
    from opennmt.layers.position import PositionEncoder

    class Waves(PositionEncoder):
        """Our sines and cosines; its own count positions from 1 and order the waves otherwise."""

        def _encode(self, positions, depth):
            return tf.gather(tf.constant(arrays["positions"]), tf.convert_to_tensor(positions) - 1)

    table = tf.Variable(arrays["model.shared.weight"])
    options = {
        "num_units": size.units, "num_heads": size.heads, "ffn_inner_dim": size.feed_forward_units,
        "dropout": dropout, "position_encoder_class": Waves, "pre_norm": False, **more}
    encoder = SelfAttentionEncoder(size.layers, **options)
    decoder = SelfAttentionDecoder(size.layers, vocab_size=size.vocabulary_size, output_layer_bias=False, **options)
    decoder.reuse_embeddings(table)
    vectors, lengths = tf.zeros([1, 2, size.units]), tf.constant([2])
    memory, _, _ = encoder(vectors, sequence_length=lengths)  # makes the weights
    decoder.initial_state(memory=memory, memory_sequence_length=lengths)
    decoder(vectors, lengths)

    def set_attention(wrapper, name):
        layer = wrapper.layer
        maps = (layer.linear_queries, layer.linear_keys, layer.linear_values, layer.linear_output)
        for dense, values in zip(maps, named_attention(part(arrays, name))):
            dense.set_weights([values["weight"].T, values["bias"]])
        set_norm(wrapper, f"{name}_layer_norm")

    def set_norm(wrapper, name):
        wrapper.output_layer_norm.set_weights([arrays[f"{name}.weight"], arrays[f"{name}.bias"]])
        # Keras takes a slower way at 1.001e-5 or less, and its own 1e-3 would change the outputs.
        wrapper.output_layer_norm.epsilon = 1.1e-5

    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        for number, layer in enumerate(stack.layers):
            name = f"model.{side}.layers.{number}"
            set_attention(layer.self_attention, f"{name}.self_attn")
            if side == "decoder":
                set_attention(layer.attention[0], f"{name}.encoder_attn")
            for dense, key in ((layer.ffn.layer.inner, "fc1"), (layer.ffn.layer.outer, "fc2")):
                dense.set_weights([arrays[f"{name}.{key}.weight"].T, arrays[f"{name}.{key}.bias"]])
            set_norm(layer.ffn, f"{name}.final_layer_norm")
    return table, table, encoder, decoder


def _build_recurrent(size, arrays):
    import numpy as np
    import tensorflow as tf
    from opennmt.decoders import AttentionalRNNDecoder
    from opennmt.encoders import LSTMEncoder
    from opennmt.layers import CopyBridge

    encoder = LSTMEncoder(size.layers, size.units // 2, bidirectional=True, dropout=0.0)
    decoder = AttentionalRNNDecoder(
        size.layers, size.units, bridge_class=CopyBridge, dropout=0.0, vocab_size=size.vocabulary_size)
    vectors, lengths = tf.zeros([1, 2, size.units]), tf.constant([2])
    memory, state, _ = encoder(vectors, sequence_length=lengths)  # makes the weights
    state = decoder.initial_state(memory=memory, memory_sequence_length=lengths, initial_state=_as_cells_keep_it(state))
    decoder(vectors[:, 0], tf.constant(0), state)

    def set_cell(cell, name):
        cell.set_weights([arrays[f"{name}.{key}"] for key in ("kernel", "recurrent_kernel", "bias")])

    for number, layer in enumerate(encoder.rnn.layers):
        both = layer.layer.rnn
        set_cell(both.forward_layer, f"encoder.{number}.forward")
        set_cell(both.backward_layer, f"encoder.{number}.backward")
    for number, cell in enumerate(decoder.cell._cell.cells):
        set_cell(cell, f"decoder.{number}")
    decoder.attention_mechanism.memory_layer.set_weights([arrays["attention.kernel"]])
    context, query = np.split(arrays["combine.kernel"], 2)
    decoder.cell._attention_layers[0].set_weights([np.concatenate([query, context])])
    decoder.output_layer.set_weights([arrays["output.kernel"], arrays["output.bias"]])
    return tf.Variable(arrays["source_table"]), tf.Variable(arrays["target_table"]), encoder, decoder
