r"""Measures the throughput of scoring: AnswerScorer against lm-evaluation-harness's HFLM.loglikelihood, side by side.

    python common/scripts/measure_scoring_throughput.py --model FOLDER --data-dir DATA
    python common/scripts/measure_scoring_throughput.py                    # embedded model, generated items
    python common/scripts/measure_scoring_throughput.py --boundaries --model FOLDER    # where the two cut differently

Needs lm-eval (pip install lm-eval==0.4.13). One model, one process, the same texts for both, tokenization included:

- grouped: a GSM8K question and eight answers, " The answer is 18."
- grouped_4x: the first 32 tokens of a question and eight continuations of 8 tokens that begin differently (those of
  solutions): the least that a shared prompt can save
- apart: questions with one answer each, nothing to share
- responses: a GSM8K question and eight chains of reasoning, each with its answer (as in training; no goal)
- letters: a CommonsenseQA question and the five letters (HFLM reuses logits here; no goal)

HFLM first runs every batch size once and keeps its best for each set; then both run in turn, `--repeats` times.
Throughput is items a second of wall-clock, and of CPU time, which a busy machine distorts less.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thinker_common.benchmarks import load_benchmark
from thinker_common.likelihood.scorer import AnswerScore, AnswerScorer, ScoringItem
from thinker_common.models.load import load_policy, load_tokenizer

Pair = tuple[str, str]  # context, continuation
SETS = ("grouped", "grouped_4x", "apart", "responses", "letters")
GOALS = {"grouped": 3.0, "grouped_4x": 3.0, "apart": 1.2}


@dataclass(frozen=True)
class Timing:
    wall: float
    cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data-dir", default=os.environ.get("THINKER_DATA_DIR"), help="with gsm8k/ and csqa/")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--questions", type=int, default=3, help="of a grouped set; 8 times as many are scored apart")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2, 4, 8], help="HFLM's, tried once each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--boundaries", action="store_true", help="instead, show where the two cut differently")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    systems = Systems(arguments.model)
    if arguments.boundaries:
        print_boundaries(systems)
        return
    sets = item_sets(systems.tokenizer, arguments)
    results = {name: compare(systems, sets[name], arguments.batch_sizes, arguments.repeats) for name in arguments.sets}
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        print_table(results)


class Systems:
    """Both on one model. The texts of a pair are given as they are: no template, no suffix."""

    def __init__(self, model: str) -> None:
        self.tokenizer = load_tokenizer(model)
        self.model = load_policy(model, dtype="float32")
        self.scorer = AnswerScorer(self.model, self.tokenizer)

    def ours(self, pairs: Sequence[Pair]) -> list[AnswerScore]:
        return self.scorer.score([ScoringItem(context, "", continuation) for context, continuation in pairs])

    def hflm(self, batch_size: int) -> Any:
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size, device="cpu")


def loglikelihood(lm: Any, pairs: Sequence[Pair]) -> list[float]:
    from lm_eval.api.instance import Instance

    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    with contextlib.redirect_stderr(io.StringIO()):
        return [score for score, _ in lm.loglikelihood(requests, disable_tqdm=True)]


def compare(systems: Systems, pairs: list[Pair], batch_sizes: list[int], repeats: int) -> dict[str, Any]:
    systems.ours(pairs[:2])  # verifies the model, once
    lms = {size: systems.hflm(size) for size in batch_sizes}
    sweep = {size: timed(lambda lm=lm: loglikelihood(lm, pairs))[1].cpu for size, lm in lms.items()}
    best = min(sweep, key=sweep.__getitem__)
    ours: list[Timing] = []
    theirs: list[Timing] = []
    for _ in range(repeats):
        scores, timing = timed(lambda: systems.ours(pairs))
        ours.append(timing)
        sums, timing = timed(lambda: loglikelihood(lms[best], pairs))
        theirs.append(timing)

    same_cut = [
        (score, total)
        for score, total, (context, continuation) in zip(scores, sums, pairs, strict=True)
        if list(score.token_ids) == lms[best]._encode_pair(context, continuation)[1]
    ]
    lengths = [
        (len(systems.tokenizer(context)["input_ids"]), len(score.token_ids))
        for score, (context, _) in zip(scores, pairs, strict=True)
    ]
    return {
        "items": len(pairs),
        "context_tokens": statistics.mean(context for context, _ in lengths),
        "answer_tokens": statistics.mean(answer for _, answer in lengths),
        "hflm_batch_size": best,
        "hflm_sweep_cpu_seconds": sweep,
        "ours_items_per_second": spread([len(pairs) / timing.wall for timing in ours]),
        "hflm_items_per_second": spread([len(pairs) / timing.wall for timing in theirs]),
        "ratio": spread([b.wall / a.wall for a, b in zip(ours, theirs, strict=True)]),
        "ratio_cpu": spread([b.cpu / a.cpu for a, b in zip(ours, theirs, strict=True)]),
        "same_tokens": len(same_cut),
        "largest_difference_per_token": max(
            (abs(score.sum - total) / len(score.token_ids) for score, total in same_cut), default=None
        ),
    }


def timed(run: Callable[[], Any]) -> tuple[Any, Timing]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, Timing(time.perf_counter() - wall, time.process_time() - cpu)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


# ------------------------------------------------------------------------------------------------------------ the items


def item_sets(tokenizer: Any, arguments: argparse.Namespace) -> dict[str, list[Pair]]:
    few, many = arguments.questions, 8 * arguments.questions
    if arguments.data_dir:
        worded = load_benchmark("gsm8k", data_dir=arguments.data_dir, limit=many, seed=arguments.seed).problems
        choice = load_benchmark(
            "csqa", split="valid", data_dir=arguments.data_dir, limit=many // 2, seed=arguments.seed
        ).problems
    else:
        worded = load_benchmark("chains", limit=many, seed=arguments.seed).problems
        choice = load_benchmark("facts", limit=many // 2, seed=arguments.seed).problems

    def first_tokens(text: str, count: int) -> str:
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:count])

    answers = [f" The answer is {problem.answer}." for problem in worded]
    chains = [" " + " ".join(problem.steps) + answer for problem, answer in zip(worded, answers, strict=True)]
    questions = [f"Question: {problem.question}\nAnswer:" for problem in worded]
    grouped, least, responses = [], [], []
    for i in range(few):
        # The answers and solutions of other questions are as good as wrong ones of this question's own.
        of_group = slice(8 * i, 8 * i + 8)
        grouped += [(questions[i], answer) for answer in answers[of_group]]
        least += [(first_tokens(questions[i], 32), first_tokens(chain, 8)) for chain in chains[of_group]]
        if i < 2:  # the longest items by far; two groups are as good as more
            responses += [(questions[i], chain) for chain in chains[of_group]]
    return {
        "grouped": grouped,
        "grouped_4x": least,
        "apart": list(zip(questions, answers, strict=True)),
        "responses": responses,
        "letters": [
            (f"Question: {problem.prompt_text()}\nAnswer:", f" {letter}")
            for problem in choice
            for letter in problem.letters
        ],
    }


# ----------------------------------------------------------------------------------------------------------- boundaries

# Contexts and continuations whose cut is not obvious.
BOUNDARIES = [
    ("So the answer is", " 5"),
    ("So the answer is ", "5"),
    ("the ans", "wer"),
    ("x =", "="),
    ("So \\boxed{", "-5}"),
    ("So \\boxed{", "5}"),
    ("So \\boxed{", "\\frac{1}{2}}"),
    ("So (", ")"),
    ("Yes.\n", "\nNo."),
    ("It is a", "n apple"),
]


def print_boundaries(systems: Systems) -> None:
    lm = systems.hflm(1)

    def shown(ids: Sequence[int]) -> str:
        return " ".join(f"`{systems.tokenizer.decode([i])!r}`" for i in ids) or "nothing"

    def spelled(ids: Sequence[int], continuation: str) -> str:
        return "yes" if systems.tokenizer.decode(ids) == continuation else "no"

    header = ("context", "continuation", "AnswerScorer scores", "sum", "exact", "HFLM scores", "sum", "exact")
    print("exact: what is scored is the continuation, the whole of it and nothing else")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for context, continuation in BOUNDARIES:
        [score] = systems.ours([(context, continuation)])
        _, hflm_ids = lm._encode_pair(context, continuation)
        hflm_sum = "fails" if not hflm_ids else f"{loglikelihood(lm, [(context, continuation)])[0]:.3f}"
        print(
            f"| `{context!r}` | `{continuation!r}` "
            f"| {shown(score.token_ids)} | {score.sum:.3f} | {spelled(score.token_ids, continuation)} "
            f"| {shown(hflm_ids)} | {hflm_sum} | {spelled(hflm_ids, continuation)} |"
        )


def print_table(results: dict[str, dict[str, Any]]) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; medians, in brackets smallest to largest")
    header = ("set", "items", "context", "answer", "batch", "items/s", "HFLM", "ratio", "ratio of CPU time", "goal")
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for name, row in results.items():
        ratio, cpu = ("{median:.2f} ({min:.2f} to {max:.2f})".format(**row[key]) for key in ("ratio", "ratio_cpu"))
        cells = (
            name,
            row["items"],
            f"{row['context_tokens']:.0f}",
            f"{row['answer_tokens']:.1f}",
            row["hflm_batch_size"],
            f"{row['ours_items_per_second']['median']:.2f}",
            f"{row['hflm_items_per_second']['median']:.2f}",
            ratio,
            cpu,
            GOALS.get(name, "none"),
        )
        print("| " + " | ".join(map(str, cells)) + " |")
    for name, row in results.items():
        print(
            f"{name}: {row['same_tokens']} of {row['items']} items cut alike, "
            f"largest difference {row['largest_difference_per_token']:.1e} a token"
        )


if __name__ == "__main__":
    main()
