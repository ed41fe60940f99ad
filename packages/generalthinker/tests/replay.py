"""Twenty steps on recorded responses: what a refactoring has to leave unchanged.

    python packages/generalthinker/tests/replay.py packages/generalthinker/tests/curves/embedded1.json    # records anew

Free sampling follows rounding; replayed responses do not, so that the curve is the same on every machine to 1e-4. The
first time the responses are sampled and recorded, afterwards replayed.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from transformers.trainer_callback import PrinterCallback

from generalthinker.arguments import training_arguments
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import training_rows
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.sections import GenerationSettings

STEPS = 20
CURVES = ("reward", "grad_norm", "kl", "answer_logprob", "entropy", "credit/log_ratio_std")


def run(folder: Path, responses: list[list[list[int]]] | None) -> tuple[list[dict[str, float]], list[list[list[int]]]]:
    """(the curves, the responses of every step); responses None samples them."""
    settings = Settings(
        method=MethodSettings(credit="controlled"),
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
    trainer = GeneralThinkerTrainer(
        model=load_policy("embedded@1", dtype="float32"),
        args=training_arguments(settings, folder),
        method=settings.method,
        train_dataset=training_rows(chains.generate("train", 2 * STEPS), settings.method, seed=1),
        processing_class=load_tokenizer("embedded@1"),
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
    return [{name: row[name] for name in CURVES} for row in logs], recorded


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        curves, sampled = run(Path(scratch), None)
    Path(sys.argv[1]).write_text(json.dumps({"curves": curves, "responses": sampled}) + "\n", encoding="utf-8")
