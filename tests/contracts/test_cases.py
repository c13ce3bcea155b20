"""The contracts are tested over everything that a recipe can name."""

import itertools
import typing

import pytest

from tests.contracts import cases
from tfseq2seq.decoders import DECODERS
from tfseq2seq.encoders import ENCODERS


def tables(table):
    """A recipe's table and those within it."""
    return [table, *itertools.chain(*map(tables, getattr(table, "encoders", [])))]


def choices(annotation):
    """The values of an option that has few, else none."""
    if annotation is bool:
        return {True, False}
    return set(typing.get_args(annotation)) if typing.get_origin(annotation) is typing.Literal else set()


def choices_tested(side):
    """(option, value) of every option of few values: those offered by a side's tables, and those of the cases."""
    offered, tested = set(), set()
    for pair in cases.PAIRS:
        for table in tables(getattr(cases.model_config(pair), side)):
            for name, field in type(table).model_fields.items():
                values = choices(field.annotation)
                offered |= {(name, value) for value in values}
                tested |= {(name, getattr(table, name))} if values else set()
    return offered, tested


def test_every_kind_of_encoder_meets_every_kind_of_decoder():
    configs = [cases.model_config(pair) for pair in cases.PAIRS]
    assert {(config.encoder.kind, config.decoder.kind) for config in configs} == set(
        itertools.product(ENCODERS, DECODERS))


def test_the_first_case_of_a_kind_bears_its_name():
    assert cases.KIND_PAIRS == ["+".join(kinds) for kinds in itertools.product(ENCODERS, DECODERS)]


@pytest.mark.parametrize("pairs", [cases.PAIRS, cases.EACH_CASE], ids=["PAIRS", "EACH_CASE"])
def test_every_case_stands_in_a_pair(pairs):
    sides = [set(side) for side in zip(*(pair.split("+")[:2] for pair in pairs))]
    assert sides == [set(cases.ENCODERS), set(cases.DECODERS)]
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_every_choice_of_every_option_has_a_case(side):
    offered, tested = choices_tested(side)
    assert offered - tested == set()
    assert len(offered) > 20


def test_every_way_to_tie_embeddings_has_a_case():
    assert {cases.model_config(pair).share_embeddings for pair in cases.PAIRS} == {"none", *cases.TIED}
