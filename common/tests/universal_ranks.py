"""Worker of test_universal.py: trains eight steps under a ZeRO stage, from the start or from a checkpoint.

torchrun --nproc-per-node N universal_ranks.py FOLDER STAGE [CHECKPOINT]
"""

import os
import sys
from pathlib import Path

from transformers import LlamaForCausalLM, TrainingArguments, set_seed

sys.path.insert(0, str(Path(__file__).parent))
import parity
import tiny_training

from thinker_common.distributed.process_group import leave


def main(folder: str, stage: str, checkpoint: str | None = None) -> None:
    layout = parity.Layout(ranks=int(os.environ["WORLD_SIZE"]), zero=int(stage))
    arguments = parity.training_arguments(layout, Path(folder), hidden_size=tiny_training.config().hidden_size)
    # The checkpoint of step 3 is in the middle of what a row of the log is about.
    arguments |= {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, "logging_steps": 2}
    set_seed(11)
    model = LlamaForCausalLM(tiny_training.config())
    arguments = TrainingArguments(**arguments)
    trainer = tiny_training.Noting(model, arguments, tiny_training.rows(), tiny_training.tokenizer())
    trainer.train(resume_from_checkpoint=checkpoint)
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.process_index == 0:
        parity.record(Path(folder), [row for row in trainer.state.log_history if "loss" in row], weights)
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
