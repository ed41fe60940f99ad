r"""The boundary rule on tokenizers in which `{` merges with what follows: nothing of an answer is left unscored."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from thinker_common.likelihood.boundary import BoxSplit, encode_answer, split_response, writes_box

MERGES_WITH_BRACE = '\\-($"['
FAMILIES = ["gpt2", "qwen", "prefix_space", "llama2"]
FIRST_CHARACTERS = [*MERGES_WITH_BRACE, "7", "x", " "]


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def masked(ids: Sequence[int], mask: Sequence[bool]) -> list[int]:
    return [token for token, kept in zip(ids, mask, strict=True) if kept]


@pytest.mark.parametrize("family", ["gpt2", "qwen", "prefix_space"])
@pytest.mark.parametrize("first", MERGES_WITH_BRACE)
def test_the_tokenizers_have_the_trap(tokenizers, family, first):
    """Re-tokenizing and scoring from the prefix's length never scores the first character: -5 is scored as 5."""
    tokenizer = tokenizers[family]
    ids = encode(tokenizer, rf"so \boxed{{{first}5}}")
    assert decode(tokenizer, [ids[3]]) == "{" + first
    prefix = encode(tokenizer, r"so \boxed{")
    assert decode(tokenizer, ids[len(prefix) :]) == "5}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampled", ["5", *(f"{first}5" for first in MERGES_WITH_BRACE)])
@pytest.mark.parametrize("first", FIRST_CHARACTERS)
def test_every_character_of_the_answer_is_in_a_scored_token(tokenizers, family, sampled, first):
    """Whatever the policy sampled in the box: scored tokens spell the answer, also its first character."""
    tokenizer = tokenizers[family]
    response = encode(tokenizer, rf"so it is \boxed{{{sampled}}}. Done")
    split = split_response(tokenizer, response, truncated=False)
    assert split.well_formed and split.answer_text == sampled
    reasoning = response[: split.reasoning_length]
    before = decode(tokenizer, reasoning)
    assert before.lstrip() + split.opening == r"so it is \boxed{"

    answer, rest = f"{first}5", "5"
    encoded, encoded_rest = (encode_answer(tokenizer, text, opening=split.opening) for text in (answer, rest))
    # In place: after the sampled reasoning, the tokens read as the response with its answer replaced.
    assert decode(tokenizer, [*reasoning, *encoded.ids]).lstrip() == rf"so it is \boxed{{{answer}}}"
    # Nothing before the answer is left out, and nothing of it: all tokens are scored.
    assert all(a or c for a, c in zip(encoded.answer_mask, encoded.closing_mask, strict=True))
    scored = decode(tokenizer, [*reasoning, *masked(encoded.ids, encoded.answer_mask)])[len(before) :]
    assert scored.startswith(split.opening + answer)
    closing = masked(encoded.ids, encoded.closing_mask)
    assert decode(tokenizer, closing).endswith("}")
    # So the two answers are different events.
    assert encoded.ids != encoded_rest.ids


def test_tokens_of_the_merged_and_the_plain_case(tokenizers):
    tokenizer = tokenizers["gpt2"]
    names = tokenizer.convert_ids_to_tokens
    merged = encode_answer(tokenizer, "-5", opening="{")
    assert names(merged.ids) == ["{-", "5", "}"]
    assert merged.answer_mask == (True, True, False) and merged.closing_mask == (False, False, True)
    plain = encode_answer(tokenizer, "-5")
    assert names(plain.ids) == ["-", "5", "}"]
    fraction = encode_answer(tokenizer, r"\frac{1}{2}")
    assert names(fraction.ids)[-1] == "}}"  # the answer's own last brace merges with the closing one: in both masks
    assert fraction.answer_mask[-1] and fraction.closing_mask == (False,) * (len(fraction.ids) - 1) + (True,)
    unclosed = encode_answer(tokenizer, "-5", closing="")
    assert names(unclosed.ids) == ["-", "5"] and unclosed.closing_mask == (False, False)


def test_digits_stay_single_where_the_tokenizer_splits_them(tokenizers):
    ids = encode_answer(tokenizers["qwen"], "1234", opening="{").ids
    assert tokenizers["qwen"].convert_ids_to_tokens(ids) == ["{", "1", "2", "3", "4", "}"]


@pytest.mark.parametrize("family", ["prefix_space", "llama2"])
@pytest.mark.parametrize("answer", ["5", "x", "-5", " 5", "\nx", "中"])
def test_no_space_is_put_before_the_answer(tokenizers, family, answer):
    tokenizer = tokenizers[family]
    reasoning = encode(tokenizer, r"so \boxed{")
    # The trap exists: on its own the answer would be read with a space before it.
    assert decode(tokenizer, [*reasoning, *encode(tokenizer, answer)]).lstrip().startswith(r"so \boxed{ ")
    encoded = encode_answer(tokenizer, answer)
    assert decode(tokenizer, [*reasoning, *encoded.ids]).lstrip() == rf"so \boxed{{{answer}}}"


def test_normalised_answers_keep_their_masks(tokenizers):
    """Qwen's tokenizers compose characters: the text that comes back is shorter than the one that went in."""
    encoded = encode_answer(tokenizers["qwen"], "nai\u0308ve")
    assert decode(tokenizers["qwen"], masked(encoded.ids, encoded.answer_mask)) == "na\u00efve"
    assert decode(tokenizers["qwen"], masked(encoded.ids, encoded.closing_mask)) == "}"


TEXT = st.text(st.sampled_from('ab 1{}\\-$("[.\néî中🙂�') | st.characters(exclude_categories=["Cs"]), max_size=12)


def pieces_of_a_response():
    """Texts that are tokenized one by one, as a policy may sample other tokens than the tokenizer would choose."""
    content = st.sampled_from(
        [r"\boxed{", r"\boxed{-", r"\boxed", "{", "{-", "}", "}}", "-5}", r"{\frac{1}", " ", "🙂"]
    )
    return st.lists(TEXT | content, max_size=8)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None)
@given(pieces=pieces_of_a_response())
@example(pieces=["so ", r"\boxed", "{-", "5}"])
@example(pieces=["🙂", r"\boxed{", "🙂", "}"])
def test_split_is_a_prefix_of_the_sampled_tokens(tokenizers, family, pieces):
    tokenizer = tokenizers[family]
    response = [token for piece in pieces for token in encode(tokenizer, piece)]
    text = decode(tokenizer, response)
    split = split_response(tokenizer, response, truncated=False)
    if r"\boxed{" not in text:
        assert split == BoxSplit(len(response), "", "", "no_box")
        return
    reasoning, box, rest = text.rpartition(r"\boxed{")
    kept = decode(tokenizer, response[: split.reasoning_length])
    assert kept + split.opening == reasoning + box
    # y_R is as long as it can be: with one token more it would hold something after the `{`.
    assert split.opening == "" or not (reasoning + box).startswith(
        decode(tokenizer, response[: split.reasoning_length + 1])
    )
    if split.reason != "unbalanced":
        assert rest.startswith(split.answer_text + "}")
        assert split.answer_text.count("{") == split.answer_text.count("}")


def balanced_answers():
    leaf = st.text(st.sampled_from('\\-($"[157x .,)]'), min_size=1, max_size=4)
    return st.recursive(leaf, lambda inner: st.builds("{}{{{}}}".format, leaf, inner), max_leaves=3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("opening", ["", "{", "d{"])
@settings(max_examples=80, deadline=None)
@given(answers=st.lists(balanced_answers(), min_size=2, max_size=12, unique=True))
def test_answers_are_disjoint_continuations(tokenizers, family, opening, answers):
    """No answer's tokens are a prefix of another's, and all start at one place: probabilities sum to at most 1."""
    sequences = sorted(encode_answer(tokenizers[family], answer, opening=opening).ids for answer in answers)
    for first, second in pairwise(sequences):
        assert second[: len(first)] != first


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("text", "truncated", "reason", "answer"),
    [
        (r"so \boxed{5}", False, None, "5"),
        (r"so \boxed{\frac{1}{2}} and more", False, None, r"\frac{1}{2}"),
        (r"so \boxed{1}. No, wait: \boxed{2}", False, None, "2"),
        (r"so \boxed{1}. No, wait: \boxed{2", False, "unbalanced", ""),
        (r"so \boxed{\frac{1}{2}", False, "unbalanced", ""),
        ("so it is 5", False, "no_box", ""),
        ("so it is 5", True, "truncated", ""),
        (r"so \boxed{5} and then", True, "truncated", "5"),
        (r"so \boxed{}", False, "empty_answer", ""),
        (r"so \boxed{  }", False, "empty_answer", "  "),
        (r"\boxed{5}", False, "empty_reasoning", "5"),
        ("\n\n" + r"\boxed{5}", False, "empty_reasoning", "5"),
        ("", False, "no_box", ""),
    ],
)
def test_what_is_malformed_is_named(tokenizers, family, text, truncated, reason, answer):
    tokenizer = tokenizers[family]
    split = split_response(tokenizer, encode(tokenizer, text), truncated=truncated)
    assert (split.reason, split.answer_text) == (reason, answer)
    assert split.well_formed is (reason is None)


def test_end_of_sequence_token_may_follow(tokenizers):
    tokenizer = tokenizers["gpt2"]
    response = [*encode(tokenizer, r"so \boxed{5}"), tokenizer.eos_token_id]
    assert split_response(tokenizer, response, truncated=False).answer_text == "5"
    assert split_response(tokenizer, response[-1:], truncated=False).reason == "no_box"


def bytes_tokenizer(extra_merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Every byte is a token, but for the given merges."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in extra_merges]
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, extra_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def byte_symbols(text: str) -> list[str]:
    [(symbols, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    return list(symbols)


def test_brace_that_merges_with_half_a_character():
    r"""`{` plus the first byte of é is one token: y_R must end before it, though decoding it shows no é yet."""
    first_byte = byte_symbols("é")[0]
    tokenizer = bytes_tokenizer([("{", first_byte)])
    response = encode(tokenizer, r"so \boxed{é}")
    split = split_response(tokenizer, response, truncated=False)
    assert (split.opening, split.answer_text) == ("{", "é")
    assert decode(tokenizer, response[: split.reasoning_length]) == r"so \boxed"
    encoded = encode_answer(tokenizer, "é", opening="{")
    assert tokenizer.convert_ids_to_tokens(encoded.ids) == ["{" + first_byte, byte_symbols("é")[1], "}"]
    assert encoded.answer_mask == (True, True, False)


def test_whole_box_in_one_token_after_half_a_character():
    r"""The token with the `{` starts inside a character: the opening takes the whole character and y_R ends before it."""
    half = byte_symbols("é")[1]
    merges, merged = [], half
    for symbol in byte_symbols(r"\boxed{-"):
        merges.append((merged, symbol))
        merged += symbol
    tokenizer = bytes_tokenizer(merges)
    response = encode(tokenizer, r"so é\boxed{-5}")
    assert merged in tokenizer.convert_ids_to_tokens(response)
    split = split_response(tokenizer, response, truncated=False)
    assert decode(tokenizer, response[: split.reasoning_length]) == "so "
    assert split.opening == r"é\boxed{"


def test_closing_brace_that_merges_with_the_last_byte_of_the_answer():
    last_byte = byte_symbols("é")[1]
    tokenizer = bytes_tokenizer([(last_byte, "}")])
    encoded = encode_answer(tokenizer, "é")
    assert tokenizer.convert_ids_to_tokens(encoded.ids) == [byte_symbols("é")[0], last_byte + "}"]
    assert encoded.answer_mask == (True, True) and encoded.closing_mask == (False, True)


def test_answers_without_tokens_are_refused(tokenizers):
    with pytest.raises(ValueError, match="empty answer"):
        encode_answer(tokenizers["gpt2"], "")


def test_answers_the_tokenizer_cannot_represent_are_refused():
    vocabulary = {"<unk>": 0, "a": 1, "}": 2, "0": 3, "\n": 4}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert encode_answer(tokenizer, "a").ids == (1, 2)
    with pytest.raises(ValueError, match="cannot represent the answer 'b'"):
        encode_answer(tokenizer, "b")


def test_tokenizers_that_cannot_write_a_box_are_known(tokenizers, t5_style):
    assert all(writes_box(tokenizer) for tokenizer in tokenizers.values())
    assert not writes_box(t5_style)
    # Without a token for the unknown, WordPiece and Unigram refuse; a BPE drops what it has no piece for.
    bpe = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"b": 0, "o": 1, "x": 2, "e": 3, "d": 4}, [])))
    assert not writes_box(bpe)
