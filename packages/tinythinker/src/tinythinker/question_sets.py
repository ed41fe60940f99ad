"""Questions of the benchmarks and of a user's file, and their splits.

CommonsenseQA's test questions have no public labels. Here its official dev questions are the test, and 1,221 of the
official train questions are the valid split: those whose text has the smallest SHA-256, salted with the split seed.
The authors' own division was drawn without a seed and cannot be had. A user's file is divided 8 : 1 : 1 by the same
rule, or taken whole as the split `all`. StrategyQA's published division is the base's, by the hash of the question;
another split seed divides the same questions by the rule of a user's file. OpenBookQA's splits are official, those of
generated questions the generator's: there is nothing to divide, and a split seed is refused.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ._common import DataError, Line, Problem, SettingsError, benchmark_module, load_benchmark, parse_lines, read_bytes
from .config import DataSettings
from .questions import LETTERS, Explanation, Question, fingerprint, plain, repeated_options

SPLITS = ("train", "valid", "test")
YES_NO = ("yes", "no")
FITS, DOES_NOT_FIT = "So it fits.", "So it does not fit."  # verdicts of exact explanations
CSQA_VALID = 1_221  # as many as the official dev questions
FILE_FIELDS = ("question", "options", "answer", "id", "facts", "knowledge", "reasons")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of one split, and where they come from.

    name, split: of the data set
    source: in words: hub id, file or generator
    revision: the hub's commit, or the SHA-256 of the file
    fingerprint, ids: of all questions of the split, also where `questions` is a sample of them
    """

    name: str
    split: str
    questions: tuple[Question, ...]
    source: str
    revision: str | None
    fingerprint: str
    ids: frozenset[str]


def _ids(questions: Sequence[Question]) -> frozenset[str]:
    return frozenset(question.id for question in questions)


def load_questions(data: DataSettings, *, human: bool = False) -> QuestionSet:
    """The questions of `data.split`.

    human: with what people wrote about them; OpenBookQA has that in another file

    Raises UserError for an unknown benchmark, SettingsError for one without options, DataError for questions that
    cannot be used, with file and line.
    """
    if data.train_file is not None:
        loaded = _from_file(data)
    elif data.benchmark == "csqa":
        loaded = _csqa(data)
    elif data.benchmark == "strategyqa" and data.split_seed and data.split in SPLITS:
        loaded = _strategyqa_anew(data)
    else:
        assert data.benchmark is not None
        if data.split_seed and data.benchmark != "strategyqa":  # whose dev is not of a division
            raise SettingsError(
                f"data.split_seed = {data.split_seed}: {data.benchmark} has its own splits; a split seed is for those "
                "that are ours, of csqa, strategyqa and train_file"
            )
        options = {"facts": True} if human and data.benchmark == "obqa" else {}
        loaded = _from_benchmark(data, data.benchmark, data.split, options)
    if data.limit is None or data.limit >= len(loaded.questions):
        return loaded
    total = len(loaded.questions)
    chosen = sorted(random.Random(data.seed).sample(range(total), data.limit))
    return replace(
        loaded,
        questions=tuple(loaded.questions[index] for index in chosen),
        source=f"{loaded.source}, sample of {data.limit} of {total} (seed {data.seed})",
    )


# ----------------------------------------------------------------------------------------------------------- benchmarks


def _from_benchmark(data: DataSettings, name: str, split: str, options: Mapping[str, Any]) -> QuestionSet:
    if benchmark_module(name).INFO.kind not in ("mcq", "bool"):
        raise SettingsError(f"data.benchmark = {name!r}: its questions have no options, which the method needs")
    loaded = load_benchmark(name, split=split, data_dir=data.data_dir, revision=data.revision, **options)
    questions = tuple(question_of(problem) for problem in loaded.problems)
    return QuestionSet(name, split, questions, loaded.source, loaded.revision, fingerprint(questions), _ids(questions))


def question_of(problem: Problem) -> Question:
    """A problem of the base with options, or with a yes-or-no answer.

    A generated one brings its exact explanation: for each option the facts that decide it, and the verdict. Without the
    verdict a summary would have to compare all options once more, which a small student does not learn from the letter
    alone (docs/results/tinythinker-learning.md).
    """
    if problem.kind == "bool":
        options: tuple[str, ...] = YES_NO
        gold = YES_NO.index(problem.answer)
    else:
        assert problem.kind == "mcq", problem.id
        options, gold = problem.options, LETTERS.index(problem.answer)
    if "knowledge" in problem.metadata:
        verdicts = [FITS if option == gold else DOES_NOT_FIT for option in range(len(options))]
        reasons = tuple(f"{facts} {verdict}" for facts, verdict in zip(problem.steps, verdicts, strict=True))
        reference = Explanation(problem.metadata["knowledge"], reasons)
        return Question(problem.id, problem.question, options, gold, reference=reference)
    return Question(problem.id, problem.question, options, gold, facts=problem.steps)


def _csqa(data: DataSettings) -> QuestionSet:
    if data.split == "test":
        return replace(_from_benchmark(data, "csqa", "valid", {}), split="test")
    if data.split not in ("train", "valid"):
        raise DataError(f"csqa has no split {data.split!r}; it has {', '.join(SPLITS)}")
    whole = _from_benchmark(data, "csqa", "train", {})
    valid, train = _first_by_hash(whole.questions, CSQA_VALID, data.split_seed)
    questions = valid if data.split == "valid" else train
    part = f"{len(questions)} of {len(whole.questions)}, part {data.split} of our division (seed {data.split_seed})"
    return replace(
        whole,
        split=data.split,
        questions=questions,
        source=f"{whole.source}, {part}",
        fingerprint=fingerprint(questions),
        ids=_ids(questions),
    )


def _strategyqa_anew(data: DataSettings) -> QuestionSet:
    """The questions that the base divides, divided 8 : 1 : 1 by another seed."""
    parts = [_from_benchmark(data, "strategyqa", split, {}) for split in SPLITS]
    questions = [question for part in parts for question in part.questions]
    own = tuple(
        replace(question, id=f"strategyqa/{data.split}/{question.id.rpartition('/')[2]}")
        for question in _tenths(questions, data.split_seed)[data.split]
    )
    source = parts[0].source.removesuffix(", part train of our division")
    part = f"{len(own)} of {len(questions)}, part {data.split} of our division (seed {data.split_seed})"
    return replace(
        parts[0],
        split=data.split,
        questions=own,
        source=f"{source}, {part}",
        fingerprint=fingerprint(own),
        ids=_ids(own),
    )


def _tenths(questions: Sequence[Question], seed: int) -> dict[str, tuple[Question, ...]]:
    """The questions divided 8 : 1 : 1 into the three splits."""
    tenth = max(1, len(questions) // 10)
    test, rest = _first_by_hash(questions, tenth, seed)
    valid, train = _first_by_hash(rest, tenth, seed)
    return {"train": train, "valid": valid, "test": test}


def _first_by_hash(
    questions: Sequence[Question], count: int, seed: int
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """The `count` questions whose text has the smallest hash, and the others, both in their old order."""

    def key(question: Question) -> tuple[bytes, str]:
        text = plain(question.text).casefold()
        return hashlib.sha256(f"tinythinker/{seed}/{text}".encode()).digest(), question.id

    first = set(sorted(key(question) for question in questions)[:count])
    return tuple(q for q in questions if key(q) in first), tuple(q for q in questions if key(q) not in first)


# -------------------------------------------------------------------------------------------------------- a user's file


def _from_file(data: DataSettings) -> QuestionSet:
    assert data.train_file is not None
    path = Path(data.train_file)
    questions, revision = read_questions(path, data.columns)
    if data.split == "all":
        return QuestionSet(path.stem, "all", questions, str(path), revision, fingerprint(questions), _ids(questions))
    if data.split not in SPLITS:
        raise DataError(f"{path} has the splits {', '.join(SPLITS)} and all; there is no split {data.split!r}")
    if len(questions) < 3:
        raise DataError(f"{path}: {len(questions)} questions cannot be divided into {', '.join(SPLITS)}")
    own = _tenths(questions, data.split_seed)[data.split]
    source = f"{path}, {len(own)} of {len(questions)}, part {data.split} of our division (seed {data.split_seed})"
    return QuestionSet(path.stem, data.split, own, source, revision, fingerprint(own), _ids(own))


def read_questions(path: Path, columns: Mapping[str, str]) -> tuple[tuple[Question, ...], str]:
    """The questions of a JSON-lines file, and the SHA-256 of the file.

    columns: our field -> the file's column, for those that differ. Fields are question, options (a list of 2 to 26
        texts), answer (a letter) and, where the file has them, id, facts (a list), knowledge and reasons (one for
        each option).

    Raises SettingsError for an unknown field, DataError, with file and line, for a row that is no question.
    """
    for field in columns:
        if field not in FILE_FIELDS:
            raise SettingsError(f"data.columns: unknown field {field!r} (fields: {', '.join(FILE_FIELDS)})")
    names = {field: columns.get(field, field) for field in FILE_FIELDS}
    content = read_bytes(path)
    questions: dict[str, tuple[Question, int]] = {}
    for line in parse_lines(path, content):
        question = _question(line, names, path.stem)
        if question.id in questions:
            raise line.error(f"the id of line {questions[question.id][1]} again; ids must differ", names["id"])
        questions[question.id] = question, line.number
    revision = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return tuple(question for question, _ in questions.values()), revision


def _question(line: Line, names: Mapping[str, str], prefix: str) -> Question:
    text = _text(line, names["question"], "question")
    options = _texts(line, names["options"], "options")
    if not 2 <= len(options) <= len(LETTERS):
        found = f"{len(options)} options" if options else "a question without options"
        raise line.error(f"{found}; there must be 2 to {len(LETTERS)}", names["options"])
    if repeated := repeated_options(options):
        raise line.error(f"options {' and '.join(repeated)} have the same text", names["options"])
    answer = _text(line, names["answer"], "answer")
    letters = LETTERS[: len(options)]
    if len(answer) != 1 or answer not in letters:
        raise line.error(f"answer {answer!r} is no letter from A to {letters[-1]}", names["answer"])
    reasons = _texts(line, names["reasons"], "reasons")
    reference = None
    if reasons or names["knowledge"] in line.row:
        if len(reasons) != len(options):
            raise line.error(f"{len(reasons)} reasons for {len(options)} options", names["reasons"])
        reference = Explanation(_text(line, names["knowledge"], "knowledge"), reasons)
    row_id = line.row.get(names["id"])
    if row_id is not None and (isinstance(row_id, bool) or not isinstance(row_id, str | int)):
        raise line.error("id must be a text or a whole number", names["id"])
    own_id = f"{prefix}/{line.number}" if row_id is None else str(row_id)
    return Question(own_id, text, options, letters.index(answer), _texts(line, names["facts"], "facts"), reference)


def _text(line: Line, column: str, field: str) -> str:
    value = line.row.get(column)
    if value is None:
        raise line.error(f"the row has no {field} (column {column!r})", column)
    if not isinstance(value, str) or not value.strip():
        raise line.error(f"{field} must be a text that is not empty", column)
    return value.strip()


def _texts(line: Line, column: str, field: str) -> tuple[str, ...]:
    value = line.row.get(column)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
        raise line.error(f"{field} must be a list of texts that are not empty", column)
    return tuple(text.strip() for text in value)


def question_row(question: Question) -> dict[str, Any]:
    """The question as `read_questions` reads it again."""
    row: dict[str, Any] = {
        "id": question.id,
        "question": question.text,
        "options": list(question.options),
        "answer": question.answer,
    }
    if question.facts:
        row["facts"] = list(question.facts)
    if question.reference is not None:
        row |= {"knowledge": question.reference.knowledge, "reasons": list(question.reference.reasons)}
    return row
