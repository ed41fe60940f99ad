"""Measures the peak memory of scoring tokens: `token_logprobs` and `AnswerScorer` against full logits.

    python common/scripts/measure_scoring_memory.py                      # 8 x 1024 tokens, a vocabulary of 49152
    python common/scripts/measure_scoring_memory.py --backward           # forward and backward, as training does
    python common/scripts/measure_scoring_memory.py --model FOLDER --json

Full logits means the model's own forward, log_softmax and gather. Without --model, a Llama of SmolLM2-135M's width and
vocabulary with few layers and random weights, so that what is measured is the logits. Each variant runs in a process of
its own. Peaks are resident memory above that after import: with the model, its activations and, under --backward, its
gradients. Linux only (/proc).
"""

import argparse
import json
import subprocess
import sys
import time
from typing import Any

VARIANTS = ("token_logprobs", "AnswerScorer", "full_logits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder in place of the random one")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024, help="tokens a row")
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--backward", action="store_true", help="also compute the gradient of the mean log-probability")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)  # what a process of its own measures
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments)))
        return

    results: dict[str, Any] = {variant: run(variant) for variant in VARIANTS}
    full = results["full_logits"]
    for row in results.values():
        row["ratio"] = row["peak_mib"] / full["peak_mib"]
        row["ratio_above_model"] = row["peak_above_model_mib"] / full["peak_above_model_mib"]
        row["mean_logprob_difference"] = row["mean_logprob"] - full["mean_logprob"]
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    what = "forward and backward" if arguments.backward else "forward"
    print(f"{arguments.rows} x {arguments.tokens} tokens, {what}; peak resident memory in MiB")
    print(f"{'':16}{'above import':>14}{'ratio':>8}{'above model':>14}{'ratio':>8}{'seconds':>10}{'difference':>12}")
    for variant in VARIANTS:
        row = results[variant]
        print(
            f"{variant:16}{row['peak_mib']:14.0f}{row['ratio']:8.3f}{row['peak_above_model_mib']:14.0f}"
            f"{row['ratio_above_model']:8.3f}{row['seconds']:10.1f}{row['mean_logprob_difference']:12.1e}"
        )
    print("difference: of the mean log-probability, from that of full logits")


def run(variant: str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """One variant, in this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from thinker_common.distributed.resident import forget_peak, resident_bytes
    from thinker_common.likelihood.logprobs import token_logprobs
    from thinker_common.likelihood.scorer import AnswerScorer, ScoringItem
    from thinker_common.models.load import load_policy, load_tokenizer

    after_import = resident_bytes("now")
    torch.manual_seed(0)
    if arguments.model:
        model = load_policy(arguments.model, dtype="float32")
    else:
        config = LlamaConfig(
            vocab_size=arguments.vocabulary,
            hidden_size=arguments.hidden,
            intermediate_size=arguments.hidden * 8 // 3,
            num_hidden_layers=arguments.layers,
            num_attention_heads=arguments.hidden // 64,
            num_key_value_heads=arguments.hidden // 64,
            max_position_embeddings=arguments.tokens,
            tie_word_embeddings=True,
        )
        model = LlamaForCausalLM(config).eval()
    input_ids_BT = torch.randint(model.config.vocab_size, (arguments.rows, arguments.tokens))
    attention_mask_BT = torch.ones_like(input_ids_BT)

    tokenizer = load_tokenizer("embedded")

    # The first call verifies the model's head; it is part of no later one.
    with torch.no_grad():
        token_logprobs(model, input_ids_BT[:1, :2], attention_mask_BT[:1, :2])
    loaded = resident_bytes("now")
    forget_peak()
    began = time.perf_counter()
    with torch.set_grad_enabled(arguments.backward):
        if arguments.variant == "token_logprobs":
            mean = token_logprobs(model, input_ids_BT, attention_mask_BT).mean()
        elif arguments.variant == "AnswerScorer":
            items = [ScoringItem(prompt=row[:1], reasoning=[], answer=row[1:]) for row in input_ids_BT.tolist()]
            scorer = AnswerScorer(model, tokenizer)  # reads ids, so that any tokenizer will do
            mean = torch.cat(scorer.logprobs(items)).mean()
        else:
            logits_BTV = model(input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False).logits
            logprobs_BTV = logits_BTV[:, :-1].log_softmax(-1)
            mean = logprobs_BTV.gather(-1, input_ids_BT[:, 1:, None]).squeeze(-1).mean()
        if arguments.backward:
            mean.backward()
    seconds = time.perf_counter() - began
    peak = resident_bytes("peak")
    return {
        "peak_mib": (peak - after_import) / 2**20,
        "peak_above_model_mib": (peak - loaded) / 2**20,
        "seconds": seconds,
        "mean_logprob": mean.item(),
    }


if __name__ == "__main__":
    main()
