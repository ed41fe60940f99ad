"""`spiralthinker data preview`: what both stages make of a problem, token by token."""

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from ._common import UserError, load_problems, load_tokenizer
from .annotation import IGNORED, Annotation, Block, Example, Markers, Tokens, add_markers, explicit, marker_ids
from .config import Settings
from .model import is_saved_model


@dataclass(frozen=True)
class PreviewToken:
    """A token as it stands in a version. target: cross-entropy is on it; stands_for: the text step of a latent one."""

    place: int
    text: str
    target: bool
    stands_for: str


def preview(
    annotation: Annotation, tokenizer: PreTrainedTokenizerBase, example: Example, markers: Markers
) -> dict[str, list[PreviewToken]]:
    """The tokens of both versions: "explicit" and "implicit"."""
    stands_for = {}
    for block in annotation.blocks(example):
        for place in range(block.bol, block.bol + annotation.latents + 2):
            stands_for[place] = stands_for_text(example, block)
    return {
        "explicit": _tokens(tokenizer, explicit(example, markers), {}),
        "implicit": _tokens(tokenizer, annotation.implicit(example, markers), stands_for),
    }


def stands_for_text(example: Example, block: Block) -> str:
    """The text steps that a latent step stands for."""
    return "; ".join(f"step {step.number}: {step.text}" for step in example.steps[block.first - 1 : block.step])


def _tokens(tokenizer: PreTrainedTokenizerBase, tokens: Tokens, stands_for: dict[int, str]) -> list[PreviewToken]:
    return [
        PreviewToken(place, str(tokenizer.decode([token])), label != IGNORED, stands_for.get(place, ""))
        for place, (token, label) in enumerate(zip(tokens.input_ids, tokens.labels, strict=True))
    ]


def show_preview(settings: Settings, index: int, console: Console) -> None:
    """Prints the preview of one training problem.

    Raises:
        UserError: no such problem, or one that cannot be annotated.
    """
    problems = load_problems(settings.data)
    if index >= len(problems.problems):
        raise UserError(f"--index {index}: {problems.source} has {len(problems.problems)} problems, numbered from 0")
    tokenizer = load_tokenizer(settings.model.name_or_path, revision=settings.model.revision)
    own = is_saved_model(settings.model.name_or_path, revision=settings.model.revision)
    markers = marker_ids(tokenizer) if own else add_markers(tokenizer)
    annotation = settings.latent_settings().annotation
    example = annotation.example(tokenizer, problems.problems[index])
    console.print(f"{example.problem_id}, from {problems.source}", highlight=False, markup=False)
    for version, tokens in preview(annotation, tokenizer, example, markers).items():
        targets = sum(token.target for token in tokens)
        table = Table(
            "place", "token", "target", "stands for", title=f"{version}: {len(tokens)} tokens, {targets} targets"
        )
        for token in tokens:
            table.add_row(str(token.place), repr(token.text), "yes" if token.target else "", token.stands_for)
        console.print(table, markup=False)
    if not example.steps:
        console.print("no steps: it is trained on with its answer alone", highlight=False)
