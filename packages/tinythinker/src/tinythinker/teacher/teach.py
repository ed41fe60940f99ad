"""Asks a teacher for what is missing, and writes down each reply as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._common import DataError, GenerationsFile, UserError, chat, progress_bar, read_generations
from ..config import TeacherSettings
from ..question_sets import QuestionSet
from ..questions import Question
from . import human
from .prompt import estimated_tokens, teacher_prompt
from .replies import FILE, explanation_row, missing_samples, read_replies, reply_settings

if TYPE_CHECKING:
    from .endpoint import Endpoint

FAILURES_IN_A_ROW = 10  # after so many requests that came to nothing the rest is not tried

Missing = Sequence[tuple[Question, list[int]]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to be asked. Tokens of prompts are estimated from their characters; those of replies are the most.

    price: in the unit of the two prices, at most; None where they are not set. A server that gives one reply to a
        request has the prompt paid for once a reply, which is known only when it is asked
    """

    questions: int
    replies: int
    prompt_tokens: int
    reply_tokens: int
    price: float | None

    def sentence(self) -> str:
        tokens = f"about {self.prompt_tokens:,} tokens of prompts and at most {self.reply_tokens:,} of replies"
        price = (
            "set teacher.input_price and teacher.output_price (of a million tokens) for a price"
            if self.price is None
            else f"at most {self.price:,.2f} in all"
            + (", if the server gives all replies to a question at once" if self.replies > self.questions else "")
        )
        return f"to ask: {self.replies:,} replies to {self.questions:,} questions; {tokens}; {price}"


def estimate(missing: Missing, settings: TeacherSettings) -> Estimate:
    prompt_tokens = sum(estimated_tokens(teacher_prompt(question, settings.shots)) for question, _ in missing)
    replies = sum(len(numbers) for _, numbers in missing)
    reply_tokens = replies * settings.max_tokens
    price = None
    if settings.input_price is not None and settings.output_price is not None:
        price = (prompt_tokens * settings.input_price + reply_tokens * settings.output_price) / 1e6
    return Estimate(len(missing), replies, prompt_tokens, reply_tokens, price)


def teach(
    questions: QuestionSet, settings: TeacherSettings, folder: Path, *, dry_run: bool, say: Callable[[str], None]
) -> None:
    """Completes `replies.jsonl` in the folder; with `dry_run` only says what is missing.

    Raises UserError when some questions are still without all their replies: what there is is kept, and the same
    command goes on.
    """
    path = folder / FILE
    header = reply_settings(questions, settings)
    there = read_generations(path)[1] if path.exists() else []
    if settings.kind in ("recorded", "human"):
        rows = _recorded(questions, settings) if settings.kind == "recorded" else _human(questions, settings, say)
        known = {(row["id"], row["sample"]): row for row in there}
        new = [row for row in rows if (row["id"], row["sample"]) not in known]
        say(f"{len(rows):,} replies to {len({row['id'] for row in rows}):,} of {len(questions.questions):,} questions")
        if not dry_run:
            with GenerationsFile(path, header) as file:
                for row in rows:
                    # The header says which file they come from, and not what a data set's own facts are.
                    earlier = known.get((row["id"], row["sample"]), row)
                    if earlier != row:
                        raise UserError(
                            f"{path} holds another explanation of {row['id']}: choose another --output, or delete it"
                        )
                file.append(new)
        return
    missing = missing_samples(questions.questions, there, settings.samples)
    if there:
        say(f"{len(there):,} replies are there already")
    say(estimate(missing, settings).sentence())
    if dry_run:
        return
    if settings.kind == "endpoint":
        from .endpoint import Endpoint

        # Nothing is written before the key is found.
        with Endpoint(settings, say) as endpoint, GenerationsFile(path, header) as file:
            _ask_endpoint(endpoint, missing, settings, file)
    else:
        _ask_model(missing, settings, path, header)


# ------------------------------------------------------------------------------------------------------------- endpoint


def _ask_endpoint(endpoint: Endpoint, missing: Missing, settings: TeacherSettings, file: GenerationsFile) -> None:
    """This thread alone writes; those of the pool ask."""
    from .endpoint import RequestFailed

    queue = deque(missing)
    running: dict[Future[list[dict[str, Any]]], tuple[Question, list[int]]] = {}
    failures: dict[str, str] = {}
    in_a_row, total = 0, len(file.rows) + sum(len(numbers) for _, numbers in missing)
    with ThreadPoolExecutor(settings.concurrency) as pool, progress_bar("asking") as update:
        try:
            while queue or running:
                while queue and len(running) < settings.concurrency:
                    one = queue.popleft()
                    running[pool.submit(_ask, endpoint, settings, *one)] = one
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    question, numbers = running.pop(future)
                    try:
                        rows = future.result()
                    except RequestFailed as failure:
                        failures[question.id] = str(failure)
                        in_a_row += 1
                        if in_a_row == FAILURES_IN_A_ROW:
                            raise UserError(
                                f"{in_a_row} requests in a row came to nothing, the last one: {failure}. "
                                "The replies before are kept; the same command goes on"
                            ) from None
                        continue
                    in_a_row = 0
                    file.append(rows)
                    if len(rows) < len(numbers):  # the server gives fewer at a time
                        queue.appendleft((question, numbers[len(rows) :]))
                    update(len(file.rows), total)
        finally:
            # After an error or an interrupt: replies on their way are paid for, so they are waited for and kept.
            endpoint.stop()
            for future in wait(running).done:
                if future.exception() is None:
                    file.append(future.result())
    if failures:
        name, reason = next(iter(failures.items()))
        raise UserError(
            f"{len(failures)} questions have not all their replies, the first is {name}: {reason}. "
            "The others are kept; the same command asks for these again"
        )


def _ask(endpoint: Endpoint, settings: TeacherSettings, question: Question, numbers: list[int]) -> list[dict[str, Any]]:
    """The rows of at least one of these samples."""
    replies = endpoint.ask(teacher_prompt(question, settings.shots), len(numbers))
    return [
        {"id": question.id, "sample": number, "reply": reply.text, "finish_reason": reply.finish_reason}
        for number, reply in zip(numbers, replies, strict=False)
    ]


# ---------------------------------------------------------------------------------------------------------------- model


def _ask_model(missing: Missing, settings: TeacherSettings, path: Path, header: dict[str, Any]) -> None:
    import torch

    from .._common import Generation, Generator, load_policy, load_tokenizer

    tokenizer = load_tokenizer(settings.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = load_policy(settings.model, dtype=settings.dtype)
    generator = Generator(
        model.to(device),
        tokenizer,
        max_new_tokens=settings.max_tokens,
        temperature=settings.temperature,
        max_tokens_per_batch=settings.max_tokens_per_batch,
        seed=settings.seed,
    )
    prompts = [
        chat.render_prompt(tokenizer, teacher_prompt(question, settings.shots), chat_template=settings.chat_template)
        for question, _ in missing
    ]
    generator.check_lengths(prompts)  # before anything is written
    with GenerationsFile(path, header) as file, progress_bar("generating") as update:
        done = 0

        def keep(indices: Sequence[int], responses: Sequence[list[Generation]]) -> None:
            nonlocal done
            rows = []
            for index, replies in zip(indices, responses, strict=True):
                question, numbers = missing[index]
                for number in numbers:
                    reason = "length" if replies[number].truncated else "stop"
                    text = tokenizer.decode(list(replies[number].token_ids), skip_special_tokens=True)
                    rows.append({"id": question.id, "sample": number, "reply": text, "finish_reason": reason})
            file.append(rows)
            done += len(indices)
            update(done, len(missing))

        # A sample follows from the seed, the question and its number, so it is the same whatever else is generated.
        generator.sample(prompts, settings.samples, keys=[question.id for question, _ in missing], on_batch=keep)


# --------------------------------------------------------------------------------------------------- recorded and human


def _recorded(questions: QuestionSet, settings: TeacherSettings) -> list[dict[str, Any]]:
    assert settings.file is not None
    _, replies = read_replies(Path(settings.file), questions)
    return [row for question in questions.questions for row in replies.get(question.id, ())]


def _human(questions: QuestionSet, settings: TeacherSettings, say: Callable[[str], None]) -> list[dict[str, Any]]:
    ecqa = None if settings.file is None else human.read_ecqa(Path(settings.file))
    rows, written = [], 0
    for question in questions.questions:
        found = (
            human.from_facts(question)
            if ecqa is None
            else human.from_properties(question, human.properties_of(question, ecqa))
        )
        if found is not None:
            rows.append(explanation_row(question, 0, found.explanation, question.gold))
            written += found.reasons_written
    if not rows:
        raise DataError(
            f"{questions.name} {questions.split} holds nothing that people wrote about its answers: use strategyqa, "
            "obqa, csqa with teacher.file=ecqa.jsonl, or a file of your own with facts"
        )
    judged = sum(len(row["explanation"]["reasons"]) for row in rows)
    say(f"{written:,} of {judged:,} analyses are a person's; the others judge the option without a reason")
    return rows
