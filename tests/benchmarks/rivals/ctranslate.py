"""CTranslate2, with the weights of the same Marian model."""

import tempfile

import numpy as np

from tests.benchmarks import weights
from tests.benchmarks.rivals.side import LENGTH_PENALTY, MAX_LENGTH, Side
from tests.benchmarks.sizes import BOS, EOS, UNK
from tests.peers.copying import named_attention, part


class CTranslate2(Side):
    """`Translator.translate_batch` in float32."""

    def __init__(self, size, path, streams):
        super().__init__(streams)
        import ctranslate2

        tokens = [f"t{number}" for number in range(size.vocabulary_size)]
        with tempfile.TemporaryDirectory() as folder:
            _convert(size, weights.load(path), tokens).save(folder)
            self.translator = ctranslate2.Translator(
                folder, device="cpu", compute_type="float32", inter_threads=streams, intra_threads=self.threads)

    def search(self, rows, beam_size):
        """See `Side`. Its score is the log-probability over length^alpha."""
        found = self.translator.translate_batch(
            [[f"t{number}" for number in row] for row in rows], beam_size=beam_size, length_penalty=LENGTH_PENALTY,
            max_decoding_length=MAX_LENGTH, return_scores=True, return_end_token=True)
        answers = []
        for result in found:
            tokens = [int(token[1:]) for token in result.hypotheses[0]]
            answers.append((tokens, result.scores[0] * len(tokens) ** LENGTH_PENALTY))
        return answers


def _convert(size, arrays, tokens):
    """What `ctranslate2.converters.TransformersConverter` makes of a Marian model, without its tokenizer."""
    from ctranslate2.converters.utils import fuse_linear
    from ctranslate2.specs import TransformerSpec
    from ctranslate2.specs.common_spec import LayerNormSpec, LinearSpec

    spec = TransformerSpec.from_config((size.layers, size.layers), size.heads, pre_norm=False)

    def linear(maps):
        target = LinearSpec()
        target.weight, target.bias = maps["weight"], maps["bias"]
        return target

    def norm(name):
        target = LayerNormSpec()
        target.gamma, target.beta = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
        return target

    def attention(target, name):
        query, key, value, output = map(linear, named_attention(part(arrays, name)))
        groups = [[query, key, value]] if len(target.linear) == 2 else [[query], [key, value]]
        for fused, group in zip(target.linear, groups):
            fuse_linear(fused, group)
        target.linear[-1] = output
        target.layer_norm = norm(f"{name}_layer_norm")

    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        stack.scale_embeddings = size.units**0.5
        table = stack.embeddings[0] if side == "encoder" else stack.embeddings
        table.weight = arrays["model.shared.weight"]
        stack.position_encodings.encodings = arrays["positions"]
        for number, layer in enumerate(stack.layer):
            name = f"model.{side}.layers.{number}"
            attention(layer.self_attention, f"{name}.self_attn")
            if side == "decoder":
                attention(layer.attention, f"{name}.encoder_attn")
            layer.ffn.linear_0, layer.ffn.linear_1 = (linear(part(arrays, f"{name}.fc{i}")) for i in (1, 2))
            layer.ffn.layer_norm = norm(f"{name}.final_layer_norm")
    spec.decoder.projection.weight = np.array(arrays["model.shared.weight"])
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = tokens[UNK], tokens[BOS], tokens[EOS]
    spec.config.decoder_start_token = tokens[BOS]
    spec.config.layer_norm_epsilon = 1e-6
    spec.validate()
    spec.optimize()
    return spec
