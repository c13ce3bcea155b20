"""The answer of the most similar train source: what looking it up is worth."""

import collections
import math
import re
from collections.abc import Sequence

import numpy as np

from pipelines.pairs import Pair

_TOKEN = re.compile(r"\w+|[^\w\s]")
COMMON = 8_000  # train sources with a token that says so little that it is passed over


def nearest_neighbour(train: Sequence[Pair], sources: Sequence[str]) -> list[str]:
    """The target of the train pair whose source has the largest cosine of TF-IDF vectors.

    Tokens are words and punctuation marks in lower case; weight = count * (ln(N / pairs with the token) + 1). Of
    equally similar ones the first; where no token is known, the first train pair.

    Args:
        train: N pairs; without any, the answers are empty.
        sources: what is asked.
    """
    if not train:
        return [""] * len(sources)
    places: dict[str, list[int]] = collections.defaultdict(list)
    counts: dict[str, list[int]] = collections.defaultdict(list)
    for number, (source, _) in enumerate(train):
        for token, count in collections.Counter(_tokens(source)).items():
            places[token].append(number)
            counts[token].append(count)
    norms = np.zeros(len(train))
    postings = {}
    for token, numbers in places.items():
        rows = np.array(numbers)
        rarity = math.log(len(train) / len(rows)) + 1
        weights = rarity * np.array(counts[token], np.float32)
        norms[rows] += weights**2
        if len(rows) <= COMMON:
            postings[token] = rows, weights * rarity
    scale = 1 / np.sqrt(np.maximum(norms, 1e-9))
    answers: dict[str, str] = {}
    for source in sources:
        if source not in answers:
            products = np.zeros(len(train))
            for token, count in collections.Counter(_tokens(source)).items():
                if token in postings:
                    rows, weights = postings[token]
                    products[rows] += count * weights
            answers[source] = train[int((products * scale).argmax())][1]
    return [answers[source] for source in sources]


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())
