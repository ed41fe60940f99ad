"""Worker of test_generalthinker_parity.py: twenty steps of GeneralThinker on recorded responses, spread as a layout says.

    python parity_generalthinker.py LAYOUT_JSON FOLDER [SETTING=VALUE ...] [wrong] [small-chunks] [idle] [lora]

Each of the rollout's responses is found by its prompt, so that every layout sees the same ones. `wrong`: the loss is the
mean over the tokens of each forward pass, the mistake that the test must find. `small-chunks`: the output head works on
so few positions at a time that ranks have different numbers of chunks. `idle`: of half of the problems every response is
one token and malformed, so that a rank has long responses while the other has short ones, and with `malformed=exclude`
nothing to train on at all. `lora`: an adapter is trained; what is compared is the model that a run exports, in which it
is merged, and the adapter itself lies beside it.
"""

import hashlib
import importlib.util
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import deepspeed
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers.trainer_callback import PrinterCallback, TrainerCallback
from trl import GRPOConfig

from generalthinker.config import TRAINING_DEFAULTS, MethodSettings
from generalthinker.data import graded_problems, training_rows
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.distributed.engine import engine_of
from thinker_common.distributed.process_group import leave
from thinker_common.likelihood import targets
from thinker_common.models.adapters import add_lora
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.export import export_trained
from thinker_common.training.sections import LoraSettings

_path = Path(__file__).parents[3] / "common/tests/parity.py"
_spec = importlib.util.spec_from_file_location("parity", _path)
parity: Any = importlib.util.module_from_spec(_spec)
sys.modules["parity"] = parity
_spec.loader.exec_module(parity)

GROUP = 4
LORA = LoraSettings(r=4, alpha=8.0)
PROBLEMS = chains.generate("train", 2 * parity.STEPS, seed=5)


def responses(prompt: str, *, idle: bool) -> list[str]:
    """A group of GROUP responses that follow from the prompt alone: good, other answers, and malformed ones."""
    number = int(hashlib.sha256(prompt.encode()).hexdigest(), 16)
    if idle and number % 2:
        return ["<|end|>"] * GROUP
    made = []
    for index in range(GROUP):
        a, b = number % 17 + index, number % 23 + 2 * index
        number //= 391
        match (number + index) % 6:
            case 0:
                made.append(f"{a}+{b}={a + b}. It is<|end|>")
            case 1:
                made.append(f"{a}+{b}={a + b}. So \\boxed{{{a + b}")
            case _:
                made.append(f"{a}+{b}={a + b}. {a + b}*2={2 * (a + b)}. So \\boxed{{{a + b}}}<|end|>")
    return made


class ReplayTrainer(GeneralThinkerTrainer):
    """The trainer, with recorded responses in the place of sampled ones."""

    def __init__(self, *args: Any, idle: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle = idle
        self.seen: list[dict[str, Any]] = []

    def _generate(self, prompts: list[str]) -> tuple:
        ids, *_ = self._tokenize_prompts(prompts)
        taken: dict[str, int] = defaultdict(int)
        texts = []
        for prompt in prompts:
            texts.append(responses(prompt, idle=self.idle)[taken[prompt]])
            taken[prompt] += 1
        tokens = [self.processing_class(text, add_special_tokens=False)["input_ids"] for text in texts]
        return ids, tokens, None, texts, None, {}, None, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super()._generate_and_score_completions(inputs)
        keys = [f"{row['id']}/{n % GROUP}" for n, row in enumerate(inputs)]
        rows = zip(keys, batch["advantages"].tolist(), batch["completion_mask"].sum(1).tolist(), strict=True)
        self.seen.append({key: advantages[:length] for key, advantages, length in rows})
        return batch


class FirstGradient(TrainerCallback):
    """The gradient of the first step, of each parameter, as the mean over the ranks of what autograd gave."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self._hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, *, model: Any, **kwargs: Any) -> None:
        for name, parameter in getattr(model, "module", model).named_parameters():
            if parameter.requires_grad:  # under an adapter the others have no gradient
                self._hooks.append(parameter.register_hook(lambda gradient, name=name: self._add(name, gradient)))

    def _add(self, name: str, gradient: torch.Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0) + gradient.detach().clone()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._hooks:
            return
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for name in sorted(self.sums):
            if args.world_size > 1:
                torch.distributed.all_reduce(self.sums[name])
            self.sums[name] /= args.world_size


def policy(*, lora: bool) -> Any:
    model = load_policy("embedded@1", dtype="float32")
    if not lora:
        return model
    torch.manual_seed(0)  # the adapter begins with random weights
    return add_lora(model, LORA)


def main(layout_json: str, folder: str, *options: str) -> None:
    layout = parity.Layout(**json.loads(layout_json))
    if "small-chunks" in options:
        targets.CHUNK_TOKENS = 8
    method = MethodSettings(
        **{key: yaml.safe_load(value) for key, _, value in (o.partition("=") for o in options) if value}
    )
    args = GRPOConfig(
        **{
            **TRAINING_DEFAULTS,
            **parity.training_arguments(layout, Path(folder) / "trainer", hidden_size=192),
            "num_generations": GROUP,
            "max_completion_length": 64,
            "beta": 0.05,
            "loss_type": "bnpo" if "wrong" in options else "grpo",
        }
    )
    assert args.device.type == "cpu"  # asking starts the process group
    if layout.zero is not None:
        deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    rows = training_rows(PROBLEMS, method, seed=0)
    lora = "lora" in options
    trainer = ReplayTrainer(
        model=policy(lora=lora),
        args=args,
        method=method,
        train_dataset=rows,
        idle="idle" in options,
        processing_class=load_tokenizer("embedded@1"),
        problems=graded_problems(PROBLEMS, rows),
    )
    trainer.remove_callback(PrinterCallback)
    first = FirstGradient()
    trainer.add_callback(first)
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    engine = engine_of(trainer.model_wrapped)
    if lora:
        exported = Path(folder) / "model"
        export_trained(
            trainer.model_wrapped, trainer.processing_class, exported, best=None, rebuild=lambda: policy(lora=True)
        )
        if args.process_index == 0:
            adapter = {name: weight.contiguous() for name, weight in weights.items() if ".default." in name}
            save_file(adapter, Path(folder) / "adapter.safetensors")
            weights = load_file(exported / "model.safetensors")
    gathered = [trainer.seen]
    if args.world_size > 1:
        gathered = [None] * args.world_size
        torch.distributed.all_gather_object(gathered, trainer.seen)
    seen = [{key: value for part in parts for key, value in part.items()} for parts in zip(*gathered, strict=True)]
    if args.process_index == 0:
        # by rank and rollout: whether any token has an advantage
        busy = [[any(map(any, rollout.values())) for rollout in rollouts] for rollouts in gathered]
        parity.record(Path(folder), history, weights, engine=engine, seen=seen, busy=busy)
        save_file(first.sums, Path(folder) / "first_gradient.safetensors")
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
