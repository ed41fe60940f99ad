"""The prompt format to the letter, what counts as an answer, and the tokens of T5 and causal students."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tinythinker._common import load_tokenizer
from tinythinker.questions import LETTERS, Question
from tinythinker.stages import (
    analyze_prompt,
    answered_option,
    chain_target,
    prompt_ids,
    recall_prompt,
    summarize_prompt,
    summarize_target,
    target_ids,
)

QUESTION = Question("q", "Which creature eats moss?", ("opra", "kesh, (B) or A", "irbo"), gold=1)
HEAD = "Which creature eats moss?\n(A) opra (B) kesh, (B) or A (C) irbo"


def test_the_prompts_to_the_letter():
    assert recall_prompt(QUESTION).text() == f"{HEAD}\nRecall:"
    assert analyze_prompt(QUESTION, 2, "Moss grows.").text() == f"{HEAD}\nRecall: Moss grows.\nAnalyze: For option C,"
    assert summarize_prompt(QUESTION, "Moss grows.", ["no.", "yes.", "no."]).text() == (
        f"{HEAD}\nRecall: Moss grows.\nAnalyze: For option A, no. For option B, yes. For option C, no.\nSummarize:"
    )
    assert summarize_target(1) == "So the answer is option B."


def test_prompts_of_the_ablations_leave_a_stage_out():
    assert analyze_prompt(QUESTION, 0, None).text() == f"{HEAD}\nAnalyze: For option A,"
    assert summarize_prompt(QUESTION, None, None).text() == f"{HEAD}\nSummarize:"
    assert summarize_prompt(QUESTION, "Moss grows.", None).text() == f"{HEAD}\nRecall: Moss grows.\nSummarize:"
    assert summarize_prompt(QUESTION, None, ["a", "b", "c"]).text() == (
        f"{HEAD}\nAnalyze: For option A, a For option B, b For option C, c\nSummarize:"
    )


def test_the_chain_in_one_target_continues_the_prompt_of_recall():
    chain = recall_prompt(QUESTION).text() + " " + chain_target(QUESTION, "Moss grows.", ["no.", "yes.", "no."], 1)
    assert chain == summarize_prompt(QUESTION, "Moss grows.", ["no.", "yes.", "no."]).text() + (
        " So the answer is option B."
    )


@given(st.integers(2, 26))
def test_any_number_of_options_has_its_prompts_and_answers(count):
    question = Question("q", "?", tuple(f"text {position}" for position in range(count)), gold=count - 1)
    assert recall_prompt(question).question.count("text ") == count
    for option in range(count):
        assert analyze_prompt(question, option, "k").text().endswith(f"\nAnalyze: For option {LETTERS[option]},")
        assert answered_option(summarize_target(option), question) == option
    if count < 26:
        assert answered_option(summarize_target(count), question) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("So the answer is option B.", 1),
        ("the answer is option A", 0),
        ("I think the answer is option C, since the answer is option A.", 2),
        ("So the answer is option D.", None),  # no such option
        ("So the answer is option All.", None),
        ("So the answer is option b.", None),
        ("The answer is B.", None),
        ("So the answer is option", None),
        ("", None),
    ],
)
def test_what_counts_as_an_answer(text, expected):
    assert answered_option(text, QUESTION) == expected


# ----------------------------------------------------------------------------------------------------------- the tokens


def test_a_causal_student_reads_and_continues_one_text():
    tokenizer = load_tokenizer("embedded")
    prompt = analyze_prompt(QUESTION, 1, "Moss grows.")
    ids = prompt_ids(tokenizer, prompt, encoder_decoder=False)
    target = target_ids(tokenizer, "a kesh eats it.", encoder_decoder=False)
    assert target[-1] == tokenizer.eos_token_id
    assert tokenizer.decode([*ids, *target[:-1]]).endswith(f"{prompt.text()} a kesh eats it.")


def test_with_a_chat_template_the_tags_are_the_assistants():
    tokenizer = load_tokenizer("embedded")
    text = tokenizer.decode(prompt_ids(tokenizer, recall_prompt(QUESTION), encoder_decoder=False, chat_template="auto"))
    user, _, assistant = text.partition(HEAD)
    assert user and assistant.endswith("Recall:") and len(assistant) > len("\nRecall:")


def test_the_prompt_of_a_stage_begins_with_that_of_the_one_before():
    """So the keys and values of a causal student's last stage serve the next."""
    tokenizer = load_tokenizer("embedded")
    first = prompt_ids(tokenizer, recall_prompt(QUESTION), encoder_decoder=False)
    recalled = target_ids(tokenizer, "Moss grows.", encoder_decoder=False)[:-1]
    second = prompt_ids(tokenizer, analyze_prompt(QUESTION, 0, "Moss grows."), encoder_decoder=False)
    assert second[: len(first) + len(recalled)] == first + recalled


@pytest.fixture(scope="module")
def t5_like():
    """A tokenizer that ends every text with </s>, as T5's does."""
    words = [
        "Which",
        "creature",
        "eats",
        "moss",
        "?",
        "(",
        "A",
        ")",
        "B",
        "C",
        "opra",
        "kesh",
        ",",
        "or",
        "irbo",
        "Recall",
        ":",
        "a",
        "grows",
        ".",
    ]
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def test_an_encoder_decoder_student_has_the_prompt_in_the_encoder_alone(t5_like):
    ids = prompt_ids(t5_like, recall_prompt(QUESTION), encoder_decoder=True)
    assert t5_like.decode(ids).split()[-3:] == ["Recall", ":", "</s>"]
    assert t5_like.decode(target_ids(t5_like, "a kesh grows .", encoder_decoder=True)) == "a kesh grows . </s>"
