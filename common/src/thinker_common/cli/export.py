"""The verb `export`: a model, its adapter merged in, as an ordinary Hugging Face folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UserError
from ..training.run_folder import RunFolder
from .options import Revision

Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="A folder with a LoRA adapter, a run, a model folder, an id, or embedded."),
]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="The new folder.")]
Dtype = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option("--dtype", help="Of the weights that are written; float32 loses nothing."),
]


def add_export(app: typer.Typer) -> None:
    """Adds the verb to a command line."""
    name = app.info.name

    @app.command(
        "export",
        help="Exports a model as an ordinary Hugging Face folder, its adapter merged in.\n\n"
        "OUT holds safetensors, configuration and tokenizer and loads without PEFT. It appears whole or not at all.\n\n"
        f"\b\nExamples:\n  {name} export runs/gsm8k exported\n"
        f"  {name} export runs/gsm8k/checkpoints/checkpoint-100 exported --dtype bfloat16\n"
        f"  {name} export embedded small-model",
    )
    def export_command(model: Model, out: Out, dtype: Dtype = "float32", revision: Revision = None) -> None:
        _check_free(out)
        source = _model_of(model)

        from ..models.adapters import merge_and_export
        from ..models.load import is_adapter, load_policy, load_tokenizer
        from ..models.quantization import NOT_MERGED, read_base_quantization

        if is_adapter(source) and read_base_quantization(Path(source).expanduser()) != "none":
            raise UserError(f"{source}: {NOT_MERGED}: use this folder as it is, or train without model.quantization")
        tokenizer = load_tokenizer(source, revision=revision)
        merge_and_export(load_policy(source, revision=revision, dtype=dtype), tokenizer, out)
        typer.echo(f"exported: {out}")


def _check_free(out: Path) -> None:
    """UserError unless OUT is an empty folder or can be a new one; makes nothing."""
    if not out.name:
        raise UserError(f"{out}: name the new folder")
    if not next(place for place in (out, *out.absolute().parents) if place.exists()).is_dir():
        raise UserError(f"{out} is or lies below a file: export to another folder")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: this folder is not empty; remove it or export to another")


def _model_of(name: str) -> str:
    """The folder of the trained model for a run's folder; any other name as it is."""
    run = RunFolder(name)
    if not (run.path / "config.yaml").is_file():
        return name
    if not run.model.is_dir():
        raise UserError(f"{name}: this run has not written a model yet; export one of its checkpoints/")
    return str(run.model)
