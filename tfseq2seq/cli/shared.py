"""Arguments and options that several commands have, and what becomes of them."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from tfseq2seq import arguments
from tfseq2seq.config import Run, load_recipe

RecipeArgument = Annotated[Path, typer.Argument(help="A TOML recipe; see pipelines/recipes.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(help="A run folder, as runs/NAME.", show_default=False)]
DataOption = Annotated[
    Path | None, typer.Option("--data", help="A folder with train, valid and test files, for the recipe's data.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="A recipe key to override, as train.steps=100. May be repeated.")]
DecodeSetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help=r"A key of \[decode] or \[export] to override, as decode.beam_size=8. May be repeated.")]
SplitOption = Annotated[str, typer.Option("--split", help="valid or test.")]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Batches decoded at once; default: the cores, or 1 on a GPU.")]
ReplicasOption = Annotated[
    int | None, typer.Option(min=1, help="Devices that decode a batch each; default: every GPU, or 1.")]
WindowOption = Annotated[
    int, typer.Option(min=1, help="Lines that are read, sorted by length and written together.")]
BatchTokensOption = Annotated[
    int | None, typer.Option(min=1, help="Padded source tokens in a batch; default: decode.batch_tokens.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Throw away what an interrupted run left.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where run folders are made.")]


def load(recipe: Path, data: Path | None, overrides: list[str] | None) -> Run:
    values = to_values(overrides)
    if data is not None:
        values |= {f"data.{key}": None for key in ("corpus", "pair", "train", "valid", "test")}
        values |= {"data.folder": str(data), "data.sets": []}
    run = load_recipe(recipe, values)
    arguments.check_recipe(run, str(recipe))
    return run


def to_values(overrides: list[str] | None) -> dict[str, Any]:
    """--set KEY=VALUE as plain values."""
    values: dict[str, Any] = {}
    for item in overrides or []:
        key, separator, text = item.partition("=")
        if not separator:
            raise typer.BadParameter(f"--set needs KEY=VALUE. Received: {item!r}.")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text  # a bare word is a string
    return values
