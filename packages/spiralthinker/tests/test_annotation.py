"""Annotation: both versions of an example, token by token; the columns of a batch; what is refused."""

import os
from pathlib import Path

import latent_models as lm
import pytest

from spiralthinker.annotation import IGNORED, Annotation, add_markers, explicit, marker_ids, without_steps
from spiralthinker.columns import implicit_row, lay_out, with_rounds
from thinker_common.benchmarks import chains, graphs, load_benchmark
from thinker_common.benchmarks.problem import Problem
from thinker_common.benchmarks.user_file import load_jsonl
from thinker_common.errors import DataError, SettingsError, UserError
from thinker_common.models.load import load_tokenizer

LATENTS = 2


@pytest.fixture
def tokenizer():
    made = lm.tokenizer()
    add_markers(made)
    return made


def texts(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def test_both_versions_token_by_token(tokenizer):
    problem = Problem("p", "w1 w2", "w9", "text", steps=("w3", "w4 w5", "w6"))
    markers = marker_ids(tokenizer)
    odd = Annotation(parity="odd", latents=LATENTS, answer_template="w8 {answer}")
    example = odd.example(tokenizer, problem)
    whole = explicit(example, markers)
    assert texts(tokenizer, whole.input_ids) == ("w1 w2 <bot> w3 <eot> <bot> w4 w5 <eot> <bot> w6 <eot> w8 w9 <eos>")
    assert whole.labels == [IGNORED] * 2 + whole.input_ids[2:]

    latent = odd.implicit(example, markers)
    assert texts(tokenizer, latent.input_ids) == (
        "w1 w2 <bol> <latent> <latent> <eol> <bot> w4 w5 <eot> <bol> <latent> <latent> <eol> w8 w9 <eos>"
    )
    ignored = [token for token, label in zip(latent.input_ids, latent.labels, strict=True) if label == IGNORED]
    assert texts(tokenizer, ignored) == "w1 w2 <latent> <latent> <latent> <latent>"
    for block, step in zip(odd.blocks(example), (1, 3), strict=True):
        assert latent.input_ids[block.bol] == markers.bol
        assert whole.input_ids[block.eot] == markers.eot
        assert block.step == step
        assert whole.input_ids[block.eot - 1] == example.steps[step - 1].ids[-1], "the end of the step it stands for"

    without = Annotation(latents=LATENTS, label_markers=False).implicit(example, markers).labels
    assert not {markers.bol, markers.eol} & set(without)

    even = Annotation(parity="even", latents=LATENTS)
    example = even.example(tokenizer, problem)
    assert texts(tokenizer, even.implicit(example, markers).input_ids).startswith(
        "w1 w2 <bot> w3 <eot> <bol> <latent> <latent> <eol> <bot> w6 <eot>"
    )
    assert [block.step for block in even.blocks(example)] == [2]


@pytest.mark.parametrize("parity", ["odd", "even"])
def test_one_step_is_valid_and_none_leaves_the_answer(tokenizer, parity):
    markers = marker_ids(tokenizer)
    annotation = Annotation(parity=parity, latents=LATENTS)
    one = annotation.example(tokenizer, Problem("p", "w1", "w2", "text", steps=("w3",)))
    assert len(annotation.blocks(one)) == (1 if parity == "odd" else 0)
    none = annotation.example(tokenizer, Problem("p", "w1", "w2", "text"))
    assert annotation.implicit(none, markers) == explicit(none, markers)
    assert without_steps(lm.problems()) == 1


def test_what_is_refused(tokenizer):
    annotation = Annotation()
    with pytest.raises(DataError, match="p: step 2 has no text"):
        annotation.example(tokenizer, Problem("p", "w1", "w2", "text", steps=("w3", "  ")))
    for part, problem in (
        ("question", Problem("p", "w1 <latent>", "w2", "text")),
        ("step 1", Problem("p", "w1", "w2", "text", steps=("a <eot> b",))),
        ("answer", Problem("p", "w1", "<bol>", "text")),
    ):
        with pytest.raises(DataError, match=f"p: the {part} holds the text <"):
            annotation.example(tokenizer, problem)
    with pytest.raises(UserError, match="the tokenizer already has <bot>, <eot>, <bol>, <latent>, <eol>"):
        add_markers(tokenizer)
    with pytest.raises(UserError, match="has no <bot>"):
        marker_ids(lm.tokenizer())
    for wrong, message in (
        ({"latents": 0}, "latents = 0: expected at least 1"),
        ({"parity": "all"}, "parity = 'all': expected odd or even"),
        ({"answer_template": "x"}, "answer_template = 'x': expected a text with {answer}"),
        ({"prompt_template": "x"}, "prompt_template = 'x': expected a text with {question}"),
    ):
        with pytest.raises(SettingsError, match=message):
            Annotation(**wrong)
    no_end = lm.tokenizer()
    no_end.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token"):
        annotation.example(no_end, Problem("p", "w1", "w2", "text"))


def test_the_columns_of_a_batch(tokenizer):
    """Every row can be read off its columns again, and a latent step has the same columns in all rows that have it."""
    markers = marker_ids(tokenizer)
    annotation = Annotation(latents=LATENTS)
    rows = [implicit_row(annotation, annotation.example(tokenizer, problem), markers) for problem in lm.problems()]
    batch = lay_out(rows, latents=LATENTS, pad_token_id=0)
    more = with_rounds(batch, 4, latents=LATENTS, pad_token_id=0)
    assert len(more["bols"]) == 4
    assert not more["has_block"][:, 2:].any()
    for made in (batch, more):
        for place, row in enumerate(rows):
            real = made["mask"][place].bool()
            assert real[0], "every row begins in column 0"
            assert made["input_ids"][place][real].tolist() == row["input_ids"]
            assert made["labels"][place][real].tolist() == row["labels"]
            for number, bol in enumerate(made["bols"].tolist()):
                has = number < len(row["bols"])
                assert bool(made["has_block"][place, number]) == has
                block = made["input_ids"][place, bol : bol + LATENTS + 2].tolist()
                assert block == ([markers.bol, markers.latent, markers.latent, markers.eol] if has else [0] * 4)
                if has:
                    assert made["explicit_ids"][place, made["eots"][place, number]] == markers.eot
    answers_only = lay_out(rows[3:], latents=LATENTS, pad_token_id=0)
    assert len(answers_only["bols"]) == 0
    assert len(with_rounds(answers_only, 1, latents=LATENTS, pad_token_id=0)["bols"]) == 1


@pytest.mark.parametrize("task", [chains, graphs])
def test_generated_tasks_with_the_embedded_tokenizer(task):
    made = load_tokenizer("embedded")
    markers = add_markers(made)
    annotation = Annotation()
    for problem in task.generate("train", 20):
        example = annotation.example(made, problem)
        text = made.decode(explicit(example, markers).input_ids)
        for step in problem.steps:
            assert f"<bot>{step}<eot>" in text
        assert text.endswith(f"<eot>\\boxed{{{problem.target()}}}<|end|>")
        assert len(annotation.blocks(example)) == (len(problem.steps) + 1) // 2


def test_a_users_file(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "w1", "answer": "w2", "thoughts": ["w3", "w4"]}\n')
    [problem] = load_jsonl(file, {"steps": "thoughts"}, kind="text").problems
    made = lm.tokenizer()
    add_markers(made)
    assert [step.text for step in Annotation().example(made, problem).steps] == ["w3", "w4"]


@pytest.mark.parametrize("name", ["gsm8k", "gsm8k_aug", "prosqa", "strategyqa"])
def test_real_files(name):
    folder = os.environ.get("THINKER_DATA_DIR")
    if folder is None:
        pytest.skip("THINKER_DATA_DIR is not set: the original benchmark files are not here")
    split = {"gsm8k_aug": "valid", "prosqa": "valid"}.get(name, "test")
    problems = load_benchmark(name, split=split, data_dir=Path(folder)).problems
    made = load_tokenizer("embedded")
    markers = add_markers(made)
    annotation = Annotation()
    for problem in problems[:200]:
        row = implicit_row(annotation, annotation.example(made, problem), markers)
        assert len(row["bols"]) == (len(problem.steps) + 1) // 2
    if name == "gsm8k_aug":
        assert without_steps(problems) == 6


def test_what_the_latents_spell():
    """The step's tokens without GSM8K's brackets, one a latent; of a longer step the end."""
    tokenizer = load_tokenizer("embedded@1")
    markers = add_markers(tokenizer)
    steps = ("<<14+9=23>>", "<<23*2=46>>", "<<46-6=40>>")
    problems = [Problem("p", "How many?", "40", "math", steps=steps), Problem("q", "Why?", "1", "math", steps=("5",))]

    def batch_of(latents):
        annotation = Annotation(latents=latents)
        examples = [annotation.example(tokenizer, problem) for problem in problems]
        rows = [implicit_row(annotation, example, markers, spelled=True) for example in examples]
        return lay_out(rows, latents=latents, pad_token_id=0)

    def spelt(ids):
        return [tokenizer.decode([token]) for token in ids.tolist() if token != IGNORED]

    for latents, first, last in ((6, "14 + 9 = 23", "46 - 6 = 40"), (3, "9 = 23", "6 = 40")):
        ids = batch_of(latents)["step_ids"]
        assert ids.shape == (2, 2, latents)
        assert [spelt(ids[0, 0]), spelt(ids[0, 1])] == [first.split(), last.split()]
        assert [spelt(ids[1, 0]), spelt(ids[1, 1])] == [["5"], []], "a step of one token, and no second latent step"
    wider = with_rounds(batch_of(3), 4, latents=3, pad_token_id=0)["step_ids"]
    assert wider.shape == (2, 4, 3)
    assert (wider[:, 2:] == IGNORED).all()
