"""Step time of GeneralThinker against TRL's GRPOTrainer with a constant-time reward: same prompts, lengths and beta.

    python packages/generalthinker/scripts/measure_step_time.py --model /models/SmolLM2-135M-Instruct
    python packages/generalthinker/scripts/measure_step_time.py --model FOLDER --profile --response-tokens 128 --group 4

Both trainers sample G responses of exactly `--response-tokens` tokens to the same prompts of `--prompt-tokens` tokens
and with the same batch, each in its own way without an engine; `--generation trl` lets TRL sample for both. The last
tokens of every response are replaced by a box in both, so that every response is scored: an untrained model's would
mostly be malformed and cost nothing. Steps of the trainers alternate in one process; the first step of each is not
counted, and is cut to `--warm-up-tokens`. Printed: the median step of each, the ratio of the medians and the range of
the ratios of neighbouring steps, with and without generation.

`--grpo-head completions` compares with a GRPO step whose output head runs on response tokens alone, as ours does.
`--vocabulary` gives the model more entries than its tokenizer has, to show how a step grows with them.
`--profile` runs GeneralThinker alone and prints where the seconds of a step go.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from generalthinker.config import MethodSettings
from generalthinker.data import training_rows
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks.problem import Problem
from thinker_common.likelihood.logprobs import token_logprobs
from thinker_common.models.chat import render_prompt
from thinker_common.models.load import load_policy, load_tokenizer

TAIL = " So \\boxed{7}"
WORDS = (
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "two",
    "red",
    "birds",
    "fly",
    "over",
    "old",
    "stone",
    "wall",
)


class Timed(TrainerCallback):
    """Seconds of every step, and of the sampling inside it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.sampling: list[float] = []
        self.sampled = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.sampled = 0.0
        self._began = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self._began)
        self.sampling.append(self.sampled)


class CompletionsHead(GRPOTrainer):
    """GRPO whose output head runs on response tokens alone, where TRL's runs on the prompt's as well."""

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, logits_to_keep: int, **_: Any
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        logprobs, entropies = token_logprobs(
            model, input_ids, attention_mask, keep=logits_to_keep, temperature=self.temperature, with_entropy=True
        )
        return logprobs, entropies, None


class Profile:
    """Seconds of the parts of a step, by wrapping the methods that do them."""

    PARTS = (
        ("scoring", "_score_answers"),
        ("scoring", "_score_answers_and_responses"),
        ("reference", "_reference_logprobs"),
        ("conditioned", "_response_logprobs"),
        ("rollout", "_generate_and_score_completions"),
    )

    def __init__(self, trainer: GeneralThinkerTrainer) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[str] = []
        for part, name in self.PARTS:
            setattr(trainer, name, self._timed(part, getattr(trainer, name)))

    def _timed(self, part: str, method: Any) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if "reference" in self._inside:  # which takes the log-probabilities of responses as well
                return method(*args, **kwargs)
            self._inside.append(part)
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._inside.pop()
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - began

        return timed

    def parts(self, step: float, sampling: float) -> dict[str, float]:
        """Seconds by part of a step of `step` seconds; `update` is what lies outside of the rollout."""
        named = {"generation": sampling}
        named |= {part: self.seconds.get(part, 0.0) for part in ("scoring", "conditioned", "reference")}
        other = self.seconds["rollout"] - sum(named.values())
        return {**named, "other rollout work": other, "update": step - self.seconds["rollout"]}


def with_box(trainer: GRPOTrainer, timed: Timed, warm_up: int) -> None:
    """Ends every sampled response in a box, and counts the seconds; the first step's have `warm_up` tokens."""
    tokenizer = trainer.processing_class
    tail = [*tokenizer(TAIL, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    longest, eos_token_ids = trainer.max_completion_length, trainer.eos_token_ids
    original = trainer._generate_single_turn

    def generate(*args: Any, **kwargs: Any) -> tuple:
        length = longest if timed.steps else warm_up
        trainer.generation_config.max_new_tokens = trainer.generation_config.min_new_tokens = length
        trainer.max_completion_length, trainer.eos_token_ids = length, []  # the same for our own sampling
        began = time.perf_counter()
        responses, logprobs = original(*args, **kwargs)
        timed.sampled += time.perf_counter() - began
        trainer.max_completion_length, trainer.eos_token_ids = longest, eos_token_ids
        return [ids[: -len(tail)] + tail for ids in responses], logprobs

    trainer._generate_single_turn = generate


def with_vocabulary(entries: int, model: str, folder: Path) -> str:
    """A folder with this model whose input embedding and output head have so many entries.

    In a folder, because TRL loads the reference from where the policy was loaded.
    """
    policy = load_policy(model)
    if entries < policy.config.vocab_size:
        raise SystemExit(f"--vocabulary: the model has {policy.config.vocab_size} entries already; give more")
    policy.resize_token_embeddings(entries)
    policy.save_pretrained(folder)
    load_tokenizer(model).save_pretrained(folder)
    return str(folder)


def problems(tokenizer: Any, count: int, prompt_tokens: int, template: str) -> list[Problem]:
    """Questions whose rendered prompts have exactly `prompt_tokens` tokens, as far as single words allow."""
    rng = random.Random(0)
    made = []
    for index in range(count):
        words = [rng.choice(WORDS)]
        while True:
            question = " ".join(words) + "?"
            if len(render_prompt(tokenizer, template.replace("{question}", question))) >= prompt_tokens:
                break
            words.append(rng.choice(WORDS))
        made.append(Problem(id=f"made/{index}", question=question, answer=str(rng.randint(10, 99)), kind="math"))
    return made


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    tokenizer = load_tokenizer(arguments.model)
    method = MethodSettings(credit=arguments.credit)
    steps = arguments.steps + 1
    made = problems(tokenizer, steps * arguments.prompts, arguments.prompt_tokens, method.prompt_template)
    rows = training_rows(made, method, seed=0)
    timers = {"generalthinker": Timed(), "grpo": Timed()}
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if arguments.vocabulary is not None:
            model = with_vocabulary(arguments.vocabulary, model, Path(folder) / "model")

        def config(name: str, generation: str = "trl") -> GRPOConfig:
            return GRPOConfig(
                output_dir=f"{folder}/{name}",
                beta=arguments.beta,
                learning_rate=1e-6,
                num_generations=arguments.group,
                per_device_train_batch_size=arguments.group,
                gradient_accumulation_steps=arguments.prompts,
                max_completion_length=arguments.response_tokens,
                generation_kwargs={"min_new_tokens": arguments.response_tokens} if generation == "trl" else None,
                max_steps=1,
                loss_type="grpo",
                activation_checkpointing=False,
                disable_tqdm=True,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                bf16=False,
            )

        def constant(completions: list, **_: Any) -> list[float]:
            return [float(index % 2) for index in range(len(completions))]

        prompt_ids = [render_prompt(tokenizer, row["prompt"]) for row in rows]
        texts = [tokenizer.decode(ids, skip_special_tokens=False) for ids in prompt_ids]
        assert tokenizer(texts)["input_ids"] == prompt_ids, "both trainers see the same prompts"
        ours = GeneralThinkerTrainer(load_policy(model), config("ours", arguments.generation), method, rows, tokenizer)
        theirs = (CompletionsHead if arguments.grpo_head == "completions" else GRPOTrainer)(
            load_policy(model),
            constant,
            config("theirs"),
            Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
        )
        running = {"generalthinker": ours} if arguments.profile else {"generalthinker": ours, "grpo": theirs}
        for name, trainer in running.items():
            trainer.remove_callback(PrinterCallback)
            trainer.add_callback(timers[name])
            with_box(trainer, timers[name], arguments.warm_up_tokens)
        profile = None
        for step in range(steps):
            if step == 1 and arguments.profile:
                profile = Profile(ours)
            for name, trainer in running.items():
                trainer.train()  # max_steps = 1: one optimiser step
                print(f"step {step}, {name}: {timers[name].steps[-1]:.2f} s", flush=True)
        [well_formed] = {row["well_formed_rate"] for row in ours.state.log_history if "well_formed_rate" in row}

    if profile is not None:
        counted = timers["generalthinker"]
        whole_s, sampled_s = sum(counted.steps[1:]), sum(counted.sampling[1:])
        return {
            "settings": {name: value for name, value in vars(arguments).items() if name not in ("model", "json")},
            "threads": torch.get_num_threads(),
            "well_formed_rate": well_formed,
            "seconds": whole_s / arguments.steps,
            "parts": {name: s / arguments.steps for name, s in profile.parts(whole_s, sampled_s).items()},
        }

    def compared(values: dict[str, list[float]]) -> dict[str, Any]:
        ours_s, theirs_s = values["generalthinker"], values["grpo"]
        ratios = [a / b for a, b in zip(ours_s, theirs_s, strict=True)]
        return {
            "generalthinker_seconds": statistics.median(ours_s),
            "grpo_seconds": statistics.median(theirs_s),
            "ratio": statistics.median(ours_s) / statistics.median(theirs_s),
            "ratio_range": [min(ratios), max(ratios)],
        }

    whole = {name: timed.steps[1:] for name, timed in timers.items()}
    rest = {
        name: [step - sampling for step, sampling in zip(timed.steps[1:], timed.sampling[1:], strict=True)]
        for name, timed in timers.items()
    }
    return {
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("model", "json")},
        "threads": torch.get_num_threads(),
        "well_formed_rate": well_formed,
        "step": compared(whole),
        "without_generation": compared(rest),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face id or folder")
    parser.add_argument("--prompt-tokens", type=int, default=100)
    parser.add_argument("--response-tokens", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, help="entries of the model's vocabulary (default: its own)")
    parser.add_argument("--prompts", type=int, default=1, help="prompts a step")
    parser.add_argument("--steps", type=int, default=5, help="counted steps of each trainer")
    parser.add_argument("--beta", type=float, default=0.001)
    parser.add_argument("--credit", default="controlled", choices=["none", "controlled"])
    parser.add_argument(
        "--warm-up-tokens", type=int, default=32, help="response tokens of the step that is not counted"
    )
    parser.add_argument("--profile", action="store_true", help="GeneralThinker alone: where its step's seconds go")
    parser.add_argument(
        "--grpo-head", default="trl", choices=["trl", "completions"], help="positions that GRPO's output head runs on"
    )
    parser.add_argument("--generation", default="own", choices=["own", "trl"], help="what samples for GeneralThinker")
    parser.add_argument("--json", action="store_true")
    parsed = parser.parse_args()
    result = measure(parsed)
    if parsed.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"well-formed: {result['well_formed_rate']}, threads: {result['threads']}")
    if parsed.profile and not parsed.json:
        print(f"step: {result['seconds']:.2f} s")
        for name, part_seconds in result["parts"].items():
            print(f"{name}: {part_seconds:.2f} s, {100 * part_seconds / result['seconds']:.0f} %")
    elif not parsed.json:
        for title in ("step", "without_generation"):
            row = result[title]
            low, high = row["ratio_range"]
            print(
                f"{title}: {row['generalthinker_seconds']:.2f} s against {row['grpo_seconds']:.2f} s, "
                f"ratio {row['ratio']:.3f} ({low:.3f} to {high:.3f})"
            )
