r"""From a question to the token ids of a prompt: templates of the texts, and the chat template around them.

Setting `chat_template`: "auto" (the tokenizer's own; plain text if it has none), "none" (plain text), or the path of a
Jinja file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from ..errors import SettingsError
from ..likelihood.boundary import encode_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = r"Please reason step by step, and put your final answer within \boxed{}."
PROMPT_TEMPLATE = r"{question} Please reason step by step, and put your final answer within \boxed{}."
# The answer-conditioned prompt of GeneralThinker (arXiv 2605.27934, Tab. 9).
CONDITIONED_TEMPLATE = r"{question} Please reason step by step given the final answer within \boxed{}. \boxed{{answer}}"

_MARKER = "USER-TURN-GOES-HERE"
# What `_head` found, by tokenizer and template: it takes twice as long as the rest of a prompt.
_HEADS: WeakKeyDictionary[PreTrainedTokenizerBase, dict[str, tuple[str, str]]] = WeakKeyDictionary()


def fill(template: str, *, question: str, answer: str | None = None) -> str:
    """Replace `{question}` and `{answer}` in the template, and nothing else: templates and questions hold other braces.

    What is put in is not looked at again, so a question may contain the text "{answer}".

    Raises:
        SettingsError: a template without `{question}`, or with `{answer}` where there is no answer to give.
    """
    if "{question}" not in template:
        raise SettingsError(f"the prompt template {template!r} has no {{question}}")
    if answer is None and "{answer}" in template:
        raise SettingsError(f"the prompt template {template!r} asks for {{answer}}, which a plain prompt must not show")
    return re.sub(r"\{(question|answer)\}", lambda m: question if m[1] == "question" else str(answer), template)


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, user_text: str, *, chat_template: str = "auto", assistant_prefix: str = ""
) -> list[int]:
    """Token ids of the user turn, the start of the assistant's turn, and `assistant_prefix` in it.

    No system turn: the default one that many templates insert (Qwen 2.5, SmolLM2, Llama 3.2) is cut out. Without a chat
    template: the user's text, a line break and the prefix, after the tokenizer's beginning-of-sequence token if it adds
    one by itself.

    Raises:
        SettingsError: a template file that cannot be read, a template that fails, or one that leaves out the user turn.
    """
    [ids] = render_prompts(tokenizer, [user_text], chat_template=chat_template, assistant_prefix=assistant_prefix)
    return ids


def render_prompts(
    tokenizer: PreTrainedTokenizerBase,
    user_texts: Sequence[str],
    *,
    chat_template: str = "auto",
    assistant_prefix: str = "",
) -> list[list[int]]:
    """As `render_prompt`, of many texts in less time."""
    template = _template_text(tokenizer, chat_template)
    if template is None:
        return [encode_start(tokenizer, f"{user_text}\n{assistant_prefix}") for user_text in user_texts]
    prompts = [_prompt(tokenizer, template, user_text) + assistant_prefix for user_text in user_texts]
    # The template writes its own beginning-of-sequence token. Not verbose: it would warn of a prompt that is too long,
    # which is for the caller to refuse.
    return tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"] if prompts else []


def _prompt(tokenizer: PreTrainedTokenizerBase, template: str, user_text: str) -> str:
    """The user turn and the start of the assistant's, without a system turn."""
    text = _render(tokenizer, template, user_text, add_generation_prompt=True)
    heads = _HEADS.setdefault(tokenizer, {})
    if template not in heads or not text.startswith(heads[template][0]):  # new, or the date in it has changed
        heads[template] = _head(tokenizer, template)
    head, kept_head = heads[template]
    assert text.startswith(head), "what precedes the user's text does not depend on it"
    return kept_head + text[len(head) :]


def _template_text(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> str | None:
    if chat_template == "none":
        return None
    if chat_template == "auto":
        return None if tokenizer.chat_template is None else tokenizer.get_chat_template()
    try:
        return Path(chat_template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"chat_template = {chat_template!r}: neither auto nor none, nor a file that can be read ({error})"
        ) from error


def _head(tokenizer: PreTrainedTokenizerBase, template: str) -> tuple[str, str]:
    """What the template puts before the user's text, and the same without a system turn.

    Turns are found by their headers: the generation prompt is the assistant's header, and the other roles' are that
    with another name. Templates without named roles (Mistral) or with other names (Gemma) insert no system turn.
    """
    turn = _render(tokenizer, template, _MARKER, add_generation_prompt=False)
    generation_prompt = _render(tokenizer, template, _MARKER, add_generation_prompt=True).removeprefix(turn)
    if _MARKER not in turn:
        raise SettingsError("the chat template leaves out the user's text")
    head = turn[: turn.index(_MARKER)]
    before_role, role, after_role = generation_prompt.partition("assistant")
    if not role:
        return head, head
    system_header, user_header = (before_role + name + after_role[:1] for name in ("system", "user"))
    if system_header not in head or user_header not in head:
        return head, head
    return head, head[: head.index(system_header)] + head[head.rindex(user_header) :]


def _render(tokenizer: PreTrainedTokenizerBase, template: str, user_text: str, *, add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": user_text}],
            chat_template=template,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
    except TemplateError as error:
        raise SettingsError(f"the chat template fails: {error}") from error
    assert isinstance(text, str)
    return text
