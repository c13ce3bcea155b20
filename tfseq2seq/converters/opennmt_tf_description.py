"""The model_description.py of OpenNMT-tf, read as text: its syntax tells what it builds, and nothing of it runs."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

from tfseq2seq.converters.weights import ConversionError


@dataclasses.dataclass(frozen=True)
class Made:
    """A call, as Made("WordEmbedder", {"embedding_size": 32}); of names only the last part is kept."""

    name: str
    options: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Named:
    """Something that is only named, as "tf.nn.relu"."""

    name: str

    @property
    def last(self) -> str:
        return self.name.split(".")[-1]


# What stands at the places of a call without a keyword.
PARAMETERS = {
    "Transformer": (
        "source_inputter", "target_inputter", "num_layers", "num_units", "num_heads", "ffn_inner_dim", "dropout",
        "attention_dropout", "ffn_dropout"),
    "SequenceToSequence": ("source_inputter", "target_inputter", "encoder", "decoder", "share_embeddings"),
    "WordEmbedder": ("embedding_size",),
    "RNNEncoder": (
        "num_layers", "num_units", "bidirectional", "residual_connections", "dropout", "reducer", "cell_class"),
    "LSTMEncoder": ("num_layers", "num_units", "bidirectional", "residual_connections", "dropout", "reducer"),
    "GNMTEncoder": ("num_layers", "num_units", "dropout"),
    "RNNDecoder": ("num_layers", "num_units", "bridge_class", "cell_class", "dropout", "residual_connections"),
    "AttentionalRNNDecoder": (
        "num_layers", "num_units", "bridge_class", "attention_mechanism_class", "cell_class", "dropout",
        "residual_connections"),
    "PositionEmbedder": ("maximum_position", "reducer"),
    "SinusoidalPositionEncoder": ("reducer",),
}
_ALL = {"share_embeddings": Named("EmbeddingsSharingLevel.ALL")}
_BIG = {"num_units": 1024, "num_heads": 16, "ffn_inner_dim": 4096}
_RELATIVE = {"position_encoder_class": None, "maximum_relative_position": 20}


def _nmt(layers: int, units: int, decoder_units: int, embedding: int = 512, dropout: float = 0.3, **more: Any) -> Made:
    inputter = Made("WordEmbedder", {"embedding_size": embedding})
    return Made("SequenceToSequence", {
        "source_inputter": inputter, "target_inputter": inputter,
        "encoder": Made("RNNEncoder", {
            "num_layers": layers, "num_units": units, "bidirectional": units != decoder_units, "dropout": dropout}),
        "decoder": Made("AttentionalRNNDecoder", {
            "num_layers": layers, "num_units": decoder_units, "bridge_class": Named("CopyBridge"), "dropout": dropout,
            **more})})


# The models that OpenNMT-tf knows by name.
CATALOG = {
    "Transformer": Made("Transformer", {}),
    "TransformerBase": Made("Transformer", {}),
    "TransformerBaseSharedEmbeddings": Made("Transformer", _ALL),
    "TransformerRelative": Made("Transformer", _RELATIVE),
    "TransformerBaseRelative": Made("Transformer", _RELATIVE),
    "TransformerBig": Made("Transformer", _BIG),
    "TransformerBigSharedEmbeddings": Made("Transformer", {**_BIG, **_ALL}),
    "TransformerBigRelative": Made("Transformer", {**_BIG, **_RELATIVE}),
    "LuongAttention": _nmt(4, 1000, 1000, dropout=0.2),
    "NMTSmallV1": _nmt(2, 512, 512, attention_layer_activation=None),
    "NMTMediumV1": _nmt(4, 256, 512, attention_layer_activation=None),
    "NMTBigV1": _nmt(4, 512, 1024, attention_layer_activation=None),
}


def read_description(path: Path) -> Made:
    """What `model` in a model_description.py builds.

    It may be a function or a lambda that returns a call, or a class whose constructor calls that of its base; values
    are literals, names and calls.

    Raises:
        ConversionError: it is not Python, or not that plain.
    """
    try:
        module = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, SyntaxError, ValueError, RecursionError) as error:
        raise ConversionError(f"{path}: must be the description of a model, in Python. Received: {error}.") from error
    reader = _Reader(path, module)
    return reader.build(reader.find("model"))


class _Reader:
    def __init__(self, path: Path, module: ast.Module):
        self._path, self._defined = path, dict[str, ast.AST]()
        for statement in module.body:
            if isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self._defined[statement.name] = statement
            elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                self._defined[statement.targets[0].id] = statement.value

    def find(self, name: str) -> ast.AST:
        if name not in self._defined:
            raise ConversionError(f"{self._path}: must define {name}.")
        return self._defined[name]

    def build(self, node: ast.AST, depth: int = 0) -> Made:
        """What a function, a lambda, a class or the name of one builds."""
        if depth > 8:
            raise self._refuse(node)
        if isinstance(node, ast.FunctionDef):
            returns = [each for each in node.body if isinstance(each, ast.Return)]
            if len(returns) != 1 or returns[0].value is None:
                raise self._refuse(node)
            return self._made(returns[0].value, depth)
        if isinstance(node, ast.Lambda):
            return self._made(node.body, depth)
        if isinstance(node, ast.ClassDef):
            return self._of_class(node)
        if isinstance(node, ast.Name) and node.id in self._defined:
            return self.build(self._defined[node.id], depth + 1)
        if isinstance(node, ast.Name | ast.Attribute):
            return self._cataloged(self._name(node).split(".")[-1], node)
        raise self._refuse(node)

    def _made(self, node: ast.AST, depth: int) -> Made:
        if not isinstance(node, ast.Call):
            raise self._refuse(node)
        if isinstance(node.func, ast.Name) and node.func.id in self._defined:
            return self.build(node.func, depth + 1)
        found = self._value(node)
        if found.name == "get_model_from_catalog":
            return self._cataloged(next(iter(found.options.values()), None), node)
        return found if found.options else CATALOG.get(found.name, found)

    def _cataloged(self, name: Any, node: ast.AST) -> Made:
        if name not in CATALOG:
            raise ConversionError(
                f"{self._path}: needs a model that can be imported, as {', '.join(CATALOG)}. Received: {name!r}.")
        return CATALOG[name]

    def _of_class(self, node: ast.ClassDef) -> Made:
        base = self._name(node.bases[0]).split(".")[-1] if node.bases else ""
        calls = [
            each for each in ast.walk(node) if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute)
            and each.func.attr == "__init__"]
        if len(calls) != 1:
            raise self._refuse(node)
        return Made(base, self._options(base, calls[0]))

    def _options(self, name: str, call: ast.Call) -> dict[str, Any]:
        names = PARAMETERS.get(name) or [str(i) for i in range(len(call.args))]
        if len(call.args) > len(names):
            raise self._refuse(call)
        options = dict(zip(names, map(self._value, call.args), strict=False))
        for keyword in call.keywords:
            if keyword.arg is None:
                raise self._refuse(call)
            options[keyword.arg] = self._value(keyword.value)
        return options

    def _value(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Tuple | ast.List):
            return tuple(map(self._value, node.elts))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -self._value(node.operand)
        if isinstance(node, ast.Lambda):
            return self._value(node.body)
        if isinstance(node, ast.Call):
            name = self._name(node.func).split(".")[-1]
            return Made(name, self._options(name, node))
        if isinstance(node, ast.Name) and node.id in self._defined and not isinstance(
                self._defined[node.id], ast.FunctionDef | ast.ClassDef):
            return self._value(self._defined[node.id])
        return Named(self._name(node))

    def _name(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return node.id
        if isinstance(node, ast.Attribute):
            return f"{self._name(node.value)}.{node.attr}"
        raise self._refuse(node)

    def _refuse(self, node: ast.AST) -> ConversionError:
        return ConversionError(
            f"{self._path}: line {getattr(node, 'lineno', 1)} is not plain enough to be read without running it; write "
            "the model as one call with literal values.")
