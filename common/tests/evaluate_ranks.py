"""Worker of test_evaluate_ranks.py: one rank of an evaluation that is shared out.

python evaluate_ranks.py FOLDER RANK RANKS          # every kind of evaluation, and two that fail
python evaluate_ranks.py FOLDER RANK RANKS sharded  # every kind, with the weights divided between the ranks by ZeRO-3
python evaluate_ranks.py FOLDER RANK RANKS sharded broken  # rank 1 runs out of memory in the middle of a pass
python evaluate_ranks.py FOLDER RANK RANKS slowly   # one with time to be killed in
"""

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from thinker_common.benchmarks import load_benchmark
from thinker_common.benchmarks.problem import LoadedBenchmark, Problem
from thinker_common.distributed import ranks
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.distributed.process_group import leave
from thinker_common.distributed.sharded import sharded_policy
from thinker_common.errors import UserError
from thinker_common.evaluation.evaluate import evaluate
from thinker_common.evaluation.ranking import rank
from thinker_common.models.load import load_policy, load_tokenizer


def chains(problems: int) -> LoadedBenchmark:
    loaded = load_benchmark("chains")
    return replace(loaded, problems=loaded.problems[:problems])


def questions(problems: int) -> LoadedBenchmark:
    """With yes or no for an answer; no two prompts are equally long."""
    made = tuple(
        Problem(f"questions/{i}", f"Is {i} even?{' Well?' * i}", "no" if i % 2 else "yes", "bool")
        for i in range(problems)
    )
    return LoadedBenchmark("questions", "test", made, None, "written for this test", 1, {})


class Evaluations:
    """The embedded model, and what is done with it on one process and on several."""

    def __init__(self, model: Any = None) -> None:
        self.model, self.tokenizer = model or load_policy("embedded"), load_tokenizer("embedded")

    def evaluate(self, problems: int, **settings: Any) -> Any:
        return evaluate(self.model, self.tokenizer, chains(problems), **{"max_new_tokens": 48, **settings})

    def rank(self, problems: int, **settings: Any) -> Any:
        return rank(self.model, self.tokenizer, questions(problems), **settings)

    def all_kinds(self, folder: Path) -> dict[str, Any]:
        results = {
            "greedy": self.evaluate(7, output=folder / "greedy.jsonl"),
            "sampled, in memory": self.evaluate(3, samples=3, temperature=1.0, seed=5),
            "fewer problems than ranks": self.evaluate(1, output=folder / "one.jsonl"),
            "ranked": self.rank(5, output=folder / "ranked.jsonl"),
            "fewer ranked than ranks": self.rank(1),
        }
        return {name: {"figures": result.to_dict(), "rows": result.rows} for name, result in results.items()}

    def slowly(self, folder: Path, seconds: float) -> Any:
        """A response a batch."""
        return self.evaluate(
            16,
            output=folder / "rows.jsonl",
            temperature=1.0,
            max_tokens_per_batch=1,
            progress=lambda done, total: time.sleep(seconds),
        )


def message(action: Any) -> str:
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def failing(done: int, total: int) -> None:
    if done and ranks.rank() == 1:
        raise UserError("out of memory: lower something")


def failing_early(done: int, total: int) -> None:
    if ranks.rank() == 1:
        raise UserError("nobody reads the progress")


def too_large(*_: Any) -> None:
    """A forward pass that asks for more memory than any host has, on rank 1."""
    if ranks.rank() == 1:
        torch.empty(1 << 50)


def without_memory(evaluations: Evaluations, path: Path) -> str:
    hook = evaluations.model.register_forward_pre_hook(too_large)
    try:
        return message(lambda: evaluations.evaluate(3, output=path / "large.jsonl"))
    finally:
        hook.remove()


def shared_out(evaluations: Evaluations, path: Path) -> None:
    record = evaluations.all_kinds(path)
    record["errors"] = [
        message(lambda: evaluations.evaluate(3, output=path / "failed.jsonl", progress=failing)),
        message(lambda: evaluations.evaluate(3, seed=ranks.rank())),
        without_memory(evaluations, path),
        message(lambda: evaluations.evaluate(3, progress=failing_early)),
    ]
    record["elements here"] = sum(parameter.numel() for parameter in evaluations.model.parameters())
    (path / f"record-{ranks.rank()}.json").write_text(json.dumps(record))


def main(folder: str, number: str, count: str, *options: str) -> None:
    path = Path(folder)
    store = f"file://{path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=int(number), world_size=int(count))
    if "slowly" in options:
        Evaluations().slowly(path, 0.3)
        return
    if "sharded" in options:
        os.environ |= {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count}
        settings = LaunchSettings(zero=3, offload="offload" in options)
        device = torch.device("cpu")
        with sharded_policy("embedded", settings, device, revision=None, dtype="float32") as model:
            if "broken" in options:
                model.get_decoder().layers[0].register_forward_pre_hook(too_large)
                Evaluations(model).evaluate(3)
            else:
                shared_out(Evaluations(model), path)
    else:
        shared_out(Evaluations(), path)
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
