"""Worker of test_tinythinker_parity.py: twenty steps of a phase on a tiny student, spread as a layout says.

    python parity_tinythinker.py LAYOUT_JSON FOLDER acquisition|preference causal|t5 [wrong]

Phase 1 has stages of ragged sizes, so that batches are short and ranks are without rows. `wrong`: means of each forward
pass are averaged, the mistake that the test must find.
"""

import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

sys.path.insert(0, str(Path(__file__).parent))
from tiny_students import HIDDEN, student

from thinker_common.distributed.engine import engine_of
from thinker_common.distributed.process_group import leave
from tinythinker.trainer import AcquisitionTrainer, PreferenceTrainer, StageOrder

_path = Path(__file__).parents[3] / "common/tests/parity.py"
_spec = importlib.util.spec_from_file_location("parity", _path)
parity: Any = importlib.util.module_from_spec(_spec)
sys.modules["parity"] = parity
_spec.loader.exec_module(parity)

SIZES = {"recall": 11, "analyze": 42, "summarize": 9}  # of each the last batch is short


class _WrongMixin:
    """The number of units of a forward pass in the place of that of the step."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        args = self.args  # type: ignore[attr-defined]
        passes = args.gradient_accumulation_steps * args.world_size
        own = {name: torch.tensor(max(1, n) * passes) for name, n in self.count_units(inputs).items()}  # type: ignore[attr-defined]
        return super().compute_loss(model, inputs, num_items_in_batch=own)  # type: ignore[misc]


class WrongAcquisition(_WrongMixin, AcquisitionTrainer):
    pass


class WrongPreference(_WrongMixin, PreferenceTrainer):
    pass


def start(kind: str) -> Any:
    return student(kind, seed=11, **({"initializer_factor": 1.2} if kind == "t5" else {}))


def ids(draw: random.Random, most: int) -> list[int]:
    return [draw.randrange(5, 900) for _ in range(draw.randint(2, most))]


def trainer(kind: str, phase: str, arguments: TrainingArguments, *, wrong: bool = False, **rest: Any) -> Any:
    draw, taught = random.Random(3), start(kind)
    if phase == "acquisition":
        rows = [{"prompt_ids": ids(draw, 40), "target_ids": ids(draw, 20)} for _ in range(sum(SIZES.values()))]
        order = StageOrder(list(SIZES), list(SIZES.values()), "interval", [1, 2, 1])
        made: Any = (WrongAcquisition if wrong else AcquisitionTrainer)(taught, arguments, rows, order, **rest)  # type: ignore[arg-type]
    else:
        pairs = [
            {
                "prompt_ids": ids(draw, 40),
                "chosen_ids": ids(draw, 20),
                "rejected_ids": ids(draw, 20),
                "reference": [-float(draw.randint(40, 60)), -float(draw.randint(40, 60))],
            }
            for _ in range(50)
        ]
        cls = WrongPreference if wrong else PreferenceTrainer
        made = cls(taught, arguments, pairs, beta=0.1, alpha=0.5, **rest)  # type: ignore[arg-type]
    made.remove_callback(PrinterCallback)
    return made


def main(layout_json: str, folder: str, phase: str, kind: str, *options: str) -> None:
    layout = parity.Layout(**json.loads(layout_json))
    arguments = parity.training_arguments(layout, Path(folder) / "trainer", hidden_size=HIDDEN)
    arguments.pop("ddp_find_unused_parameters")
    made = trainer(kind, phase, TrainingArguments(**arguments), wrong="wrong" in options)
    made.train()
    weights = made.accelerator.get_state_dict(made.model_wrapped)
    if made.args.process_index == 0:
        history = [row for row in made.state.log_history if "loss" in row]
        parity.record(Path(folder), history, weights, engine=engine_of(made.model_wrapped))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
