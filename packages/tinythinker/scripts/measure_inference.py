"""How much faster are ten draws of every question than ten full passes over them, and by what?

    python packages/tinythinker/scripts/measure_inference.py STUDENT --questions 48

STUDENT is a folder with a T5-shaped student. The authors' way is ten passes, one for each draw: every stage goes
through the questions in the order of the file, in batches of so many prompts, by `generate` of transformers. Its batch
size is the fastest of those tried. The same chains are then timed with one more idea at a time:

    by length      the prompts of a stage in the order of their length
    once           all draws of a stage together, and of equal prompts that are continued greedily only one
    ours           `tinythinker.inference.reason`: besides, equal prompts are encoded once for all draws after them, and
                   batches are as large as a budget of tokens allows

for each of the three passes that there are: a vote (recall and analyses drawn), and the recall pass and the analyze
pass of phase 2. Times are the best of --repeats. Prints Markdown; --json FILE keeps the seconds.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from tinythinker.config import DataSettings
from tinythinker.inference import Sampling, Start, reason, starts
from tinythinker.question_sets import load_questions
from tinythinker.stages import Prompt, Stage, analyze_prompt, recall_prompt, summarize_prompt
from tinythinker.student import Student, load_student

BATCH_SIZES = (16, 32, 64, 128, 256)
PASSES: dict[str, tuple[Stage, ...]] = {
    "vote": ("recall", "analyze"),
    "recall pass": ("recall",),
    "analyze pass": ("analyze",),
}


class Passes:
    """Chains by plain `generate`.

    batch: prompts of one call
    by_length, once: the ideas of the head of this file
    """

    def __init__(self, student: Student, batch: int, *, by_length: bool = False, once: bool = False) -> None:
        self._student = student
        self._batch = batch
        self._by_length = by_length
        self._once = once

    def chains(self, begun: Sequence[Start], sampled: Sequence[Stage], draws: int) -> list[str]:
        """The summaries. begun: the draws of a question one after another; without `once` they are passes."""
        if self._once:
            return self._pass(begun, sampled)
        passes = [self._pass(begun[draw::draws], sampled) for draw in range(draws)]
        return [summary for of_question in zip(*passes, strict=True) for summary in of_question]

    def _pass(self, begun: Sequence[Start], sampled: Sequence[Stage]) -> list[str]:
        length = self._student.form.generation
        recalls = [start.knowledge for start in begun]
        if recalls[0] is None:
            recalls = self._texts(
                [recall_prompt(start.question) for start in begun], length.recall_tokens, "recall" in sampled
            )
        prompts = [
            analyze_prompt(start.question, option, recall or None)
            for start, recall in zip(begun, recalls, strict=True)
            for option in range(len(start.question.options))
        ]
        analyses = iter(self._texts(prompts, length.analyze_tokens, "analyze" in sampled))
        prompts = [
            summarize_prompt(start.question, recall or None, [next(analyses) for _ in start.question.options])
            for start, recall in zip(begun, recalls, strict=True)
        ]
        return self._texts(prompts, length.summarize_tokens, False)

    def _texts(self, prompts: Sequence[Prompt], longest: int, sample: bool) -> list[str]:
        wanted = list(prompts) if sample or not self._once else list(dict.fromkeys(prompts))
        ids = [self._student.prompt_ids(prompt) for prompt in wanted]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i])) if self._by_length else list(range(len(ids)))
        texts: dict[int, str] = {}
        for start in range(0, len(order), self._batch):
            batch = order[start : start + self._batch]
            texts.update(zip(batch, self._generate([ids[i] for i in batch], longest, sample), strict=True))
        if sample or not self._once:
            return [texts[i] for i in range(len(ids))]
        of_prompt = {prompt: texts[i] for i, prompt in enumerate(wanted)}
        return [of_prompt[prompt] for prompt in prompts]

    def _generate(self, ids: Sequence[Sequence[int]], longest: int, sample: bool) -> list[str]:
        tokenizer = self._student.tokenizer
        padded = tokenizer.pad({"input_ids": [list(row) for row in ids]}, return_tensors="pt")
        options = {"do_sample": True, "temperature": 0.7, "top_k": 0} if sample else {"do_sample": False}
        output = self._student.model.generate(**padded, max_new_tokens=longest, **options)
        return [" ".join(text.split()) for text in tokenizer.batch_decode(output, skip_special_tokens=True)]


def seconds(work: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


@torch.no_grad()
def measure(
    student: Student, begun: Sequence[Start], sampled: Sequence[Stage], draws: int, repeats: int
) -> dict[str, float]:
    """Seconds of each way; the batch size of the plain ones is the fastest for a single pass."""
    single = begun[::draws]
    tried = {size: seconds(lambda s=size: Passes(student, s).chains(single, sampled, 1), 1) for size in BATCH_SIZES}
    batch = min(tried, key=lambda size: tried[size])
    ways = {
        "ten passes": Passes(student, batch),
        "by length": Passes(student, batch, by_length=True),
        "once": Passes(student, batch, by_length=True, once=True),
    }
    found: dict[str, float] = {"batch size": batch}
    for name, way in ways.items():
        found[name] = seconds(lambda way=way: way.chains(begun, sampled, draws), repeats)
    found["ours"] = seconds(lambda: reason(student, begun, sampled=sampled, sampling=Sampling(seed=1)), repeats)
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    lines = [
        "| chains | batch size | s: ten passes | by length | once | ours | gains: by length | once | ours | all |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, s in found.items():
        steps = [s["ten passes"], s["by length"], s["once"], s["ours"]]
        gains = [f"{one / other:.2f}" for one, other in itertools.pairwise(steps)]
        lines.append(
            f"| {name} | {s['batch size']:.0f} | {' | '.join(f'{one:.1f}' for one in steps)} | {' | '.join(gains)} "
            f"| {steps[0] / steps[-1]:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--benchmark", default="facts")
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--budget", type=int, default=32768, help="tokens of a batch of ours")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    student = load_student(arguments.student)
    lengths = replace(student.form.generation, max_tokens_per_batch=arguments.budget)
    student = replace(student, model=student.model.eval(), form=replace(student.form, generation=lengths))
    questions = load_questions(DataSettings(benchmark=arguments.benchmark, split="test", limit=arguments.questions))
    drawn = starts(questions.questions, arguments.draws)
    greedy = reason(student, starts(questions.questions, 1), sampled=(), sampling=Sampling())
    fixed = [
        Start(start.question, start.draw, greedy[index // arguments.draws].chain.knowledge)
        for index, start in enumerate(drawn)
    ]
    found = {
        name: measure(
            student, fixed if name == "analyze pass" else drawn, PASSES[name], arguments.draws, arguments.repeats
        )
        for name in arguments.passes
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(found) + "\n", encoding="utf-8")
    print(f"{len(questions.questions)} questions, {arguments.draws} draws\n\n{table(found)}")


if __name__ == "__main__":
    main()
