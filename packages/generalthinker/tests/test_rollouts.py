"""Sampling a rollout: what it follows from, what is read for it, and when it is left to TRL."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_callback import PrinterCallback
from trl import GRPOTrainer

from generalthinker.arguments import samples_itself, training_arguments
from generalthinker.config import MethodSettings, Settings
from generalthinker.data import training_rows
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common.benchmarks import chains
from thinker_common.models.load import load_policy, load_tokenizer
from thinker_common.training.sections import GenerationSettings

PROBLEMS = chains.generate("train", 16, seed=3)
GROUP = 8


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., GeneralThinkerTrainer]:
    """A trainer of the embedded model. Keyword arguments are settings of the generation section."""

    def make(training: dict[str, Any] | None = None, **generation: Any) -> GeneralThinkerTrainer:
        settings = Settings(
            training={"num_generations": GROUP, "per_device_train_batch_size": 128, **(training or {})},
            generation=GenerationSettings(**{"max_new_tokens": 48, **generation}),
        )
        trainer = GeneralThinkerTrainer(
            model=load_policy("embedded@1", dtype="float32"),
            args=training_arguments(settings, tmp_path),
            method=MethodSettings(),
            train_dataset=training_rows(PROBLEMS, settings.method, seed=0),
            processing_class=load_tokenizer("embedded@1"),
            generation_tokens=settings.generation.max_tokens_per_batch,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    return make


def prompts_of(trainer: GeneralThinkerTrainer) -> list[list[int]]:
    ids, *_ = trainer._tokenize_prompts(list(trainer.train_dataset["prompt"]))
    return [prompt for prompt in ids for _ in range(GROUP)]


def sample(trainer: GeneralThinkerTrainer, prompts: list[list[int]]) -> list[list[int]]:
    responses, logprobs = trainer._generate_single_turn(prompts, None, {}, GROUP)
    assert logprobs is None
    return responses


def test_a_rollout_follows_from_seed_step_and_place(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    prompts = prompts_of(trainer)
    first, second = sample(trainer, prompts), sample(trainer, prompts)
    assert first != second, "two rollouts of one optimiser step"
    assert len({tuple(ids) for ids in first[:GROUP]}) > 1, "the responses of a group"

    torch.manual_seed(5)  # the global generator has no say
    again = make_trainer(max_tokens_per_batch=500)  # a few rows at once
    assert [sample(again, prompts), sample(again, prompts)] == [first, second]
    assert sample(make_trainer({"seed": 1}), prompts) != first

    later = make_trainer()
    later.state.global_step = 7
    assert sample(later, prompts) not in (first, second)

    half = len(prompts) // 2
    shared = []
    for rank, part in enumerate((prompts[:half], prompts[half:])):
        one = make_trainer()
        monkeypatch.setattr(type(one.accelerator), "process_index", rank)
        shared += sample(one, part)
    assert shared == first, "two processes sample what one does"


@pytest.mark.parametrize("budget", [65536, 1500], ids=["all at once", "a few rows at once"])
def test_little_of_a_rollout_is_padding_and_a_prompt_is_read_once(
    make_trainer: Callable[..., GeneralThinkerTrainer], budget: int
) -> None:
    trainer = make_trainer(max_tokens_per_batch=budget)
    prompts = prompts_of(trainer)
    read: list[tuple[int, int]] = []
    handle = trainer.model.model.embed_tokens.register_forward_hook(
        lambda module, given, output: read.append(tuple(output.shape[:2]))
    )
    responses = sample(trainer, prompts)
    handle.remove()
    lengths = [len(ids) for ids in responses]
    assert min(lengths) * 2 < max(lengths), "ragged"

    # One pass for each token but the last, which is never read; the last of a prompt is read with each response.
    needed = sum(lengths) + sum(len(prompt) for prompt in prompts[::GROUP])
    assert needed <= sum(rows * columns for rows, columns in read) < needed / 0.9, "at most 10 % padding"
    assert sum(rows for rows, columns in read if columns == 1) < 0.75 * len(prompts) * max(lengths), (
        "what a batch does that waits for its longest response"
    )


def test_the_token_that_ended_a_response_belongs_to_it(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    trainer = make_trainer()
    prompts = prompts_of(trainer)
    full_stop = trainer.processing_class.encode(".", add_special_tokens=False)[-1]
    trainer.eos_token_ids = [trainer.processing_class.eos_token_id, full_stop]
    responses = sample(trainer, prompts)
    assert {ids[-1] for ids in responses if len(ids) < 48} == set(trainer.eos_token_ids)
    assert not any(token in trainer.eos_token_ids for ids in responses for token in ids[:-1])

    cut = make_trainer(max_new_tokens=6)
    responses = sample(cut, prompts)
    assert {len(ids) for ids in responses} == {6}
    assert all(ids[-1] not in cut.eos_token_ids for ids in responses)


def test_decoding_settings_are_those_of_the_section(make_trainer: Callable[..., GeneralThinkerTrainer]) -> None:
    trainer = make_trainer(top_k=1)
    prompts = prompts_of(trainer)[::GROUP]
    greedy = [
        trainer.model.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=48, eos_token_id=trainer.eos_token_ids
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    assert sample(trainer, prompts) == greedy
    assert sample(make_trainer(top_p=1e-6), prompts) == greedy
    assert sample(make_trainer(temperature=1e-4), prompts) == greedy


def test_the_first_tokens_have_the_frequencies_of_the_policy(
    make_trainer: Callable[..., GeneralThinkerTrainer],
) -> None:
    """4,000 draws at temperature 1.5: each token's share within 4.5 standard errors of its probability."""
    trainer = make_trainer(temperature=1.5, max_new_tokens=1)
    prompt, draws = prompts_of(trainer)[0], 4000
    firsts = torch.tensor([ids[0] for ids in sample(trainer, [prompt] * draws)])
    with torch.no_grad():
        p_V = (trainer.model(torch.tensor([prompt])).logits[0, -1].double() / 1.5).softmax(-1)
    share_V = torch.bincount(firsts, minlength=len(p_V)).double() / draws
    likely = p_V > 0.005
    assert likely.sum() >= 4
    assert ((share_V - p_V).abs() < 4.5 * (p_V * (1 - p_V) / draws).sqrt())[likely].all()


@pytest.mark.parametrize(
    "setting",
    [
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"cache_implementation": "static"},
        {"generation_kwargs": {"min_new_tokens": 3}},
        {"use_transformers_continuous_batching": True},
        {"use_vllm": True},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_the_generator_cannot_do_is_left_to_trl(
    make_trainer: Callable[..., GeneralThinkerTrainer], monkeypatch: pytest.MonkeyPatch, setting: dict[str, Any]
) -> None:
    trainer = make_trainer()
    assert samples_itself(trainer.args)
    for name, value in setting.items():
        setattr(trainer.args, name, value)
    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", lambda self, *_, **__: ("TRL's", None))
    assert sample(trainer, prompts_of(trainer)) == "TRL's"
