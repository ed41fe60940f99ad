"""Trains the embedded model from nothing, and writes the folder that the package ships.

    python common/scripts/train_embedded.py --work runs/embedded          # resumes where it was stopped
    python common/scripts/train_embedded.py --work runs/embedded --export common/src/thinker_common/models/embedded/v1

Llama architecture, byte-level BPE, next-token cross-entropy on the corpus of `embedded_corpus.py`; prompts weigh less
than responses. One document is drawn per index, so a run depends on seed and batch size alone. The log is
`training_log.jsonl`.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from embedded_corpus import document
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# B batch, T time, V vocabulary

PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
VOCABULARY = 1024
MAX_POSITIONS = 1024
TOKENIZER_DOCUMENTS = 30_000
PROMPT_WEIGHT = 0.05
POOL = 64  # batches that are cut from one length-sorted pool
LOG_EVERY, SAVE_EVERY = 50, 500


def build_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the corpus. Digits come in tokens of at most two: a small number is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\d{1,2}"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, USER, ASSISTANT, SYSTEM],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    drawn = (document(seed, index) for index in range(TOKENIZER_DOCUMENTS))
    tokenizer.train_from_iterator((part for d in drawn for part in (d.user, d.text) if part), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=MAX_POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """The untrained model."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.04,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, tokens: int, start: int) -> Iterator[tuple]:
    """(input_ids_BT, weights_BT, next document index): at most `tokens` padded tokens a batch, of similar lengths.

    A pool of documents is drawn in index order, sorted by length and cut; its batches come in a seeded order.
    """
    end, user, assistant = tokenizer.convert_tokens_to_ids([END, USER, ASSISTANT])
    encode = tokenizer.backend_tokenizer.encode
    index = start
    while True:
        pool, drawn = [], 0
        while drawn < POOL * tokens * 0.9:
            doc = document(seed, index)
            index += 1
            text = [*encode(doc.text).ids, end]
            prompt = [] if doc.user is None else [user, *encode(doc.user).ids, assistant]
            pool.append((prompt + text, len(prompt)))
            drawn += len(prompt) + len(text)
        pool.sort(key=lambda row: len(row[0]))
        cut: list[list] = [[]]
        for row in pool:
            if (len(cut[-1]) + 1) * len(row[0]) > tokens:
                cut.append([])
            cut[-1].append(row)
        order = torch.randperm(len(cut), generator=torch.Generator().manual_seed(seed + index)).tolist()
        for position, which in enumerate(order):
            rows = cut[which]
            width = max(len(ids) for ids, _ in rows)
            input_ids_BT = torch.full((len(rows), width), tokenizer.pad_token_id)
            weights_BT = torch.zeros(len(rows), width)
            for row, (ids, prompt_length) in enumerate(rows):
                input_ids_BT[row, : len(ids)] = torch.tensor(ids)
                weights_BT[row, :prompt_length] = PROMPT_WEIGHT
                weights_BT[row, prompt_length : len(ids)] = 1.0
            # Only the end of a pool is a place to resume from: the next pool starts at `index`.
            yield input_ids_BT, weights_BT, index if position == len(order) - 1 else None


def loss_of(model: LlamaForCausalLM, input_ids_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    """Weighted mean next-token cross-entropy. Rows are padded on the right, which causal attention never sees."""
    logits_BTV = model(input_ids=input_ids_BT[:, :-1], use_cache=False).logits
    losses = cross_entropy(logits_BTV.flatten(0, 1).float(), input_ids_BT[:, 1:].flatten(), reduction="none")
    weights = weights_BT[:, 1:].flatten()
    return (losses * weights).sum() / weights.sum()


def learning_rate(done: float, peak: float) -> float:
    """Linear warm-up over 3 % of the run, then a cosine down to 2 % of the peak. `done` is the finished share."""
    if done < 0.03:
        return peak * max(done, 1e-4) / 0.03
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (done - 0.03) / 0.97)))


def train(work: Path, *, seed: int, total_tokens: int, batch_tokens: int, peak: float) -> None:
    """Trains to `total_tokens` response and prompt tokens, saving `state.pt` at the end of a pool."""
    work.mkdir(parents=True, exist_ok=True)
    if (work / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work)
    else:
        tokenizer = build_tokenizer(seed)
        tokenizer.save_pretrained(work)
    model = build_model(tokenizer, seed)
    decay = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)
    step = seen = next_index = 0
    if (work / "state.pt").exists():
        state = torch.load(work / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, seen, next_index = state["step"], state["seen"], state["next_index"]
        print(f"resumed at step {step}, {seen / 1e6:.2f} M tokens", flush=True)
    losses: list[float] = []
    began, seen_then, saved = time.perf_counter(), seen, step
    for input_ids_BT, weights_BT, resume_index in batches(tokenizer, seed, batch_tokens, next_index):
        rate = learning_rate(seen / total_tokens, peak)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, input_ids_BT, weights_BT)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        step += 1
        seen += int((weights_BT > 0).sum())
        finished = seen >= total_tokens
        if step % LOG_EVERY == 0 or finished:
            speed = (seen - seen_then) / (time.perf_counter() - began)
            row = {
                "step": step,
                "tokens": seen,
                "loss": round(sum(losses) / len(losses), 4),
                "learning_rate": round(rate, 7),
                "tokens_per_second": round(speed),
            }
            with (work / "training_log.jsonl").open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(row, flush=True)
            losses, began, seen_then = [], time.perf_counter(), seen
        if finished:
            break
        if resume_index is not None and step - saved >= SAVE_EVERY:
            saved = step
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "seen": seen,
                "next_index": resume_index,
            }
            torch.save(state, work / "state.tmp")
            (work / "state.tmp").replace(work / "state.pt")
    model.save_pretrained(work / "model")


def export(work: Path, folder: Path) -> None:
    """Writes the shipped folder: half-precision safetensors, tokenizer, greedy generation defaults, training log."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(work)
    model = LlamaForCausalLM.from_pretrained(work / "model", dtype=torch.float16)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copyfile(work / "training_log.jsonl", folder / "training_log.jsonl")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the run: tokenizer, state, log")
    parser.add_argument("--export", type=Path, help="write the shipped folder from a finished run, and train nothing")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--total-tokens", type=float, default=20e6)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--peak", type=float, default=2e-3, help="peak learning rate")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.work, arguments.export)
    else:
        train(
            arguments.work,
            seed=arguments.seed,
            total_tokens=int(arguments.total_tokens),
            batch_tokens=arguments.batch_tokens,
            peak=arguments.peak,
        )
