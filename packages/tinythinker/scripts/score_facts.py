"""What of a student's greedy chains on `facts` is right: the recall, an option's facts, the verdict on it.

    python packages/tinythinker/scripts/score_facts.py RUN [RUN ...]

RUN is the folder of a `tinythinker train` that was tested on `facts`. For phase 1 and every iteration it prints, in %
of the test questions or of their options, how many texts are word for word those of the exact explanation. Verdicts
are "So it fits." or "So it does not fit."; beside their accuracy stands how often the student says the former, which
is right for one option in four.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

from tinythinker.config import DataSettings
from tinythinker.question_sets import DOES_NOT_FIT, FITS, load_questions
from tinythinker.questions import Question, plain
from tinythinker.stages import analyze_prompt, question_text

COLUMNS = ("recall exact", "facts of an option right", "verdict right", "says that it fits")


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """(prompt, text) of each row; the first line of the file says how they were made. None of a stage without file."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        row = json.loads(line)
        yield row["prompt"], plain(row["text"])


def asked(prompt: str) -> str:
    """The question and its options, without what was recalled or is asked for."""
    return re.split(r"\n(?:Recall|Analyze):", prompt, maxsplit=1)[0]


def score(folder: Path, questions: dict[str, Question]) -> list[float | None]:
    """The figures of `COLUMNS`; None for a stage that the student does not have.

    folder: of its greedy chains; there is none of a student without chains.
    """
    if not (folder / "summarize.jsonl").exists():  # the chain is one text
        return [None] * len(COLUMNS)
    recalls = []
    for prompt, text in texts(folder / "recall.jsonl"):
        reference = questions[asked(prompt)].reference
        assert reference is not None
        recalls.append(text == reference.knowledge)
    facts, verdicts, fits = [], [], []
    for prompt, text in texts(folder / "analyze.jsonl"):
        question = questions[asked(prompt)]
        assert question.reference is not None
        [option] = [
            option
            for option in range(len(question.options))
            if prompt.endswith(analyze_prompt(question, option, None).reasoning)
        ]
        exact = question.reference.reasons[option]
        facts.append(text.startswith(exact.removesuffix(FITS).removesuffix(DOES_NOT_FIT).strip()))
        verdicts.append(text.endswith((FITS, DOES_NOT_FIT)) and text.endswith(FITS) == exact.endswith(FITS))
        fits.append(text.endswith(FITS))
    return [100 * mean(right) if right else None for right in (recalls, facts, verdicts, fits)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    runs = parser.parse_args().runs
    found = load_questions(DataSettings(benchmark="facts", split="test")).questions
    questions = {question_text(question): question for question in found}
    print(f"| run | student | {', % | '.join(COLUMNS)}, % |\n" + "|---" * (2 + len(COLUMNS)) + "|")
    for run in runs:
        for phase in json.loads((run / "results.json").read_text(encoding="utf-8"))["phases"]:
            folder = run / phase / "evaluation/facts-texts/greedy"
            figures = " | ".join(f"{figure:.1f}" if figure is not None else "" for figure in score(folder, questions))
            print(f"| {run.name} | {phase} | {figures} |")


if __name__ == "__main__":
    main()
