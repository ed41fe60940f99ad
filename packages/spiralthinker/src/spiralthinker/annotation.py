r"""From a problem with reasoning steps to the two versions that SpiralThinker (arXiv 2511.08983) trains on.

    explicit (stage 1)   prompt <bot> step 1 <eot> <bot> step 2 <eot> <bot> step 3 <eot> answer
    implicit (stage 2)   prompt <bol> <latent> x N <eol> <bot> step 2 <eot> <bol> <latent> x N <eol> answer      odd

Every other step of the implicit version is latent: those at odd positions (1, 3, ...), or at even ones. Each latent
step stands for one text step, and its `<eol>` for that step's `<eot>`. Up to the first `<bol>` both versions are the
same tokens.

Cross-entropy is on everything behind the prompt but the `<latent>`; whether on `<bol>` and `<eol>` is a setting (the
paper does not say). The answer is text behind the last step, `\boxed{...}` by default, so that it can be found.

Coconut and CODI have one latent step only, in front, in the place of the first `replaced` steps or of all of them:

    front                prompt <bol> <latent> x N <eol> <bot> step 3 <eot> answer                      replaced = 2

One step is a valid example, latent or not by the parity. A problem without steps has its answer only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from ._common import DataError, Problem, SettingsError, UserError, chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Parity = Literal["odd", "even"]
Placement = Literal["alternating", "front"]
IGNORED = -100  # the label of a token that is not a target
ANSWER_TEMPLATE = r"\boxed{{answer}}"


class Markers(NamedTuple):
    """Token ids of the markers."""

    bot: int
    eot: int
    bol: int
    latent: int
    eol: int


MARKER_TEXTS = tuple(f"<{name}>" for name in Markers._fields)


def add_markers(tokenizer: PreTrainedTokenizerBase) -> Markers:
    """Adds the five markers to the tokenizer, in place.

    Raises:
        UserError: the tokenizer has one of them already, of whatever meaning.
    """
    taken = [text for text in MARKER_TEXTS if text in tokenizer.get_vocab()]
    if taken:
        raise UserError(
            f"the tokenizer already has {', '.join(taken)}: a SpiralThinker model is loaded with "
            "SpiralThinkerModel.from_pretrained; for another model with such tokens, rename them in its tokenizer"
        )
    tokenizer.add_tokens(list(MARKER_TEXTS), special_tokens=True)
    return marker_ids(tokenizer)


def marker_ids(tokenizer: PreTrainedTokenizerBase) -> Markers:
    """The markers of a tokenizer that has them; UserError if it lacks one."""
    vocabulary = tokenizer.get_vocab()
    missing = [text for text in MARKER_TEXTS if text not in vocabulary]
    if missing:
        raise UserError(f"the tokenizer has no {', '.join(missing)}: it is not that of a SpiralThinker model")
    return Markers(*(vocabulary[text] for text in MARKER_TEXTS))


@dataclass(frozen=True)
class Step:
    """One reasoning step.

    number: its position among the steps, from 1
    ids: of its text, without markers; bare_ids: without GSM8K's brackets too
    latent: whether the implicit version has latents in its place
    """

    number: int
    text: str
    ids: tuple[int, ...]
    latent: bool
    bare_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Example:
    """A problem as tokens. `prompt_ids` hold every special token they need, `answer_ids` end with end-of-sequence."""

    problem_id: str
    prompt_ids: tuple[int, ...]
    steps: tuple[Step, ...]
    answer_ids: tuple[int, ...]


class Block(NamedTuple):
    """A latent step in the implicit version.

    bol: place of its `<bol>`; the latents and `<eol>` follow
    eot: place, in the explicit version, of the `<eot>` of the step it stands for, the last one if there are several
    step: that step's number
    first: the number of the first of them
    """

    bol: int
    eot: int
    step: int
    first: int


class Tokens(NamedTuple):
    """A version as the model reads it. labels: the id of each target token, IGNORED for the others."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Annotation:
    """How problems become examples; the same for training and for generation.

    parity: which steps become latent; placement, replaced: see the top of this file, `replaced` None for all steps;
    latents: N, `<latent>` tokens of a latent step; label_markers: cross-entropy on `<bol>` and `<eol>`; the templates
    hold `{question}` and `{answer}`; chat_template: as in the base's `models.chat`.
    """

    parity: Parity = "odd"
    placement: Placement = "alternating"
    replaced: int | None = None
    latents: int = 5
    label_markers: bool = True
    prompt_template: str = "{question}"
    answer_template: str = ANSWER_TEMPLATE
    chat_template: str = "auto"

    def __post_init__(self) -> None:
        if self.parity not in ("odd", "even"):
            raise SettingsError(f"parity = {self.parity!r}: expected odd or even")
        if self.placement not in ("alternating", "front"):
            raise SettingsError(f"placement = {self.placement!r}: expected alternating or front")
        if self.replaced is not None and self.replaced < 1:
            raise SettingsError(f"replaced = {self.replaced}: expected at least 1, or null for all steps")
        if self.latents < 1:
            raise SettingsError(f"latents = {self.latents}: expected at least 1 (without latents a step has no place)")
        for name, template, hole in (
            ("prompt_template", self.prompt_template, "{question}"),
            ("answer_template", self.answer_template, "{answer}"),
        ):
            if hole not in template:
                raise SettingsError(f"{name} = {template!r}: expected a text with {hole} in it")

    def prompt_ids(self, tokenizer: PreTrainedTokenizerBase, problem: Problem) -> list[int]:
        """What the model reads of a problem.

        Raises:
            DataError: the question holds a marker's text.
        """
        [ids] = self._prompts(tokenizer, [problem])
        return ids

    def _prompts(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> list[list[int]]:
        texts = []
        for problem in problems:
            question = problem.prompt_text()
            _check_plain(problem.id, "question", question)
            texts.append(chat.fill(self.prompt_template, question=question))
        return chat.render_prompts(tokenizer, texts, chat_template=self.chat_template)

    def answer_text(self, problem: Problem) -> str:
        """How the model is taught to write the answer."""
        return self.answer_template.replace("{answer}", problem.target())

    def example(self, tokenizer: PreTrainedTokenizerBase, problem: Problem) -> Example:
        """The problem as tokens; see `examples`."""
        [example] = self.examples(tokenizer, [problem])
        return example

    def examples(self, tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> list[Example]:
        """The problems as tokens. Steps and answers are tokenized each by itself, as the markers will part them.

        Raises:
            DataError: a step without text, a text with a marker in it, or a tokenizer without end-of-sequence token.
        """
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end-of-sequence token, so that no answer could end")
        if not problems:
            return []
        texts: set[str] = set()
        for problem in problems:
            for number, text in enumerate(problem.steps, start=1):
                _check_plain(problem.id, f"step {number}", text)
                texts |= {text, _bare(text)}
            answer = self.answer_text(problem)
            _check_plain(problem.id, "answer", answer)
            texts.add(answer)
        each = list(texts)  # in one call: one for every text would take most of the time
        ids_of = dict(zip(each, map(tuple, tokenizer(each, add_special_tokens=False)["input_ids"]), strict=True))
        steps = [self._steps(problem, ids_of) for problem in problems]
        return [
            Example(problem.id, tuple(prompt), own, (*ids_of[self.answer_text(problem)], tokenizer.eos_token_id))
            for problem, own, prompt in zip(problems, steps, self._prompts(tokenizer, problems), strict=True)
        ]

    def _steps(self, problem: Problem, ids_of: Mapping[str, tuple[int, ...]]) -> tuple[Step, ...]:
        steps = []
        for number, text in enumerate(problem.steps, start=1):
            if not text.strip() or not ids_of[text]:
                raise DataError(f"{problem.id}: step {number} has no text; leave the step out, or the problem")
            steps.append(Step(number, text, ids_of[text], self._is_latent(number), bare_ids=ids_of[_bare(text)]))
        return tuple(steps)

    def implicit(self, example: Example, markers: Markers) -> Tokens:
        """The version of stage 2."""
        ids, labels = _prompt(example)
        begins = {block.first for block in self.blocks(example)}
        for step in example.steps:
            if step.number in begins:
                ids += [markers.bol, *[markers.latent] * self.latents, markers.eol]
                marker_labels = (markers.bol, markers.eol) if self.label_markers else (IGNORED, IGNORED)
                labels += [marker_labels[0], *[IGNORED] * self.latents, marker_labels[1]]
            elif not step.latent:
                _add_text(ids, labels, step, markers)
        return Tokens([*ids, *example.answer_ids], [*labels, *example.answer_ids])

    def blocks(self, example: Example) -> list[Block]:
        """The latent steps of the implicit version, in order."""
        blocks: list[Block] = []
        implicit = explicit = len(example.prompt_ids)
        for step in example.steps:
            text = len(step.ids) + 2
            explicit += text
            if step.latent and self.placement == "front" and blocks:
                blocks = [blocks[0]._replace(eot=explicit - 1, step=step.number)]
            elif step.latent:
                blocks.append(Block(bol=implicit, eot=explicit - 1, step=step.number, first=step.number))
                implicit += self.latents + 2
            else:
                implicit += text
        return blocks

    def spelling(self, example: Example) -> list[list[int]]:
        """For each latent step the tokens of its text that its latents can spell, one a latent, at most N of them.

        GSM8K's brackets (`<<14+9=23>>`) say nothing and are left out. Of a longer step it is the end, which is what the
        next one goes on from.
        """
        return [list(example.steps[block.step - 1].bare_ids[-self.latents :]) for block in self.blocks(example)]

    def _is_latent(self, number: int) -> bool:
        if self.placement == "front":
            return self.replaced is None or number <= self.replaced
        return number % 2 == (1 if self.parity == "odd" else 0)


def explicit(example: Example, markers: Markers) -> Tokens:
    """The version of stage 1: every step as text."""
    ids, labels = _prompt(example)
    for step in example.steps:
        _add_text(ids, labels, step, markers)
    return Tokens([*ids, *example.answer_ids], [*labels, *example.answer_ids])


def without_steps(problems: Iterable[Problem]) -> int:
    """How many problems are trained on with their answer alone."""
    return sum(not problem.steps for problem in problems)


def _bare(text: str) -> str:
    """A step without GSM8K's brackets."""
    return text[2:-2] if text.startswith("<<") and text.endswith(">>") else text


def _prompt(example: Example) -> tuple[list[int], list[int]]:
    return list(example.prompt_ids), [IGNORED] * len(example.prompt_ids)


def _add_text(ids: list[int], labels: list[int], step: Step, markers: Markers) -> None:
    text = [markers.bot, *step.ids, markers.eot]
    ids += text
    labels += text


def _check_plain(problem_id: str, part: str, text: str) -> None:
    """The tokenizer would read a marker's text as the marker itself."""
    found: Sequence[str] = [marker for marker in MARKER_TEXTS if marker in text]
    if found:
        raise DataError(f"{problem_id}: the {part} holds the text {found[0]}, which marks steps: change the text")
