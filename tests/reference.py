"""Twins of the search in plain Python: slow, obvious, and not our code's relatives."""

import itertools

import numpy as np

BOS, EOS, UNK = 2, 3, 1


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def penalty(length, alpha, kind="gnmt"):
    return {"gnmt": (5 + length) / 6, "length": length, "none": 1.0}[kind] ** alpha


def coverage_penalty(attention):
    """Of one hypothesis: attention [T, S] of real source steps only."""
    return np.log(np.minimum(attention.sum(0), 1.0)).sum()


def gap(values, number):
    """Distance of the closest two among the number + 1 largest: below float noise, either may come first."""
    largest = np.sort(np.asarray(values))[::-1][: number + 1]
    return -np.diff(largest[np.isfinite(largest)]).max(initial=-np.inf)


def anything(tokens):
    return True


def exhaustive(
    log_probabilities, vocabulary_size, alpha, max_length, min_length=1, valid=anything, kind="gnmt", added=None,
):
    """Every valid output that ends in EOS within max_length, best first.

    Args:
        log_probabilities: function of a list of tokens (BOS first) to [V] log-probabilities.
        valid: whether a whole output, EOS included, is allowed.
        added: function of an output to what its score gains, or None.
    Returns:
        list of (score, log-probability, tokens without BOS).
    """
    words = [UNK, *range(EOS + 1, vocabulary_size)]
    found = []
    for length in range(min_length, max_length + 1):
        for body in itertools.product(words, repeat=length - 1):
            tokens = [*body, EOS]
            if not valid(tokens):
                continue
            total = sum(log_probabilities([BOS, *tokens[:i]])[token] for i, token in enumerate(tokens))
            score = total / penalty(length, alpha, kind) + (added(tokens) if added else 0.0)
            found.append((score, total, tokens))
    return sorted(found, key=lambda item: -item[0])


def textbook_beam(
    log_probabilities, vocabulary_size, beam_size, alpha, max_length, min_length=1, valid=anything, kind="gnmt",
    finish="all",
):
    """Beam search with live and finished hypotheses in two lists, run to max_length without a bound.

    Args:
        valid: whether an output, whole (it ends in EOS) or as far as it goes, is allowed.
        finish: "all" lets every live hypothesis end; "best" only one whose end is among the best extensions.
    Returns:
        finished hypotheses as `exhaustive`, best first, and the `gap` of the closest choice made.
    """
    words = [UNK, *range(EOS + 1, vocabulary_size)]
    live, finished, closest = [(0.0, [])], [], np.inf
    for length in range(1, max_length + 1):
        candidates, ends = [], []
        for total, tokens in live:
            row = log_probabilities([BOS, *tokens])
            if length >= min_length and valid([*tokens, EOS]):
                ends.append((total + row[EOS], [*tokens, EOS]))
            candidates += [(total + row[word], [*tokens, word]) for word in words if valid([*tokens, word])]
        closest = min(closest, gap([total for total, _ in candidates], beam_size))
        if finish == "best" and length < max_length:
            everything = sorted([total for total, _ in candidates + ends], reverse=True)
            closest = min(closest, gap(everything, beam_size))
            ends = [end for end in ends if sum(total > end[0] for total in everything) < beam_size]
        finished += ends
        live = sorted(candidates, key=lambda item: -item[0])[:beam_size]
    ranked = [(total / penalty(len(tokens), alpha, kind), total, tokens) for total, tokens in finished]
    closest = min(closest, gap([score for score, _, _ in ranked], beam_size))
    return sorted(ranked, key=lambda item: -item[0]), closest


def shared_beam(log_probabilities, vocabulary_size, beam_size, alpha, max_length, end_length=1, coverage=None):
    """Beam search in one list: what is finished stays in it among the others, as in TensorFlow's BeamSearchDecoder.

    Args:
        end_length: how many tokens the end counts as; one less at the step at which it comes.
        coverage: what is added to the score of tokens that are finished, from the step after their last one on.
    Returns:
        As `textbook_beam`.
    """
    words = [UNK, *range(EOS + 1, vocabulary_size)]
    beams, closest = [(0.0, [])], np.inf
    for length in range(1, max_length + 1):
        candidates = []
        for total, tokens in beams:
            if tokens[-1:] == [EOS]:
                score = total / penalty(len(tokens) - 1 + end_length, alpha)
                candidates.append((score + (coverage(tokens) if coverage else 0), total, tokens))
                continue
            row = log_probabilities([BOS, *tokens])
            candidates.append((
                (total + row[EOS]) / penalty(length - 2 + end_length, alpha), total + row[EOS], [*tokens, EOS]))
            candidates += [
                ((total + row[word]) / penalty(length, alpha), total + row[word], [*tokens, word])
                for word in words if length < max_length]
        closest = min(closest, gap([rank for rank, _, _ in candidates], beam_size))
        beams = [each[1:] for each in sorted(candidates, key=lambda item: -item[0])[:beam_size]]
        if all(tokens[-1] == EOS for _, tokens in beams):
            break
    ranked = [
        (total / penalty(len(tokens) - 1 + end_length, alpha) + (coverage(tokens) if coverage else 0), total, tokens)
        for total, tokens in beams]
    closest = min(closest, gap([score for score, _, _ in ranked], beam_size))
    return sorted(ranked, key=lambda item: -item[0]), closest


def narrow_beam(log_probabilities, vocabulary_size, beam_size, alpha, max_length, wanted, end_length=1):
    """Beam search whose ends take places among the K best for a step, up to a best one that is an end (OpenNMT-py's).

    Args:
        wanted: answers that must have ended.
        end_length: how many tokens the end counts as.
    Returns:
        As `textbook_beam`.
    """
    words = [UNK, EOS, *range(EOS + 1, vocabulary_size)]
    live, finished, closest, topped = [(0.0, [])], [], np.inf, False
    for length in range(1, max_length + 1):
        candidates = [
            (total + log_probabilities([BOS, *tokens])[word], [*tokens, word]) for total, tokens in live
            for word in (words if length < max_length else [EOS])]
        closest = min(closest, *(gap([total for total, _ in candidates], number) for number in (1, beam_size)))
        best = sorted(candidates, key=lambda item: -item[0])[:beam_size]
        finished += [each for each in best if each[1][-1] == EOS]
        live = [each for each in best if each[1][-1] != EOS]
        topped = topped or best[0][1][-1] == EOS
        if topped and len(finished) >= wanted or not live:
            break
    ranked = [(total / penalty(len(tokens) - 1 + end_length, alpha), total, tokens) for total, tokens in finished]
    closest = min(closest, gap([score for score, _, _ in ranked], wanted))
    return sorted(ranked, key=lambda item: -item[0]), closest


def diverse_beam(log_probabilities, vocabulary_size, groups, beam_size, strength, alpha, max_length):
    """Diverse beam search, one group after the other at each step (Vijayakumar et al., 2018, algorithm 1).

    Args:
        groups: number of groups, each of beam_size > 1 hypotheses.
    Returns:
        for each group its finished hypotheses as `exhaustive`, and the `gap` of the closest choice made.
    """
    words = [UNK, *range(EOS + 1, vocabulary_size)]
    live, finished, closest = [[(0.0, [])] for _ in range(groups)], [[] for _ in range(groups)], np.inf
    for length in range(1, max_length + 1):
        taken = np.zeros(vocabulary_size)
        for g in range(groups):
            candidates = []
            for total, tokens in live[g]:
                row = log_probabilities([BOS, *tokens])
                value = total + row[EOS]
                finished[g].append((value / penalty(length, alpha), value, [*tokens, EOS]))
                candidates += [
                    (total + row[word] - strength * taken[word], total + row[word], [*tokens, word]) for word in words]
            closest = min(closest, gap([candidate[0] for candidate in candidates], beam_size))
            chosen = sorted(candidates, key=lambda item: -item[0])[:beam_size]
            for _, _, tokens in chosen:
                taken[tokens[-1]] += 1
            live[g] = [(total, tokens) for _, total, tokens in chosen]
    for found in finished:
        closest = min(closest, gap([item[0] for item in found], beam_size))
    return [sorted(found, key=lambda item: -item[0]) for found in finished], closest


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
