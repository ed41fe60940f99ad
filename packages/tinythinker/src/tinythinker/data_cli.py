"""The verb `data`: questions, teacher's replies, training rows, and a look at them. Verbs parse and hand over."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._common import UserError, options, printable, read_config

if TYPE_CHECKING:
    from .build import Report
    from .config import PreparationSettings
    from .rows import StageRow

app = typer.Typer(
    rich_markup_mode=None,
    help="Training data: split, teach, build, preview.\n\n"
    "\b\nExamples:\n"
    "  tinythinker data build --benchmark facts --limit 100 --output facts-rows\n"
    "  tinythinker data preview facts-rows --tokens embedded\n"
    "  tinythinker data teach --benchmark csqa --limit 100 --output csqa-teacher --dry-run",
)

Benchmark = Annotated[
    str | None,
    typer.Option("--benchmark", metavar="NAME", help="csqa, obqa, strategyqa, facts, or another with options."),
]
File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Questions of your own, JSON lines, in a benchmark's place."),
]
Column = Annotated[
    list[str] | None, typer.Option("--column", metavar="FIELD=NAME", help="Where a column of --file has another name.")
]
Split = Annotated[
    str | None, typer.Option("--split", help="train, valid or test; all, for --file.", show_default="train")
]
Config = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings of the sections data, teacher and build.")
]
Folder = Annotated[Path, typer.Option("--output", metavar="DIR", help="The folder to write to.")]


@app.command("split")
def split_command(
    output: Folder,
    benchmark: Benchmark = None,
    file: File = None,
    column: Column = None,
    split: Annotated[str | None, typer.Option("--split", help="Only this one.", show_default="all three")] = None,
    split_seed: Annotated[
        int, typer.Option("--split-seed", min=0, help="Of a division that is ours: csqa, strategyqa, --file.")
    ] = 0,
    data_dir: options.DataDir = None,
) -> None:
    """Writes the questions of each split, and what identifies them.

    Divisions that are ours follow from the split seed; the published ones are those of seed 0.

    \b
    Examples:
      tinythinker data split --benchmark facts --output facts-questions
      tinythinker data split --benchmark csqa --data-dir DIR --output csqa-questions
      tinythinker data split --file mine.jsonl --column question=prompt --output mine
    """
    import json

    from ._common import write_atomic
    from .question_sets import SPLITS, load_questions, question_row

    settings = _settings(None, [], benchmark, file, column, None, None, data_dir)
    settings.data.split_seed = split_seed
    loaded = {}
    for name in SPLITS if split is None else [split]:
        settings.data.split = name
        loaded[name] = load_questions(settings.data)
    output.mkdir(parents=True, exist_ok=True)
    summary = {}
    for name, questions in loaded.items():
        lines = [json.dumps(question_row(question), ensure_ascii=False) + "\n" for question in questions.questions]
        write_atomic(output / f"{name}.jsonl", "".join(lines))
        summary[name] = {
            "questions": len(questions.questions),
            "source": questions.source,
            "revision": questions.revision,
            "fingerprint": questions.fingerprint,
        }
        typer.echo(f"{name}: {len(questions.questions):,} questions, {questions.fingerprint}")
    write_atomic(output / "split.json", json.dumps({"split_seed": split_seed, **summary}, indent=2) + "\n")


@app.command("teach")
def teach_command(
    output: Folder,
    overrides: options.Overrides = None,
    config: Config = None,
    benchmark: Benchmark = None,
    file: File = None,
    column: Column = None,
    split: Split = None,
    limit: options.Limit = None,
    data_dir: options.DataDir = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is to be asked, and what it costs.")] = False,
) -> None:
    """Has a teacher explain the questions; the replies go to replies.jsonl, each as soon as it is there.

    The same command goes on where it stopped, and asks nothing twice that it has an answer to. The key is read from the
    environment variable that teacher.api_key_env names, and is never written down.

    \b
    Examples:
      tinythinker data teach --benchmark strategyqa teacher.kind=human --output strategyqa-teacher
      tinythinker data teach --benchmark csqa teacher.model=gpt-4o-2024-05-13 --output csqa-teacher --dry-run
      tinythinker data teach --benchmark obqa teacher.base_url=http://localhost:8000/v1 teacher.api_key_env=null \\
        teacher.model=my-model teacher.samples=4 --output obqa-teacher
      tinythinker data teach --benchmark facts --limit 4 teacher.kind=model teacher.model=embedded --output tried
      tinythinker data teach --file mine.jsonl teacher.kind=recorded teacher.file=recorded.jsonl --output mine-teacher
    """
    from .question_sets import load_questions
    from .teacher.replies import FILE
    from .teacher.teach import teach

    settings = _settings(config, overrides or [], benchmark, file, column, split, limit, data_dir)
    questions = load_questions(settings.data, human=settings.teacher.kind == "human")
    typer.echo(f"{questions.name} {questions.split}: {len(questions.questions):,} questions, {questions.source}")
    teach(questions, settings.teacher, output, dry_run=dry_run, say=typer.echo)
    if not dry_run:
        typer.echo(f"replies: {output / FILE}")


@app.command("build")
def build_command(
    output: Folder,
    overrides: options.Overrides = None,
    config: Config = None,
    replies: Annotated[
        Path | None,
        typer.Option("--replies", metavar="FILE", help="What `data teach` wrote.", show_default="exact explanations"),
    ] = None,
    benchmark: Benchmark = None,
    file: File = None,
    column: Column = None,
    split: Split = None,
    limit: options.Limit = None,
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Makes the rows of recall, analyze and summarize, and reports what was left out, and why.

    Without --replies the questions must bring exact explanations: those of facts, or a file with knowledge and reasons.

    \b
    Examples:
      tinythinker data build --benchmark facts --limit 100 --output facts-rows
      tinythinker data build --benchmark csqa --replies csqa-teacher/replies.jsonl --output csqa-rows
      tinythinker data build --benchmark csqa --replies csqa-teacher/replies.jsonl build.labels=vote build.keep=4 \\
        --output csqa-voted
    """
    from .build import build_from_references, build_from_replies, write_built
    from .question_sets import load_questions

    settings = _settings(config, overrides or [], benchmark, file, column, split, limit, data_dir)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} is not empty: choose another --output")
    questions = load_questions(settings.data)
    if replies is None:
        built = build_from_references(questions)
    else:
        built = build_from_replies(questions, replies, settings.build)
    if not built.report.questions_used:
        _show_report(built.report)
        raise UserError("no reply can be used, so there are no rows; see the counts above")
    output.mkdir(parents=True, exist_ok=True)
    write_built(built, output)
    if as_json:
        import json

        typer.echo(json.dumps(vars(built.report), indent=2, ensure_ascii=False))
    else:
        _show_report(built.report)
        typer.echo(f"rows: {output}")


@app.command("preview")
def preview_command(
    rows: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `data build` made.")],
    stage: Annotated[
        str | None, typer.Option("--stage", help="recall, analyze or summarize.", show_default="all three")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Rows of each stage.")] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the choice of rows.")] = 0,
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", metavar="MODEL", help="Show the tokens that this student reads and learns."),
    ] = None,
    chat_template: Annotated[str, typer.Option("--chat-template", help="none, auto, or a .jinja file.")] = "none",
) -> None:
    """Shows real rows: the prompt, and after it the target, which alone is learnt.

    \b
    Examples:
      tinythinker data preview facts-rows
      tinythinker data preview facts-rows --stage analyze --limit 3 --tokens embedded
    """
    from .preview import encoded, sampled
    from .rows import folder_of_rows, read_rows
    from .stages import STAGES

    if stage is not None and stage not in STAGES:
        raise UserError(f"--stage {stage}: must be one of {', '.join(STAGES)}")
    all_rows = read_rows(folder_of_rows(str(rows)), STAGES if stage is None else [stage])
    tokenizer, encoder_decoder = None, False
    if tokens is not None:
        from .preview import student

        tokenizer, encoder_decoder = student(tokens)
    for row in sampled(all_rows, limit, seed):
        _show_row(row)
        if tokenizer is not None:
            shown = encoded(row, tokenizer, encoder_decoder=encoder_decoder, chat_template=chat_template)
            typer.echo(printable(f"read   {len(shown.prompt):>4} tokens: {'|'.join(shown.prompt)}"))
            typer.secho(printable(f"learnt {len(shown.target):>4} tokens: {'|'.join(shown.target)}"), fg="green")


def _settings(
    config: Path | None,
    overrides: Sequence[str],
    benchmark: str | None,
    file: Path | None,
    column: Sequence[str] | None,
    split: str | None,
    limit: int | None,
    data_dir: Path | None,
) -> "PreparationSettings":
    """The settings of a file and of overrides, and on top of both what the options say."""
    from ._common import load_settings
    from .config import PreparationSettings

    if benchmark is not None and file is not None:
        raise UserError("--benchmark and --file exclude each other")
    text = None if config is None else read_config(config)
    settings = load_settings(
        PreparationSettings, recipe_text=text, recipe_name=str(config or "defaults"), overrides=overrides
    )
    data = settings.data
    if benchmark is not None:
        data.benchmark, data.train_file = benchmark, None
    if file is not None:
        data.train_file = str(file)
    if column:
        if data.train_file is None:
            raise UserError("--column is for --file, which is not given")
        data.columns = options.column_mapping(column)
    if split is not None:
        data.split = split
    if limit is not None:
        data.limit = limit
    if data_dir is not None:
        data.data_dir = str(data_dir)
    return settings


def _show_report(report: "Report") -> None:
    lines = [
        (report.questions, f"questions of {report.dataset} {report.split}"),
        (report.questions_used, "used"),
        *((count, f"left out: {reason}") for reason, count in sorted(report.questions_left_out.items())),
        *([(report.relabelled, "with another label than the gold one, by vote")] if report.relabelled else []),
        (report.replies, "replies"),
        (report.replies_used, "used"),
        *((count, f"rejected: {reason}") for reason, count in sorted(report.replies_rejected.items())),
        (report.replies_disagreeing, "for another answer than the label"),
        (report.replies_alike, "too much like another one"),
        *((count, f"rows of {stage}") for stage, count in report.rows.items()),
    ]
    for count, text in lines:
        typer.echo(f"{count:>10,}  {text}")


def _show_row(row: "StageRow") -> None:
    typer.secho(f"\n--- {row.stage}, {printable(row.question.id)}, {dict(row.provenance)}", dim=True)
    typer.echo(printable(row.prompt().text()))
    typer.secho(printable(row.target), fg="green")
