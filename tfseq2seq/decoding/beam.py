"""Search over any step function, in one graph: greedy, beam, diverse groups, constrained, sampled.

Live and finished hypotheses are kept apart. At step t every live hypothesis also ends: with the end token
it enters the pool of finished ones, which keeps the best by score; the K best extensions by any other token
stay live. So a finished hypothesis never takes the place of a live one, and a returned score is always that
of the returned tokens.

Histories are not moved about at each step. Each step leaves its tokens and the beams they came from, a
finished hypothesis is a pointer (step, beam), and the answers are read by following the pointers back.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tfseq2seq.decoding.choice import Beam, Groups, Phrases, Sampled, Turn
from tfseq2seq.decoding.extension import log_sum_exp
from tfseq2seq.decoding.processors import Past
from tfseq2seq.decoding.refusals import check
from tfseq2seq.decoding.results import History, Pool, gather_answers, share_places
from tfseq2seq.decoding.scoring import coverage_penalty as coverage_of
from tfseq2seq.decoding.scoring import length_penalty as penalty_of
from tfseq2seq.decoding.state import leave, reorder, tile
from tfseq2seq.structures import BOS, EOS

_INFINITY = float("inf")


class _Loop(NamedTuple):
    """What one step hands to the next: of the batch's B sources A are not done, each has G searches of K hypotheses.

    Attributes:
        t: scalar int32, steps done.
        active: [A] int32, places of the A sources in the batch.
        tokens: [A * G * K] int32, the last tokens.
        carried: nest of [A * G * K, ...]: the decoder's state, and what the options need of each hypothesis.
        memory: nest of [A, ...], what the step function reads of the sources.
        live: [A * G, K] float32, what the search maximizes; -inf where there is no hypothesis.
        truth: [A * G, K] float32, the model's log-probability, or () where it is `live`.
        topped: [A * G] bool, whether the best extension of a step was an end; () where `stop` does not ask.
        done: [A * G] bool.
        pool: the finished hypotheses of all B * G searches.
        history: what each step chose, of all B * G searches.
    """

    t: Any
    active: Any
    tokens: Any
    carried: Any
    memory: Any
    live: Any
    truth: Any
    topped: Any
    done: Any
    pool: Any
    history: Any


class _Carried(NamedTuple):
    """State of the step function, tokens so far [.., L], attention so far [.., S], states of processors and choice."""

    state: Any
    past: Any
    coverage: Any
    processors: Any
    choice: Any


def search(
    step, state, memory=(), *, batch_size, vocabulary_size, beam_size=4, num_hypotheses=1, length_penalty=0.6,
    length_penalty_kind="gnmt", coverage_penalty=0.0, source_mask=None, max_length=100, min_length=1, num_groups=1,
    diversity_strength=0.5, alternatives_at=None, sampling=None, phrases=None, reshapers=(), processors=(),
    finish="all", stop="bound", wait_for=None, end_length=1, count_forced_end=True, num_uncounted=0, compact=True,
    longest=None, places=None,
):
    """Finds the likeliest outputs of a step function.

    With beam_size 1 the search is greedy: the likeliest token at each step, up to the end token. With more,
    it ends for a source when the worst of its `num_hypotheses` finished ones is at least as good as the best
    that a live one can still become, log p / penalty(max_length); the bound loses nothing. At max_length only
    the end token is allowed, so each answer ends in it, with its true probability. PAD and BOS are never
    produced. Of equally likely extensions those of the better beam, then the lower ids win. A source that is
    done leaves the batch and costs nothing more.

    What depends on the source alone is `memory`, of B rows; it is never copied for each hypothesis.

    Args:
        step: (tokens [N] int32, state, memory) -> (logits [N, V], state, attention [N, S] or None), N = A * K,
            of any A of the sources, the hypotheses of one source side by side: number k of source a is row
            a * K + k.
        state: nest of [B, ...] tensors, of each source before the first step; what is in a `Shared` part stays one row
            a source, the others become one row a hypothesis.
        memory: nest of [B, ...] tensors.
        batch_size: B, int or scalar tensor; may be 0.
        vocabulary_size: V, at least 4, the special tokens.
        beam_size: K, at least 1.
        num_hypotheses: H, from 1 to K.
        length_penalty: alpha, float or [B], at least 0; 0 turns it off. See `scoring.length_penalty`.
        length_penalty_kind: "gnmt", "length" or "none".
        coverage_penalty: beta, at least 0, times `scoring.coverage_penalty` is added to the score of a hypothesis that
            ends; needs a step that gives attention, and `source_mask`.
        source_mask: [B, S] bool, True on real steps.
        max_length: tokens, end token included, at least 1; int or [B] int32.
        min_length: tokens, end token included, from 1 to max_length; int or [B] int32.
        num_groups: G, divides K. Groups of K / G beams search one after the other, and a token that earlier groups took
            at this step loses `diversity_strength` for each of them (Vijayakumar et al., 2018, arXiv:1610.02424, eq. 4
            with Hamming diversity). That steers the choice alone; scores stay the model's. Answers are the best of all
            groups, of each at most H / G, rounded up.
        diversity_strength: lambda, at least 0.
        alternatives_at: [B] int32 or int: at this step (0 is the first) the K beams take the K likeliest tokens, the
            end token among them, and each goes on greedily: what else might stand here?
        sampling: `Sampling`; the K hypotheses of a source are then K independent draws.
        phrases: [B, C, L] int32, padded by PAD: each answer contains all of its source's phrases (Post & Vilar, 2018,
            arXiv:1804.06609; beams are shared out as by Hu et al., 2019, N19-1090).
        reshapers: functions (logits [R, K, V], Past) -> logits that change the distribution, see `processors`; the
            score is then that of the changed distribution, and what they forbid by -inf goes to the other tokens.
        processors: likewise functions that forbid tokens by -inf; they change no probability, and no score.
        finish: "all": every live hypothesis may end at each step; "best": only one whose end is among the K best
            extensions, ends counted, as in Transformers and CTranslate2; "narrow": as "best", and only the extensions
            among these go on, so that an end leaves its place empty for a step, as in OpenNMT-py; "shared": finished
            and live ones share the K places, and the search ends when all are finished, as in TensorFlow's
            BeamSearchDecoder. At the step at which a hypothesis ends it is then ranked without its end token counted,
            and without a coverage penalty.
        stop: "bound", see above; "current": as "bound" with the penalty of the current length, which is quicker and may
            miss a better answer; "first": when `wait_for` hypotheses are finished; "top": when they are, and the
            best of all extensions of a step was an end, as in OpenNMT-py.
        wait_for: finished hypotheses of a group that `stop` looks at; default and least H / G, rounded up.
        end_length: how many tokens the end token counts as in the length penalty, at least 0.
        count_forced_end: whether the length penalty counts the end token that max_length forces; without, an answer of
            max_length is one of a token less that was cut.
        num_uncounted: tokens at the start of each answer that it does not count.
        compact: Whether sources that are done leave the batch. Without, all shapes stay the same, as XLA needs them.
        longest: an int, the greatest that a tensor `max_length` holds; default: found in the graph.
        places: [B] int32, which rows of the settings that have one a source are those of these B sources, where the
            settings are of more; likewise what `sampling`, `phrases` and the functions know. Default: 0 to B - 1.
    Returns:
        Hypotheses with T = steps that were run for the whole batch, at most max_length; without `compact` `longest`.
    Raises:
        ValueError: a number out of its range, or options that do not go together.
    """
    check(locals())
    if sampling is not None or alternatives_at is not None:
        num_groups = beam_size
    beams = beam_size // num_groups
    batch_size = tf.convert_to_tensor(batch_size, tf.int32)
    per_group = -(-num_hypotheses // num_groups)
    wait_for = max(wait_for or per_group, per_group)
    kept = beam_size if finish == "shared" else max(per_group, wait_for)
    length_penalty, max_length, min_length = (
        tf.cast(value, dtype) if tf.is_tensor(value) else value
        for value, dtype in ((length_penalty, tf.float32), (max_length, tf.int32), (min_length, tf.int32)))
    # The maximum of no rows is the least int32, and a search without a step would leave nothing to read.
    if longest is None:
        longest = tf.maximum(tf.reduce_max(max_length), 1) if tf.is_tensor(max_length) else max_length

    changes = (*reshapers, *processors)
    choice: Beam
    if sampling is not None:
        choice = Sampled(sampling, beam_size)
    elif phrases is not None:
        choice = Phrases(phrases, vocabulary_size, finish)
    elif alternatives_at is not None:
        choice = Groups(num_groups, _INFINITY, alternatives_at)
    elif num_groups > 1:
        choice = Groups(num_groups, float(diversity_strength), finish=finish)
    else:
        choice = Beam(finish)

    def places_of(sources):
        return sources if places is None else tf.gather(places, sources)

    def rows_of(sources, value):
        """A setting of each row's source: a number for all as it is, [B] as [R, 1]."""
        return tf.gather(value, sources)[:, None] if tf.is_tensor(value) and value.shape.rank else value

    def penalty_at(length, limit, alpha):
        """What log-probabilities of hypotheses of a length are divided by."""
        counted = length if count_forced_end else tf.minimum(length, limit - 1)
        counted = counted + end_length - 1
        counted = tf.maximum(counted - num_uncounted, 1) if num_uncounted else counted
        return penalty_of(counted, alpha, length_penalty_kind)

    def changed(processes, states, logits, past):
        for process, state in zip(processes, states, strict=True):
            logits = process(logits, past, state) if hasattr(process, "start") else process(logits, past)
        return logits

    def normalizer_of(logits):
        normalizer = log_sum_exp(logits)
        # Where a reshaper left nothing, all stays impossible.
        return tf.where(tf.math.is_nan(normalizer), 0.0, normalizer) if reshapers else normalizer

    def body(*loop):
        loop = _Loop(*loop)
        num_active = tf.shape(loop.active)[0]
        here = tf.repeat(loop.active, num_groups) if num_groups > 1 else loop.active  # [R]
        sources = places_of(here)
        logits, new_state, attention = step(loop.tokens, loop.carried.state, loop.memory)
        original = tf.reshape(tf.cast(logits, tf.float32), [-1, beams, vocabulary_size])  # [R, K, V]
        past_tokens = loop.carried.past
        if not isinstance(past_tokens, tuple):
            past_tokens = tf.reshape(past_tokens, [-1, beams, tf.shape(past_tokens)[-1]])
        past = Past(loop.t, past_tokens, sources)
        states, length = loop.carried.processors, loop.t + 1
        logits = changed(reshapers, states[: len(reshapers)], original, past)
        normalizer = normalizer_of(logits) if changes or choice.needs_normalizer else None
        logits = changed(processors, states[len(reshapers) :], logits, past)
        limit = rows_of(sources, max_length)  # [R, 1] or a number
        at_end = length >= limit
        turn = Turn(
            logits, loop.live, normalizer, past, loop.carried.choice, length < rows_of(sources, min_length), at_end,
            loop.done)
        ended, tokens, parents, live, over = choice.choose(turn)
        ended_truth, live_truth = ended, live
        if reshapers:
            gained = original - log_sum_exp(original)[:, :, None]
            ended_truth = tf.where(ended == -_INFINITY, ended, loop.truth + gained[:, :, EOS])
            tokens_gained = tf.gather(tf.gather(gained, parents, batch_dims=1), tokens, batch_dims=2)
            live_truth = tf.gather(loop.truth, parents, batch_dims=1) + tokens_gained
        before = loop.truth if reshapers else loop.live

        alpha = rows_of(sources, length_penalty)
        rows = _rows_of(loop.active, num_groups) if compact else None
        pool, over_all = loop.pool, False
        if finish == "shared":
            live = tf.where(at_end, -_INFINITY, live)  # what cannot go on takes no place
            entering = ended / penalty_at(length - 1, limit, alpha)
            entering = tf.where(ended == -_INFINITY, ended, entering)
            ranks = live / penalty_of(length, alpha, length_penalty_kind)
            pool, ended, live = share_places(pool, rows, loop.done, entering, ended, ranks, live)
            ended_truth, live_truth = (
                tf.where(part == -_INFINITY, part, truth)
                for part, truth in ((ended, ended_truth), (live, live_truth)))
            over_all = tf.reduce_all(live == -_INFINITY, 1)
        scores, coverage = ended / penalty_at(length, limit, alpha), loop.carried.coverage
        scores = tf.where(ended == -_INFINITY, ended, scores)  # a penalty may be infinite
        if coverage_penalty:
            if attention is None or attention.shape[-1] == 0:
                raise ValueError("search needs a step that gives attention, for a coverage_penalty. Received: none.")
            coverage += tf.cast(attention, tf.float32)
            real = tf.gather(source_mask, here)[:, None]
            total = tf.reshape(coverage, [-1, beams, tf.shape(coverage)[-1]])
            scores += coverage_penalty * coverage_of(total, real)
        pool = pool.merge(rows, loop.done, scores, ended_truth, length)
        done = tf.logical_or(loop.done, over)
        topped = tf.logical_or(
            loop.topped, tf.reduce_max(ended, 1) > tf.reduce_max(live, 1)) if stop == "top" else ()
        if beams > 1:
            worst = pool.worst(rows, wait_for)
            if finish == "shared":
                enough = over_all
            elif stop == "first":
                enough = worst > -_INFINITY
            elif stop == "top":
                enough = tf.logical_and(worst > -_INFINITY, topped)
            else:
                reached = length if stop == "current" else limit
                best = tf.reduce_max(live, 1)  # steered groups are not in the order of their log-probabilities
                enough = worst >= best / tf.reshape(penalty_at(reached, limit, alpha), [-1])
            done = tf.logical_or(done, enough)
        done = tf.logical_or(done, tf.reshape(at_end, [-1]))
        history = loop.history.write(
            loop.t, rows, batch_size * num_groups, tokens, parents,
            live_truth - tf.gather(before, parents, batch_dims=1), ended_truth - before, attention)

        places = tf.range(num_active * num_groups)[:, None] * beams + parents  # [R, K]
        carried = _Carried(new_state, loop.carried.past, coverage, loop.carried.processors, loop.carried.choice)
        memory, active = loop.memory, loop.active
        keep = None
        if compact:
            keep = tf.where(tf.logical_not(tf.reduce_all(tf.reshape(done, [-1, num_groups]), 1)))[:, 0]  # [A']
            leaving = tf.shape(keep)[0] < num_active
            active = tf.gather(active, keep)
            memory = leave(leaving, memory, keep, keep)
            tokens, live, live_truth, topped, done, places = (
                _gather_rows(part, keep, num_groups) for part in (tokens, live, live_truth, topped, done, places))
        flat = tf.reshape(places, [-1])
        if beams > 1:
            carried = reorder(carried, flat)
        if compact:
            carried = leave(leaving, carried, None if beams > 1 else flat, keep)
        tokens = tf.reshape(tokens, [-1])
        if not isinstance(carried.past, tuple):
            now = tf.range(tf.shape(carried.past)[-1]) == loop.t
            carried = carried._replace(past=tf.where(now, tokens[:, None], carried.past))
        chosen = Past(length, carried.past, tf.repeat(places_of(active), beam_size))
        carried = carried._replace(
            processors=tuple(
                process.advance(of_process, tokens, chosen) if hasattr(process, "start") else of_process
                for process, of_process in zip(changes, carried.processors, strict=True)),
            choice=choice.advance(carried.choice, tokens, chosen))
        return _Loop(
            length, active, tokens, carried, memory, live, live_truth if reshapers else (), topped, done, pool,
            history)

    def running(*loop):
        loop = _Loop(*loop)
        # One step at least, so that 0 rows have shapes.
        return tf.logical_or(loop.t == 0, tf.logical_not(tf.reduce_all(loop.done)))

    num_rows, num_all = batch_size * num_groups, batch_size * beam_size
    remembers = choice.needs_past or any(getattr(each, "needs_past", False) for each in changes)
    source_steps = tf.shape(source_mask)[1] if coverage_penalty else 0
    first = _Loop(
        t=tf.constant(0), active=tf.range(batch_size), tokens=tf.fill([num_all], BOS),
        carried=_Carried(
            tile(state, beam_size), tf.zeros([num_all, longest], tf.int32) if remembers else (),
            tf.zeros([num_all, source_steps]) if coverage_penalty else (),
            tuple(each.start(num_all) if hasattr(each, "start") else () for each in changes),
            choice.start(num_all)),
        memory=memory,
        # All hypotheses of a search are alike before the first step: only one may be extended.
        live=tf.tile(tf.constant([[0.0] + [-_INFINITY] * (beams - 1)]), [num_rows, 1]),
        truth=tf.tile(tf.constant([[0.0] + [-_INFINITY] * (beams - 1)]), [num_rows, 1]) if reshapers else (),
        topped=tf.zeros([num_rows], tf.bool) if stop == "top" else (), done=tf.zeros([num_rows], tf.bool),
        pool=Pool.empty(num_rows, kept), history=History.empty(longest, beams))
    loop = _Loop(*tf.while_loop(
        running, body, first, shape_invariants=_shapes(first), maximum_iterations=longest))
    steps = loop.t if compact else None
    return gather_answers(loop.pool, loop.history, steps, batch_size, num_groups, per_group, num_hypotheses)


def _rows_of(active, num_groups):
    """[A] sources to [A * G] searches."""
    if num_groups == 1:
        return active
    return tf.reshape(active[:, None] * num_groups + tf.range(num_groups), [-1])


def _gather_rows(part, keep, num_groups):
    """[A * G, ...] to those of the kept sources."""
    if isinstance(part, tuple):
        return part
    if num_groups == 1:
        return tf.gather(part, keep)
    grouped = tf.reshape(part, tf.concat([[-1, num_groups], tf.shape(part)[1:]], 0))
    shape = tf.concat([[-1], tf.shape(part)[1:]], 0)
    return tf.ensure_shape(tf.reshape(tf.gather(grouped, keep), shape), [None, *part.shape[1:]])


def _shapes(loop):
    """Every tensor may lose rows."""
    def shape(leaf):
        if isinstance(leaf, tf.TensorArray):
            return tf.TensorShape(None)
        return tf.TensorShape([None, *leaf.shape[1:]]) if leaf.shape.rank else leaf.shape

    return tf.nest.map_structure(shape, loop)
