"""Tokens as a reader sees them."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from .._common import printable

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text that every token adds to those before it, without control characters.

    A token on its own would lose the space before it under SentencePiece. One that ends inside a character of several
    bytes shows a replacement character, and the one that finishes it shows the character.
    """
    texts = []
    before = ""
    for count in range(1, len(ids) + 1):
        whole = _decode(tokenizer, ids[:count])
        finished = whole.rstrip(UNFINISHED)
        if finished.startswith(before):
            texts.append(finished[len(before) :] or UNFINISHED)
            before = finished
        else:  # a tokenizer that goes back on its text
            texts.append(_decode(tokenizer, ids[count - 1 : count]))
            before = whole
    return [printable(text) for text in texts]


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
