"""Measures evaluation throughput: `Generator` against a plain loop over `generate` in file order.

    python common/scripts/measure_generation_throughput.py --model FOLDER --data-dir DIR
    python common/scripts/measure_generation_throughput.py --model FOLDER --problems 16 --rows 16 8 --json

Greedy responses to the first problems of GSM8K's test file; without a data folder (--data-dir, or THINKER_DATA_DIR) to
those of the generated task `chains`. The plain loop pads each batch on the left and runs until its longest response
has ended. It goes first, once for each batch size; a size is given up as soon as it is slower than the best one so far.
Then `Generator`, with the token budget that the best number of rows takes at their longest, and the loop with that
number run in turn; the loop's best pass so far is the first of its repeats.

Wall-clock time is what an evaluation takes; the processor time of this process is what other work on the machine
disturbs least. Where two responses differ, the two logits behind the first different token are compared: within
--near-tie of each other, rounding has decided.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a causal model's folder")
    parser.add_argument("--data-dir", default=os.environ.get("THINKER_DATA_DIR"))
    parser.add_argument("--problems", type=int, default=32)
    parser.add_argument("--template", default="{question}", help="the prompt, before the chat template")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 16, 8], help="batch sizes to try the loop with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--near-tie", type=float, default=1e-4)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = measure(arguments)
    print(json.dumps(results, indent=2) if arguments.json else as_text(results))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from thinker_common.benchmarks import load_benchmark
    from thinker_common.evaluation.generate import Generator
    from thinker_common.models.chat import fill, render_prompt
    from thinker_common.models.load import load_policy, load_tokenizer

    model, tokenizer = load_policy(arguments.model, dtype="float32").eval(), load_tokenizer(arguments.model)
    name = "gsm8k" if arguments.data_dir else "chains"
    problems = load_benchmark(name, data_dir=arguments.data_dir).problems[: arguments.problems]
    prompts = [render_prompt(tokenizer, fill(arguments.template, question=p.prompt_text())) for p in problems]
    longest = max(map(len, prompts)) + arguments.max_new_tokens

    def generator(rows: int) -> Generator:
        return Generator(model, tokenizer, max_new_tokens=arguments.max_new_tokens, max_tokens_per_batch=rows * longest)

    eos_ids = generator(1).eos_ids

    def plain(rows: int, deadline: float = math.inf) -> list[tuple[int, ...]] | None:
        responses: list[tuple[int, ...]] = []
        for first in range(0, len(prompts), rows):
            batch = tokenizer.pad(
                {"input_ids": prompts[first : first + rows]}, padding_side="left", return_tensors="pt"
            )
            output_BT = model.generate(
                **batch.to(model.device),
                do_sample=False,
                max_new_tokens=arguments.max_new_tokens,
                eos_token_id=sorted(eos_ids),
                pad_token_id=tokenizer.pad_token_id,
            )
            for row in output_BT[:, batch["input_ids"].shape[1] :].tolist():
                end = next((i for i, token in enumerate(row) if token in eos_ids), None)
                responses.append(tuple(row[:end]))
                tokenizer.decode(row[:end])
            if time.process_time() > deadline:
                return None
        return responses

    def ours(rows: int) -> list[tuple[int, ...]]:
        return [response.token_ids for response in generator(rows).generate(prompts)]

    # What happens once happens before the clock starts.
    Generator(model, tokenizer, max_new_tokens=4).generate(prompts[:2])
    sweep: dict[int, dict[str, float] | None] = {}
    best, fastest, theirs = arguments.rows[0], {"wall": math.inf, "processor": math.inf}, None
    for rows in arguments.rows:
        seconds, responses = timed(
            f"plain, {rows} rows", partial(plain, rows, time.process_time() + fastest["processor"])
        )
        sweep[rows] = seconds if responses is not None else None
        if responses is not None and seconds["processor"] < fastest["processor"]:
            best, fastest, theirs = rows, seconds, responses
    times: dict[str, list[dict[str, float]]] = {"plain": [fastest], "ours": []}
    for repeat in range(arguments.repeats):
        if repeat > 0:
            seconds, theirs = timed(f"plain, {best} rows", partial(plain, best))
            times["plain"].append(seconds)
        seconds, mine = timed(f"ours, {best} rows", partial(ours, best))
        times["ours"].append(seconds)
    assert theirs is not None
    lengths = sorted(map(len, mine))
    differing = [i for i, (a, b) in enumerate(zip(theirs, mine, strict=True)) if a != b]
    gaps = [logit_gap(model, torch, prompts[i], theirs[i], mine[i], eos_ids) for i in differing]
    return {
        "benchmark": name,
        "problems": len(prompts),
        "prompt_tokens": spread([len(prompt) for prompt in prompts]),
        "response_tokens": spread(lengths),
        "truncated": sum(length == arguments.max_new_tokens for length in lengths),
        "threads": torch.get_num_threads(),
        "sweep": {str(rows): seconds for rows, seconds in sweep.items()},
        "rows": best,
        "seconds": {who: {clock: spread([t[clock] for t in all_]) for clock in all_[0]} for who, all_ in times.items()},
        "ratio": {
            clock: spread([p[clock] / o[clock] for p, o in zip(times["plain"], times["ours"], strict=True)])
            for clock in ("wall", "processor")
        },
        "differing": len(differing),
        "near_ties": sum(gap < arguments.near_tie for gap in gaps),
        "gaps": gaps,
    }


def timed(what: str, run: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    wall, processor = time.perf_counter(), time.process_time()
    value = run()
    seconds = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    print(f"{what}: {seconds['wall']:.1f} s, processor {seconds['processor']:.1f} s", file=sys.stderr, flush=True)
    return seconds, value


def logit_gap(
    model: Any, torch: Any, prompt: Sequence[int], a: Sequence[int], b: Sequence[int], eos_ids: frozenset[int]
) -> float:
    """Difference of the two largest logits at the first position where the responses differ, in a row of its own."""
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    with torch.no_grad():
        logits_V = model(torch.tensor([[*prompt, *a[:common]]], device=model.device)).logits[0, -1].float()
    first, second = logits_V.topk(2).values.tolist()
    return first - second


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def as_text(results: dict[str, Any]) -> str:
    def line(label: str, values: dict[str, float], digits: int = 1) -> str:
        return f"{label:34}{values['median']:10.{digits}f}{values['least']:10.{digits}f}{values['most']:10.{digits}f}"

    sizes = ", ".join(
        f"{rows} rows {seconds['processor']:.0f} s" if seconds else f"{rows} rows given up"
        for rows, seconds in results["sweep"].items()
    )
    gaps = ", ".join(f"{gap:.1e}" for gap in results["gaps"]) or "none"
    return "\n".join(
        [
            f"{results['problems']} problems of {results['benchmark']}, {results['threads']} threads",
            f"plain loop, processor time by batch size: {sizes}",
            f"{'with ' + str(results['rows']) + ' rows':34}{'median':>10}{'least':>10}{'most':>10}",
            line("tokens of a prompt", results["prompt_tokens"], 0),
            line("tokens of a response", results["response_tokens"], 0),
            *(
                line(f"{who}, {clock} seconds", results["seconds"][who][clock])
                for clock in ("wall", "processor")
                for who in ("plain", "ours")
            ),
            *(line(f"ratio, {clock}", results["ratio"][clock], 2) for clock in ("wall", "processor")),
            f"truncated: {results['truncated']}; different responses: {results['differing']}",
            f"of these by a near-tie: {results['near_ties']}; gaps: {gaps}",
        ]
    )


if __name__ == "__main__":
    main()
