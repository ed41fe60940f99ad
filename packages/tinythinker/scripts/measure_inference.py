"""How much faster are ten draws of every question than ten full passes over them, and by what?

    python packages/tinythinker/scripts/measure_inference.py --make runs/t5-measured        # a student to measure
    python packages/tinythinker/scripts/measure_inference.py runs/t5-measured/model --questions 24
    python packages/tinythinker/scripts/measure_inference.py runs/t5-measured/model --shape t5-small \\
        --shape-benchmark csqa --data-dir DIR --shape-questions 2 --lengths 48 24 8

STUDENT is a folder with a T5-shaped or causal student that has learnt to write chains: draws of one that has not are
never alike, and its texts never end early. `--make FOLDER` trains one, that of `study_embedded.py`, by its phase 1. The
authors' way is ten passes, one for each draw: every stage goes through the questions in the order of the file, in
batches of so many prompts, by `generate` of transformers. The same chains are then timed with one more idea at a time:

    by length      the prompts of a stage in the order of their length
    once           all draws of a stage together, and of equal prompts that are continued greedily only one
    shared         of equal prompts that are drawn from, one goes to `generate`, with `num_return_sequences`: a T5
                   encodes it once (a causal student reads it for every draw all the same)
    our loop       `tinythinker.inference.reason`, whose rows stay in a batch until all have ended. Of T5, equal prompts
                   share besides what the decoder's layers make of them
    rows leave     the same as it is: a finished row leaves its batch. Of causal students the next prompt takes its
                   place, and what prompts begin with alike is read once

for each of the three passes that there are: a vote (recall and analyses drawn), and the recall pass and the analyze
pass of phase 2.

Each way has a batch size of its own, the fastest of those tried: rows for `generate`, tokens (`max_tokens_per_batch`)
for ours. The first two are tried on one pass over all questions, the others on all draws of the first third of them,
for with fewer rows than a batch holds nothing would be told. What larger batches bring stands apart: each plain way
also runs at the size that is best for ten passes. Every way writes the chains of two questions before it is timed, ways
take turns, and of --repeats times the best one counts.

Beside the times stands what went through the model, counted in a run of its own that is not timed: tokens of the
encoder and of the decoder, padding included, and the floating-point operations of the linear layers on them, as a
ratio. That ratio is what a machine could gain on which every token costs the same.

--shape adds a T5 of that published shape with random weights and the tokenizer of `embedded@1`. It writes ordinary
characters and never ends, so that every text is as long as --lengths says, in the order of the stages: a bound on what
sharing can bring at that size, and no result by itself.

Tries, two repeats and the count make about 20 minutes of 24 questions of `facts`, by what an earlier measurement took
(docs/results/tinythinker-inference.md: 19 s for the slowest way), and a T5-small is some 30 times as large.

Prints Markdown; --json FILE keeps the figures.
"""

import argparse
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import T5Config, T5ForConditionalGeneration

from thinker_common.evaluation import generate as generation
from thinker_common.models import load_tokenizer
from tinythinker.config import DataSettings, GenerationSettings
from tinythinker.inference import Sampling, Start, reason, starts
from tinythinker.question_sets import load_questions
from tinythinker.questions import Question
from tinythinker.stages import Prompt, Stage, analyze_prompt, recall_prompt, summarize_prompt
from tinythinker.student import Form, Student, load_student

BATCH_SIZES = (32, 64, 128, 256, 512)  # rows of a plain `generate`
BUDGETS = (4096, 16384, 65536)  # tokens of a batch of ours
PASSES: dict[str, tuple[Stage, ...]] = {
    "vote": ("recall", "analyze"),
    "recall pass": ("recall",),
    "analyze pass": ("analyze",),
}
PLAIN: dict[str, dict[str, bool]] = {
    "ten passes": {},
    "by length": {"by_length": True},
    "once": {"by_length": True, "once": True},
    "shared": {"by_length": True, "once": True, "shared": True},
}
OURS = ("our loop", "rows leave")
WAYS = (*PLAIN, *OURS)
SHAPES: dict[str, dict[str, int]] = {  # of T5 v1.0
    "t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}
HEAD_SPREAD = 3.0  # of the logits of a student with random weights


class Passes:
    """Chains by plain `generate`.

    batch: rows of one call
    by_length, once, shared: the ideas of the head of this file
    """

    def __init__(
        self, student: Student, batch: int, *, by_length: bool = False, once: bool = False, shared: bool = False
    ) -> None:
        self._student = student
        self._batch = batch
        self._by_length = by_length
        self._once = once
        self._shared = shared

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
            recalls = self.texts(
                [recall_prompt(start.question) for start in begun], length.recall_tokens, "recall" in sampled
            )
        prompts = [
            analyze_prompt(start.question, option, recall or None)
            for start, recall in zip(begun, recalls, strict=True)
            for option in range(len(start.question.options))
        ]
        analyses = iter(self.texts(prompts, length.analyze_tokens, "analyze" in sampled))
        prompts = [
            summarize_prompt(start.question, recall or None, [next(analyses) for _ in start.question.options])
            for start, recall in zip(begun, recalls, strict=True)
        ]
        return self.texts(prompts, length.summarize_tokens, False)

    def texts(self, prompts: Sequence[Prompt], longest: int, sample: bool) -> list[str]:
        """What follows each prompt; each of equal ones has a draw of its own."""
        wanted: list[tuple[Prompt, int]] = [(prompt, 1) for prompt in prompts]  # and how many texts are to follow it
        if self._once and (self._shared or not sample):
            counts: dict[Prompt, int] = defaultdict(int)
            for prompt in prompts:
                counts[prompt] += 1
            wanted = [(prompt, count if sample else 1) for prompt, count in counts.items()]
        ids = {prompt: self._student.prompt_ids(prompt) for prompt, _ in wanted}
        if self._by_length:  # prompts of one call are to be followed by equally many texts
            wanted.sort(key=lambda one: (-one[1], -len(ids[one[0]])))
        written: dict[Prompt, list[str]] = defaultdict(list)
        for count, group in itertools.groupby(wanted, key=lambda one: one[1]):
            of_count = [prompt for prompt, _ in group]
            size = max(1, self._batch // count)
            for start in range(0, len(of_count), size):
                batch = of_count[start : start + size]
                texts = iter(self._generate([ids[prompt] for prompt in batch], longest, sample, count))
                for prompt in batch:
                    written[prompt] += itertools.islice(texts, count)
        if self._once and not sample:
            return [written[prompt][0] for prompt in prompts]
        unused = {prompt: iter(texts) for prompt, texts in written.items()}
        return [next(unused[prompt]) for prompt in prompts]

    def _generate(self, ids: Sequence[Sequence[int]], longest: int, sample: bool, count: int) -> list[str]:
        tokenizer, causal = self._student.tokenizer, not self._student.encoder_decoder
        padded = tokenizer.pad(
            {"input_ids": [list(row) for row in ids]}, return_tensors="pt", padding_side="left" if causal else "right"
        )
        options = {"do_sample": True, "temperature": 0.7, "top_k": 0} if sample else {"do_sample": False}
        output = self._student.model.generate(**padded, max_new_tokens=longest, num_return_sequences=count, **options)
        new = output[:, padded["input_ids"].shape[1] if causal else 1 :].tolist()
        ended = [row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row for row in new]
        texts = tokenizer.batch_decode(ended, clean_up_tokenization_spaces=False)
        return [" ".join(text.split()) for text in texts]


class _NeverEnough(generation.EnoughEnded):
    """Leaves the end of a batch to `generate`, which waits for its last row."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


@contextmanager
def rows_stay() -> Iterator[None]:
    """Our loop without finished rows leaving their batch, and of causal students without shared beginnings."""
    with (
        patch.object(generation, "EnoughEnded", _NeverEnough),
        patch.object(generation.Generator, "_rows_can_change", lambda self: False),
    ):
        yield


def with_budget(student: Student, tokens: int) -> Student:
    lengths = replace(student.form.generation, max_tokens_per_batch=tokens)
    return replace(student, form=replace(student.form, generation=lengths))


def chains(student: Student, way: str, size: int, begun: Sequence[Start], sampled: Sequence[Stage], draws: int) -> None:
    """All chains by one way. size: of its batches, in rows, or for ours in tokens"""
    if way in PLAIN:
        Passes(student, size, **PLAIN[way]).chains(begun, sampled, draws)
        return
    with rows_stay() if way == "our loop" else nullcontext():
        reason(with_budget(student, size), begun, sampled=sampled, sampling=Sampling(seed=1))


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Tokens, padding included, that go through the encoder and the decoder, and operations of the linear layers."""
    found = {"encoder tokens": 0, "decoder tokens": 0, "operations": 0}

    def tokens_of(name: str) -> Callable[..., None]:
        def note(module: Any, given: Any, output: Any) -> None:
            found[name] += math.prod(output.last_hidden_state.shape[:2])

        return note

    def operations(module: torch.nn.Linear, given: tuple[torch.Tensor], output: torch.Tensor) -> None:
        found["operations"] += 2 * output.numel() * module.in_features

    hooks = [part.register_forward_hook(operations) for part in model.modules() if isinstance(part, torch.nn.Linear)]
    hooks.append(model.get_decoder().register_forward_hook(tokens_of("decoder tokens")))
    if model.config.is_encoder_decoder:
        hooks.append(model.get_encoder().register_forward_hook(tokens_of("encoder tokens")))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best_size(student: Student, way: str, begun: Sequence[Start], sampled: Sequence[Stage], draws: int) -> int:
    """The fastest of the batch sizes of a way: by one pass where it makes passes, else by a third of the questions."""
    single = way in ("ten passes", "by length")
    questions = len(begun) // draws
    tried_on = begun[::draws] if single else begun[: draws * max(2, questions // 3)]
    rows = sum(len(start.question.options) for start in tried_on)  # of the analyses, the stage with most
    sizes = BUDGETS
    if way in PLAIN:
        sizes = tuple(size for size in BATCH_SIZES if size < 2 * rows) or BATCH_SIZES[:1]  # a larger one does nothing
    tried = {size: seconds(lambda s=size: chains(student, way, s, tried_on, sampled, 1 if single else draws))
             for size in sizes}  # fmt: skip
    return min(tried, key=lambda size: tried[size])


@torch.no_grad()
def measure(
    student: Student, begun: Sequence[Start], sampled: Sequence[Stage], draws: int, repeats: int
) -> dict[str, Any]:
    """Way -> its batch size, seconds, seconds at the batch size of ten passes (plain ways), and counts."""
    found: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        size = (BATCH_SIZES if way in PLAIN else BUDGETS)[0]
        chains(student, way, size, begun[: 2 * draws], sampled, draws)  # warm
        found[way] = {"batch": best_size(student, way, begun, sampled, draws), "seconds": math.inf}
    common = found["ten passes"]["batch"]
    for _ in range(repeats):
        for way, own in found.items():
            taken = seconds(lambda w=way, size=own["batch"]: chains(student, w, size, begun, sampled, draws))
            own["seconds"] = min(own["seconds"], taken)
            if way in PLAIN and own["batch"] != common:
                taken = seconds(lambda w=way: chains(student, w, common, begun, sampled, draws))
                own["seconds at the first batch"] = min(own.get("seconds at the first batch", math.inf), taken)
    for way, own in found.items():
        if way in PLAIN:
            own.setdefault("seconds at the first batch", own["seconds"])
        with counted(student.model) as counts:
            chains(student, way, own["batch"], begun, sampled, draws)
        own |= counts
    return found


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    lines = [
        f"| chains | {' | '.join(WAYS)} | all |",
        "|---" * (len(WAYS) + 2) + "|",
    ]
    for name, own in found.items():
        steps = [own[way]["seconds"] for way in WAYS]
        gains = ["", *(f"x {one / other:.2f}" for one, other in itertools.pairwise(steps))]
        shown = [f"{step:.1f} s {gain}".rstrip() for step, gain in zip(steps, gains, strict=True)]
        lines += [
            f"| {name} | {' | '.join(shown)} | x {steps[0] / steps[-1]:.2f} |",
            f"| batch | {' | '.join(str(own[way]['batch']) for way in WAYS)} | |",
        ]
        at_first = [own[way].get("seconds at the first batch") for way in WAYS]
        lines.append(
            f"| in batches of the first | {' | '.join('' if s is None else f'{s:.1f} s' for s in at_first)} | |"
        )
    lines += ["", f"| chains, thousand tokens of the encoder + decoder | {' | '.join(WAYS)} |",
              "|---" * (len(WAYS) + 1) + "|"]  # fmt: skip
    for name, own in found.items():
        tokens = [f"{own[w]['encoder tokens'] / 1000:.1f} + {own[w]['decoder tokens'] / 1000:.1f}" for w in WAYS]
        ratios = [f"{own['ten passes']['operations'] / own[way]['operations']:.2f}" for way in WAYS]
        lines += [
            f"| {name} | {' | '.join(tokens)} |",
            f"| operations, ten passes / this | {' | '.join(ratios)} |",
        ]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------- students


def make(folder: Path, steps: int | None) -> None:
    """A run of the recipe `embedded`, phase 1 alone, on the T5-shaped student of the study; steps: None for its own."""
    import study_embedded

    start = folder.with_name(f"{folder.name}-start")
    study_embedded.make_t5(start, 1)
    command = [
        sys.executable, "-m", "tinythinker", "train", "--recipe", "embedded", "--output", str(folder), "--seed", "1",
        f"model.name_or_path={start}", f"data.limit={study_embedded.T5_QUESTIONS}",
        f"method.acquisition.max_steps={steps or study_embedded.T5_STEPS}", "method.reflection.iterations=0",
        f"method.acquisition.learning_rate={study_embedded.T5_RATE}", "evaluation.export=last",
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def untrained(shape: str) -> Student:
    """A T5 with random weights that writes ordinary characters only and never ends."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("embedded@1")
    config = T5Config(
        vocab_size=len(tokenizer), dropout_rate=0.0, tie_word_embeddings=False, pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, **SHAPES[shape],
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    texts = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    written = torch.tensor([text.isascii() and text.replace(" ", "").isalnum() for text in texts])
    torch.nn.init.normal_(model.lm_head.weight, std=HEAD_SPREAD / config.d_model**0.5)
    model.lm_head.weight.data[~written] = 0  # a logit of 0 is far below the largest ones
    return Student(model, tokenizer, Form())


def measured(
    student: Student, questions: Sequence[Question], passes: Sequence[str], draws: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Pass -> what `measure` finds."""
    student = replace(student, model=student.model.eval())
    drawn = starts(questions, draws)
    greedy = reason(student, starts(questions, 1), sampled=(), sampling=Sampling())
    fixed = [
        Start(start.question, start.draw, greedy[index // draws].chain.knowledge) for index, start in enumerate(drawn)
    ]
    return {
        name: measure(student, fixed if name == "analyze pass" else drawn, PASSES[name], draws, repeats)
        for name in passes
    }


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", help="folder of a student that writes chains")
    parser.add_argument("--make", type=Path, metavar="FOLDER", help="train a student into FOLDER/model, and end")
    parser.add_argument("--steps", type=int, help="of --make; default: as many as the study's student")
    parser.add_argument("--benchmark", default="facts")
    parser.add_argument("--data-dir", help="original files of the benchmarks")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--shape", choices=SHAPES, help="besides, a student of this shape with random weights")
    parser.add_argument("--shape-benchmark", default="facts")
    parser.add_argument("--shape-questions", type=int, default=2)
    parser.add_argument("--lengths", type=int, nargs=3, metavar=("RECALL", "ANALYZE", "SUMMARIZE"), default=(48, 24, 8),
                        help="of the texts of --shape")  # fmt: skip
    parser.add_argument("--json", type=Path)
    return parser


def main() -> None:
    parser = command_line()
    arguments = parser.parse_args()
    if (arguments.student is None) == (arguments.make is None):
        parser.error("give a student to measure, or --make FOLDER to train one; --shape is measured beside a student")
    if arguments.make is not None:
        make(arguments.make, arguments.steps)
        return
    jobs = {arguments.student: (load_student(arguments.student), arguments.benchmark, arguments.questions)}
    if arguments.shape is not None:
        shape = untrained(arguments.shape)
        shape = replace(shape, form=replace(shape.form, generation=GenerationSettings(*arguments.lengths)))
        title = f"{arguments.shape}, random weights, texts of {', '.join(map(str, arguments.lengths))} tokens"
        jobs[title] = (shape, arguments.shape_benchmark, arguments.shape_questions)
    found = {}
    for title, (student, benchmark, limit) in jobs.items():
        data = DataSettings(benchmark=benchmark, split="test", limit=limit, data_dir=arguments.data_dir)
        questions = load_questions(data).questions
        found[title] = measured(student, questions, arguments.passes, arguments.draws, arguments.repeats)
        print(f"{title}: {len(questions)} questions of {benchmark}, {arguments.draws} draws\n\n{table(found[title])}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
