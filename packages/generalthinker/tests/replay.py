"""Twenty steps on recorded responses: what a refactoring has to leave unchanged.

    python packages/generalthinker/tests/replay.py packages/generalthinker/tests/curves    # records anew

Free sampling follows rounding; replayed responses do not, so that the curve is the same on every machine to 1e-4. The
first time the responses are sampled and recorded, afterwards replayed: by the method itself (`embedded1.json`), and by
each of its variants and peers (`variants.json`), whose policies thus train on responses of another one.
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers.trainer_callback import PrinterCallback

from generalthinker.arguments import training_arguments
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import graded_problems, training_rows
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.sections import GenerationSettings

STEPS = 20
CURVES = ("reward", "grad_norm", "kl", "answer_logprob", "entropy", "credit/log_ratio_std")
VARIANTS: dict[str, dict[str, Any]] = {
    "likelihood": {"credit": "none"},
    "binary": {"reward": "binary", "credit": "none"},
    "mean_probability": {"reward": "mean_probability", "credit": "none"},
    "probability": {"reward": "probability", "credit": "none"},
    "rlsd": {"reward": "binary", "credit": "rlsd"},
    "additive": {"credit": "additive", "credit_strength": 0.4},
    "clipped": {"credit": "clipped", "credit_strength": 0.4},
    "direction_preserving": {"credit": "direction_preserving", "credit_strength": 0.4},
    "projection": {"credit": "projection", "conditioning": "assistant"},
    "below_worst": {"credit": "controlled", "malformed": "below_worst", "min_group_std": 0.5},
}


def run(
    folder: Path, responses: list[list[list[int]]] | None, method: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[dict[str, float]], list[list[list[int]]]]:
    """(the curves, the responses of every step); responses None samples them. method: settings, `controlled` if empty."""
    settings = Settings(
        method=MethodSettings(**(method or {"credit": "controlled"})),
        training={
            "max_steps": STEPS,
            "learning_rate": 5e-4,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "beta": 0.01,
            "seed": 1,
        },
        generation=GenerationSettings(max_new_tokens=64),
    )
    problems = chains.generate("train", 2 * STEPS)
    rows = training_rows(problems, settings.method, seed=1)
    trainer = GeneralThinkerTrainer(
        model=load_policy("embedded@1", dtype="float32"),
        args=training_arguments(settings, folder),
        method=settings.method,
        train_dataset=rows,
        processing_class=load_tokenizer("embedded@1"),
        problems=graded_problems(problems, rows),
    )
    trainer.remove_callback(PrinterCallback)
    recorded: list[list[list[int]]] = []
    original = trainer._generate_single_turn

    def generate(*args: Any, **kwargs: Any) -> tuple:
        ids, logprobs = original(*args, **kwargs) if responses is None else (responses[len(recorded)], None)
        recorded.append(ids)
        return ids, logprobs

    trainer._generate_single_turn = generate
    trainer.train()
    logs = [row for row in trainer.state.log_history if "reward" in row]
    # A rule without credit has no log-ratios to log.
    return [{name: row[name] for name in CURVES if name in row} for row in logs], recorded


if __name__ == "__main__":
    stored = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as scratch:
        curves, sampled = run(Path(scratch), None)
        variants = {name: run(Path(scratch), sampled, method)[0] for name, method in VARIANTS.items()}
    (stored / "embedded1.json").write_text(
        json.dumps({"curves": curves, "responses": sampled}) + "\n", encoding="utf-8"
    )
    (stored / "variants.json").write_text(json.dumps(variants) + "\n", encoding="utf-8")
