"""Options of a search that make no sense, told before anything is built."""

import tensorflow as tf

from tfseq2seq.decoding.scoring import LENGTH_PENALTIES
from tfseq2seq.structures import EOS

FINISHES, STOPS = ("all", "best", "narrow", "shared"), ("bound", "current", "first", "top")


def check(options):
    """Raises ValueError for a number out of its range, or options that do not go together.

    Args:
        options: the arguments of `search` by name; tensors are not looked into.
    """
    given = {name: value for name, value in options.items() if not tf.is_tensor(value)}

    def need(fine, what, *names):
        if not fine:
            received = ", ".join(f"{name}={options[name]}" for name in names)
            raise ValueError(f"search needs {what}. Received: {received}.")

    beam_size, num_hypotheses, num_groups = (options[name] for name in ("beam_size", "num_hypotheses", "num_groups"))
    need(
        options["vocabulary_size"] > EOS, f"vocabulary_size >= {EOS + 1}, room for the special tokens",
        "vocabulary_size")
    need(
        beam_size >= 1 and 1 <= num_hypotheses <= beam_size,
        "beam_size >= 1 and 1 <= num_hypotheses <= beam_size", "beam_size", "num_hypotheses")
    need(given.get("length_penalty", 0) >= 0, "length_penalty >= 0", "length_penalty")
    need(
        options["length_penalty_kind"] in LENGTH_PENALTIES,
        f"length_penalty_kind to be one of {', '.join(LENGTH_PENALTIES)}", "length_penalty_kind")
    need(
        1 <= given.get("min_length", 1) <= given.get("max_length", float("inf")), "1 <= min_length <= max_length",
        "min_length", "max_length")
    need(options["finish"] in FINISHES, f"finish to be one of {', '.join(FINISHES)}", "finish")
    need(
        options["finish"] != "shared" or (num_groups == 1 and options["phrases"] is None),
        "num_groups = 1 and no phrases for finish = \"shared\"", "finish", "num_groups")
    need(options["end_length"] >= 0, "end_length >= 0", "end_length")
    need(options["stop"] in STOPS, f"stop to be one of {', '.join(STOPS)}", "stop")
    need(options["wait_for"] is None or options["wait_for"] >= 1, "wait_for >= 1", "wait_for")
    need(
        num_groups >= 1 and beam_size % num_groups == 0, "num_groups that divides beam_size", "num_groups", "beam_size")
    need(options["num_uncounted"] >= 0, "num_uncounted >= 0", "num_uncounted")
    need(options["diversity_strength"] >= 0, "diversity_strength >= 0", "diversity_strength")
    need(options["coverage_penalty"] >= 0, "coverage_penalty >= 0", "coverage_penalty")
    need(
        not options["coverage_penalty"] or options["source_mask"] is not None,
        "source_mask, [B, S] bool, for a coverage_penalty", "source_mask")
    modes = [
        name for name, used in (
            ("sampling", options["sampling"] is not None), ("alternatives_at", options["alternatives_at"] is not None),
            ("phrases", options["phrases"] is not None), ("num_groups", num_groups > 1)) if used]
    if len(modes) > 1:
        raise ValueError(
            "search has one way to share out its beams: sampling, alternatives_at, phrases or num_groups. Received: "
            f"{' and '.join(modes)}.")
    need(
        options["phrases"] is None or beam_size > 1,
        "beam_size >= 2 for phrases, so that what goes on with a phrase can live beside the likeliest", "beam_size")
    sampling = options["sampling"]
    if sampling is not None:
        limits = {
            "temperature": (0, float("inf"), "0 or more"), "top_k": (0, float("inf"), "0 (all) or more"),
            "top_p": (1e-9, 1, "above 0 and at most 1"), "min_p": (0, 1, "from 0 to 1")}
        for name, (least, most, words) in limits.items():
            value = getattr(sampling, name)
            if not tf.is_tensor(value) and not least <= value <= most:
                raise ValueError(f"Sampling needs {name} {words}. Received: {name}={value}.")
