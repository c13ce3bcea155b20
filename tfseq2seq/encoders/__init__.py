"""Encoders read the source: `call(source, mask, training) -> EncoderOutput`."""

from tfseq2seq.encoders.composed import ParallelEncoder, SequenceEncoder
from tfseq2seq.encoders.conformer import ConformerEncoder
from tfseq2seq.encoders.convolutional import ConvolutionalEncoder
from tfseq2seq.encoders.pyramidal import PyramidalEncoder
from tfseq2seq.encoders.recurrent import RecurrentEncoder
from tfseq2seq.encoders.subsampling import SubsamplingEncoder
from tfseq2seq.encoders.transformer import TransformerEncoder

ENCODERS = {
    "recurrent": RecurrentEncoder,
    "convolutional": ConvolutionalEncoder,
    "transformer": TransformerEncoder,
    "pyramidal": PyramidalEncoder,
    "conformer": ConformerEncoder,
    "subsampling": SubsamplingEncoder,
    "sequence": SequenceEncoder,
    "parallel": ParallelEncoder,
}


def make_encoder(table, **kwargs):
    """The encoder of a recipe's table (`tfseq2seq.config`), and of the tables within it."""
    options = {name: value for name, value in table if name not in ("kind", "preset")}
    if "encoders" in options:
        options["encoders"] = [
            make_encoder(part, name=f"encoder_{i}", dtype=kwargs.get("dtype"))
            for i, part in enumerate(table.encoders)]
    return ENCODERS[table.kind](**options, **kwargs)
