"""Commands for more than one machine: pipelines of Apache Beam."""

import logging
from typing import Annotated

import typer

from tfseq2seq.cli.answering import FORMATS_HELP
from tfseq2seq.cli.shared import RunArgument
from tfseq2seq.console import show
from tfseq2seq.quiet import import_tensorflow

# What Beam says on every start, of parts that are not there.
_USUAL = ("apitools not found", "Resource module is not available")
InputsArgument = Annotated[
    list[str], typer.Argument(
        help="Files or patterns, as 'folder/*.txt.gz' or 'gs://bucket/**'; then -- and flags of Beam.",
        show_default=False)]


def bulk(
    export: Annotated[
        str, typer.Argument(help="An export folder, of which the highest version is taken, or a version.",
                            show_default=False)],
    inputs: InputsArgument,
    output: Annotated[str, typer.Option("--output", "-o", help="The folder of the results.", show_default=False)],
    n_best: Annotated[int, typer.Option(help="Hypotheses a line, best first.")] = 1,
    output_format: Annotated[str | None, typer.Option("--format", help=FORMATS_HELP, show_default=False)] = None,
    signature: Annotated[str, typer.Option(help="serving_default or greedy.")] = "serving_default",
    window: Annotated[int, typer.Option(min=1, help="Lines that are sorted by length and written together.")] = 10_000,
    batch_characters: Annotated[int, typer.Option(min=1, help="Padded source characters in a batch.")] = 16_384,
    batch_rows: Annotated[int, typer.Option(min=1, help="Lines in a batch.")] = 512,
    op_threads: Annotated[int | None, typer.Option(
        min=1, show_default=False, help="Threads that share one operation; 1 where each core has a worker. Default: as "
        "many as there are cores.")] = None,
) -> None:
    """Answer the lines of many files with an export, on this machine or on a cluster of Apache Beam.

    OUTPUT/NAME has the answers of a file in its order, one for each line; a line that is not UTF-8 has none, and
    stands in OUTPUT/NAME.bad-lines.jsonl. A result is there when it is whole.

    Flags of Beam come last, after --: here with four processes, `-- --direct_running_mode=multi_processing
    --direct_num_workers=4`; elsewhere `-- --runner=FlinkRunner --flink_master=HOST:8081` and the like. All paths must
    be within reach of all workers. Needs `pip install 'tfseq2seq\\[beam]'`; see docs/serving.md.
    """
    inputs, flags = _split_flags(inputs)
    _import_beam()
    from serving.bulk import BulkSettings
    from serving.bulk import bulk as answer

    output_format = output_format or ("tsv" if n_best > 1 else "text")
    settings = BulkSettings(signature, n_best, output_format, window, batch_characters, batch_rows, op_threads)
    counts = answer(export, inputs, output, settings, flags)
    told = ", ".join(f"{counts[name]:,} {name}" for name in ("lines", "bad lines") if name in counts)
    show.print(f"{output}: {told or 'done'}", highlight=False, soft_wrap=True)


def prepare_corpus(
    run_folder: RunArgument,
    inputs: InputsArgument,
    output: Annotated[str, typer.Option("--output", "-o", help="The data folder to make.", show_default=False)],
    valid: Annotated[float, typer.Option(help="Share of the sources that is held out for validation.")] = 0.01,
    test: Annotated[float, typer.Option(help="Share of the sources that is held out for the test.")] = 0.01,
    duplicates: Annotated[str, typer.Option(
        help="pair: of equal pairs keep the first; source: of equal sources; keep: all.")] = "pair",
    shard_pairs: Annotated[int, typer.Option(min=1, help="Pairs in a shard, about.")] = 100_000,
) -> None:
    """Make shards of many files of pairs, on this machine or on a cluster of Apache Beam.

    Pairs of .tsv and .jsonl files are cleaned as a recipe's data are, freed of duplicates, split by a hash of the
    source, and tokenised with the tokenizers of a prepared run. OUTPUT/index.json comes last and says what is in the
    shards. A line that holds no pair stands in OUTPUT/bad-lines.jsonl. `tfseq2seq train RECIPE --data OUTPUT` trains
    on it.

    Flags of Beam come last, after --, as of `tfseq2seq bulk`. Needs `pip install 'tfseq2seq\\[beam]'`; see
    docs/training.md.
    """
    inputs, flags = _split_flags(inputs)
    _import_beam()
    from pipelines.beam_corpus import CorpusSettings
    from pipelines.beam_corpus import prepare_corpus as make
    from pipelines.prepare import refuse_no_run
    from tfseq2seq.config import load_recipe

    refuse_no_run(run_folder)
    settings = CorpusSettings(valid, test, duplicates, shard_pairs)
    index = make(load_recipe(run_folder / "config.json"), run_folder, inputs, output, settings, flags)
    kept = ", ".join(f"{split['pairs']:,} {name}" for name, split in index["splits"].items())
    lost = {**index["left_out"], "duplicated": index["duplicates"], "bad lines": index["bad_lines"]}
    told = ", ".join(f"{count:,} {reason}" for reason, count in lost.items() if count) or "nothing"
    show.print(
        f"{output}: {kept} pairs; left out: {told}; next: tfseq2seq train RECIPE --data {output}", highlight=False,
        soft_wrap=True)


def _split_flags(values: list[str]) -> tuple[list[str], list[str]]:
    """Arguments, and what comes after --, from the first flag on."""
    place = next((i for i, value in enumerate(values) if value.startswith("-")), len(values))
    if not place:
        raise typer.BadParameter(f"at least one file or pattern is needed before --. Received: {' '.join(values)}")
    return values[:place], values[place:]


def _import_beam() -> None:
    """Raises ValueError where Beam is not installed."""
    import_tensorflow()
    logging.getLogger().addFilter(lambda record: not record.getMessage().startswith(_USUAL))
    try:
        import apache_beam  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            "This command needs Apache Beam: pip install 'tfseq2seq[beam]'. "
            f"Received: no module {error.name!r}.") from None
