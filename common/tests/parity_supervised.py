"""Worker of test_parity.py: twenty steps of supervised fine-tuning on a tiny model, spread as a layout says.

    python parity_supervised.py LAYOUT_JSON FOLDER [wrong] [small-chunks]

`wrong`: every forward pass takes its own mean, the mistake that the test must find. `small-chunks`: the output head works
on so few positions at a time that ranks have different numbers of chunks.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

sys.path.insert(0, str(Path(__file__).parent))
import parity
import tiny_training

from thinker_common.distributed.engine import engine_of
from thinker_common.distributed.process_group import leave
from thinker_common.training.supervised import SupervisedTrainer, target_nll


class WrongTrainer(SupervisedTrainer):
    """Divides by the units of each forward pass and averages: transformers' own rule before it counted tokens."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        own = {term: torch.tensor(units) for term, units in self.count_units(inputs).items()}
        share = super().compute_loss(model, inputs, num_items_in_batch=own) / self.args.world_size
        return share / self.args.gradient_accumulation_steps


def start() -> LlamaForCausalLM:
    set_seed(11)
    return LlamaForCausalLM(tiny_training.config())


def main(layout_json: str, folder: str, *options: str) -> None:
    layout = parity.Layout(**json.loads(layout_json))
    if "small-chunks" in options:
        target_nll.__kwdefaults__["chunk_tokens"] = 16
    hidden_size = tiny_training.config().hidden_size
    args = TrainingArguments(**parity.training_arguments(layout, Path(folder) / "trainer", hidden_size=hidden_size))
    trainer_class = WrongTrainer if "wrong" in options else SupervisedTrainer
    trainer = trainer_class(start(), args, tiny_training.rows(), tiny_training.tokenizer())
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if args.process_index == 0:
        history = [row for row in trainer.state.log_history if "loss" in row]
        parity.record(Path(folder), history, weights, engine=engine_of(trainer.model_wrapped))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
