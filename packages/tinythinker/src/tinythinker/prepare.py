"""What a run works on, loaded and found good before anything is written; for training and for its dry run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ._common import DataError, add_lora, is_adapter, load_policy, load_tokenizer, train_adapter, weights_dtype
from .build import build_from_references
from .config import DataSettings, Settings
from .mixing import blocks
from .question_sets import QuestionSet, load_questions
from .questions import Question, asked
from .rows import StageRow, folder_of_rows, read_rows, select
from .stages import (
    STAGES,
    Stage,
    analyze_prompt,
    answered_option,
    chain_target,
    recall_prompt,
    summarize_prompt,
    summarize_target,
)
from .student import Form, Student
from .trainer import StageOrder, TargetRow


@dataclass(frozen=True)
class Material:
    """What a run works on.

    source: where the rows come from, in words
    rows: of the stages to train, stage after stage; for the chain-of-thought baseline under `recall`
    questions: those that the rows are about
    teacher_recalls: question id -> what a teacher recalls
    validation: questions held out of training; None without validation
    tests: for behind each phase
    """

    source: str
    rows: dict[Stage, list[StageRow]]
    questions: list[Question]
    teacher_recalls: dict[str, list[str]]
    validation: QuestionSet | None
    tests: list[QuestionSet]

    @property
    def options(self) -> int:
        """Options of a question; where that varies, the mean as a whole number."""
        return round(sum(len(question.options) for question in self.questions) / len(self.questions))

    def tests_trained_on(self) -> list[str]:
        """A sentence on each test that asks what was trained on: its figures say nothing about new questions."""
        trained = {asked(question) for question in self.questions}
        counts = [(test, sum(asked(question) in trained for question in test.questions)) for test in self.tests]
        return [
            f"{test.name}: {count} of its {len(test.questions)} questions were trained on"
            for test, count in counts
            if count
        ]


def load_material(settings: Settings) -> Material:
    """Raises UserError, DataError with file and line, for data that cannot be used."""
    rows, source = _training_rows(settings.data)
    recalls: dict[str, list[str]] = {}
    for row in rows:
        if row.stage == "recall":
            recalls.setdefault(row.question.id, []).append(row.target)
    if settings.method.baseline == "cot":
        chosen: dict[Stage, list[StageRow]] = {"recall": _whole_chains(rows)}
    else:
        chosen = select(rows, form_of(settings).stages)
    if not all(chosen.values()):
        raise DataError(f"{source}: there are no rows of {next(stage for stage, own in chosen.items() if not own)}")
    questions = list({row.question.id: row.question for own in chosen.values() for row in own}.values())
    evaluation, data = settings.evaluation, replace(settings.data, limit=None, seed=0)
    validation = None
    if evaluation.validation_limit != 0:
        validation = load_questions(replace(data, split="valid", limit=evaluation.validation_limit))
    tests: list[QuestionSet] = []
    if evaluation.at_end:
        tested = [data]
        if evaluation.benchmarks is not None:
            # A split seed is of the data set that is trained on, whose test questions it keeps out of training.
            tested = [
                data
                if name == data.benchmark and data.train_file is None
                else replace(data, benchmark=name, train_file=None, columns={}, split_seed=0)
                for name in evaluation.benchmarks
            ]
        tests = [load_questions(replace(one, split=evaluation.split, limit=evaluation.limit)) for one in tested]
    return Material(source, chosen, questions, recalls, validation, tests)


def _training_rows(data: DataSettings) -> tuple[list[StageRow], str]:
    """The rows of all stages, of the sample of questions that the settings ask for, and where they come from."""
    if data.rows is None:
        questions = load_questions(data)
        return [row for own in build_from_references(questions).rows.values() for row in own], questions.source
    folder = folder_of_rows(data.rows)
    _check_same_questions(folder, data)
    rows = read_rows(folder)
    names = list(dict.fromkeys(row.question.id for row in rows))
    if not names:
        raise DataError(f"{folder}: there are no rows in it")
    if data.limit is None or data.limit >= len(names):
        return rows, str(folder)
    chosen = set(random.Random(data.seed).sample(names, data.limit))
    source = f"{folder}, rows of a sample of {data.limit} of {len(names)} questions (seed {data.seed})"
    return [row for row in rows if row.question.id in chosen], source


def _check_same_questions(folder: Path, data: DataSettings) -> None:
    """DataError if the rows were built from other questions than those that the settings name.

    Validation and tests are taken from the latter: rows of another data set, or of the test split, would spoil both.
    """
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        built, of = report["fingerprint"], f"{report['dataset']}, split {report['split']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the report of `tinythinker data build` ({error!r})") from error
    named = load_questions(replace(data, limit=None))
    if named.fingerprint != built:
        raise DataError(
            f"{folder}: its rows are of {of}, and the settings name {named.name}, split {named.split}, whose questions "
            "are others: set data.benchmark (or data.train_file), data.split and data.split_seed as for `data build`"
        )


def _whole_chains(rows: Sequence[StageRow]) -> list[StageRow]:
    """For each row of summarize a row whose target is the whole chain."""
    chains = []
    for row in rows:
        if row.stage == "summarize":
            label = answered_option(row.target, row.question)
            assert row.knowledge is not None and label is not None
            target = chain_target(row.question, row.knowledge, row.analyses, label)
            chains.append(StageRow("recall", row.question, target, provenance=row.provenance, where=row.where))
    return list({(row.question, row.target): row for row in chains}.values())


# ------------------------------------------------------------------------------------------------------------- students


def form_of(settings: Settings) -> Form:
    """How the student of these settings answers."""
    method = settings.method
    stages: tuple[Stage, ...] = tuple(stage for stage in STAGES if stage in method.acquisition.stages)
    if method.baseline is not None:
        stages = ("summarize",) if method.baseline == "label" else STAGES
    return Form(stages, method.baseline == "cot", settings.model.chat_template, settings.generation)


def first_student(settings: Settings, seed: int) -> Student:
    """The student before training, with its adapter if it gets one; whole, on the CPU."""
    model = settings.model
    policy = load_policy(
        model.name_or_path, revision=model.revision, dtype=weights_dtype(model), quantization=model.quantization
    )
    student = Student(policy, load_tokenizer(model.name_or_path, revision=model.revision), form_of(settings))
    return _adapted(student, settings, seed)


def student_of(folder: Path, settings: Settings, seed: int) -> Student:
    """The student that a phase has saved, with a fresh adapter if the run trains one.

    On quantized weights a phase saves its adapter, and the next one goes on with it.
    """
    policy: Any = load_policy(folder, dtype=weights_dtype(settings.model))
    if is_adapter(folder):
        model = policy if settings.model.lora is None else train_adapter(policy)
        return Student(model, load_tokenizer(folder), form_of(settings))
    return _adapted(Student(policy, load_tokenizer(folder), form_of(settings)), settings, seed)


def _adapted(student: Student, settings: Settings, seed: int) -> Student:
    if settings.model.lora is None:
        return student
    torch.manual_seed(seed)  # the adapter begins with random weights
    return replace(student, model=add_lora(student.model, settings.model.lora, revision=settings.model.revision))


# ----------------------------------------------------------------------------------------------------------------- rows


def target_rows(student: Student, material: Material) -> list[TargetRow]:
    """The rows of phase 1 as token ids, stage after stage.

    Raises:
        DataError: a row for which the student has too few positions, with where it comes from.
    """
    found: list[TargetRow] = []
    for own in material.rows.values():
        for row in own:
            prompt = student.prompt_ids(row.prompt(student.form.stages))
            target = student.target_ids(row.target)
            student.check_fits(f"{row.where or row.question.id}, {row.stage}", len(prompt), len(target))
            found.append(TargetRow(prompt_ids=prompt, target_ids=target))
    return found


def check_room(student: Student, material: Material, settings: Settings) -> None:
    """That no chain can outgrow the student: phase 2, validation and tests write them, in the middle of a run.

    Prompts are taken with the longest texts that the stages before may write, as a student at its beginning does. A
    text that is read again may have a few tokens more or less.

    Raises:
        DataError: a question for which the student has too few positions, with where it comes from, and what to lower.
    """
    if student.positions is None:
        return
    places: dict[str, str] = {}
    asked: list[tuple[str, Question]] = []
    if settings.method.iterations:
        for row in (row for own in material.rows.values() for row in own):
            places.setdefault(row.question.id, row.where or row.question.id)
        asked += [(places[question.id], question) for question in material.questions]
    for questions in (material.validation, *material.tests):
        if questions is not None:
            asked += [
                (f"{questions.name} {questions.split}, {question.id}", question) for question in questions.questions
            ]
    for place, question in asked:
        for stage, prompt, written in _longest_prompts(student, question):
            longest = student.longest_text(stage, len(question.options))
            # What is scored there, beside what is written there.
            if student.form.one_pass:
                longest += len(student.target_ids(f"Summarize: {summarize_target(0)}"))
            elif stage == "summarize":
                longest = max(longest, len(student.target_ids(summarize_target(0))))
            student.check_fits(f"{place}, {stage}", len(prompt) + written, longest, _lengths(student, stage))


def _longest_prompts(student: Student, question: Question) -> Iterator[tuple[Stage, list[int], int]]:
    """(stage, its prompt without the texts of the stages before, tokens of those at most) of each stage."""
    count = len(question.options)
    if student.form.one_pass:
        yield "recall", student.prompt_ids(recall_prompt(question)), 0
        return
    stages = student.form.stages
    knowledge, recalled = (" ", student.longest_text("recall", count)) if "recall" in stages else (None, 0)
    if "recall" in stages:
        yield "recall", student.prompt_ids(recall_prompt(question)), 0
    analyses, judged = None, 0
    if "analyze" in stages:
        yield "analyze", student.prompt_ids(analyze_prompt(question, count - 1, knowledge)), recalled
        analyses, judged = [""] * count, count * student.longest_text("analyze", count)
    yield "summarize", student.prompt_ids(summarize_prompt(question, knowledge, analyses)), recalled + judged


def _lengths(student: Student, stage: Stage) -> str:
    """The settings that decide how long the prompt and the text of a stage may be, and their values."""
    before = STAGES if student.form.one_pass else STAGES[: STAGES.index(stage) + 1]
    own = [f"generation.{name}_tokens (now {getattr(student.form.generation, f'{name}_tokens')})" for name in before]
    return f"lower {' or '.join(own)}, leave the question out"


def stage_order(settings: Settings, material: Material) -> StageOrder:
    """In which order the rows of `target_rows` are trained on."""
    acquisition = settings.method.acquisition
    names = list(material.rows)
    return StageOrder(
        names=names,
        sizes=[len(own) for own in material.rows.values()],
        # A baseline has rows of one stage, whatever the recipe says of the others.
        mixing="single" if len(names) == 1 else acquisition.mixing,
        block=blocks(names, acquisition.interval, material.options),
    )
