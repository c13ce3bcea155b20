"""Transformers on PyTorch: Marian's architecture and `generate`."""

import logging
import math

from tests.benchmarks import weights
from tests.benchmarks.rivals.side import LENGTH_PENALTY, MAX_LENGTH, Side, up_to_end
from tests.benchmarks.sizes import BOS, EOS, PAD, pad, waves


def make_marian(size, dropout):
    """A `MarianMTModel` of our definitions: interleaved sines and cosines, and the norm's epsilon of 1e-6."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    options = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
        ("layers", size.layers), ("attention_heads", size.heads), ("ffn_dim", size.feed_forward_units))}
    model = MarianMTModel(MarianConfig(
        vocab_size=size.vocabulary_size, d_model=size.units, activation_function="relu", dropout=dropout,
        init_std=size.units**-0.5,  # at Marian's own 0.02 no score or sum matters, and a check would see little
        attention_dropout=0.0, activation_dropout=0.0, scale_embedding=True,
        max_position_embeddings=weights.NUM_POSITIONS, pad_token_id=PAD, eos_token_id=EOS,
        decoder_start_token_id=BOS, forced_eos_token_id=None, attn_implementation="sdpa", **options))
    for module in model.modules():
        if hasattr(module, "create_weight"):
            module.weight.data = torch.tensor(waves(weights.NUM_POSITIONS, size.units))
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    return model


class Transformers(Side):
    """`generate`, with the dynamic cache that it takes by itself.

    Its scores would need every step's logits kept, which it would pay for, so they are left out.
    """

    def __init__(self, size, path, streams):
        super().__init__(streams)
        import torch

        logging.getLogger("transformers").setLevel(logging.ERROR)
        torch.set_num_threads(self.threads)
        self.torch = torch
        self.model = make_marian(size, dropout=0.0).eval()
        arrays = {name: torch.tensor(value) for name, value in weights.load(path).items() if name != "positions"}
        missing = self.model.load_state_dict(arrays, strict=False).unexpected_keys
        if missing:
            raise ValueError(f"MarianMTModel needs other names of weights. Received: {missing}.")
        self.model.tie_weights()

    def search(self, rows, beam_size):
        """See `Side`."""
        source = self.torch.tensor(pad(rows)).long()
        options = {"length_penalty": LENGTH_PENALTY, "early_stopping": False} if beam_size > 1 else {}
        with self.torch.inference_mode():
            found = self.model.generate(
                input_ids=source, attention_mask=source != PAD, num_beams=beam_size, do_sample=False,
                max_new_tokens=MAX_LENGTH, **options)
        return [(up_to_end(ids[1:]), math.nan) for ids in found.tolist()]  # without BOS
