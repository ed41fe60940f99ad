"""How much faster are ten draws of every question than ten full passes over them, and by what?

    python packages/tinythinker/scripts/measure_inference.py STUDENT --questions 48
    python packages/tinythinker/scripts/measure_inference.py --shape t5-small --benchmark csqa --data-dir DIR \\
        --questions 8 --lengths 48 24 8

STUDENT is a folder with a T5-shaped or causal student. The authors' way is ten passes, one for each draw: every stage
goes through the questions in the order of the file, in batches of so many prompts, by `generate` of transformers. Its
batch size is the fastest of those tried. The same chains are then timed with one more idea at a time:

    by length      the prompts of a stage in the order of their length
    once           all draws of a stage together, and of equal prompts that are continued greedily only one
    ours           `tinythinker.inference.reason`: besides, what prompts share is read once for all that follows it
                   (of T5 equal prompts, of causal students equal beginnings), and batches are as large as a budget of
                   tokens allows

for each of the three passes that there are: a vote (recall and analyses drawn), and the recall pass and the analyze
pass of phase 2. Times are the best of --repeats. Beside them stands what went through the model: tokens of the
encoder and of the decoder, padding included, and the floating-point operations of the linear layers on them, as a
ratio. That ratio is what a machine could gain on which every token costs the same.

--shape makes a T5 of that published shape with random weights and the tokenizer of `embedded@1`. It writes ordinary
characters and never ends, so that every text is as long as --lengths says, in the order of the stages.

Prints Markdown; --json FILE keeps the figures.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import T5Config, T5ForConditionalGeneration

from thinker_common.models import load_tokenizer
from tinythinker.config import DataSettings, GenerationSettings
from tinythinker.inference import Sampling, Start, reason, starts
from tinythinker.question_sets import load_questions
from tinythinker.stages import Prompt, Stage, analyze_prompt, recall_prompt, summarize_prompt
from tinythinker.student import Form, Student, load_student

BATCH_SIZES = (16, 32, 64, 128, 256)
PASSES: dict[str, tuple[Stage, ...]] = {
    "vote": ("recall", "analyze"),
    "recall pass": ("recall",),
    "analyze pass": ("analyze",),
}
SHAPES: dict[str, dict[str, int]] = {  # of T5 v1.0
    "t5-small": {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8},
    "t5-base": {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12, "num_heads": 12},
}
HEAD_SPREAD = 3.0  # of the logits of a student with random weights


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
        tokenizer, causal = self._student.tokenizer, not self._student.encoder_decoder
        padded = tokenizer.pad(
            {"input_ids": [list(row) for row in ids]}, return_tensors="pt", padding_side="left" if causal else "right"
        )
        options = {"do_sample": True, "temperature": 0.7, "top_k": 0} if sample else {"do_sample": False}
        output = self._student.model.generate(**padded, max_new_tokens=longest, **options)
        new = output[:, padded["input_ids"].shape[1] :] if causal else output
        return [" ".join(text.split()) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


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
) -> dict[str, Any]:
    """Seconds and counts of each way; the batch size of the plain ones is the fastest for a single pass."""
    single = begun[::draws]
    most = sum(len(start.question.options) for start in single)
    sizes = [size for size in BATCH_SIZES if size < 2 * most] or BATCH_SIZES[:1]  # a larger one changes nothing
    tried = {size: seconds(lambda s=size: Passes(student, s).chains(single, sampled, 1), 1) for size in sizes}
    batch = min(tried, key=lambda size: tried[size])
    plain = {
        "ten passes": Passes(student, batch),
        "by length": Passes(student, batch, by_length=True),
        "once": Passes(student, batch, by_length=True, once=True),
    }
    ways: dict[str, Callable[[], object]] = {
        name: lambda way=way: way.chains(begun, sampled, draws) for name, way in plain.items()
    }
    ways["ours"] = lambda: reason(student, begun, sampled=sampled, sampling=Sampling(seed=1))
    found: dict[str, Any] = {"batch size": batch}
    for name, way in ways.items():
        with counted(student.model) as counts:
            best = seconds(way, repeats)
        found[name] = {"seconds": best, **{what: count / repeats for what, count in counts.items()}}
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    ways = ("ten passes", "by length", "once", "ours")
    lines = [
        "| chains | batch size | s: ten passes | by length | once | ours | gains: by length | once | ours | all |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, own in found.items():
        steps = [own[way]["seconds"] for way in ways]
        gains = [f"{one / other:.2f}" for one, other in itertools.pairwise(steps)]
        lines.append(
            f"| {name} | {own['batch size']} | {' | '.join(f'{one:.1f}' for one in steps)} | {' | '.join(gains)} "
            f"| {steps[0] / steps[-1]:.2f} |"
        )
    lines += [
        "",
        "| chains | thousand tokens, encoder + decoder: ten passes | once | ours | operations, all / once | / ours |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in found.items():
        tokens = [
            f"{own[way]['encoder tokens'] / 1000:.1f} + {own[way]['decoder tokens'] / 1000:.1f}"
            for way in ("ten passes", "once", "ours")
        ]
        ratios = [f"{own['ten passes']['operations'] / own[way]['operations']:.2f}" for way in ("once", "ours")]
        lines.append(f"| {name} | {' | '.join(tokens)} | {' | '.join(ratios)} |")
    return "\n".join(lines)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?")
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--lengths", type=int, nargs=3, metavar=("RECALL", "ANALYZE", "SUMMARIZE"))
    parser.add_argument("--benchmark", default="facts")
    parser.add_argument("--data-dir", help="original files of the benchmark")
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--budget", type=int, default=32768, help="tokens of a batch of ours")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if (arguments.student is None) == (arguments.shape is None):
        parser.error("give a student or a --shape")
    student = untrained(arguments.shape) if arguments.shape else load_student(arguments.student)
    lengths = replace(student.form.generation, max_tokens_per_batch=arguments.budget)
    if arguments.lengths:
        lengths = GenerationSettings(*arguments.lengths, arguments.budget)
    student = replace(student, model=student.model.eval(), form=replace(student.form, generation=lengths))
    questions = load_questions(
        DataSettings(
            benchmark=arguments.benchmark, split="test", limit=arguments.questions, data_dir=arguments.data_dir
        )
    )
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
