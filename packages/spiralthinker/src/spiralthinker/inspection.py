"""`spiralthinker inspect`: what stands in the latents of one response, position by position and iteration by iteration.

The model answers the question. Its response is then read again with all iterations, which gives what generation had
(the schedules are exact), and for each latent step:

    nearest     the vocabulary entries whose input embeddings have the largest cosine with e^(k)
    says        what the output head finds likeliest, when the model reads e^(k), at the latent, or with `shift` 1 at
                the token before it: by the state that e^(k+1) would be made of
    change      |e^(k) - e^(k-1)| / |e^(k-1)|
    alignment   align^(k) of `alignment`: between its `<eol>` and the `<eot>` of the text step it stands for, where the
                reference steps are known. sigma is taken over this problem alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ._common import Problem, evaluation_mode
from .alignment import Distance, alignment, deviation, moments
from .annotation import IGNORED, Block
from .columns import Row, implicit_row, lay_out
from .generation import LatentGenerator
from .iteration import iterate
from .model import SpiralThinkerModel
from .preview import stands_for_text

# N latents, D hidden size, V vocabulary, L layers, C latent steps of the response


@dataclass(frozen=True)
class LatentAt:
    """One latent position at one iteration. nearest, says: (token, cosine) and (token, probability), best first."""

    nearest: list[tuple[str, float]]
    says: list[tuple[str, float]]
    change: float | None


@dataclass(frozen=True)
class LatentStep:
    """A latent step. at: its N positions at each reading k = 0..K; alignment: align^(k), empty where it is unknown."""

    stands_for: str
    at: list[list[LatentAt]]
    alignment: list[float]


@dataclass(frozen=True)
class Inspection:
    """token_passes: of the response as it was generated"""

    problem: Problem
    response: str
    truncated: bool
    token_passes: int
    steps: list[LatentStep]


@torch.no_grad()
def inspect_problem(
    model: SpiralThinkerModel,
    problem: Problem,
    *,
    max_new_tokens: int,
    top: int = 3,
    distance: Distance = "smooth_l1",
) -> Inspection:
    """Answers the problem greedily and looks into its latents, at the model's own N and K."""
    with evaluation_mode(model):
        annotation = model.settings.annotation
        prompt = annotation.prompt_ids(model.tokenizer, problem)
        generator = LatentGenerator(model, max_new_tokens=max_new_tokens)
        [response] = generator.generate([prompt])
        ids = [*prompt, *response.token_ids]
        bols = [place for place in range(len(prompt), len(ids)) if ids[place] == model.markers.bol]
        # A response that was cut off at its `<bol>` has no latents there.
        bols = [bol for bol in bols if ids[bol + annotation.latents + 1 : bol + annotation.latents + 2]]
        reference, blocks = None, []
        if problem.steps:
            example = annotation.example(model.tokenizer, problem)
            blocks = [(block, stands_for_text(example, block)) for block in annotation.blocks(example)]
            reference = implicit_row(annotation, example, model.markers)
        row = {
            "input_ids": ids,
            "labels": [IGNORED] * len(ids),
            "prompt_length": len(prompt),
            "bols": bols,
            "explicit_ids": [],
            "eots": [0] * len(bols),
        }
        steps = _look(model, row, top) if bols else []
        aligned = _alignments(model, row, reference, distance) if bols and reference is not None else []
    return Inspection(
        problem,
        str(model.tokenizer.decode(list(response.token_ids))),
        response.truncated,
        generator.token_passes,
        [
            replace(step, stands_for=_named(blocks, number), alignment=aligned[number] if number < len(aligned) else [])
            for number, step in enumerate(steps)
        ],
    )


def _named(blocks: Sequence[tuple[Block, str]], number: int) -> str:
    return blocks[number][1] if number < len(blocks) else ""


def _look(model: SpiralThinkerModel, row: Row, top: int) -> list[LatentStep]:
    settings, bols = model.settings, row["bols"]
    latents, count = settings.annotation.latents, len(row["bols"])
    ids = torch.tensor([row["input_ids"]], device=model.device)
    embeds = model.embed(ids)
    given: list[tuple[Tensor, Tensor]] = []  # (states, embeddings) of each call

    def refine(states: Tensor) -> Tensor:
        refined = model.refine(states)
        given.append((states[0], refined[0]))
        return refined

    iterated = iterate(
        model.reader(torch.ones_like(ids)),
        embeds,
        bols,
        refine,
        latents=latents,
        iterations=settings.iterations,
        schedule=settings.schedule,
        shift=settings.shift,
    )
    last = iterated.readings[-1][0]
    head = model.head()
    steps = []
    for number, bol in enumerate(bols):
        columns = slice(bol + 1, bol + 1 + latents)
        if settings.schedule == "autoregressive":
            own = given[number * latents : (number + 1) * latents]
            embeddings, states = [torch.cat([refined for _, refined in own])], [last[columns]]
        else:
            # Calls come step by step when steps are refined one after the other, else iteration by iteration.
            stepwise = settings.schedule == "sequential"
            places = range(settings.iterations)
            own = [given[number * settings.iterations + k if stepwise else k * count + number] for k in places]
            embeddings = [embeds[0, columns], *(refined for _, refined in own)]
            sources = slice(columns.start - settings.shift, columns.stop - settings.shift)
            states = [*(before for before, _ in own), last[sources]]
        steps.append(LatentStep("", _described(model, embeddings, [head(each) for each in states], top), []))
    return steps


def _described(
    model: SpiralThinkerModel, embeddings: Sequence[Tensor], logits: Sequence[Tensor], top: int
) -> list[list[LatentAt]]:
    """For each reading, its latents. embeddings: (N, D) each; logits: (N, V) each."""
    vocabulary = model.embed(torch.arange(len(model.tokenizer), device=model.device)[None])[0].float()
    directions_VD = torch.nn.functional.normalize(vocabulary, dim=-1)
    described = []
    before: Tensor | None = None
    for embedding_ND, logits_NV in zip(embeddings, logits, strict=True):
        embedding_ND = embedding_ND.float()
        cosines_NV = torch.nn.functional.normalize(embedding_ND, dim=-1) @ directions_VD.T
        change_N = None if before is None else (embedding_ND - before).norm(dim=-1) / before.norm(dim=-1)
        probabilities_NV = logits_NV.float().softmax(-1)
        described.append(
            [
                LatentAt(
                    _best(model, cosines_NV[place], top),
                    _best(model, probabilities_NV[place, : len(model.tokenizer)], top),
                    None if change_N is None else change_N[place].item(),
                )
                for place in range(len(embedding_ND))
            ]
        )
        before = embedding_ND
    return described


def _best(model: SpiralThinkerModel, values_V: Tensor, top: int) -> list[tuple[str, float]]:
    best = values_V.topk(min(top, len(values_V)))
    return [
        (str(model.tokenizer.decode([token])), value)
        for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _alignments(model: SpiralThinkerModel, row: Row, reference: Row, distance: Distance) -> list[list[float]]:
    """align^(0..K) of each latent step that the reference has too."""
    layout = {"latents": model.settings.annotation.latents, "pad_token_id": 0}

    def batch_of(some: Row) -> dict[str, Tensor]:
        return {name: tensor.to(model.device) for name, tensor in lay_out([some], **layout).items()}

    if not reference["bols"]:
        return []
    iterated, _ = model(batch_of(row))
    teacher_LUD, _ = model.teacher_states(batch_of(reference))
    assert iterated.eol_KLBCD is not None
    both = min(teacher_LUD.shape[1], iterated.eol_KLBCD.shape[3])
    sigma_LD = deviation(moments(teacher_LUD))
    one = torch.ones(1)
    of_readings = [
        alignment(student_LBCD[None, :, 0, :both], teacher_LUD[:, :both], sigma_LD, one, distance=distance).tolist()
        for student_LBCD in iterated.eol_KLBCD
    ]
    return [list(of_step) for of_step in zip(*of_readings, strict=True)]
