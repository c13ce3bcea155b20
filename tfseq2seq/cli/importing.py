"""The command that makes a run of another system's model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from tfseq2seq.console import command, progress_bar, show
from tfseq2seq.quiet import import_tensorflow


def import_model(
    system: Annotated[str, typer.Argument(
        help="transformers, nmt, opennmt_tf, addons, opennmt_py or eole.", show_default=False)],
    path: Annotated[str, typer.Argument(
        help="Its folder or file; of transformers also a hub name.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder of the new run.", show_default=False)],
    source_language: Annotated[str | None, typer.Option(help="Of a multilingual model, as eng_Latn.")] = None,
    target_language: Annotated[str | None, typer.Option(help="Of a multilingual model, as deu_Latn.")] = None,
    source_vocabulary: Annotated[Path | None, typer.Option(
        help="A file with a token a line, of opennmt_tf, where it lies elsewhere.")] = None,
    target_vocabulary: Annotated[Path | None, typer.Option(help="Likewise.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a model that is fetched by its name.")] = None,
) -> None:
    """Make a run of a model that another system trained: to predict, evaluate, fine-tune, export and serve."""
    import_tensorflow()
    from tfseq2seq import converters

    conversion = converters.import_model(
        system, path, output, source_language=source_language, target_language=target_language, revision=revision,
        source_vocabulary=source_vocabulary and str(source_vocabulary),
        target_vocabulary=target_vocabulary and str(target_vocabulary))
    show.print(f"{conversion.architecture}", highlight=False, soft_wrap=True, markup=False)
    show.print(f"{conversion.num_weights:,} weights, each used once", highlight=False)
    for note in conversion.notes:
        show.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)
    with progress_bar() as report:
        compared = converters.replay(conversion, output, report)
    if compared is not None:
        show.print(f"expected.json: greedy ids equal for {compared[0]} of {compared[1]} lines", highlight=False)
    tune = command(
        "train", output / "config.json", "--data", "FOLDER", "--set", "name=tuned")
    show.print(
        f"{escape(str(output))} is a run; next: {command('predict', output)}, {command('export', output)}, or to "
        f"fine-tune it: {tune}", highlight=False, soft_wrap=True)
