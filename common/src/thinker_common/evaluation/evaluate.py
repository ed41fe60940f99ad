r"""One model on one benchmark: generate, grade, score the reference answers, count.

The answer log-likelihood of a row is log p(target } | prompt, y_R): how likely the model finds the reference in the
place of its own answer, after its own reasoning y_R, which ends with the `{` of its last `\boxed{`. It also tells apart
models that are all wrong, or all right. A response without a closed box has none: so none is scored where the tokenizer
cannot write a box.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..benchmarks.problem import LoadedBenchmark, Problem
from ..distributed import ranks
from ..distributed.in_step import whole
from ..distributed.out_of_memory import naming_what_to_lower
from ..errors import DataError, SettingsError
from ..likelihood.boundary import encode_answer, split_response, writes_box
from ..likelihood.scorer import AnswerScorer, ScoringItem
from ..models.chat import PROMPT_TEMPLATE, fill, render_prompt
from . import math_equality
from .comparison import Comparison, compare
from .generate import Backend, Generation, Generator, check_decoding, check_samples
from .generations import Row
from .grading import GRADERS, grade
from .results import GROUPS, EvaluationResult, summarise
from .shares import Append, all_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "Comparison",
    "EvaluationResult",
    "compare",
    "evaluate",
    "folder_fingerprint",
    "model_fingerprint",
    "problem_hash",
    "prompt_ids",
    "protocol",
]


def evaluate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    benchmark: LoadedBenchmark,
    *,
    output: str | Path | None = None,
    template: str = PROMPT_TEMPLATE,
    chat_template: str = "auto",
    max_new_tokens: int = 1024,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    samples: int = 1,
    ks: Sequence[int] | None = None,
    max_tokens_per_batch: int = 8192,
    seed: int = 0,
    grader: str = "default",
    score_answers: bool = True,
    backend: Backend | None = None,
    fingerprint: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Evaluate `model` on every problem of `benchmark`.

    In a process group it is called on every rank, and returns the same on all: the problems are shared out, see
    `shares`. The model is whole on each rank, or ZeRO-3 has divided it (`distributed.sharded`); in a training under
    ZeRO-3 enter `distributed.gathered` first.

    output: `generations.jsonl`; rows are appended as responses finish, and a run that was killed goes on from them.
        None keeps the rows in memory only.
    template: with `{question}`, which becomes the problem's `prompt_text()`; `chat_template`: see `models.chat`
    samples: responses to each problem. Their tokens follow from `seed`, the problem's id and the number of the sample,
        whatever the batch and wherever a killed run goes on.
    ks: for pass@k and maj@k, each at most `samples`; by default 2, 4, 8 ... below `samples`, and `samples`
    score_answers: also score the reference answers; left out, with a warning, where the tokenizer cannot write a box
    backend: what generates, set up with the same decoding and seed; by default Hugging Face `generate` on `model`.
        `model` may then be None, without `score_answers`; `fingerprint` is what tells it from other models.
    progress: called with (responses done, responses in all), first with what an earlier run has done; on several ranks
        without the shares of the others

    Raises UserError when `output` was written under other settings, or a prompt leaves no room for the response;
    SettingsError for an impossible setting.
    """
    problems = {problem.id: problem for problem in benchmark.problems}
    assert len(problems) == len(benchmark.problems), "the ids of a benchmark differ"
    assert model is not None or (backend is not None and fingerprint and not score_answers)
    check_decoding(max_new_tokens, temperature, top_p, top_k)
    check_samples(samples, temperature)
    ks = _ks(ks, samples)
    if grader not in GRADERS:
        raise SettingsError(f"grader = {grader!r}: must be one of {', '.join(GRADERS)}")
    if score_answers and not writes_box(tokenizer):
        score_answers = False
        if ranks.is_main():
            warnings.warn(
                r"this model's tokenizer cannot write \boxed{}: reference answers are not scored, and a response is "
                "right only where its answer can be read without a box (an option, yes or no)",
                stacklevel=2,
            )
    if backend is None:
        backend = Generator(
            model,
            tokenizer,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_tokens_per_batch=max_tokens_per_batch,
            seed=seed,
        )
    prompts = {
        problem.id: prompt_ids(model, tokenizer, problem, template=template, chat_template=chat_template)
        for problem in benchmark.problems
    }
    backend.check_lengths(list(prompts.values()))  # before the file is begun
    decoding = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "samples": samples,
    }
    settings = {
        **protocol(benchmark, template=template, chat_template=chat_template, grader=grader, decoding=decoding),
        "n": len(problems),
        "problems": short_hash([(problem.id, problem_hash(problem)) for problem in benchmark.problems]),
        "model": fingerprint or model_fingerprint(model),
        "backend": type(backend).__name__,
        "prompts": short_hash(list(prompts.values())),
        "seed": seed,
        "score_answers": score_answers,
    }
    if any(problem.kind == "math" for problem in benchmark.problems):
        math_equality.self_test()  # better now than after hours of generation
    scorer = None
    if score_answers:
        _check_answers(tokenizer, benchmark.problems)
        scorer = AnswerScorer(model, tokenizer, max_tokens_per_batch=max_tokens_per_batch)

    def make(share: Sequence[tuple[Problem, int]], append: Append) -> None:
        def on_batch(indices: Sequence[int], responses: Sequence[list[Generation]]) -> None:
            asked = [share[index] for index in indices]
            generations = [generation for (generation,) in responses]
            own = [prompts[problem.id] for problem, _ in asked]
            with naming_what_to_lower("scoring the answers", f"max_tokens_per_batch (now {max_tokens_per_batch})"):
                rows = _rows(asked, own, generations, model, tokenizer, scorer, grader)
            append(rows)

        backend.sample(
            [prompts[problem.id] for problem, _ in share],
            keys=[f"{problem.id}#{sample}" for problem, sample in share],
            on_batch=on_batch,
        )

    rows = all_rows(
        # Every sample is a prompt of its own with a key of its own, so that the missing ones can be asked for alone.
        [(problem, sample) for problem in benchmark.problems for sample in range(samples)],
        make,
        key=lambda asked: (asked[0].id, asked[1]),
        length=lambda asked: len(prompts[asked[0].id]),
        output=output,
        settings=settings,
        progress=progress,
        name=benchmark.name,
        model=backend.module,
    )

    def figures() -> EvaluationResult:
        return summarise(
            benchmark,
            rows,
            samples=samples,
            ks=ks,
            grader=grader,
            seed=seed,
            decoding=decoding,
            template=template,
            chat_template=chat_template,
        )

    # Counted once: a vote compares answers under a clock, which need not stop at the same comparisons on every rank.
    what = f"figures of {benchmark.name}"
    result = ranks.from_main(ranks.on_main(figures, what), what)
    assert result is not None
    return result


def protocol(
    benchmark: LoadedBenchmark, *, template: str, chat_template: str, grader: str, decoding: dict[str, Any]
) -> dict[str, Any]:
    """The settings that two evaluations must share before their scores are compared; see `comparison`."""
    return {
        "benchmark": benchmark.name,
        "version": benchmark.version,
        "split": benchmark.split,
        "revision": benchmark.revision,
        "template": template,
        "chat_template": chat_template,
        "grader": grader,
        **decoding,
    }


def prompt_ids(
    model: Any, tokenizer: PreTrainedTokenizerBase, problem: Problem, *, template: str, chat_template: str
) -> list[int]:
    """What the model reads of a problem. An encoder reads it as a whole text, ended as the tokenizer ends one."""
    text = fill(template, question=problem.prompt_text())
    if model is not None and model.config.is_encoder_decoder:
        ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
        return ids
    return render_prompt(tokenizer, text, chat_template=chat_template)


def _ks(ks: Sequence[int] | None, samples: int) -> list[int]:
    if ks is None:
        # pass@1 and maj@1 are the accuracy itself.
        return [*(2**power for power in range(1, samples.bit_length()) if 2**power < samples), samples]
    for k in ks:
        if not 1 <= k <= samples:
            raise SettingsError(f"k = {k}: must be at least 1 and at most the number of samples, {samples}")
    return sorted(set(ks))


def _rows(
    asked: Sequence[tuple[Problem, int]],
    prompts: Sequence[Sequence[int]],
    generations: Sequence[Generation],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    scorer: AnswerScorer | None,
    grader: str,
) -> list[Row]:
    grades = [grade(p, generation.text, grader=grader) for (p, _), generation in zip(asked, generations, strict=True)]
    logliks: list[float | None] = [None] * len(asked)
    if scorer is not None:
        items: dict[int, ScoringItem] = {}
        for index, ((problem, _), prompt, generation) in enumerate(zip(asked, prompts, generations, strict=True)):
            if grades[index].boxed:
                # Not told of truncation: a response that was cut off after its box has an answer all the same.
                split = split_response(tokenizer, generation.token_ids, truncated=False)
                reasoning = generation.token_ids[: split.reasoning_length]
                item = ScoringItem(prompt, reasoning, problem.target(), suffix="}", opening=split.opening)
                if _fits(model, item, encode_answer(tokenizer, problem.target(), opening=split.opening).ids):
                    items[index] = item
        for index, score in zip(items, scorer.score(list(items.values())), strict=True):
            logliks[index] = score.sum if math.isfinite(score.sum) else None
    return [
        {
            "id": problem.id,
            "sample": sample,
            "prompt_hash": problem_hash(problem),
            "text": generation.text,
            "tokens": len(generation.token_ids),
            "truncated": generation.truncated,
            "answer": problem.target(),
            "extracted": graded.extracted,
            "boxed": graded.boxed,
            "correct": graded.correct,
            "timed_out": graded.timed_out,
            "answer_loglik": loglik,
            "grader": grader,
            "groups": {name: problem.metadata[name] for name in GROUPS if name in problem.metadata},
        }
        for (problem, sample), generation, graded, loglik in zip(asked, generations, grades, logliks, strict=True)
    ]


def _fits(model: Any, item: ScoringItem, answer_ids: Sequence[int]) -> bool:
    """Whether the model has the positions; a reference longer than the model's own answer may not fit."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    before = 1 if model.config.is_encoder_decoder else len(item.prompt)  # a decoder starts with one token of its own
    return positions is None or before + len(item.reasoning) + len(answer_ids) <= positions


def _check_answers(tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem]) -> None:
    """DataError before any work, where a reference answer has no tokens under this tokenizer."""
    for problem in problems:
        try:
            encode_answer(tokenizer, problem.target())
        except ValueError as error:
            raise DataError(f"{problem.id}: {error}; from Python, score_answers=False leaves this out") from error


def problem_hash(problem: Problem) -> str:
    """Tells apart other wordings, other orders of options and other golds behind one id; no prompt template in it."""
    return short_hash([problem.prompt_text(), problem.answer])


def model_fingerprint(model: torch.nn.Module) -> str:
    """A hash of names, shapes and about 1024 evenly spaced weights of each parameter; training changes it."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        with whole(parameter):
            flat = parameter.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // 1024)].float().cpu()
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(sample.numpy().tobytes())
    return f"sha256:{digest.hexdigest()[:16]}"


def folder_fingerprint(folder: str | Path) -> str:
    """The same from the files of a model that is not loaded: names, sizes, and the ends of the weights."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        if path.suffix in (".safetensors", ".json"):
            with open(path, "rb") as file:
                head = file.read(1 << 20)
                file.seek(max(0, path.stat().st_size - (1 << 20)))
                digest.update(f"{path.name} {path.stat().st_size}".encode() + head + file.read())
    return f"sha256:{digest.hexdigest()[:16]}"


def short_hash(value: Any) -> str:
    """Of plain data."""
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
