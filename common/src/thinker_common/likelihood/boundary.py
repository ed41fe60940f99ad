r"""Where an answer begins inside a response, and which tokens it has there: the one boundary rule.

The score of a reference answer `a*` after the reasoning of a sampled response is

    log p(a* } | prompt, y_R)        y_R: the response up to and including the `{` of its last `\boxed{`

The trap. Joining the texts, tokenizing the whole and scoring from `len(tokenize(reasoning))` on is wrong, silently. A
byte-level BPE has tokens such as `{-`, `{\`, `{(`, `{$` and `{"`, so that

    `\boxed{-5}`  is  `\` `boxed` `{-` `5` `}`
    `\boxed{`     is  `\` `boxed` `{`

Both have three tokens before the fourth, from which scoring starts: the minus sign is never scored, and -5 gets the
score of 5. Tokenizing the sampled reasoning anew may moreover give other tokens than the policy produced.

The rule.

1. The reasoning is the sampled token ids, untouched: a prefix of them.
2. If the token that holds the `{` ends with it, y_R ends with that token, and answer + `}` is encoded on its own
   (`opening` is empty).
3. If that token holds later characters too (`{-`), y_R ends *before* it. What the token holds up to and including the
   `{` is the `opening`; opening + answer + `}` is encoded together.
4. Every token of what was encoded is scored: those of the opening as well, since y_R does not contain it.

Which of 2 and 3 applies depends on the response alone, never on the answer that is scored; and in case 3 the opening is
scored for all answers alike. So after one y_R the answers are scored as disjoint continuations, and the probabilities
of any set of answers with matching braces sum to at most 1. (Ending y_R early only for the answers that merge with `{`
would let them sum to up to 2.)

"Encoded on its own" means as in the middle of a text: tokenizers that put a space in front of every text
(SentencePiece, Llama 2) would otherwise turn `\boxed{5}` into `\boxed{ 5}`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BOX = r"\boxed{"

Malformation = Literal["truncated", "no_box", "unbalanced", "empty_answer", "empty_reasoning"]


@dataclass(frozen=True, slots=True)
class BoxSplit:
    r"""A response cut at its last `\boxed{`.

    reasoning_length: tokens of the response that are y_R; all of them if there is no box.
    opening: text to encode in front of the answer, because y_R ends before the token that holds it.
    answer_text: what the box holds, as it stands; empty if there is no closed box.
    reason: why the response is malformed, None if it is well-formed.
    """

    reasoning_length: int
    opening: str
    answer_text: str
    reason: Malformation | None

    @property
    def well_formed(self) -> bool:
        return self.reason is None


@dataclass(frozen=True, slots=True)
class EncodedAnswer:
    """Tokens that follow y_R. A token that merges the end of the answer with the closing is in both masks.

    answer_mask: tokens that hold characters of the opening or of the answer.
    closing_mask: tokens that hold characters of the closing.
    """

    ids: tuple[int, ...]
    answer_mask: tuple[bool, ...]
    closing_mask: tuple[bool, ...]


def split_response(tokenizer: PreTrainedTokenizerBase, response_ids: Sequence[int], *, truncated: bool) -> BoxSplit:
    r"""Cut a sampled response at its last `\boxed{`, by the rule at the top of this file.

    Args:
        response_ids: the sampled tokens, without padding; an end-of-sequence token may be among them.
        truncated: generation stopped at its length limit.

    The last `\boxed{` counts, even if it is never closed and an earlier one is; braces are matched by counting. The
    `reason` is the first of these that holds: truncated; no_box; unbalanced (never closed); empty_answer and
    empty_reasoning (nothing but white space in the box, before the box).
    """
    text = _decode(tokenizer, response_ids)
    box = text.rfind(BOX)
    if box < 0:
        return BoxSplit(len(response_ids), "", "", "truncated" if truncated else "no_box")

    content = box + len(BOX)
    # Tokens up to and including the one that holds the `{`.
    length = _tokens_covering(tokenizer, response_ids, text[:content])
    opening = ""
    if _decode(tokenizer, response_ids[:length]) != text[:content]:
        # That token holds later characters (or the first bytes of one), so y_R ends before it, and before any token
        # that shares a multi-byte character with it: the opening must be whole characters.
        length -= 1
        while not text.startswith(_decode(tokenizer, response_ids[:length])):
            length -= 1
        opening = text[len(_decode(tokenizer, response_ids[:length])) : content]

    end = closing_brace(text, content)
    answer_text = "" if end is None else text[content:end]
    reason: Malformation | None = None
    if truncated:
        reason = "truncated"
    elif end is None:
        reason = "unbalanced"
    elif not answer_text.strip():
        reason = "empty_answer"
    elif not text[:box].strip():
        reason = "empty_reasoning"
    return BoxSplit(length, opening, answer_text, reason)


def encode_answer(
    tokenizer: PreTrainedTokenizerBase, answer: str, *, opening: str = "", closing: str = "}", at_start: bool = False
) -> EncodedAnswer:
    """The tokens of opening + answer + closing in the middle of a text, right after a token boundary.

    Args:
        opening: `BoxSplit.opening` of the response that the answer is scored after.
        closing: what ends the answer; empty if nothing does.
        at_start: the answer starts the text instead, as the output of an encoder-decoder model does.

    Raises:
        ValueError: an answer without tokens, or one that the tokenizer cannot represent.
    """
    if not answer:
        raise ValueError("an empty answer has no tokens to score")
    whole = opening + answer + closing
    anchor_ids, ids = ([], _encode(tokenizer, whole)) if at_start else _anchored(tokenizer, whole)
    if tokenizer.unk_token_id in ids:
        raise ValueError(f"the tokenizer cannot represent the answer {answer!r}: it becomes {tokenizer.unk_token}")
    # The text as the tokenizer has it: it may normalise Unicode, so that only the ends are surely as given.
    text = _decode(tokenizer, anchor_ids + ids)
    if not ids or not text.endswith(closing):
        raise ValueError(f"the tokenizer does not reproduce the answer {answer!r}: it becomes {text!r}")

    before_closing = text[: len(text) - len(closing)]
    first_closing = len(ids)
    if closing:
        covering = _tokens_covering(tokenizer, anchor_ids + ids, text[: len(before_closing) + 1])
        first_closing = covering - 1 - len(anchor_ids)
    merged = first_closing < len(ids) and _decode(tokenizer, anchor_ids + ids[:first_closing]) != before_closing
    if first_closing + merged == 0:
        raise ValueError(f"the answer {answer!r} has no tokens to score")
    return EncodedAnswer(
        ids=tuple(ids),
        answer_mask=tuple(i < first_closing + merged for i in range(len(ids))),
        closing_mask=tuple(i >= first_closing for i in range(len(ids))),
    )


def writes_box(tokenizer: PreTrainedTokenizerBase) -> bool:
    r"""Whether the tokenizer has the characters of `\boxed{}`: T5's has neither backslash nor braces."""
    ids = _encode(tokenizer, BOX + "}")
    return tokenizer.unk_token_id not in ids and set(BOX + "}") <= set(_decode(tokenizer, ids))


def encode_output_start(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that starts the output of an encoder-decoder model: no special tokens."""
    return _encode(tokenizer, text)


def encode_mid_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that goes on from a token boundary: no special tokens, and no space put before it."""
    return _anchored(tokenizer, text)[1]


def encode_start(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text that starts a sequence: after the beginning-of-sequence token if the tokenizer adds one by itself.

    An end-of-sequence token, which some tokenizers add as well, is left out: the sequence goes on.
    """
    ids = _encode(tokenizer, text)
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and tokenizer("0")["input_ids"][0] == bos
    return [bos, *ids] if adds_bos and ids[:1] != [bos] else ids


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before `start`."""
    depth = 1
    for index in range(start, len(text)):
        if text[index] == "{":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    return None


def _tokens_covering(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], prefix: str) -> int:
    """How many of the ids, at least, it takes for their text to begin with `prefix`, a prefix of their whole text.

    Decoding is the only source of truth here: offsets of tokenizers leave out spaces, and characters of several bytes
    may be split over tokens. A prefix that ends in an ASCII character settles all bytes before it, so that more tokens
    never take it back and the count can be bisected.
    """
    return bisect_left(range(len(ids)), True, key=lambda n: _decode(tokenizer, ids[:n]).startswith(prefix))


def _anchored(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """(anchor_ids, ids): the ids of `text` in the middle of a text, and of what had to stand before it to get them.

    Tokenizers that leave the start of a text alone need no such anchor.
    """
    newline_ids = _encode(tokenizer, "\n")
    if _decode(tokenizer, newline_ids + _encode(tokenizer, "0")) == _decode(tokenizer, newline_ids) + "0":
        return [], _encode(tokenizer, text)
    for anchor in ("\n", "=", "0"):
        anchor_ids = _encode(tokenizer, anchor)
        ids = _encode(tokenizer, anchor + text)
        if ids[: len(anchor_ids)] == anchor_ids:  # the anchor does not merge with the text
            return anchor_ids, ids[len(anchor_ids) :]
    raise ValueError(f"the tokenizer merges {text!r} with whatever stands before it")


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
