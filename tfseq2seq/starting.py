"""Starting from the weights of another model whose vocabularies may be others."""

import numpy as np

from tfseq2seq.model import Seq2Seq

Vocabularies = tuple[list[str], list[str]]  # tokens of source and target in the order of their ids


def start_from(model: Seq2Seq, other: Seq2Seq, vocabularies: Vocabularies, others: Vocabularies) -> tuple[int, int]:
    """Copies the other model's weights; a token that both know takes its row and column along.

    Args:
        model: takes the weights; tokens that only it knows keep their own.
        other: gives them; its config must be the same.
        vocabularies: of the model.
        others: of the other one.
    Returns:
        How many source and target tokens were known.
    Raises:
        ValueError: the models are not built alike.
    """
    if model.config != other.config:
        mine, given = (each.config.model_dump() for each in (model, other))
        key = next(key for key in mine if mine[key] != given[key])
        raise ValueError(
            "train.start_from needs a run with the same [model] table. Received: "
            f"model.{key} = {mine[key]!r}, there {given[key]!r}.")
    places = [_places(mine, given) for mine, given in zip(vocabularies, others, strict=True)]
    # The axis that has a token's place, and the side whose tokens they are.
    by_token = {id(model.target_embedding.table): (0, 1)}
    if model.config.source == "tokens":
        by_token[id(model.source_embedding.table)] = (0, 0)
    if model.output_bias is not None:
        by_token[id(model.output_bias.bias)] = (0, 1)
    if model.output_layer is not None:
        by_token |= {id(model.output_layer.kernel): (1, 1), id(model.output_layer.bias): (0, 1)}
    for weight, given in zip(model.weights, other.weights, strict=True):
        if id(weight) not in by_token:
            weight.assign(given)
            continue
        axis, side = by_token[id(weight)]
        to, origin = places[side]
        values = np.moveaxis(weight.numpy(), axis, 0)  # a view: what is written is in its place
        values[to] = np.moveaxis(given.numpy(), axis, 0)[origin]
        weight.assign(np.moveaxis(values, 0, axis))
    return len(places[0][0]), len(places[1][0])


def _places(tokens: list[str], others: list[str]) -> tuple[list[int], list[int]]:
    """Ids of the tokens that both know, here and there."""
    there = {token: place for place, token in enumerate(others)}
    known = [(place, there[token]) for place, token in enumerate(tokens) if token in there]
    return [here for here, _ in known], [origin for _, origin in known]
