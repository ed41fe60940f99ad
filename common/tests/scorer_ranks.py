"""Worker of test_scorer_ranks.py: one rank that scores its part under ZeRO-3 between two training steps.

python scorer_ranks.py FOLDER RANK RANKS
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from thinker_common.distributed.process_group import leave
from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem
from thinker_common.models.load import load_tokenizer

PARTS = [11, 0, 2]  # items of each rank, in batches of one or a few
TOKENS_A_BATCH = 40


def items() -> list[ScoringItem]:
    return [
        ScoringItem(f"What is {i} + {i * i}?", f"{'Well, ' * (i % 4)}it is \\boxed{{", f"{i + i * i}", suffix="}")
        for i in range(sum(PARTS))
    ]


def model_and_tokenizer() -> tuple[LlamaForCausalLM, Any]:
    tokenizer = load_tokenizer("embedded")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config), tokenizer


def scores(model: Any, tokenizer: Any, of: list[ScoringItem]) -> list[tuple[float, ...]]:
    scorer = AnswerScorer(model, tokenizer, max_tokens_per_batch=TOKENS_A_BATCH)
    return [score.token_logprobs for score in scorer.score(of)]


def main(folder: str, number: str, count: str) -> None:
    os.environ |= {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{Path(folder) / 'store'}", rank=int(number), world_size=int(count)
    )
    import deepspeed
    from transformers.integrations import HfDeepSpeedConfig

    from thinker_common.distributed.gathered import gathered

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    model, tokenizer = model_and_tokenizer()
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
    }
    zero_3 = HfDeepSpeedConfig(settings)  # what tells transformers of ZeRO-3; it must live as long as the model
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), config=zero_3.config
    )

    def step() -> float:
        ids_BT = torch.arange(1, 9).reshape(1, 8)
        loss = engine(input_ids=ids_BT, labels=ids_BT).loss
        engine.backward(loss)
        engine.step()
        return float(loss.detach())

    losses = [step()]
    first = sum(PARTS[: int(number)])
    with gathered(engine) as whole:
        found = scores(whole, tokenizer, items()[first : first + PARTS[int(number)]])
    losses.append(step())
    record = {
        "engine": type(engine).__name__,
        "elements here": sum(parameter.numel() for parameter in model.parameters()),
        "scores": found,
        "losses": losses,
    }
    (Path(folder) / f"record-{number}.json").write_text(json.dumps(record))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
