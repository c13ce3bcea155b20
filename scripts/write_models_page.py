#!/usr/bin/env python
"""Writes the generated parts of docs/models.md anew, from the same lists that recipes are read with.

A part stands between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of the page is written by hand.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
import pydantic

from tfseq2seq.config import Model, networks
from tfseq2seq.config.model import PRESET_EMBEDDING_UNITS
from tfseq2seq.decoders import DECODERS
from tfseq2seq.encoders import ENCODERS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "models.md"
PART = re.compile(r"(<!-- generated: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)

# What the tables of `tfseq2seq.config` say in their names alone.
EXPLANATIONS = {
    "activation": "between the two maps of the feed-forward layer",
    "attention": "how decoder states are matched with encoder states, see above",
    "bidirectional": "whether each layer also reads from the last step to the first",
    "cell": "what one step computes",
    "decoder": "the table of a decoder, below",
    "embedding_units": "width of the embeddings of both sides",
    "encoder": "the table of an encoder, below",
    "encoders": "the encoders' tables, in their order",
    "feed_forward_units": "width between the two maps of the feed-forward layer",
    "kind": "the family",
    "layers": "number of layers",
    "normalization": "layer normalization, or by the root mean square",
    "positions": "how a step knows where it stands",
    "preset": "the sizes that this table does not set itself, see above",
    "units": "width",
}

# Kind -> what is said of it, and a table of that kind. A composed encoder goes by what it is made of.
EXAMPLES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "recurrent": [("", {"kind": "recurrent"})],
    "convolutional": [("", {"kind": "convolutional"})],
    "transformer": [("", {"kind": "transformer"})],
    "pyramidal": [("", {"kind": "pyramidal"})],
    "conformer": [("", {"kind": "conformer"})],
    "subsampling": [("", {"kind": "subsampling"})],
    "sequence": [
        (", a recurrent one last", {"encoders": [{"kind": "convolutional"}, {"kind": "recurrent"}]}),
        (", another one last", {"encoders": [{"kind": "recurrent"}, {"kind": "transformer"}]})],
    "parallel": [
        (", a recurrent one among them", {"encoders": [{"kind": "transformer"}, {"kind": "recurrent"}]}),
        (" of others", {"encoders": [{"kind": "transformer"}, {"kind": "convolutional", "units": 512}]})],
}


def write(page: str) -> str:
    """The page with its generated parts made anew.

    Raises:
        ValueError: a part is missing from the page, or nobody knows how to make it.
    """
    made = {name: make() for name, make in _parts()}
    found = [name for _, name, _, _ in PART.findall(page)]
    if sorted(found) != sorted(made):
        raise ValueError(
            f"docs/models.md needs each of these parts once: {', '.join(made)}. Received: {', '.join(found)}.")
    return PART.sub(lambda part: f"{part[1]}\n{made[part[2]]}\n\n{part[4]}", page)


def _parts() -> Iterator[tuple[str, Callable[[], str]]]:
    yield "pairs", _pairs
    yield "presets", _presets
    yield "keys of model", lambda: _keys(Model)
    for side, kinds in (("encoder", ENCODERS), ("decoder", DECODERS)):
        for kind, layer in kinds.items():
            table = getattr(networks, layer.__name__)
            yield f"keys of {side} {kind}", lambda table=table: _keys(table)


def _pairs() -> str:
    """What the decoder's first state is made of, for every encoder and decoder; a ValueError where they do not fit."""
    rows = []
    for kind in ENCODERS:
        for remark, table in EXAMPLES[kind]:
            cells = [_first_state({"kind": kind, **table}, decoder) for decoder in DECODERS]
            rows.append([f"`{kind}`{remark}", *cells])
    return _table(["encoder", *(f"`{kind}`" for kind in DECODERS)], rows)


def _first_state(encoder: dict[str, Any], decoder: str) -> str:
    Model.model_validate({"encoder": encoder, "decoder": {"kind": decoder}})
    if decoder == "transformer":
        return "needs none"
    try:
        Model.model_validate({"encoder": encoder, "decoder": {"kind": decoder, "bridge": "dense"}})
    except pydantic.ValidationError:
        return "pooled"
    return "dense"


def _presets() -> str:
    sizes = list(PRESET_EMBEDDING_UNITS)
    rows = [["both sides", "`embedding_units`", *map(str, PRESET_EMBEDDING_UNITS.values())]]
    for family, presets in networks.PRESETS.items():
        sides = family if family.startswith("recurrent") else f"{family} encoder" + (
            " and decoder" if family in DECODERS else "")
        rows += [[sides, f"`{key}`", *(str(presets[size][key]) for size in sizes)] for key in presets[sizes[0]]]
    return _table(["", "", *(f"`{size}`" for size in sizes)], rows)


def _keys(table: type[pydantic.BaseModel]) -> str:
    rows = [
        [f"`{name}`", _values(field), _default(field), _explain(table, name)]
        for name, field in sorted(table.model_fields.items(), key=lambda item: item[0] != "kind")]
    return _table(["key", "values", "default", ""], rows)


def _values(field: Any) -> str:
    annotation, limits = field.annotation, list(field.metadata)
    choices = [choice for choice in get_args(annotation) if choice is not type(None)]
    if get_origin(annotation) is not Literal and type(None) in get_args(annotation):
        annotation = choices[0]
    if get_origin(annotation) is Annotated and get_args(annotation)[0] in (int, float):
        annotation, *limits = get_args(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`\"{value}\"`" for value in get_args(annotation))
    if annotation is bool:
        return "`true`, `false`"
    if annotation in (int, float):
        signs = {annotated_types.Ge: ("≥", "ge"), annotated_types.Gt: (">", "gt"), annotated_types.Lt: ("<", "lt")}
        parts = [f"{sign} {getattr(limit, name)}" for limit in limits for kind, (sign, name) in signs.items()
                 if isinstance(limit, kind)]
        return ", ".join(parts)
    return "tables" if get_origin(annotation) is list else "a table"


def _default(field: Any) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if value is None:
        return ""
    if isinstance(value, pydantic.BaseModel):
        return f"`kind = \"{value.kind}\"`"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`\"{value}\"`" if isinstance(
        value, str) else f"`{value}`"


def _explain(table: type, name: str) -> str:
    """The comment beside or above a key, where it was defined last."""
    owner = next(each for each in table.__mro__ if name in vars(each).get("__annotations__", {}))
    lines = inspect.getsource(owner).splitlines()
    body = ast.parse("\n".join(lines)).body[0].body
    node = next(each for each in body if isinstance(each, ast.AnnAssign) and each.target.id == name)
    comments = [lines[node.end_lineno - 1][node.end_col_offset:].strip().removeprefix("# ")]
    if not comments[0]:
        comments = []
        above = node.lineno - 2
        while lines[above].strip().startswith("#"):
            comments.insert(0, lines[above].strip().removeprefix("# "))
            above -= 1
    return " ".join(comments).replace("|", "\\|") or EXPLANATIONS[name]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(write(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
