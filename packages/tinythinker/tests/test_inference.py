"""Chains: the same in any batch and after any kill, drawn from the model's own distribution; votes; scores."""

import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from tiny_students import KINDS, LENGTHS, questions, student

from tinythinker import inference
from tinythinker._common import UserError, load_settings, recipes
from tinythinker.config import Settings
from tinythinker.evaluations import evaluate_student
from tinythinker.inference import (
    Answered,
    Sampling,
    Start,
    is_tied,
    likeliest,
    option_scores,
    reason,
    starts,
    vote,
)
from tinythinker.prepare import form_of
from tinythinker.question_sets import QuestionSet
from tinythinker.questions import Question, fingerprint
from tinythinker.reflection import Chain
from tinythinker.stages import (
    Prompt,
    analyze_prompt,
    answered_option,
    chain_tags,
    chain_target,
    recall_prompt,
    summarize_prompt,
    summarize_target,
)
from tinythinker.student import Form

SAMPLING = Sampling(temperature=0.9, seed=3)


def question_set(count):
    own = tuple(questions(count, "test"))
    return QuestionSet("facts", "test", own, "generated", None, fingerprint(own), frozenset(q.id for q in own))


def by_hand(taught, prompt, longest):
    """The greedy continuation of one prompt by transformers alone."""
    ids = torch.tensor([taught.prompt_ids(prompt)])
    with torch.no_grad():
        output = taught.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False,
            eos_token_id=taught.tokenizer.eos_token_id, pad_token_id=taught.tokenizer.pad_token_id,
        )  # fmt: skip
    new = output[0][1:] if taught.encoder_decoder else output[0][ids.shape[1] :]
    tokens = [t for t in new.tolist() if t != taught.tokenizer.eos_token_id]
    return " ".join(taught.tokenizer.decode(tokens, clean_up_tokenization_spaces=False).split())


@pytest.mark.parametrize("kind", KINDS)
def test_a_greedy_chain_is_what_transformers_gives_prompt_by_prompt(kind):
    taught, asked = student(kind), questions(4)
    for question, found in zip(asked, reason(taught, starts(asked, 1), sampled=(), sampling=SAMPLING), strict=True):
        recall = by_hand(taught, recall_prompt(question), LENGTHS.recall_tokens)
        analyses = tuple(
            by_hand(taught, analyze_prompt(question, option, recall or None), LENGTHS.analyze_tokens)
            for option in range(len(question.options))
        )
        summary = by_hand(taught, summarize_prompt(question, recall or None, analyses), LENGTHS.summarize_tokens)
        assert (found.chain.knowledge, found.chain.analyses, found.summary) == (recall, analyses, summary)
        assert found.chain.question == question


@pytest.mark.parametrize("kind", KINDS)
def test_draws_do_not_depend_on_what_they_are_drawn_with(kind):
    taught, asked = student(kind), questions(4)
    sampled = ("recall", "analyze")
    together = reason(taught, starts(asked, 3), sampled=sampled, sampling=SAMPLING)
    apart = [one for q in reversed(asked) for one in reason(taught, starts([q], 3), sampled=sampled, sampling=SAMPLING)]
    key = lambda one: (one.chain.question.id, one.chain.draw)  # noqa: E731
    assert sorted(together, key=key) == sorted(apart, key=key)
    assert len({one.chain.knowledge for one in together}) > len(asked), "draws differ"
    other = reason(taught, starts(asked, 3), sampled=sampled, sampling=replace(SAMPLING, seed=4))
    assert [one.chain.knowledge for one in other] != [one.chain.knowledge for one in together]


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_of_draws_are_the_models_probabilities(kind):
    """First tokens of 400 draws after one prompt, against the softmax at that temperature."""
    form = Form(chat_template="none", generation=replace(LENGTHS, recall_tokens=1))
    taught = student(kind, form=form, **({"initializer_factor": 1.7} if kind == "t5" else {"initializer_range": 0.6}))
    [question] = questions(1)
    draws = 400
    prompt = torch.tensor([taught.prompt_ids(recall_prompt(question))])
    with torch.no_grad():
        if kind == "t5":
            start = torch.tensor([[taught.decoder_start]])
            logits = taught.model(input_ids=prompt, decoder_input_ids=start).logits[0, -1]
        else:
            logits = taught.model(input_ids=prompt).logits[0, -1]
    expected = (logits / SAMPLING.temperature).softmax(-1)
    written = inference._Writer(taught, SAMPLING, None, None)
    requests = [inference.Request(recall_prompt(question), f"{question.id}/{draw}") for draw in range(draws)]
    texts = written.texts("recall", requests, 1)
    eos = taught.tokenizer.eos_token_id
    counts = Counter(text.token_ids[0] if text.token_ids else eos for text in texts)
    assert len(counts) > 3
    for token in expected.topk(5).indices.tolist():
        p = float(expected[token])
        assert abs(counts[token] / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5, (token, p, counts[token])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_asked_twice_is_generated_once_and_draws_share_their_prompt(kind, monkeypatch):
    taught, asked = student(kind), questions(2)
    generated: list[int] = []
    own = inference.Generator.generate

    def counted(self, prompts, on_batch=None, *, keys=None):
        generated.append(len(prompts))
        return own(self, prompts, on_batch, keys=keys)

    monkeypatch.setattr(inference.Generator, "generate", counted)
    # The same recall for all: of eight analyses of two questions each is asked for once, not three times.
    begun = [Start(question, draw, "A glim eats moss.") for question in asked for draw in range(3)]
    reason(taught, begun, sampled=(), sampling=SAMPLING)
    assert generated == [8, 2]

    rows_read: list[int] = []
    read = taught.model.get_encoder() if kind == "t5" else taught.model.get_decoder()
    hook = read.register_forward_pre_hook(
        lambda module, args, kwargs: rows_read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    reason(taught, [Start(asked[0], draw) for draw in range(6)], sampled=("recall",), sampling=SAMPLING)
    hook.remove()
    prompt = len(taught.prompt_ids(recall_prompt(asked[0])))
    assert rows_read[0] == prompt if kind == "t5" else prompt in rows_read, "one pass over the prompt for six draws"


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_goes_on_to_the_same_chains_and_repeats_nothing(kind, tmp_path, monkeypatch):
    taught, begun = student(kind), starts(questions(3), 2)
    expected = reason(taught, begun, sampled=("recall", "analyze"), sampling=SAMPLING, folder=tmp_path / "whole")
    names = ("recall", "analyze", "summarize")
    whole = {name: (tmp_path / f"whole/{name}.jsonl").read_text().splitlines() for name in names}
    for kept in (1, 3, 9, 20):  # lines over all files, the headers among them
        folder = tmp_path / str(kept)
        folder.mkdir()
        left = kept
        for name, lines in whole.items():
            if left:
                torn = lines[left][:40] if left < len(lines) else ""
                (folder / f"{name}.jsonl").write_text("\n".join(lines[:left]) + "\n" + torn)
                left = max(0, left - len(lines))
        assert reason(taught, begun, sampled=("recall", "analyze"), sampling=SAMPLING, folder=folder) == expected
        for name, lines in whole.items():
            found = (folder / f"{name}.jsonl").read_text().splitlines()
            assert found[: min(kept, len(lines))] == lines[: min(kept, len(lines))] or name != "recall"
            assert sorted(map(ids_of, found)) == sorted(map(ids_of, lines))
    with pytest.raises(UserError, match="under other settings: model was"):
        reason(
            student(kind, seed=1), begun, sampled=("recall", "analyze"), sampling=SAMPLING, folder=tmp_path / "whole"
        )


def ids_of(line):
    return json.loads(line).get("id", "")


# -------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("predicted", "expected", "tied"),
    [
        ([0, 1, 1], 1, False),
        ([None, None, 2], 2, False),
        ([None, None], None, False),
        ([2, 0, 2, 0], 0, True),  # 0: -1 and -2 against -4 and -3
        ([1], 1, False),
        ([], None, False),
    ],
)
def test_votes(predicted, expected, tied):
    scores = [[-9.0, -9.0, -4.0], [-1.0, -9.0, -9.0], [-9.0, -9.0, -3.0], [-2.0, -9.0, -9.0]][: len(predicted)]
    assert vote(predicted, scores) == expected
    assert is_tied(predicted) is tied


def test_without_scores_a_tie_goes_to_the_first():
    assert vote([2, 0, 2, 0]) == 2
    assert likeliest([-3.0, -1.0, -1.0]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_options_are_those_of_their_summaries(kind):
    taught, [question] = student(kind), questions(1)
    answered = reason(taught, [Start(question)], sampled=(), sampling=SAMPLING)
    [scores] = option_scores(taught, answered)
    chain = answered[0].chain
    prompt = taught.prompt_ids(summarize_prompt(question, chain.knowledge or None, chain.analyses))
    for option, score in enumerate(scores):
        target = taught.target_ids(summarize_target(option))
        with torch.no_grad():
            if kind == "t5":
                loss = taught.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target])).loss
            else:
                labels = torch.tensor([[-100] * len(prompt) + target])
                loss = taught.model(input_ids=torch.tensor([prompt + target]), labels=labels).loss
        assert score == pytest.approx(-float(loss) * len(target), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_abstentions_are_reported_and_option_likelihood_has_none(kind, tmp_path):
    taught, asked = student(kind), question_set(6)
    greedy = evaluate_student(taught, asked, "greedy", samples=1, sampling=SAMPLING, folder=tmp_path / "greedy")
    assert (greedy.n, greedy.accuracy, greedy.no_answer_rate, greedy.chance) == (6, 0.0, 1.0, 0.25)
    likely = evaluate_student(taught, asked, "option_likelihood", samples=1, sampling=SAMPLING)
    assert likely.no_answer_rate == 0.0 and {row["extracted"] for row in likely.rows} <= set("ABCD")
    assert likely.answer_loglik == greedy.answer_loglik < 0
    voted = evaluate_student(taught, asked, "self_consistency", samples=3, sampling=SAMPLING)
    assert all(len(row["votes"]) == 3 for row in voted.rows)
    header, *rows = (tmp_path / "greedy/generations.jsonl").read_text().splitlines()
    assert json.loads(header)["settings"]["answering"] == "greedy" and len(rows) == 6


def test_ways_of_answering_that_ask_for_the_same_texts_share_them(tmp_path, monkeypatch):
    taught, asked = student("causal"), question_set(3)
    written = tmp_path / "texts"
    alone = evaluate_student(taught, asked, "option_likelihood", samples=1, sampling=SAMPLING)
    evaluate_student(taught, asked, "greedy", samples=1, sampling=SAMPLING, folder=tmp_path / "greedy", texts=written)
    assert not (tmp_path / "greedy/chains").exists()

    def not_again(self, prompts, *_, **__):
        assert not prompts, "generated again"

    monkeypatch.setattr(inference.Generator, "generate", not_again)
    likely = evaluate_student(
        taught, asked, "option_likelihood", samples=1, sampling=SAMPLING, folder=tmp_path / "likely", texts=written
    )
    assert likely.rows == alone.rows
    with pytest.raises(AssertionError, match="generated again"):
        evaluate_student(taught, asked, "self_consistency", samples=2, sampling=SAMPLING, texts=written)


@pytest.mark.parametrize("stages", [("summarize",), ("recall", "summarize"), ("analyze", "summarize")])
def test_a_student_without_a_stage_is_not_asked_for_it(stages, monkeypatch):
    taught, asked = student("causal", form=Form(stages, chat_template="none", generation=LENGTHS)), questions(2)
    prompts = []
    own = inference._Writer.texts

    def seen(self, stage, requests, longest):
        prompts.extend((stage, request.prompt.reasoning) for request in requests)
        return own(self, stage, requests, longest)

    monkeypatch.setattr(inference._Writer, "texts", seen)
    answered = reason(taught, starts(asked, 1), sampled=(), sampling=SAMPLING)
    assert {stage for stage, _ in prompts} - {"recall"} == set(stages) - {"recall"}
    for stage, reasoning in prompts:
        assert ("Recall:" in reasoning) == ("recall" in stages) or stage == "recall"
        assert ("Analyze:" in reasoning) == (stage == "analyze" or (stage == "summarize" and "analyze" in stages))
    assert all(bool(one.chain.analyses) == ("analyze" in stages) for one in answered)


@pytest.mark.parametrize("kind", KINDS)
def test_the_chain_of_thought_baseline_writes_one_text(kind):
    form = Form(one_pass=True, chat_template="none", generation=LENGTHS)
    taught, asked = student(kind, form=form), questions(2)
    answered = reason(taught, starts(asked, 1), sampled=(), sampling=SAMPLING)
    # A random student does not end by itself, so its texts are as long as they may be: the stages and their tags.
    tags = len(taught.target_ids(chain_tags(4)))
    assert all(one.chain.analyses == () and one.tokens == 8 + 4 * 6 + 5 + tags for one in answered)
    [scores, _] = option_scores(taught, answered)
    assert len(scores) == 4 and len(set(scores)) > 1

    question = Question("q", "Which?", ("one", "two"), 1)
    text = "It is so.\nAnalyze: For option A, no. For option B, yes.\nSummarize: So the answer is option B."
    one = Answered(Chain(question, text, (), 1, 0), "So the answer is option B.", 9, False)
    prompt, written = inference._before_summary(taught, one)
    assert prompt == taught.prompt_ids(Prompt("Which?\n(A) one (B) two", "Recall:"))
    assert taught.tokenizer.decode(written).strip().endswith("For option B, yes.\nSummarize:")


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_chain_fits_in_what_the_recipe_lets_the_baseline_write(kind):
    text = recipes.recipe_text("tinythinker", "embedded")
    settings = load_settings(
        Settings, recipe_text=text, recipe_name="embedded", overrides=["method.baseline=cot"]
    )  # fmt: skip
    taught, own = student(kind, form=form_of(settings)), questions(300, "test")
    for question in own:
        exact = question.reference
        chain = chain_target(question, exact.knowledge, exact.reasons, question.gold)
        written = taught.target_ids(chain)[: taught.longest_text("recall", len(question.options))]
        kept = taught.tokenizer.decode(written, skip_special_tokens=True)
        assert answered_option(kept, question) == question.gold
        assert written[-1] == taught.tokenizer.eos_token_id, "it ends by itself"


def test_the_tags_are_what_a_chain_has_beside_its_texts():
    for count in (2, 4, 26):
        question = Question("q", "Which?", tuple(f"text {n}" for n in range(count)), 1)
        chain = chain_target(question, "", [""] * count, 1).removesuffix(f" {summarize_target(1)}")
        assert " ".join(chain.split()) == " ".join(chain_tags(count).split())


def test_a_prompt_without_room_is_refused():
    taught = student("causal", max_position_embeddings=48)
    with pytest.raises(UserError, match="exceeds the model's context of 48 tokens"):
        reason(taught, starts(questions(1), 1), sampled=(), sampling=SAMPLING)
