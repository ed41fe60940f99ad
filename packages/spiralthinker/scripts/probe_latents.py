"""What a trained model's states hold of the step that a latent step stands for: `chains`, its first latent step.

    python packages/spiralthinker/scripts/probe_latents.py MODEL

A ridge regression on one-hot classes reads the number that the step results in, from every layer's state at the
teacher's `<eot>` (the target of the alignment) and at the student's `<eol>`, before and after the iterations. It is
fitted on training problems and scored on test problems; the share of the most frequent number is what a reading of
nothing gets.

varies    the share of the teacher's mean square deviation (sigma^2, whose root the alignment divides by) that differs
          between examples; the rest is the mean state, the same for every step
matched   of what differs between examples, the share that the student's state explains: 1 - mean square distance to
          the teacher / variance between examples. 0 is what the teacher's mean state gets, 1 the teacher's own.
"""

import argparse
import re

import torch
from torch import Tensor

from spiralthinker.columns import implicit_row, lay_out
from spiralthinker.model import SpiralThinkerModel
from thinker_common.benchmarks import chains
from thinker_common.benchmarks.problem import Problem

# E examples, L layers, D hidden size, V numbers

BATCH = 50
RIDGE = 1.0
NUMBERS = chains.LARGEST + 1


@torch.no_grad()
def states_of(model: SpiralThinkerModel, problems: list[Problem]) -> dict[str, Tensor]:
    """States of the first latent step of each problem, (L, E, D): of the teacher, and of the student by iteration."""
    annotation = model.settings.annotation
    found: dict[str, list[Tensor]] = {"teacher": [], "K = 0": [], f"K = {model.settings.iterations}": []}
    for begin in range(0, len(problems), BATCH):
        examples = [annotation.example(model.tokenizer, problem) for problem in problems[begin : begin + BATCH]]
        rows = [implicit_row(annotation, example, model.markers) for example in examples]
        batch = lay_out(rows, latents=annotation.latents, pad_token_id=model.tokenizer.pad_token_id or 0)
        iterated, _ = model(batch)
        teacher_LUD, _ = model.teacher_states(batch, iterated.prefix)
        of_row = batch["has_block"].nonzero()[:, 0]
        first = torch.cat([torch.tensor([True]), of_row[1:] != of_row[:-1]])
        found["teacher"].append(teacher_LUD[:, first])
        for name, eol_LBCD in zip(list(found)[1:], (iterated.eol_KLBCD[0], iterated.eol_KLBCD[-1]), strict=True):
            found[name].append(eol_LBCD[:, batch["has_block"]][:, first])
    return {name: torch.cat(states, dim=1).double() for name, states in found.items()}


def results_of(problems: list[Problem]) -> Tensor:
    """What the first step of each results in, (E,)."""
    return torch.tensor([int(re.findall(r"=(\d+)>>", problem.steps[0])[0]) for problem in problems])


def read_off(train_ED: Tensor, train_E: Tensor, test_ED: Tensor, test_E: Tensor) -> float:
    """Accuracy of a linear reading of the number, on other problems than it was fitted to."""
    mean_D, scale_D = train_ED.mean(0), train_ED.std(0).clamp(min=1e-9)
    x_ED, y_EV = (train_ED - mean_D) / scale_D, torch.nn.functional.one_hot(train_E, NUMBERS).double()
    offset_V = y_EV.mean(0)
    gram_DD = x_ED.T @ x_ED + RIDGE * torch.eye(x_ED.shape[1], dtype=x_ED.dtype)
    weights_DV = torch.linalg.solve(gram_DD, x_ED.T @ (y_EV - offset_V))
    predicted_E = ((test_ED - mean_D) / scale_D @ weights_DV + offset_V).argmax(1)
    return float((predicted_E == test_E).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--train", type=int, default=3000, help="problems that the readings are fitted to")
    parser.add_argument("--test", type=int, default=500)
    options = parser.parse_args()
    model = SpiralThinkerModel.from_pretrained(options.model).eval()
    train, test = chains.generate("train", options.train), chains.generate("test", options.test)
    fitted, scored = states_of(model, train), states_of(model, test)
    train_E, test_E = results_of(train), results_of(test)
    print(
        f"{len(train)} + {len(test)} problems; the most frequent number: {test_E.bincount().max() / len(test_E):.3f}\n"
    )
    names = list(fitted)
    print("| layer | " + " | ".join(f"read off, {name}" for name in names) + " | varies | matched |")
    print("|---" * (len(names) + 3) + "|")
    for layer in range(len(fitted["teacher"])):
        cells = [f"{read_off(fitted[n][layer], train_E, scored[n][layer], test_E):.3f}" for n in names]
        teacher_ED, student_ED = scored["teacher"][layer], scored[names[-1]][layer]
        between = teacher_ED.var(0, correction=0).mean()
        varies = between / teacher_ED.var(correction=0)
        matched = 1 - (student_ED - teacher_ED).square().mean() / between
        print(f"| {layer + 1} | " + " | ".join(cells) + f" | {varies:.3f} | {matched:.2f} |")


if __name__ == "__main__":
    main()
