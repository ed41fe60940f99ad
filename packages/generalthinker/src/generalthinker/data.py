"""From problems to the rows that the trainer works on."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ._common import DataError, LoadedBenchmark, Problem, chat, encode_answer, grade, hold_out, load_problems
from .config import MethodSettings, Settings


def training_data(
    settings: Settings, tokenizer: PreTrainedTokenizerBase, *, seed: int, max_positions: int | None
) -> tuple[LoadedBenchmark, LoadedBenchmark | None, Dataset]:
    """(problems to train on, those held out of them, the trainer's rows of the former).

    Raises:
        UserError: data that cannot be used, or a row that does not fit the model.
    """
    problems = load_problems(settings.data)
    validation = None
    if settings.evaluation.every_steps is not None:
        problems, validation = hold_out(problems, settings.evaluation.validation_limit, seed=settings.data.seed)
    rows = training_rows(problems.problems, settings.method, seed=seed)
    check_room(
        rows,
        tokenizer,
        chat_template=settings.model.chat_template,
        max_new_tokens=settings.generation.max_new_tokens,
        max_positions=max_positions,
    )
    return problems, validation, rows


def training_rows(problems: Sequence[Problem], method: MethodSettings, *, seed: int) -> Dataset:
    """One row a problem: id, prompt, conditioned_prompt, assistant_prefix, answer.

    With `conditioning: user` (arXiv 2605.27934, table 9) the user turn of x+ shows the answer; with `assistant` (the
    authors' code) the user turn is that of x and the response begins with the answer in a box.
    """
    answers = [problem.target() for problem in problems]
    if method.answers == "wrong":
        answers = wrong_answers(problems, seed=seed)
    return Dataset.from_list(
        [training_row(problem, answer, method) for problem, answer in zip(problems, answers, strict=True)]
    )


def training_row(problem: Problem, answer: str, method: MethodSettings) -> dict[str, Any]:
    """The row of one problem whose reference answer is `answer`."""
    question = problem.prompt_text()
    prompt = chat.fill(method.prompt_template, question=question)
    in_user_turn = method.conditioning == "user"
    return {
        "id": problem.id,
        "prompt": prompt,
        "conditioned_prompt": (
            chat.fill(method.conditioned_template, question=question, answer=answer) if in_user_turn else prompt
        ),
        "assistant_prefix": "" if in_user_turn else f"\\boxed{{{answer}}}\n",
        "answer": answer,
    }


def graded_problems(problems: Sequence[Problem], rows: Dataset) -> dict[str, Problem]:
    """By id, the problems with the answer that training takes for right: their own, or the control's wrong one."""
    return {
        problem.id: problem if row["answer"] == problem.target() else _with_answer(problem, row["answer"])
        for problem, row in zip(problems, rows, strict=True)
    }


def _with_answer(problem: Problem, target: str) -> Problem:
    answer = target.partition(".")[0] if problem.kind == "mcq" else target
    return replace(problem, answer=answer, aliases=())


DRAWS = 100


def wrong_answers(problems: Sequence[Problem], *, seed: int) -> list[str]:
    """The control: for every problem one answer that is not its own, for all responses to it.

    Multiple choice takes another of its own options, every other kind the answer of another problem.

    Raises:
        DataError: (nearly) all problems have the same answer.
    """
    rng = random.Random(f"wrong answers/{seed}")
    pool = [problem.target() for problem in problems if problem.kind != "mcq"]
    wrong = []
    for problem in problems:
        if problem.kind == "mcq":
            others = [letter for letter in problem.letters if letter != problem.answer]
            letter = rng.choice(others)
            wrong.append(f"{letter}. {problem.options[problem.letters.index(letter)]}")
            continue
        for _ in range(DRAWS):
            answer = rng.choice(pool)
            if not grade(problem, f"\\boxed{{{answer}}}").correct:  # not the same value in another form either
                wrong.append(answer)
                break
        else:
            raise DataError(
                f"{problem.id}: method.answers = wrong found no other problem with another answer in {DRAWS} draws"
            )
    return wrong


def check_evaluation_room(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    *,
    template: str,
    chat_template: str,
    max_new_tokens: int,
    max_positions: int | None,
) -> None:
    """Whether the prompt and a response to every problem fit the model together.

    Raises:
        DataError: the first problem that does not fit, with its length.
    """
    if max_positions is None:
        return
    around = len(chat.render_prompt(tokenizer, ".", chat_template=chat_template))
    for problem in problems:
        text = chat.fill(template, question=problem.prompt_text())
        if around + len(text.encode()) + max_new_tokens <= max_positions:
            continue
        prompt = len(chat.render_prompt(tokenizer, text, chat_template=chat_template))
        if prompt + max_new_tokens > max_positions:
            raise DataError(
                f"{problem.id}: its prompt has {prompt} tokens, which leaves no room for a response of "
                f"{max_new_tokens} (evaluation.max_new_tokens) in the model's {max_positions} positions: lower "
                "evaluation.max_new_tokens"
            )


def check_room(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    chat_template: str,
    max_new_tokens: int,
    max_positions: int | None,
) -> None:
    """Whether every answer has tokens, and prompt, response and answer of a row fit the model. Nothing is ever cut.

    Raises:
        DataError: the first row whose answer the tokenizer cannot represent, or that does not fit, with its lengths.
    """
    for row in rows:
        try:
            encode_answer(tokenizer, row["answer"])
        except ValueError as error:
            raise DataError(f"{row['id']}: {error}") from error
    if max_positions is None:
        return
    around = len(chat.render_prompt(tokenizer, ".", chat_template=chat_template))
    for row in rows:
        for name, prefix in (("prompt", ""), ("conditioned_prompt", row["assistant_prefix"])):
            # A text has no more tokens than bytes: most rows need no tokenizer.
            if around + len((row[name] + prefix + row["answer"]).encode()) + 1 + max_new_tokens <= max_positions:
                continue
            prompt = len(chat.render_prompt(tokenizer, row[name], chat_template=chat_template, assistant_prefix=prefix))
            answer = len(tokenizer(row["answer"] + "}", add_special_tokens=False)["input_ids"])
            if prompt + max_new_tokens + answer > max_positions:
                kind = "prompt" if name == "prompt" else "answer-conditioned prompt"
                raise DataError(
                    f"{row['id']}: its {kind} has {prompt} tokens, which leaves no room for a response of "
                    f"{max_new_tokens} (generation.max_new_tokens) and the answer's {answer} in the model's "
                    f"{max_positions} positions: lower generation.max_new_tokens or leave the row out"
                )
