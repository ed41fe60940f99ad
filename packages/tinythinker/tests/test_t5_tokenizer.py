"""T5's own tokenizer, Metaspace and Unigram with </s> at the end, on a small vocabulary; and a T5 recipe with it."""

import json

import pytest
import torch
from tiny_run import named_at_random
from tiny_students import questions, t5_config
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import T5ForConditionalGeneration, T5Tokenizer

from tinythinker._common import load_settings, load_tokenizer, recipes
from tinythinker.config import GenerationSettings, Settings
from tinythinker.inference import Sampling, reason, starts
from tinythinker.question_sets import question_row
from tinythinker.stages import (
    analyze_prompt,
    answered_option,
    chain_tags,
    chain_target,
    recall_prompt,
    summarize_prompt,
    summarize_target,
)
from tinythinker.student import Form, Student
from tinythinker.train import train


def chain_of(question):
    exact = question.reference
    return chain_target(question, exact.knowledge, exact.reasons, question.gold)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A T5 with random weights and a tokenizer of T5's class, as they lie on a disk."""
    texts = [f"{recall_prompt(q).text()} {chain_of(q)}" for q in questions(200)]
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    raw.train_from_iterator(texts, trainers.UnigramTrainer(vocab_size=300, show_progress=False, unk_token="<unk>"))
    pieces = [(piece, score) for piece, score in json.loads(raw.to_str())["model"]["vocab"] if piece != "<unk>"]
    tokenizer = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces], extra_ids=0)
    path = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    tokenizer.save_pretrained(path)
    T5ForConditionalGeneration(t5_config(tokenizer)).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def taught(folder):
    length = GenerationSettings(recall_tokens=8, analyze_tokens=6, summarize_tokens=5, max_tokens_per_batch=4096)
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    return Student(model, load_tokenizer(str(folder)), Form(generation=length))


def test_a_prompt_ends_with_its_tag_and_newlines_are_spaces(taught):
    [question] = questions(1)
    knowledge, reasons = question.reference.knowledge, question.reference.reasons
    prompts = [recall_prompt(question), analyze_prompt(question, 2, knowledge), summarize_prompt(question, knowledge, reasons)]  # fmt: skip
    for prompt, tag in zip(prompts, ("Recall:", "Analyze: For option C,", "Summarize:"), strict=True):
        ids = taught.prompt_ids(prompt)
        assert ids[-1] == taught.tokenizer.eos_token_id and taught.tokenizer.unk_token_id not in ids
        assert ids.count(taught.tokenizer.eos_token_id) == 1
        text = taught.tokenizer.decode(ids[:-1])
        assert text == " ".join(prompt.text().split()) and text.endswith(tag)


def test_targets_come_back_as_they_were_and_answers_are_found_in_them(taught):
    for question in questions(20):
        exact = question.reference
        for text in (exact.knowledge, *exact.reasons, summarize_target(question.gold), chain_of(question)):
            ids = taught.target_ids(text)
            assert ids[-1] == taught.tokenizer.eos_token_id and ids.count(ids[-1]) == 1
            assert taught.tokenizer.decode(ids[:-1]) == " ".join(text.split())
        for text in (summarize_target(question.gold), chain_of(question)):
            written = taught.tokenizer.decode(taught.target_ids(text), skip_special_tokens=True)
            assert answered_option(written, question) == question.gold
        own = [exact.knowledge, *exact.reasons, summarize_target(question.gold)]
        parts = sum(len(taught.target_ids(text)) for text in own)
        assert len(taught.target_ids(chain_of(question))) <= parts + len(taught.target_ids(chain_tags(4)))


def test_chains_do_not_depend_on_what_they_are_written_with(taught):
    asked, sampling = questions(4), Sampling(temperature=0.9, seed=3)
    together = reason(taught, starts(asked, 2), sampled=("recall",), sampling=sampling)
    apart = [one for q in asked for one in reason(taught, starts([q], 2), sampled=("recall",), sampling=sampling)]
    assert together == apart and len({one.chain.knowledge for one in together}) > len(asked)


@pytest.mark.parametrize("name", ["csqa-t5-base", "strategyqa-t5-base"])
def test_a_t5_recipe_takes_its_steps(name, folder, tmp_path, monkeypatch):
    """Its settings as they are, save for the model, the data and how long it takes."""
    from rich.console import Console

    monkeypatch.setattr("tinythinker.inference.answered_option", named_at_random)
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(json.dumps(question_row(q)) + "\n" for q in questions(30)))
    overrides = [
        f"model.name_or_path={folder}", "data.benchmark=facts", f"data.train_file={mine}", "data.rows=null",
        "method.acquisition.max_steps=2", "method.reflection.iterations=2", "method.reflection.max_steps=2",
        "method.reflection.samples=3", "generation.recall_tokens=8", "generation.analyze_tokens=6",
        "generation.summarize_tokens=5", "evaluation.samples=2", "training.logging_steps=1",
    ]  # fmt: skip
    text = recipes.recipe_text("tinythinker", name)
    settings = load_settings(Settings, recipe_text=text, recipe_name=name, overrides=overrides)
    with (tmp_path / "said").open("w") as said:
        results = train(settings, tmp_path / "run", seed=1, console=Console(file=said))
    assert [phase["steps"] for phase in results["phases"].values()] == [2, 2, 2]
    for phase in results["phases"].values():
        assert set(phase["tests"]) == {"mine-greedy", "mine-self_consistency", "mine-option_likelihood"}
        assert phase["validation"]["n"] == 3
    assert load_tokenizer(str(tmp_path / "run/model")).__class__ is load_tokenizer(str(folder)).__class__
