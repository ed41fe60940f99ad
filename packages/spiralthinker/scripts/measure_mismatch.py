"""How far the two schedules of one trained model are apart, on problems that it was not trained on.

    python packages/spiralthinker/scripts/measure_mismatch.py MODEL [--task graphs --option size=small] [--json FILE]

The model reads the reference text of each problem twice, by the schedule that it was trained with and by the other.
What is compared is the log-probability of the reference answer, in nats, all of its tokens together with the end of
sequence. Schedules differ from the second latent step on: problems with fewer are left out, and counted.

own, other          mean log-probability of the answer by the two schedules
difference          mean of (other - own), standard error over problems; below 0: decoding by the other one costs
absolute            mean of |other - own|
choice              share of the problems in which the most likely tokens of the answer are not the same
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spiralthinker.columns import Row, implicit_row, lay_out
from spiralthinker.iteration import Schedule
from spiralthinker.model import SpiralThinkerModel
from thinker_common.benchmarks import chains, graphs
from thinker_common.benchmarks.problem import Problem

# T columns, D hidden size, A tokens of an answer, V vocabulary

BATCH = 50
TASKS = {"chains": chains.generate, "graphs": graphs.generate}


@torch.no_grad()
def answers_by(
    model: SpiralThinkerModel, schedule: Schedule, rows: Sequence[Row], lengths: Sequence[int]
) -> list[tuple[float, list[int]]]:
    """(log-probability, most likely tokens) of each row's answer. lengths: of the answers, which end the rows."""
    head, latents = model.head(), model.settings.annotation.latents
    trained, found = model.settings, []
    try:
        model.settings = dataclasses.replace(trained, schedule=schedule)
        for begin in range(0, len(rows), BATCH):
            some = rows[begin : begin + BATCH]
            batch = lay_out(some, latents=latents, pad_token_id=model.tokenizer.pad_token_id or 0)
            states_BTD = model(batch)[0].readings[-1]
            for row, length, mask_T, states_TD in zip(
                some, lengths[begin : begin + BATCH], batch["mask"].bool(), states_BTD, strict=True
            ):
                logits_AV = head(states_TD[mask_T][-length - 1 : -1]).double()
                targets_A = torch.tensor(row["input_ids"][-length:])
                found.append((_logprob(logits_AV, targets_A), logits_AV.argmax(-1).tolist()))
    finally:
        model.settings = trained
    return found


def _logprob(logits_AV: Tensor, targets_A: Tensor) -> float:
    return float(logits_AV.log_softmax(-1).gather(-1, targets_A[:, None]).sum())


def mismatch(model: SpiralThinkerModel, problems: Sequence[Problem]) -> dict[str, Any]:
    """The figures at the top of this file.

    Raises:
        SystemExit: a model without schedules, or no problem that has two latent steps.
    """
    settings = model.settings
    if settings.schedule == "autoregressive" or settings.iterations == 0:
        raise SystemExit("this model has no iterations: sequential and simultaneous are the same reading")
    examples = settings.annotation.examples(model.tokenizer, problems)
    examples = [example for example in examples if len(settings.annotation.blocks(example)) > 1]
    if not examples:
        raise SystemExit("no problem has two latent steps: both schedules read all of them alike")
    rows = [implicit_row(settings.annotation, example, model.markers) for example in examples]
    lengths = [len(example.answer_ids) for example in examples]
    model.eval()
    other: Schedule = "simultaneous" if settings.schedule == "sequential" else "sequential"
    by_own = answers_by(model, settings.schedule, rows, lengths)
    by_other = answers_by(model, other, rows, lengths)
    gaps = [theirs - own for (own, _), (theirs, _) in zip(by_own, by_other, strict=True)]
    return {
        "trained": settings.schedule,
        "problems": len(rows),
        "left_out": len(problems) - len(rows),
        "own": statistics.mean(logprob for logprob, _ in by_own),
        "other": statistics.mean(logprob for logprob, _ in by_other),
        "difference": statistics.mean(gaps),
        "standard_error": statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None,
        "absolute": statistics.mean(map(abs, gaps)),
        "choice": statistics.mean(own[1] != theirs[1] for own, theirs in zip(by_own, by_other, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", choices=TASKS, default="chains")
    parser.add_argument("--option", nargs="*", default=[], metavar="KEY=VALUE", help="of the task, like size=small")
    parser.add_argument("--problems", type=int, default=500, help="of the split valid")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = SpiralThinkerModel.from_pretrained(options.model, dtype="float32")
    own = dict(option.split("=", 1) for option in options.option)
    found = mismatch(model, TASKS[options.task]("valid", options.problems, **own))
    print(
        "\n".join(
            f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}" for name, value in found.items()
        )
    )
    if options.json is not None:
        options.json.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
