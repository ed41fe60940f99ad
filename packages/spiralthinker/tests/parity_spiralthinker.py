"""Worker of test_spiralthinker_parity.py: twenty steps of a stage on a tiny model, spread as a layout says.

    python parity_spiralthinker.py LAYOUT_JSON FOLDER [SETTING=VALUE ...] [explicit] [wrong] [trace]

The examples have 0 to 4 steps, so that the number of readings differs from row to row and from rank to rank.
`explicit`: stage 1, in whose place stage 2 is trained otherwise. `wrong`: sigma is taken over each forward pass, the mistake that the test must find. `trace`: every rank writes the collectives that
it calls into FOLDER, and ZeRO-3 keeps no parameter for longer than a module needs it.
"""

import importlib.util
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

sys.path.insert(0, str(Path(__file__).parent))
import latent_models as lm

from spiralthinker.alignment import deviation, moments
from spiralthinker.columns import explicit_row
from spiralthinker.config import MethodSettings, Settings
from spiralthinker.model import SpiralThinkerModel
from spiralthinker.trainer import SpiralThinkerTrainer
from thinker_common.benchmarks.problem import Problem
from thinker_common.distributed.engine import engine_of
from thinker_common.distributed.process_group import leave

_path = Path(__file__).parents[3] / "common/tests/parity.py"
_spec = importlib.util.spec_from_file_location("parity", _path)
parity: Any = importlib.util.module_from_spec(_spec)
sys.modules["parity"] = parity
_spec.loader.exec_module(parity)

EXAMPLES = 50  # six batches of eight and one of two: with eight shares, six are empty
HIDDEN = 32


class WrongTrainer(SpiralThinkerTrainer):
    def _target(self, batch: Any, *rest: Any) -> Any:
        teacher_LUD, _ = super()._target(batch, *rest)
        return teacher_LUD, deviation(moments(teacher_LUD))


def problems() -> list[Problem]:
    draw = random.Random(3)

    def words(most: int) -> str:
        return " ".join(f"w{draw.randrange(60)}" for _ in range(draw.randint(1, most)))

    return [
        Problem(f"p/{number}", words(12), words(2), "text", steps=tuple(words(6) for _ in range(draw.randint(0, 4))))
        for number in range(EXAMPLES)
    ]


def start(**method: Any) -> SpiralThinkerModel:
    set_seed(11)
    config = LlamaConfig(
        vocab_size=len(lm.WORDS), hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=False, pad_token_id=0,
        bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    settings = Settings(method=MethodSettings(latents=2, iterations=2, **method)).latent_settings()
    return SpiralThinkerModel.from_base(LlamaForCausalLM(config), lm.tokenizer(), settings)


COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "reduce_scatter", "reduce_scatter_tensor", "broadcast",
    "barrier", "all_gather_object", "broadcast_object_list", "reduce", "all_to_all_single",
)  # fmt: skip


def trace_collectives(file: Any) -> None:
    """Writes the name and the tensors' shapes of every call, in order."""

    def traced(name: str, call: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            shapes = [tuple(value.shape) for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            file.write(f"{name} {shapes}\n")
            file.flush()
            return call(*args, **kwargs)

        return noted

    for name in COLLECTIVES:
        setattr(torch.distributed, name, traced(name, getattr(torch.distributed, name)))


def main(layout_json: str, folder: str, *options: str) -> None:
    layout = parity.Layout(**json.loads(layout_json))
    wrong = "wrong" in options
    method: dict[str, Any] = dict(option.split("=") for option in options if "=" in option)
    if "spell_weight" in method:
        method["spell_weight"] = float(method["spell_weight"])
    spiral = start(**method)  # before transformers knows of DeepSpeed, as in a run
    teacher = start(**method).eval() if method.get("teacher") == "frozen" else None
    arguments = parity.training_arguments(layout, Path(folder) / "trainer", hidden_size=HIDDEN)
    arguments.pop("ddp_find_unused_parameters")
    if "trace" in options:
        Path(folder).mkdir(parents=True, exist_ok=True)
        trace_collectives(open(Path(folder) / f"collectives-{os.environ['RANK']}.txt", "w"))  # noqa: SIM115
        arguments["deepspeed"]["zero_optimization"] |= {
            "stage3_max_live_parameters": 1000,
            "stage3_max_reuse_distance": 1000,
            "stage3_param_persistence_threshold": 0,
        }
    if "explicit" in options:
        annotation = spiral.settings.annotation
        examples = [annotation.example(spiral.tokenizer, problem) for problem in problems()]
        rows = [explicit_row(example, spiral.markers) for example in examples]
    else:
        rows = lm.rows(
            spiral, problems(), trains_teacher=method.get("name") == "codi", spelled="spell_weight" in method
        )
    trainer = (WrongTrainer if wrong else SpiralThinkerTrainer)(
        spiral,
        TrainingArguments(**arguments),
        rows,
        MethodSettings(latents=2, iterations=2, **method),
        stage="explicit" if "explicit" in options else "implicit",
        teacher=teacher,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.process_index == 0:
        history = [row for row in trainer.state.log_history if "loss" in row]
        parity.record(Path(folder), history, weights, engine=engine_of(trainer.model_wrapped))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
