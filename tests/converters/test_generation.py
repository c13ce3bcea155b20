"""Defaults of Transformers' `generate` as ours."""

import pytest

from tfseq2seq.config import parse_recipe
from tfseq2seq.converters.base import Ids
from tfseq2seq.converters.transformers.generation import decode_table
from tfseq2seq.converters.weights import ConversionError

IDS = Ids(10, pad=1, unknown=3, start=2, end=2)  # id 0 is ours 4, 1 is 5, 4 is 6


def decode(prompt_length=1, most=100, **generation):
    table = decode_table({"eos_token_id": 2, **generation}, IDS, most, prompt_length)
    return parse_recipe({"name": "x", "decode": table}).decode


def test_lengths_are_counted_as_ours():
    found = decode(max_length=20, min_length=5)
    # 20 with the start token; the end may be token 5 of those after it.
    assert (found.max_length, found.min_length, found.cut, found.free_end) == (19, 5, True, False)
    assert decode(max_new_tokens=7, min_new_tokens=3).min_length == 4  # the end does not count there
    assert decode(max_new_tokens=7, min_new_tokens=3).max_length == 7
    assert decode(max_length=200, most=64).max_length == 63  # room for the end of one that is cut
    assert decode(max_length=200, most=64, forced_eos_token_id=2).max_length == 64


def test_a_forced_end_costs_nothing():
    found = decode(forced_eos_token_id=2)
    assert (found.cut, found.free_end) == (False, True)
    with pytest.raises(ConversionError, match="forced_eos_token_id = 4"):
        decode(forced_eos_token_id=4)


def test_a_prompt_does_not_count():
    found = decode(prompt_length=4, max_length=20, min_length=6)
    assert (found.max_length, found.min_length, found.count_prefix) == (16 + 3, 3 + 3, False)


@pytest.mark.parametrize("early, stop", [(False, "current"), (True, "first"), ("never", "bound"), (None, "current")])
def test_beams_end_as_theirs(early, stop):
    found = decode(num_beams=5, early_stopping=early, length_penalty=0.8, num_return_sequences=2)
    assert (found.beam_size, found.finish, found.stop, found.wait_for) == (5, "best", stop, 5)
    assert (found.length_penalty, found.length_penalty_kind, found.num_hypotheses) == (0.8, "length", 2)


def test_what_is_forbidden_has_our_ids():
    found = decode(
        bad_words_ids=[[1], [4, 0]], suppress_tokens=[4], begin_suppress_tokens=[0, 2], no_repeat_ngram_size=3)
    assert found.forbidden_ids == [[5], [6, 4], [6]]
    assert found.forbidden_first == [4, 3]
    assert found.block_ngrams == 3


def test_draws_are_theirs():
    found = decode(do_sample=True, temperature=0.7)
    assert (found.method, found.temperature, found.top_k, found.top_p) == ("sample", 0.7, 50, 1.0)


@pytest.mark.parametrize("values", [
    {"encoder_no_repeat_ngram_size": 3}, {"num_beam_groups": 2}, {"penalty_alpha": 0.6}, {"length_penalty": -1.0},
    {"exponential_decay_length_penalty": [5, 1.1]}, {"typical_p": 0.9}, {"guidance_scale": 2.0},
    {"do_sample": True, "num_beams": 2}, {"early_stopping": "soon"}, {"renormalize_logits": True}])
def test_what_has_no_counterpart_is_refused_by_name_and_value(values):
    name, value = next(iter(values.items()))
    with pytest.raises(ConversionError) as refused:
        decode(**values)
    assert f"Received: {name} = {value!r}" in str(refused.value)
