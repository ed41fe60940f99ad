"""Worker of test_spiralthinker_parity.py: twenty steps of stage 2 on a tiny model, spread as a layout says.

    python parity_spiralthinker.py LAYOUT_JSON FOLDER [SETTING=VALUE ...] [wrong]

The examples have 0 to 4 steps, so that the number of readings differs from row to row and from rank to rank. `wrong`:
sigma is taken over each forward pass, the mistake that the test must find.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

sys.path.insert(0, str(Path(__file__).parent))
import latent_models as lm

from spiralthinker.alignment import deviation, moments
from spiralthinker.annotation import Annotation
from spiralthinker.config import MethodSettings
from spiralthinker.model import LatentSettings, SpiralThinkerModel
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
    def _target(self, batch: Any, prefix: Any) -> Any:
        teacher_LUD, _ = super()._target(batch, prefix)
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
    settings = LatentSettings(
        annotation=Annotation(latents=2), iterations=2, schedule=method.get("schedule", "sequential")
    )
    return SpiralThinkerModel.from_base(LlamaForCausalLM(config), lm.tokenizer(), settings)


def main(layout_json: str, folder: str, *options: str) -> None:
    layout = parity.Layout(**json.loads(layout_json))
    wrong = "wrong" in options
    method = dict(option.split("=") for option in options if "=" in option)
    spiral = start(**method)  # before transformers knows of DeepSpeed, as in a run
    teacher = start(**method).eval() if method.get("teacher") == "frozen" else None
    arguments = parity.training_arguments(layout, Path(folder) / "trainer", hidden_size=HIDDEN)
    arguments.pop("ddp_find_unused_parameters")
    trainer = (WrongTrainer if wrong else SpiralThinkerTrainer)(
        spiral,
        TrainingArguments(**arguments),
        lm.rows(spiral, problems()),
        MethodSettings(latents=2, iterations=2, **method),
        stage="implicit",
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
