"""The table of the network: `[model]`."""

from typing import Any, Literal

import pydantic

from tfseq2seq.config.networks import AttentionalDecoder, Decoder, Encoder, RecurrentEncoder, Size
from tfseq2seq.config.table import NonNegativeInt, PositiveInt, Table

PRESET_EMBEDDING_UNITS = {"tiny": 128, "small": 256, "base": 512, "big": 1024}


class Model(Table):
    """The network."""

    preset: Size | None = None  # for both sides and embedding_units, where these say nothing themselves
    # What the encoder reads: embedded tokens, or frames of features (data.audio), which one linear map makes
    # embedding_units wide.
    source: Literal["tokens", "features"] = "tokens"
    project_features: bool = True  # False: the encoder reads frames as they are
    source_end: bool = True  # whether the encoder reads the end token of a source; of an empty one it always does
    ctc: bool = False  # a linear layer that says the target from the memory alone, for train.ctc_weight
    embedding_units: PositiveInt = 256
    # "source_target" one table for both inputs; "target_output" target table = output matrix; "all" both of it.
    share_embeddings: Literal["none", "source_target", "target_output", "all"] = "none"
    # Embeddings times sqrt(embedding_units) (Vaswani et al., 2017, section 3.4); default: where a Transformer reads.
    scale_embeddings: bool | None = None
    output_bias: bool = False  # beside a tied output matrix, a bias a token; an output matrix of its own has one
    scale_output: bool = False  # what a tied output matrix reads, divided by sqrt(its width) (Raffel et al., 2020)
    # Answers may copy tokens of their source, known or not (See et al., 2017); needs data.share_tokenizer.
    copying: bool = False
    copy_slots: NonNegativeInt = 50  # distinct unknown tokens of a source that can be copied: of words or characters
    encoder: Encoder = RecurrentEncoder()
    decoder: Decoder = AttentionalDecoder()

    @property
    def num_copy_ids(self) -> int:
        """Ids beyond the vocabulary: one a slot, and one that stands for nothing."""
        return self.copy_slots + 1 if self.copying else 0

    @pydantic.model_validator(mode="before")
    @classmethod
    def _expand_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, dict) else None
        if preset not in PRESET_EMBEDDING_UNITS:
            return values
        values = {"embedding_units": PRESET_EMBEDDING_UNITS[preset], "encoder": {}, "decoder": {}, **values}
        for side in ("encoder", "decoder"):
            table = values[side]
            if isinstance(table, dict) and table.get("kind") not in ("sequence", "parallel"):
                values[side] = {"preset": preset, **table}
        return values

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        encoder, decoder = self.encoder, self.decoder
        if (self.output_bias or self.scale_output) and self.share_embeddings not in ("target_output", "all"):
            raise ValueError(
                "output_bias and scale_output are of a tied output matrix: set share_embeddings to \"target_output\" "
                f"or \"all\". Received: share_embeddings=\"{self.share_embeddings}\", output_bias={self.output_bias}, "
                f"scale_output={self.scale_output}")
        if not self.project_features and self.source != "features":
            raise ValueError(
                "project_features is of frames: set source = \"features\", or leave it out. Received: "
                f"source=\"{self.source}\"")
        shared = self.share_embeddings in ("source_target", "all")
        if self.source == "features" and (shared or encoder.kind == "parallel"):
            raise ValueError(
                "source = \"features\" has no source embedding to share and is one source: set share_embeddings to "
                "\"none\" or \"target_output\", and another encoder than \"parallel\". Received: "
                f"share_embeddings=\"{self.share_embeddings}\", encoder.kind=\"{encoder.kind}\"")
        if not self.source_end and (self.source == "features" or encoder.kind == "parallel"):
            raise ValueError(
                "source_end = false leaves out the end token of one source of tokens: set it to true for others. "
                f"Received: source = \"{self.source}\", encoder.kind = \"{encoder.kind}\"")
        if decoder.kind == "attentional" and decoder.attention in ("dot", "scaled_dot"):
            if encoder.output_units != decoder.units:
                raise ValueError(
                    f"decoder.attention = \"{decoder.attention}\" needs encoder states as wide as the decoder's: set "
                    f"decoder.units to {encoder.output_units}, or use \"general\". Received: encoder "
                    f"{encoder.output_units} wide, decoder {decoder.units}")
        if self.copying and decoder.kind == "recurrent":
            raise ValueError(
                "copying needs a decoder with attention: decoder.kind = \"attentional\" or \"transformer\". Received: "
                "\"recurrent\"")
        shortening = next((kind for kind in kinds(encoder) if kind in ("parallel", "pyramidal", "subsampling")), None)
        if self.copying and (shortening or self.source == "features"):
            raise ValueError(
                "copying needs one source of tokens, and a step of the memory for each: leave it out, or use other "
                f"encoders. Received: source = \"{self.source}\", encoder.kind = \"{shortening or encoder.kind}\"")
        bridge = getattr(decoder, "bridge", "zero")
        if bridge in ("copy", "dense") and encoder.state is None:
            raise ValueError(
                f"decoder.bridge = \"{bridge}\" needs an encoder with a last state, a recurrent one; or use "
                f"\"pooled\". Received: encoder.kind = \"{encoder.kind}\"")
        received = None if decoder.kind == "transformer" else (decoder.cell, decoder.layers, decoder.units)
        if bridge == "copy" and encoder.state != received:
            raise ValueError(
                "decoder.bridge = \"copy\" needs the same cell, layers and width on both sides (a bidirectional "
                "encoder is twice as wide unless merge_states is set); or use \"dense\". "
                f"Received: encoder {encoder.state}, decoder {received}")
        reads_context = getattr(decoder, "reads_context", False) or bridge == "pooled" or (
            bridge == "auto" and encoder.state is None)
        if encoder.pooling == "attentive" and not reads_context:
            raise ValueError(
                "pooling = \"attentive\" would learn nothing, as no decoder reads the fixed context: use it with the "
                "recurrent decoder or bridge = \"pooled\". "
                f"Received: decoder.kind = \"{decoder.kind}\", bridge = \"{bridge}\"")
        reads_state = bridge in ("copy", "dense") or (bridge == "auto" and encoder.state is not None)
        if getattr(encoder, "merge_states", False) and not reads_state and not (
                reads_context and encoder.pooling == "last"):
            raise ValueError(
                "merge_states would learn nothing, as no decoder reads the last states: leave it out. "
                f"Received: decoder.kind = \"{decoder.kind}\", bridge = \"{bridge}\"")
        return self


def kinds(table: Any) -> list[str]:
    """The kinds of an encoder and of those within it."""
    return [table.kind, *(kind for each in getattr(table, "encoders", []) for kind in kinds(each))]


def longest(table: Any) -> int | None:
    """Most steps that an encoder or decoder can read: the least of its learned positions, or None."""
    if hasattr(table, "encoders"):
        steps, limits = 1, []  # of the source for each of what an encoder of the sequence reads
        for part in table.encoders:
            limit = longest(part)
            limits += [] if limit is None else [limit * steps]
            steps *= getattr(part, "shortening", 1) if table.kind == "sequence" else 1
        return min(limits, default=None)
    learned = table.kind == "convolutional" or getattr(table, "positions", None) == "learned"
    return table.max_positions if learned else None


def shortens(table: Any) -> bool:
    """Whether an encoder's memory has fewer steps than its source."""
    return any(kind in ("subsampling", "pyramidal") for kind in kinds(table))


def reads_transformer(table: Any) -> bool:
    """Whether a Transformer reads the embeddings of an encoder's or decoder's side."""
    if table.kind == "sequence":
        return reads_transformer(table.encoders[0])
    if table.kind == "parallel":
        return all(map(reads_transformer, table.encoders))
    return table.kind == "transformer"
