"""Twins of the search in plain Python: slow, obvious, and not our code's relatives."""

import itertools

import numpy as np

BOS, EOS, UNK = 2, 3, 1


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def gap(values, number):
    """Distance of the closest two among the number + 1 largest: below float noise, either may come first."""
    largest = np.sort(np.asarray(values))[::-1][: number + 1]
    return -np.diff(largest[np.isfinite(largest)]).max(initial=-np.inf)


def exhaustive(log_probabilities, vocabulary_size, alpha, max_length, min_length=1):
    """Every output that ends in EOS within max_length, best first.

    Args:
        log_probabilities: function of a list of tokens (BOS first) to [V] log-probabilities.
    Returns:
        list of (score, log-probability, tokens without BOS).
    """
    words = [UNK, *range(EOS + 1, vocabulary_size)]
    found = []
    for length in range(min_length, max_length + 1):
        for body in itertools.product(words, repeat=length - 1):
            tokens = [*body, EOS]
            total = 0.0
            for i, token in enumerate(tokens):
                total += log_probabilities([BOS, *tokens[:i]])[token]
            found.append((total / penalty(length, alpha), total, tokens))
    return sorted(found, key=lambda item: -item[0])


def textbook_beam(log_probabilities, vocabulary_size, beam_size, alpha, max_length, min_length=1):
    """Beam search with live and finished hypotheses in two lists, run to max_length without a bound.

    Returns:
        finished hypotheses as `exhaustive`, best first, and the `gap` of the closest choice made.
    """
    words = [UNK, *range(EOS + 1, vocabulary_size)]
    live, finished, closest = [(0.0, [])], [], np.inf
    for length in range(1, max_length + 1):
        candidates = []
        for total, tokens in live:
            row = log_probabilities([BOS, *tokens])
            if length >= min_length:
                finished.append((total + row[EOS], [*tokens, EOS]))
            candidates += [(total + row[word], [*tokens, word]) for word in words]
        closest = min(closest, gap([total for total, _ in candidates], beam_size))
        live = sorted(candidates, key=lambda item: -item[0])[:beam_size]
    ranked = [(total / penalty(len(tokens), alpha), total, tokens) for total, tokens in finished]
    closest = min(closest, gap([score for score, _, _ in ranked], beam_size))
    return sorted(ranked, key=lambda item: -item[0]), closest


def greedy(log_probabilities, vocabulary_size, max_length, min_length=1):
    """The likeliest token at each step: (log-probability, tokens, `gap` of the closest choice made)."""
    total, tokens, closest = 0.0, [], np.inf
    for length in range(1, max_length + 1):
        row = log_probabilities([BOS, *tokens])
        allowed = [UNK, *range(EOS, vocabulary_size)]
        if length < min_length:
            allowed.remove(EOS)
        if length == max_length:
            allowed = [EOS]
        closest = min(closest, gap(row[allowed], 1))
        token = max(allowed, key=lambda word: row[word])
        total, tokens = total + row[token], [*tokens, token]
        if token == EOS:
            break
    return total, tokens, closest
