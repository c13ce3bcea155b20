"""What a recipe's model is made of and what it costs, before anything is trained.

Nothing here knows a family: parts are read off the layers, operations are counted while the model runs on made-up ids,
and activations are what is still in memory after a forward pass.
"""

import dataclasses
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from rich.console import Group
from rich.table import Table
from tensorflow.python.framework import op_callbacks  # no public module sees operations with their shapes

from tfseq2seq.config import Run
from tfseq2seq.layers.stack import Stack
from tfseq2seq.layers.transformer import TransformerStack
from tfseq2seq.losses import TokenCrossEntropy
from tfseq2seq.model import Seq2Seq, build_model
from tfseq2seq.optimization import make_optimizer, make_schedule
from tfseq2seq.structures import EOS, PAD, SPECIAL_TOKENS
from tfseq2seq.tokenizers import load_tokenizer

# Attributes of the model, in the order of the data.
PARTS = ("source_embedding", "encoder", "ctc_layer", "target_embedding", "decoder", "output_layer", "copier")

# Their results are their inputs in another shape, or weights.
VIEWS = {"Reshape", "Identity", "ExpandDims", "Squeeze", "StopGradient", "ReadVariableOp"}


@dataclasses.dataclass(frozen=True)
class Part:
    """A layer, or several equal ones beside each other.

    Attributes:
        name: as the encoder or decoder calls it; "first … last" of several.
        type: the layer's class.
        count: number of layers.
        parameters: of all of them; a table that an earlier part holds is not counted again.
        parts: what they are made of; the parameters of several layers are added up.
    """

    name: str
    type: str
    count: int
    parameters: int
    parts: tuple["Part", ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """A model in numbers.

    Attributes:
        name: the recipe's.
        source_vocabulary_size, target_vocabulary_size: ids; the most that the recipe allows.
        parts: what it is made of, in the order of the data.
        parameters: trainable scalars.
        weight_bytes: of the weights.
        training_bytes: of weights, gradients and what the optimizer keeps of each weight.
        activation_bytes: what the backward pass needs at most of the forward pass, for one batch of `batch_tokens`.
        batch_tokens: tokens of each side in a batch.
        length: tokens of each sentence, wherever operations and activations are counted.
        source_operations: per source token, once a source.
        target_operations: per target token, all steps at once as in training, the output layer included.
        output_operations: the output layer's part of them.
        training_operations: per pair of a source and a target token, forward and backward.
    """

    name: str
    source_vocabulary_size: int
    target_vocabulary_size: int
    parts: tuple[Part, ...]
    parameters: int
    weight_bytes: int
    training_bytes: int
    activation_bytes: int
    batch_tokens: int
    length: int
    source_operations: int
    target_operations: int
    output_operations: int
    training_operations: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def render(self) -> Group:
        """Tables for the terminal."""
        return Group(self._render_parts(), "", self._render_costs())

    def _render_parts(self) -> Table:
        sides = f"{self.source_vocabulary_size:,} source and {self.target_vocabulary_size:,} target ids at most"
        table = Table(
            title=f"{self.name}, {sides}", title_justify="left", title_style="bold", box=None,
            pad_edge=False, show_footer=True)
        table.add_column("part", footer="all")
        table.add_column("layers", justify="right")
        table.add_column("type")
        table.add_column("parameters", justify="right", footer=f"{self.parameters:,}")
        table.add_column("share", justify="right", footer="100.0 %")
        for depth, part in _walk(self.parts):
            style = "bold" if depth == 0 else "dim" if depth > 1 else ""
            table.add_row(
                "  " * depth + part.name, str(part.count) if part.count > 1 else "", part.type,
                f"{part.parameters:,}" if part.parameters else "shared",
                f"{part.parameters / self.parameters:.1%}".replace("%", " %") if part.parameters else "", style=style)
        return table

    def _render_costs(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column()
        table.add_column(justify="right", style="bold")
        table.add_column(style="dim")
        for row in (
                ("memory", "", ""),
                ("  weights", _bytes(self.weight_bytes), "float32"),
                ("  to train them", _bytes(self.training_bytes), "weights, gradients and what the optimizer keeps"),
                ("  activations, at most", _bytes(self.activation_bytes),
                 f"for the backward pass; {self.batch_tokens:,} tokens a side in a batch"),
                ("operations", "", "of matrix products and convolutions; a multiply-add is two"),
                ("  forward, a source token", _number(self.source_operations),
                 f"all that is done once a source; {self.length} tokens a sentence"),
                ("  forward, a target token", _number(self.target_operations),
                 f"decoder and output layer ({_number(self.output_operations)})"),
                ("  training, one of each", _number(self.training_operations), "three times forward")):
            table.add_row(*row, style="" if row[1] else "bold")
        return table


def describe(run: Run, length: int = 20) -> Description:
    """Builds a recipe's model, without data, and counts.

    Args:
        run: the recipe.
        length: tokens of each sentence; fewer where the recipe's sentences are shorter.
    Raises:
        ValueError: `length` is below 1.
    """
    if length < 1:
        raise ValueError(f"describe needs sentences of at least 1 token. Received: length={length}.")
    data = run.data
    length = min(length, data.max_source_length, data.max_target_length)
    source_size = data.audio.mel_bins if data.audio else (
        _vocabulary_size(data.source_tokenizer) + run.model.num_copy_ids)
    target_size = source_size if data.share_tokenizer else _vocabulary_size(data.target_tokenizer)
    if data.tokenizers_from is not None:
        folder = Path(data.tokenizers_from).expanduser() / "tokenizers"
        target_size = load_tokenizer(folder / "target").vocabulary_size
        source_size = data.audio.mel_bins if data.audio else load_tokenizer(folder / "source").vocabulary_size
    model = build_model(run.model, source_size, target_size, run.train.precision)
    source, decoder, output = count_operations(model, length)
    weight_bytes = sum(
        math.prod(weight.shape) * tf.as_dtype(weight.dtype).size for weight in model.trainable_variables)
    return Description(
        name=run.name, source_vocabulary_size=source_size, target_vocabulary_size=target_size,
        parts=list_parts(model), parameters=model.count_parameters(), weight_bytes=weight_bytes,
        training_bytes=weight_bytes * (2 + _count_slots(run)),
        activation_bytes=measure_activations(model, length) * data.batch_tokens // length,
        batch_tokens=data.batch_tokens, length=length, source_operations=source // length,
        target_operations=(decoder + output) // length, output_operations=output // length,
        training_operations=3 * (source + decoder + output) // length)


def list_parts(model: Seq2Seq) -> tuple[Part, ...]:
    """The model's layers that hold weights, as a tree; every weight is counted once."""
    counted: set[int] = set()
    layers = [(name, getattr(model, name)) for name in PARTS]
    return tuple(_part(name, layer, counted, whole=True) for name, layer in layers if layer is not None)


def count_operations(model: Seq2Seq, length: int) -> tuple[int, int, int]:
    """Operations of one forward pass over one pair of sentences of `length` tokens each.

    Counted are the matrix products and convolutions that really run, with their real shapes, a multiply-add as two.

    Returns:
        Those that read the source, those of the decoder and those of the output layer.
    """
    inputs = _make_inputs(model, 1, length)
    source, (memory, state) = count_while(lambda: model.start(model.encode(inputs["source"])))
    target = inputs["target"]
    decoder, _ = count_while(lambda: model.decoder(model.embed_target(target), state, memory, mask=target != PAD))
    whole, _ = count_while(lambda: model(inputs))
    return source, decoder, whole - source - decoder


def count_while(function: Callable[[], Any]) -> tuple[int, Any]:
    """Operations, counted as in `count_operations`, that TensorFlow runs while a function does; and what it returns."""
    counts = []

    def count(*operation: Any) -> None:
        counts.append(_operations(*operation))

    with _Watch(count):
        result = function()
    return sum(counts), result


def measure_activations(model: Seq2Seq, length: int) -> int:
    """Bytes that the backward pass needs at most of the forward pass, for one pair of sentences of `length` tokens.

    Measured as the difference of two pairs and one, so that weights and whatever else a batch holds once cancel out.
    Run operation by operation, TensorFlow keeps more than in a graph: in four models, one a family and one mixed, the
    peak of a training step in a graph was 0.33 to 0.73 of it.
    """
    one, two = (_kept(model, _make_inputs(model, rows, length)) for rows in (1, 2))
    return two - one


def _kept(model: Seq2Seq, inputs: dict[str, tf.Tensor]) -> int:
    results: list[weakref.ref] = []

    def remember(operation: str, operands: tuple, attributes: dict, outputs: tuple) -> None:
        if operation not in VIEWS:
            results.extend(weakref.ref(output) for output in outputs)

    with tf.GradientTape() as tape, _Watch(remember):
        loss = TokenCrossEntropy()(inputs["target"], model(inputs, training=True))
    gc.collect()
    alive = [result() for result in results]
    kept = sum(
        math.prod(tensor.shape) * tensor.dtype.size for tensor in alive
        if tensor is not None and tensor.dtype not in (tf.resource, tf.variant))
    del tape, loss  # until here they hold what the gradient needs
    return kept


class _Watch:
    """Calls back after each operation that TensorFlow runs, with its name, operands, attributes and results."""

    def __init__(self, callback: Callable[[str, tuple, dict, tuple], None]) -> None:
        self._callback = callback

    def __enter__(self) -> None:
        op_callbacks.add_op_callback(self._after)

    def __exit__(self, *error: Any) -> None:
        op_callbacks.remove_op_callback(self._after)

    def _after(self, operation, operands, attributes, results, op_name=None, graph=None):
        name = operation.decode() if isinstance(operation, bytes) else operation
        pairs = zip(attributes[::2], attributes[1::2], strict=True) if attributes else ()
        self._callback(name, operands, {tf.compat.as_str(key): value for key, value in pairs}, results)


def _operations(operation: str, operands: tuple, attributes: dict, results: tuple) -> int:
    if operation in ("MatMul", "BatchMatMulV2"):
        transposed = attributes.get("transpose_a") or attributes.get("adj_x")
        return 2 * math.prod(results[0].shape) * operands[0].shape[-2 if transposed else -1]
    if operation == "Conv2D":
        return 2 * math.prod(results[0].shape) * math.prod(operands[1].shape[:-1])
    if operation == "Einsum":
        letters = tf.compat.as_str(attributes["equation"]).split("->")[0].split(",")
        sizes = {letter: size for part, operand in zip(letters, operands, strict=True)
                 for letter, size in zip(part, operand.shape, strict=True)}
        return 2 * math.prod(sizes.values())
    return 0


def _make_inputs(model: Seq2Seq, rows: int, length: int) -> dict[str, tf.Tensor]:
    """Rows of `length` tokens without padding; several sources share the row of one."""
    encoder = model.config.encoder
    sources = len(encoder.encoders) if encoder.kind == "parallel" else 1
    ends = {length * (i + 1) // sources - 1 for i in range(sources)}
    first = len(SPECIAL_TOKENS)  # an id of every vocabulary that is no special token
    source = [EOS if t in ends else first for t in range(length)]
    target = tf.constant([[first] * length] * rows)
    if model.config.source == "features":
        return {"source": tf.ones([rows, length, model.source_vocabulary_size + 1]), "target": target}
    return {"source": tf.constant([source] * rows), "target": target}


def _vocabulary_size(tokenizer: Any) -> int:
    return len(SPECIAL_TOKENS) + 256 if tokenizer.kind == "bytes" else tokenizer.vocabulary_size


def _count_slots(run: Run) -> int:
    """Scalars that the optimizer keeps of each weight: 2 for Adam."""
    optimizer = make_optimizer(run.train, make_schedule(run.train, run.model.embedding_units))
    weight = tf.Variable(tf.zeros([2, 3]))
    optimizer.build([weight])
    return sum(variable.shape == weight.shape for variable in optimizer.variables)


def _part(name: str, layer: keras.layers.Layer, counted: set[int], whole: bool = False) -> Part:
    """`whole`: show what it is made of, however simple that is."""
    children = list(_children(layer))
    if not (whole or any(next(_children(child), None) for _, child in children)):
        children = []
    parts = _join([_part(*child, counted, "encoder" in child[0]) for child in children if child[1].trainable_weights])
    rest = [weight for weight in layer.trainable_weights if id(weight) not in counted]
    counted.update(map(id, rest))
    parameters = sum(part.parameters for part in parts) + sum(math.prod(weight.shape) for weight in rest)
    return Part(name, type(layer).__name__, 1, parameters, parts)


def _children(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """The layers that a layer holds, in the order in which it makes them; stacks give way to what they hold."""
    for name, value in vars(layer).items():
        if isinstance(value, (Stack, TransformerStack)):
            yield from _children(value)
        elif isinstance(value, keras.layers.Layer):
            yield name, value
        elif isinstance(value, list) and not name.startswith("_"):
            yield from ((each.name, each) for each in value if isinstance(each, keras.layers.Layer))


def _join(parts: list[Part]) -> tuple[Part, ...]:
    """Equal parts become one, where the first of them stands."""
    groups: dict[tuple, list[Part]] = {}
    for part in parts:
        groups.setdefault(_shape(part), []).append(part)
    return tuple(
        group[0] if len(group) == 1 else _add(group, f"{group[0].name} … {group[-1].name}")
        for group in groups.values())


def _add(parts: list[Part], name: str) -> Part:
    inner = tuple(_add(list(each), each[0].name) for each in zip(*(part.parts for part in parts), strict=True))
    return Part(name, parts[0].type, sum(p.count for p in parts), sum(p.parameters for p in parts), inner)


def _shape(part: Part) -> tuple:
    return (part.type, part.count, part.parameters, tuple(map(_shape, part.parts)))


def _walk(parts: tuple[Part, ...], depth: int = 0) -> Iterator[tuple[int, Part]]:
    for part in parts:
        yield depth, part
        yield from _walk(part.parts, depth + 1)


def _bytes(number: int) -> str:
    return f"{number / 1e9:,.2f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def _number(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return str(number)
