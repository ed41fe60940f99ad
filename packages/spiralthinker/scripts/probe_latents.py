"""What a trained model's states hold of the step that a latent step stands for.

    python packages/spiralthinker/scripts/probe_latents.py MODEL
    python packages/spiralthinker/scripts/probe_latents.py MODEL --latent-step 2
    python packages/spiralthinker/scripts/probe_latents.py MODEL --task graphs --option size=small

A ridge regression on one-hot classes reads what the step results in, from every layer's state at the teacher's `<eot>`
(the target of the alignment) and at the student's `<eol>`, before and after the iterations. On `chains` that is a
number, on `graphs` the concept that the step's rule ends in. It is fitted on training problems and scored on test
problems, among those that have so many latent steps; the share of the most frequent result is what a reading of nothing
gets. Probed is one of a problem's latent steps, the first unless told otherwise.

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
from thinker_common.benchmarks import chains, graphs
from thinker_common.benchmarks.problem import Problem

# E examples, L layers, D hidden size, V results

BATCH = 50
RIDGE = 1.0
TASKS = {"chains": chains.generate, "graphs": graphs.generate}


@torch.no_grad()
def states_of(model: SpiralThinkerModel, problems: list[Problem], number: int) -> dict[str, Tensor]:
    """States of each problem's latent step of that number, (L, E, D): of the teacher, and of the student by iteration.

    number: from 0; every problem has one
    """
    annotation = model.settings.annotation
    found: dict[str, list[Tensor]] = {"teacher": [], "K = 0": [], f"K = {model.settings.iterations}": []}
    for begin in range(0, len(problems), BATCH):
        examples = annotation.examples(model.tokenizer, problems[begin : begin + BATCH])
        rows = [implicit_row(annotation, example, model.markers) for example in examples]
        batch = lay_out(rows, latents=annotation.latents, pad_token_id=model.tokenizer.pad_token_id or 0)
        iterated, _ = model(batch)
        teacher_LUD, _ = model.teacher_states(batch, iterated.prefix)
        probed = batch["has_block"].nonzero()[:, 1] == number
        found["teacher"].append(teacher_LUD[:, probed])
        for name, eol_LBCD in zip(list(found)[1:], (iterated.eol_KLBCD[0], iterated.eol_KLBCD[-1]), strict=True):
            found[name].append(eol_LBCD[:, batch["has_block"]][:, probed])
    return {name: torch.cat(states, dim=1).double() for name, states in found.items()}


def with_latent_step(model: SpiralThinkerModel, problems: list[Problem], number: int) -> list[tuple[Problem, str]]:
    """The problems that have a latent step of that number, from 0, each with the text step that it stands for."""
    annotation, found = model.settings.annotation, []
    for problem in problems:
        blocks = annotation.blocks(annotation.example(model.tokenizer, problem))
        if len(blocks) > number:
            found.append((problem, problem.steps[blocks[number].step - 1]))
    return found


def result_of(step: str) -> str:
    """The number that a step of `chains` results in, or the concept that one of `graphs` ends in."""
    number = re.search(r"=(\d+)>>$", step)
    return number[1] if number else step.rstrip(".").rpartition(" ")[2]


def read_off(train_ED: Tensor, train_E: Tensor, test_ED: Tensor, test_E: Tensor, results: int) -> float:
    """Accuracy of a linear reading of the result, one of so many, on other problems than it was fitted to."""
    mean_D, scale_D = train_ED.mean(0), train_ED.std(0).clamp(min=1e-9)
    x_ED, y_EV = (train_ED - mean_D) / scale_D, torch.nn.functional.one_hot(train_E, results).double()
    offset_V = y_EV.mean(0)
    gram_DD = x_ED.T @ x_ED + RIDGE * torch.eye(x_ED.shape[1], dtype=x_ED.dtype)
    weights_DV = torch.linalg.solve(gram_DD, x_ED.T @ (y_EV - offset_V))
    predicted_E = ((test_ED - mean_D) / scale_D @ weights_DV + offset_V).argmax(1)
    return float((predicted_E == test_E).double().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--task", choices=TASKS, default="chains")
    parser.add_argument("--option", nargs="*", default=[], metavar="KEY=VALUE", help="of the task, like size=small")
    parser.add_argument("--latent-step", type=int, default=1, metavar="N", help="which of a problem's, from 1")
    parser.add_argument("--train", type=int, default=3000, help="problems that the readings are fitted to")
    parser.add_argument("--test", type=int, default=500)
    options = parser.parse_args()
    model = SpiralThinkerModel.from_pretrained(options.model).eval()
    own, number = dict(option.split("=", 1) for option in options.option), options.latent_step - 1
    train, test = (
        with_latent_step(model, TASKS[options.task](split, count, **own), number)
        for split, count in (("train", options.train), ("test", options.test))
    )
    if not train or not test:
        raise SystemExit(f"--latent-step {options.latent_step}: no problem of {options.task} has so many")
    fitted, scored = (states_of(model, [problem for problem, _ in some], number) for some in (train, test))
    known = {result: place for place, result in enumerate(sorted({result_of(step) for _, step in (*train, *test)}))}
    train_E, test_E = (torch.tensor([known[result_of(step)] for _, step in some]) for some in (train, test))
    print(
        f"{options.task}, latent step {options.latent_step}: {len(train)} + {len(test)} problems; "
        f"the most frequent of {len(known)} results: {test_E.bincount().max() / len(test_E):.3f}\n"
    )
    names = list(fitted)
    print("| layer | " + " | ".join(f"read off, {name}" for name in names) + " | varies | matched |")
    print("|---" * (len(names) + 3) + "|")
    for layer in range(len(fitted["teacher"])):
        cells = [f"{read_off(fitted[n][layer], train_E, scored[n][layer], test_E, len(known)):.3f}" for n in names]
        teacher_ED, student_ED = scored["teacher"][layer], scored[names[-1]][layer]
        between = teacher_ED.var(0, correction=0).mean()
        varies = between / teacher_ED.var(correction=0)
        matched = 1 - (student_ED - teacher_ED).square().mean() / between
        print(f"| {layer + 1} | " + " | ".join(cells) + f" | {varies:.3f} | {matched:.2f} |")


if __name__ == "__main__":
    main()
