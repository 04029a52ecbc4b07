"""What `keras-svd-adapters` understands. `commands` does the work, and imports Keras."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="keras-svd-adapters",
    help="Adapters of keras_svd_adapters in files and presets: look, plan, merge, convert.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
OF_METHOD: dict[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}

File = Annotated[
    str, typer.Argument(help="An adapter file, such as pirate.keras or hf://user/name.")
]
Other = Annotated[str, typer.Argument(help="Another adapter file.")]
Preset = Annotated[str, typer.Argument(help="A KerasHub preset: a name, an address or a folder.")]
Out = Annotated[str, typer.Option("--out", "-o", help="What to write: a file or a folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ModelClass = Annotated[
    str, typer.Option("--class", help="Class of keras_hub.models, such as GemmaCausalLM.")
]
Targets = Annotated[
    list[str] | None, typer.Option("--target", help="Which kernels; may be given several times.")
]


@app.command()
def inspect(file: File, as_json: AsJson = False) -> None:
    """What is in an adapter file. The base model is not needed.

    Example: `keras-svd-adapters inspect pirate.keras`
    """
    from keras_svd_adapters_cli import commands

    _print(commands.inspect(file), as_json)


@app.command(context_settings=OF_METHOD)
def plan(
    context: typer.Context,
    preset: Preset,
    method: Annotated[str, typer.Option(help="Name of the method, such as svft.")] = "lora",
    target: Targets = None,
    as_json: AsJson = False,
) -> None:
    """Values, bytes and seconds of an adapter, from the preset's configuration alone.

    Options of the method follow, such as `--rank 8` or `--pattern banded --d 2`.

    Example: `keras-svd-adapters plan gemma_2b_en --method svft --pattern banded --d 2`
    """
    from keras_svd_adapters_cli import commands

    _print(commands.plan(preset, method, options(context.args), target), as_json)


@app.command()
def merge(
    preset: Preset, file: File, out: Out, cls: ModelClass = "Backbone", as_json: AsJson = False
) -> None:
    """Merge an adapter into its base model, and save the result as a preset.

    Example: `keras-svd-adapters merge gemma_2b_en pirate.keras -o pirate_gemma`
    """
    from keras_svd_adapters_cli import commands

    _print(commands.merge(preset, cls, file, out), as_json)


@app.command()
def convert(
    preset: Preset,
    file: File,
    out: Out,
    to: Annotated[str, typer.Option(help="lora: an adapter file; peft: a folder of HF PEFT.")],
    rank: Annotated[int | None, typer.Option(help="Rank, where none is exact.")] = None,
    cls: ModelClass = "Backbone",
    as_json: AsJson = False,
) -> None:
    """Convert an adapter to LoRA, as an adapter file or for HF PEFT, with its error.

    Example: `keras-svd-adapters convert gemma_2b_en pirate.keras --to peft -o pirate_peft`
    """
    from keras_svd_adapters_cli import commands

    _print(commands.convert(preset, cls, file, out, to, rank), as_json)


@app.command()
def combine(
    preset: Preset,
    files: Annotated[list[str], typer.Argument(help="Two or more adapter files.")],
    out: Out,
    weights: Annotated[
        str | None, typer.Option(help="A number for each file, such as 0.7,0.3; else 1 each.")
    ] = None,
    how: Annotated[str, typer.Option(help="linear, cat, svd, factors, ties or dare.")] = "exact",
    rank: Annotated[int | None, typer.Option(help="Rank, for svd, ties and dare.")] = None,
    cls: ModelClass = "Backbone",
    as_json: AsJson = False,
) -> None:
    """Write one adapter that does what several do together, each with a weight.

    Example: `keras-svd-adapters combine gemma_2b_en a.keras b.keras --weights 0.7,0.3 -o ab.keras`
    """
    from keras_svd_adapters_cli import commands

    numbers = None if weights is None else [float(part) for part in weights.split(",")]
    _print(commands.combine(preset, cls, files, out, numbers, how, rank), as_json)


@app.command()
def diff(file: File, other: Other, as_json: AsJson = False) -> None:
    """How two adapter files differ: methods, kernels, and the distance of their values.

    Example: `keras-svd-adapters diff monday.keras tuesday.keras`
    """
    from keras_svd_adapters_cli import commands

    _print(commands.diff(file, other), as_json)


@app.command(context_settings=OF_METHOD)
def bench(
    context: typer.Context,
    preset: Preset,
    method: Annotated[str, typer.Option(help="Name of the method, such as svft.")] = "lora",
    tokens: Annotated[int, typer.Option(help="Tokens of each of two sequences.")] = 128,
    as_json: AsJson = False,
) -> None:
    """Time a forward pass of the preset's backbone, frozen and adapted, on this machine.

    Example: `keras-svd-adapters bench gemma_2b_en --method svft --pattern banded --d 2`
    """
    from keras_svd_adapters_cli import commands

    _print(commands.bench(preset, method, options(context.args), tokens), as_json)


def options(arguments: list[str]) -> dict[str, Any]:
    """Return `--d 2 --pattern banded` as a dictionary; numbers and lists are read as JSON."""
    names, values = arguments[::2], arguments[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise typer.BadParameter(
            f"Options of a method are pairs such as `--rank 8`. Received: {' '.join(arguments)}"
        )
    return {n[2:].replace("-", "_"): _value(v) for n, v in zip(names, values, strict=True)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print(found: Any, as_json: bool) -> None:
    text, data = found
    print(json.dumps(data, indent=1, default=str) if as_json else text)


def main() -> None:
    """Run the command; an error that the package explains is printed without a traceback."""
    try:
        app()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(f"keras-svd-adapters: {error}", file=sys.stderr)
        sys.exit(1)
