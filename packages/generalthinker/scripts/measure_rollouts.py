"""Sampling a rollout, by TRL and by the trainer: seconds, and token positions that go through the model.

    python packages/generalthinker/scripts/measure_rollouts.py
    python packages/generalthinker/scripts/measure_rollouts.py --recipe gsm8k-smollm2-135m --prompts 4 --rollouts 2 \
        model.name_or_path=FOLDER data.data_dir=DATA

A recipe's own problems, policy and lengths; each rollout is sampled by both in turn, after one that is not counted. The
two draw different responses from the same policy, so that their lengths differ. A response of T tokens needs T
positions and its prompt, which may be shared; what is above that is prompts read again, and padding.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from trl import GRPOTrainer

from generalthinker.arguments import training_arguments
from generalthinker.config import Settings
from generalthinker.prepare import prepare
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.cli.train import read_recipe
from thinker_common.training.settings import load_settings


def measure(settings: Settings, prompts: int, rollouts: int, folder: Path) -> None:
    settings.evaluation.at_start = settings.evaluation.at_end = False
    group = settings.training["num_generations"]
    settings.training |= {"per_device_train_batch_size": prompts * group, "seed": 0}
    arguments = training_arguments(settings, folder)
    run = prepare(settings, arguments, seed=0, ranks=1)
    trainer = GeneralThinkerTrainer(
        run.policy,
        arguments,
        settings.method,
        run.rows,
        run.tokenizer,
        generation_tokens=settings.generation.max_tokens_per_batch,
    )
    read: list[int] = []
    trainer.model.get_input_embeddings().register_forward_hook(lambda _, given, __: read.append(given[0].numel()))
    ways = {"trl": GRPOTrainer._generate_single_turn, "generalthinker": GeneralThinkerTrainer._generate_single_turn}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    positions, tokens = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
    for number in range(rollouts + 1):
        rows = run.rows.select(range(number * prompts, (number + 1) * prompts))
        ids, *_ = trainer._tokenize_prompts([text for text in rows["prompt"] for _ in range(group)])
        for name, sample in ways.items():
            read.clear()
            began = time.perf_counter()
            responses, _ = sample(trainer, ids, None, {}, group)
            if number:  # the first is not counted
                seconds[name].append(time.perf_counter() - began)
                positions[name] += sum(read)
                tokens[name] += sum(map(len, responses))
    for name, values in seconds.items():
        print(
            f"{name}: {statistics.median(values):.2f} s a rollout ({min(values):.2f} to {max(values):.2f}), "
            f"{tokens[name] / rollouts:.0f} tokens of responses, {positions[name] / rollouts:.0f} positions"
        )
    ratios = [theirs / ours for theirs, ours in zip(seconds["trl"], seconds["generalthinker"], strict=True)]
    print(f"ratio, rollout by rollout: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="embedded")
    parser.add_argument(
        "--prompts", type=int, default=16, help="of a rollout; each has the recipe's group of responses"
    )
    parser.add_argument("--rollouts", type=int, default=5, help="counted ones")
    parser.add_argument("settings", nargs="*", help="key=value, settings of the recipe")
    arguments = parser.parse_args()
    name, text = read_recipe("generalthinker", arguments.recipe, None)
    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=arguments.settings)
    with tempfile.TemporaryDirectory() as folder:
        measure(settings, arguments.prompts, arguments.rollouts, Path(folder))
    print(f"threads: {torch.get_num_threads()}")


if __name__ == "__main__":
    main()
