r"""Does a run make right answers likelier behind reasoning that stays the same? Their likelihood at every checkpoint.

    python packages/generalthinker/scripts/score_checkpoints.py RUN --problems 200 [--data-dir DIR]

RUN is the folder of a `generalthinker train` that kept its checkpoints (`training.save_steps`, and
`training.save_total_limit` large enough). The curves that it logs are of the model's own responses, another set at
every step, and of the boxed ones alone. Here the reasoning is given, and the same for the start and all checkpoints:

    reference    the steps of the reference solution, then "The answer is \boxed{"
    before       the model's own greedy responses before training, as far as they were well-formed

both for problems of the run's first evaluation benchmark, on which it was not trained. Printed: log p(answer } | ...)
in nats, mean and standard error over problems, and the difference to the start on the same problems.
"""

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from generalthinker.config import Settings
from thinker_common.benchmarks import load_benchmark
from thinker_common.benchmarks.problem import Problem
from thinker_common.evaluation.generations import read_generations
from thinker_common.likelihood import AnswerScorer, ScoringItem
from thinker_common.models import chat
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.settings import load_settings

BOX = r"\boxed{"


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder), by step."""
    found = [(int(path.name.partition("-")[2]), path) for path in run.glob("checkpoints/checkpoint-*")]
    return sorted(found)


def reasonings(run: Path, benchmark: str, problems: Sequence[Problem]) -> dict[str, dict[str, str]]:
    """By kind of reasoning and problem, the text up to and including the opened box."""
    reference = {problem.id: f"{' '.join(problem.steps)} The answer is {BOX}" for problem in problems if problem.steps}
    _, rows = read_generations(run / f"evaluation/before/{benchmark}/generations.jsonl")
    before = {
        row["id"]: row["text"][: row["text"].rindex(BOX) + len(BOX)]
        for row in rows
        if row["answer_loglik"] is not None and BOX in row["text"]
    }
    return {"reference": reference, "before": before}


def mean_and_error(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):+.2f} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--problems", type=int, default=200, help="with a reference solution, in the order of the file")
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    run: Path = arguments.run

    text = (run / "config.yaml").read_text(encoding="utf-8")
    settings = load_settings(Settings, recipe_text=text, recipe_name=str(run / "config.yaml"), overrides=[])
    name = settings.evaluation.benchmarks[0]
    problems = load_benchmark(name, data_dir=arguments.data_dir, **settings.evaluation.options.get(name, {})).problems
    by_id = {problem.id: problem for problem in problems}
    tokenizer = load_tokenizer(settings.model.name_or_path)

    def items(kind: dict[str, str]) -> list[ScoringItem]:
        return [
            ScoringItem(
                chat.render_prompt(
                    tokenizer,
                    chat.fill(settings.method.prompt_template, question=by_id[problem_id].prompt_text()),
                    chat_template=settings.model.chat_template,
                ),
                reasoning,
                by_id[problem_id].target(),
                "}",
            )
            for problem_id, reasoning in kind.items()
        ]

    given = reasonings(run, name, problems[: arguments.problems])
    start: dict[str, list[float]] = {}
    print("| step | " + " | ".join(f"{kind} (n = {len(of)}) | change" for kind, of in given.items()) + " |")
    print("|---" * (1 + 2 * len(given)) + "|")
    for step, model in [(0, Path(settings.model.name_or_path)), *checkpoints(run)]:
        scorer = AnswerScorer(load_policy(str(model), dtype="float32"), tokenizer, closing=settings.method.closing)
        cells = []
        for kind, of in given.items():
            scores = [score.sum for score in scorer.score(items(of))]
            before = start.setdefault(kind, scores)
            change = [now - then for now, then in zip(scores, before, strict=True)]
            cells += [mean_and_error(scores), mean_and_error(change) if step else ""]
        print(f"| {step} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
