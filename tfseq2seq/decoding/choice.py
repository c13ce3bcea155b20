"""How one step chooses: which hypotheses end, and which extensions stay live."""

from typing import Any, NamedTuple

import tensorflow as tf

from tfseq2seq.decoding.extension import extend
from tfseq2seq.decoding.phrases import Progress
from tfseq2seq.decoding.sampling import draw
from tfseq2seq.structures import BOS, EOS, PAD, UNK

_INFINITY = float("inf")


class Turn(NamedTuple):
    """What a choice is made from, for R searches of K hypotheses.

    Attributes:
        logits: [R, K, V] float32; -inf where a token is forbidden.
        live: [R, K] float32, log-probabilities so far.
        normalizer: [R, K] float32, log sum exp of the logits before any was forbidden; None where it is that of
            `logits`.
        past: `processors.Past`.
        state: what the choice itself keeps of each hypothesis.
        too_short: [R, 1] or scalar bool, True where none may end yet.
        at_end: [R, 1] or scalar bool, True where nothing but the end is allowed.
        done: [R] bool.
    """

    logits: Any
    live: Any
    normalizer: Any
    past: Any
    state: Any
    too_short: Any
    at_end: Any
    done: Any


class Chosen(NamedTuple):
    """What a choice gives.

    Attributes:
        ended: [R, K] float32, log-probability of each hypothesis that ends now; -inf for the others.
        tokens, parents: [R, K] int32, the live extensions, best first, and the hypotheses they extend.
        live: [R, K] float32, their log-probabilities.
        over: [R] bool, True where the search is over whatever its pool holds.
    """

    ended: Any
    tokens: Any
    parents: Any
    live: Any
    over: Any


class Beam:
    """The K best extensions; with K = 1 the likeliest token, the end token among them.

    Args:
        finish: "all", "best" or "narrow", see `search`.
    """

    needs_normalizer = needs_past = False

    def __init__(self, finish="all"):
        self.finish = finish

    def start(self, num_hypotheses):
        return ()

    def advance(self, state, tokens, past):
        return state

    def choose(self, turn):
        return self.finished(turn, *extend(turn.logits, turn.live, turn.normalizer))

    def finished(self, turn, ended, tokens, parents, live):
        """Lets those end that may."""
        ended = tf.where(turn.too_short, -_INFINITY, ended)
        if ended.shape[1] == 1:
            likeliest = tf.logical_or(ended > live, turn.at_end)  # [R, 1]
            return Chosen(tf.where(likeliest, ended, -_INFINITY), tokens, parents, live, likeliest[:, 0])
        if self.finish in ("best", "narrow"):
            everyone = tf.concat([ended, live], 1)[:, None]  # [R, 1, 2 K]

            def among_best(part):
                better = tf.cast(everyone > part[:, :, None], tf.int32)  # [R, K, 2 K]
                return tf.reduce_sum(better, -1) < part.shape[1]

            among, stays = among_best(ended), among_best(live)
            ended = tf.where(tf.logical_or(among, turn.at_end), ended, -_INFINITY)
            if self.finish == "narrow":
                live = tf.where(stays, live, -_INFINITY)
        return Chosen(ended, tokens, parents, live, False)


class Groups(Beam):
    """Groups of beams that choose one after the other, each turned from what the ones before took.

    Args:
        num_groups: G.
        strength: what a token loses for each group that took it; infinity forbids it.
        only_at: scalar or [B] int32, the only step at which it does; None for all.
        finish: "all" or "best".
    """

    needs_normalizer = True

    def __init__(self, num_groups, strength, only_at=None, finish="all"):
        super().__init__(finish)
        self.num_groups, self.strength, self.only_at = num_groups, strength, only_at

    def choose(self, turn):
        width, beams = turn.logits.shape[2], turn.logits.shape[1]

        def split(part):
            grouped = tf.reshape(part, tf.concat([[-1, self.num_groups], tf.shape(part)[1:]], 0))
            grouped.set_shape([None, self.num_groups, *part.shape[1:]])
            return tf.unstack(grouped, axis=1)

        logits, live, normalizer, done, sources = map(
            split, (turn.logits, turn.live, turn.normalizer, turn.done, turn.past.sources))
        each = [  # a number for all searches, or one each
            split(part) if tf.is_tensor(part) and part.shape.rank else [part] * self.num_groups
            for part in (turn.too_short, turn.at_end)]
        taken = tf.zeros([tf.shape(live[0])[0], width])  # [A, V], by how many groups
        steers: Any = True
        if self.only_at is not None:
            only_at = tf.convert_to_tensor(self.only_at)
            steers = (tf.gather(only_at, sources[0]) if only_at.shape.rank else only_at[None]) == turn.past.length
        chosen = []
        for g in range(self.num_groups):
            loss = tf.math.multiply_no_nan(self.strength, taken)
            loss = loss if steers is True else tf.where(steers[:, None], loss, 0.0)
            steered = logits[g] - loss[:, None]
            mine = turn._replace(
                logits=steered, live=live[g], normalizer=normalizer[g], done=done[g], too_short=each[0][g],
                at_end=each[1][g])
            ended, tokens, parents, found = extend(steered, live[g], normalizer[g])
            if beams > 1:  # ends are no extensions: none is turned away from them
                ended = live[g] - normalizer[g] + logits[g][:, :, EOS]
            found = self.finished(mine, ended, tokens, parents, found)
            # Steering chose; the scores are the model's.
            ended, live_found = found.ended, found.live
            if beams == 1:
                ended = tf.where(ended > -_INFINITY, ended + _finite(loss[:, EOS, None]), ended)
            live_found += _finite(tf.gather(loss, tokens, batch_dims=1))
            chosen.append(found._replace(ended=ended, live=live_found))
            # A group of beams that is done goes on steering: the paper's algorithm knows no early end.
            took = found.live > -_INFINITY
            if beams == 1:
                took = tf.logical_and(took, tf.logical_not(tf.logical_or(done[g], found.over))[:, None])
                ends = tf.logical_and(found.over, tf.logical_not(done[g]))
                taken += tf.one_hot(EOS, width) * tf.cast(ends, tf.float32)[:, None]
            taken += tf.reduce_sum(tf.one_hot(tokens, width) * tf.cast(took, tf.float32)[:, :, None], 1)

        def join(parts):
            shape = tf.concat([[-1], tf.shape(parts[0])[1:]], 0)
            joined = tf.reshape(tf.stack(parts, 1), shape)
            return tf.ensure_shape(joined, [None, *parts[0].shape[1:]])

        over = False if beams > 1 else join([found.over for found in chosen])
        ended, tokens, parents, live = (join(list(parts)) for parts in list(zip(*chosen, strict=True))[:4])
        return Chosen(ended, tokens, parents, live, over)


class Sampled(Beam):
    """One token of each search, drawn.

    Args:
        sampling: `Sampling`.
        num_draws: searches of a source.
    """

    needs_normalizer = True

    def __init__(self, sampling, num_draws):
        super().__init__()
        self.sampling, self.num_draws = sampling, num_draws

    def choose(self, turn):
        rows, width = tf.shape(turn.logits)[0], turn.logits.shape[2]
        logits = turn.logits[:, 0]  # [R, V]
        barred = tf.constant([token in (PAD, BOS) for token in range(width)])
        is_end = tf.range(width) == EOS
        allowed = tf.where(barred, -_INFINITY, logits)
        allowed = tf.where(tf.logical_and(turn.too_short, is_end), -_INFINITY, allowed)
        numbers = tf.range(rows) % self.num_draws
        token = draw(allowed, self.sampling, turn.past.sources, numbers, turn.past.length)[:, None]  # [R, 1]
        gained = turn.live - turn.normalizer
        live = gained + tf.gather(logits, token, batch_dims=1)
        possible = tf.reduce_max(allowed, 1, keepdims=True) > -_INFINITY
        ends = tf.logical_or(token == EOS, turn.at_end)
        may_end = tf.logical_and(ends, tf.logical_not(turn.too_short))
        ended = tf.where(may_end, gained + logits[:, EOS, None], -_INFINITY)
        live = tf.where(tf.logical_and(possible, token != EOS), live, -_INFINITY)
        token = tf.where(token == EOS, UNK, token)
        over = tf.logical_or(ends, tf.logical_not(possible))[:, 0]
        return Chosen(ended, token, tf.zeros([rows, 1], tf.int32), live, over)


class Phrases(Beam):
    """The K best extensions, shared out over how many tokens of the source's phrases they hold.

    Candidates are the K best extensions of all, every extension that goes on with a phrase, and the best extension of
    each hypothesis (Post & Vilar, 2018, arXiv:1804.06609, section 3). They are taken in turn from the hypotheses with
    the most tokens of phrases to those with the least, the best of each first (Hu et al., 2019, N19-1090, section 3).
    So a hypothesis that goes on with its phrases is never lost, and after as many steps as the phrases have tokens at
    least one may end.

    Args:
        phrases: [B, C, L] int32, padded by PAD.
        vocabulary_size: V.
        finish: "all" or "best".
    """

    needs_normalizer = needs_past = True

    def __init__(self, phrases, vocabulary_size, finish="all"):
        super().__init__(finish)
        self.progress, self.vocabulary_size = Progress(phrases), vocabulary_size

    def start(self, num_hypotheses):
        return self.progress.start(num_hypotheses)

    def advance(self, state, tokens, past):
        return self.progress.advance(state, tokens, past)

    def choose(self, turn):
        beams, width = turn.live.shape[1], self.vocabulary_size
        progress = self.progress.at(turn.past, turn.state)
        ended, tokens, parents, live = extend(turn.logits, turn.live, turn.normalizer)
        ended = tf.where(progress.complete, ended, -_INFINITY)
        offset = (turn.live - turn.normalizer)[:, :, None]

        every = tf.range(beams)[None, :, None]
        going_on = progress.next_tokens  # [R, K, C], PAD where there is none
        special = tf.constant([token in (PAD, BOS, EOS) for token in range(width)])
        words = tf.where(special, -_INFINITY, turn.logits)
        best = tf.argmax(words, -1, output_type=tf.int32)[:, :, None]  # [R, K, 1]
        more = tf.concat([going_on, best], -1)  # [R, K, C + 1]
        values = offset + tf.gather(words, more, batch_dims=2)
        rows = tf.shape(turn.live)[0]
        tokens = tf.concat([tokens, tf.reshape(more, [rows, -1])], 1)  # [R, M]
        parents = tf.concat([parents, tf.reshape(tf.zeros_like(more) + every, [rows, -1])], 1)
        values = tf.concat([live, tf.reshape(values, [rows, -1])], 1)
        key = parents * width + tokens
        count = tf.shape(key)[1]
        earlier = tf.range(count)[:, None] > tf.range(count)  # [M, M], [i, j]: j stands before i
        twice = tf.reduce_any((key[:, :, None] == key[:, None]) & earlier, -1)
        values = tf.where(twice, -_INFINITY, values)

        _, bank = progress.after(parents, tokens)  # [R, M]
        same = bank[:, :, None] == bank[:, None]
        ahead = (values[:, None] > values[:, :, None]) | ((values[:, None] == values[:, :, None]) & earlier)
        place = tf.reduce_sum(tf.cast(same & ahead, tf.int32), -1)  # [R, M], in its bank
        most = tf.reduce_max(bank)
        order = place * (most + 1) + most - bank
        order = tf.where(values == -_INFINITY, tf.int32.max, order)
        _, taken = tf.math.top_k(-order, beams)
        taken_values = tf.gather(values, taken, batch_dims=1)
        live, best_first = tf.math.top_k(taken_values, beams)
        taken = tf.gather(taken, best_first, batch_dims=1)
        tokens = tf.where(live == -_INFINITY, UNK, tf.gather(tokens, taken, batch_dims=1))
        return self.finished(turn, ended, tokens, tf.gather(parents, taken, batch_dims=1), live)


def _finite(loss):
    """What was taken from a score that is still there; an infinite loss leaves none."""
    return tf.where(loss == _INFINITY, 0.0, loss)
