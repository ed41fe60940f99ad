"""Preference pairs by their properties, and the loss against closed forms, finite differences and autograd."""

import json
import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinythinker.questions import Question, plain
from tinythinker.reflection import Chain, analyze_pairs, preference_loss, preference_sums, recall_pairs

QUESTIONS = [
    Question("q0", "Which?", ("one", "two", "three"), gold=1),
    Question("q1", "Is it?", ("yes", "no"), gold=0),
]
TEXT = st.sampled_from(["", " ", "a", "a ", "b", "c c", "c  c", "d", "e"])


@st.composite
def chain_lists(draw, fixed_knowledge=False):
    chains = []
    for number in range(draw(st.integers(0, 14))):
        question = draw(st.sampled_from(QUESTIONS))
        chains.append(
            Chain(
                question,
                draw(st.sampled_from(["k", "l"])) if fixed_knowledge else draw(TEXT),
                tuple(draw(TEXT) for _ in question.options),
                draw(st.sampled_from([None, *range(len(question.options))])),
                draw=number,
            )
        )
    return chains


def by_draw(chains):
    return {chain.draw: chain for chain in chains}


# -------------------------------------------------------------------------------------------------------------- recalls


@given(chain_lists(), st.lists(TEXT, max_size=4), st.integers(0, 3))
def test_recall_pairs(chains, teacher, seed):
    pairs = recall_pairs(chains, {"q0": teacher}, iteration=2, seed=seed)
    drawn = by_draw(chains)
    for pair in pairs:
        origin = pair.provenance
        assert plain(pair.chosen) and plain(pair.rejected) and plain(pair.chosen) != plain(pair.rejected)
        wrong = drawn[origin.rejected_draw]
        assert wrong.question == pair.question and not wrong.right and wrong.knowledge.strip() == pair.rejected
        if origin.chosen_source == "student":
            right = drawn[origin.chosen_draw]
            assert right.question == pair.question and right.right and right.knowledge.strip() == pair.chosen
        else:
            assert origin.chosen_draw is None and plain(pair.chosen) in {plain(text) for text in teacher}
        assert pair.stage == "recall" and pair.prompt().reasoning == "Recall:" and origin.iteration == 2
    for question in QUESTIONS:
        own = [pair for pair in pairs if pair.question == question]
        chosen, rejected = [plain(p.chosen) for p in own], [plain(p.rejected) for p in own]
        assert len(set(chosen)) == len(own) == len(set(rejected))  # one to one
        assert not set(chosen) & set(rejected)


@given(chain_lists())
def test_recall_pairs_are_as_many_as_the_smaller_side_has(chains):
    pairs = recall_pairs(chains, {}, iteration=1, seed=0)
    for question in QUESTIONS:
        own = [c for c in chains if c.question == question and plain(c.knowledge)]
        right, wrong = ({plain(c.knowledge) for c in own if c.right is side} for side in (True, False))
        assert sum(p.question == question for p in pairs) == min(len(right - wrong), len(wrong - right))


def test_teacher_recalls_only_fill_up_where_wrong_ones_are_in_surplus():
    question = QUESTIONS[0]
    chains = [
        Chain(question, text, ("", "", ""), end, n) for n, (text, end) in enumerate([("r", 1), ("w", 0), ("v", None)])
    ]
    pairs = recall_pairs(chains, {"q0": ["w", "r ", "t", "u"]}, iteration=1, seed=0)
    assert Counter(pair.provenance.chosen_source for pair in pairs) == {"student": 1, "teacher": 1}
    assert {pair.chosen for pair in pairs} == {"r", "t"}  # "w" ends wrong, "r" is there already
    assert {pair.provenance.predicted for pair in pairs} == {"A", None}
    assert recall_pairs(chains[:2], {"q0": ["t"]}, iteration=1, seed=0)[0].chosen == "r"


# ------------------------------------------------------------------------------------------------------------- analyses


@given(chain_lists(fixed_knowledge=True), st.sampled_from(["gold_and_predicted", "all_options"]), st.integers(0, 3))
def test_analyze_pairs(chains, strategy, seed):
    pairs = analyze_pairs(chains, strategy, iteration=3, seed=seed)
    drawn = by_draw(chains)
    keys = set()
    for pair in pairs:
        right, wrong = drawn[pair.provenance.chosen_draw], drawn[pair.provenance.rejected_draw]
        assert right.right and not wrong.right
        assert right.question == wrong.question == pair.question
        assert right.knowledge == wrong.knowledge == pair.knowledge
        assert right.analyses[pair.option].strip() == pair.chosen != ""
        assert wrong.analyses[pair.option].strip() == pair.rejected != ""
        if strategy == "gold_and_predicted":
            assert pair.option in (pair.question.gold, wrong.predicted)
        keys.add((pair.question.id, pair.knowledge, pair.option, plain(pair.chosen), plain(pair.rejected)))
    assert len(keys) == len(pairs)
    assert not any((*key[:3], key[4], key[3]) in keys for key in keys)  # no pair and its reverse
    assert not any(key[3] == key[4] for key in keys)


@st.composite
def telling_chains(draw):
    """Chains no two of which say the same of an option, so that no pair is dropped."""
    chains = []
    for number in range(draw(st.integers(0, 14))):
        question = draw(st.sampled_from(QUESTIONS))
        end = draw(st.sampled_from([None, *range(len(question.options))]))
        texts = tuple(f"{number} of {option}" for option in range(len(question.options)))
        chains.append(Chain(question, draw(st.sampled_from(["k", "l", ""])), texts, end, draw=number))
    return chains


@given(telling_chains(), st.sampled_from(["gold_and_predicted", "all_options"]), st.integers(0, 3))
def test_analyze_pairs_are_balanced(chains, strategy, seed):
    """Of each question and recall as many right chains as wrong ones, each against one other alone."""
    pairs = analyze_pairs(chains, strategy, iteration=1, seed=seed)
    drawn = by_draw(chains)
    for group in {(chain.question.id, chain.knowledge) for chain in chains}:
        own = [c for c in chains if (c.question.id, c.knowledge) == group]
        right, wrong = ([c for c in own if c.right is side] for side in (True, False))
        found = [p for p in pairs if (p.question.id, p.knowledge or "") == group]
        partners = {(p.provenance.chosen_draw, p.provenance.rejected_draw) for p in found}
        assert len(partners) == min(len(right), len(wrong))
        assert len({one for one, _ in partners}) == len({other for _, other in partners}) == len(partners)
        for one, other in partners:
            options = sorted(
                p.option for p in found if (p.provenance.chosen_draw, p.provenance.rejected_draw) == (one, other)
            )
            question, predicted = drawn[other].question, drawn[other].predicted
            every = list(range(len(question.options)))
            both = sorted({question.gold} | ({predicted} - {None}))
            assert options == (every if strategy == "all_options" else both)


@given(chain_lists(fixed_knowledge=True), st.sampled_from(["gold_and_predicted", "all_options"]))
def test_no_chain_of_analyses_has_two_partners(chains, strategy):
    pairs = analyze_pairs(chains, strategy, iteration=1, seed=0)
    partners = {(p.provenance.chosen_draw, p.provenance.rejected_draw) for p in pairs}
    assert len({one for one, _ in partners}) == len({other for _, other in partners}) == len(partners)


def test_a_right_and_a_wrong_chain_give_the_gold_and_the_predicted_option():
    question = QUESTIONS[0]
    right = Chain(question, "k", ("no.", "yes.", "never."), 1, draw=4)
    wrong = Chain(question, "k", ("surely.", "hardly.", "not so."), 0, draw=7)
    pairs = analyze_pairs([right, wrong], "gold_and_predicted", iteration=1, seed=0)
    assert {(p.option, p.chosen, p.rejected) for p in pairs} == {(0, "no.", "surely."), (1, "yes.", "hardly.")}
    assert len(analyze_pairs([right, wrong], "all_options", iteration=1, seed=0)) == 3
    lost = Chain(question, "k", ("surely.", "hardly.", "not so."), None, draw=8)
    assert [p.option for p in analyze_pairs([right, lost], "gold_and_predicted", iteration=1, seed=0)] == [1]
    other = Chain(question, "another recall", wrong.analyses, 0, draw=9)
    assert analyze_pairs([right, other], "all_options", iteration=1, seed=0) == []


def test_pairs_do_not_depend_on_other_questions_and_are_plain_json():
    chains = [
        Chain(question, f"k{n}", tuple("x" for _ in question.options), end, n)
        for question in QUESTIONS
        for n, end in enumerate([0, 1, 0, 1, None])
    ]
    together = recall_pairs(chains, {}, iteration=1, seed=5)
    alone = recall_pairs([c for c in chains if c.question.id == "q1"], {}, iteration=1, seed=5)
    assert [p for p in together if p.question.id == "q1"] == alone
    row = json.loads(json.dumps(alone[0].to_row()))
    assert row["prompt"] == "Is it?\n(A) yes (B) no\nRecall:"
    assert row["provenance"]["iteration"] == 1 and row["provenance"]["rejected_draw"] in (1, 3, 4)


# ----------------------------------------------------------------------------------------------------------------- loss


def random_batch(seed, pairs=3, tokens=5):
    generator = torch.Generator().manual_seed(seed)

    def logprobs():
        return -3 * torch.rand(pairs, tokens, dtype=torch.float64, generator=generator)

    lengths_P = torch.randint(1, tokens + 1, (pairs,), generator=generator)
    mask_PT = torch.arange(tokens) < lengths_P[:, None]
    other_PT = torch.arange(tokens) < lengths_P.flip(0)[:, None]
    return [logprobs(), mask_PT, logprobs(), other_PT, logprobs().sum(-1), logprobs().sum(-1)]


def loss_of(batch, beta=0.5, alpha=0.5, pairs=None, tokens=None):
    sums = preference_sums(*batch, beta=beta)
    return preference_loss(
        sums,
        alpha=alpha,
        pairs=len(batch[0]) if pairs is None else pairs,
        chosen_tokens=int(batch[1].sum()) if tokens is None else tokens,
    )


def test_closed_forms():
    """One pair by hand: sums -3 and -4, reference -5 and -4, so the margin is 0.5 ((-3 + 5) - (-4 + 4)) = 1."""
    batch = [
        torch.tensor([[-1.0, -2.0]], dtype=torch.float64),
        torch.ones(1, 2, dtype=torch.bool),
        torch.tensor([[-4.0]], dtype=torch.float64),
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([-5.0], dtype=torch.float64),
        torch.tensor([-4.0], dtype=torch.float64),
    ]
    assert preference_sums(*batch, beta=0.5).margins_P.tolist() == [1.0]
    assert loss_of(batch).item() == pytest.approx(math.log1p(math.exp(-1)) + 0.5 * 3 / 2, abs=1e-12)
    same = [*batch[:4], batch[0].sum(-1), batch[2].sum(-1)]
    assert loss_of(same, alpha=0).item() == pytest.approx(math.log(2), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_equals_its_equations_written_out(seed):
    batch = random_batch(seed)
    chosen, mask, rejected, other, ref_chosen, ref_rejected = batch
    preference, nll = 0.0, 0.0
    for p in range(3):
        c = sum(chosen[p, t].item() for t in range(5) if mask[p, t])
        d = sum(rejected[p, t].item() for t in range(5) if other[p, t])
        margin = 0.3 * ((c - ref_chosen[p].item()) - (d - ref_rejected[p].item()))
        preference -= math.log(1 / (1 + math.exp(-margin)))
        nll -= c
    expected = preference / 3 + 0.7 * nll / int(mask.sum())
    assert loss_of(batch, beta=0.3, alpha=0.7).item() == pytest.approx(expected, abs=1e-12)


def test_padding_counts_for_nothing_whatever_stands_there():
    batch = random_batch(1)
    padded = [
        torch.nn.functional.pad(tensor, (0, 3), value=-math.inf)
        if tensor.dtype.is_floating_point and tensor.dim() == 2
        else torch.nn.functional.pad(tensor, (0, 3))
        if tensor.dim() == 2
        else tensor
        for tensor in batch
    ]
    padded[0].requires_grad_()
    loss = loss_of(padded)
    assert loss.item() == pytest.approx(loss_of(batch).item(), abs=1e-12)
    loss.backward()
    assert torch.isfinite(padded[0].grad).all() and not padded[0].grad[~padded[1]].any()


def test_shares_of_micro_batches_add_up_to_the_loss():
    batch = random_batch(2, pairs=5)
    tokens = int(batch[1].sum())
    parts = [
        loss_of([t[rows] for t in batch], pairs=5, tokens=tokens) for rows in (slice(0, 2), slice(2, 3), slice(3, 5))
    ]
    assert sum(parts).item() == pytest.approx(loss_of(batch).item(), abs=1e-12)


def test_gradients_equal_finite_differences():
    chosen, mask, rejected, other, *references = random_batch(3)
    chosen.requires_grad_()
    rejected.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda c, r: loss_of([c, mask, r, other, *references]), (chosen, rejected), eps=1e-6, atol=1e-8
    )


def test_a_hopeless_pair_has_a_finite_loss():
    batch = [t * 1e4 if t.dtype.is_floating_point else t for t in random_batch(4)]
    assert torch.isfinite(loss_of(batch))
