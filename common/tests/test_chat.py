"""Prompts: templates are filled once, and a chat template's default system turn does not get in."""

import copy

import pytest
from tokenizers import processors

from thinker_common.errors import SettingsError
from thinker_common.models.chat import (
    CONDITIONED_TEMPLATE,
    INSTRUCTION,
    PROMPT_TEMPLATE,
    fill,
    render_prompt,
    render_prompts,
)

# The parts of the three families' templates that write turns; tools and assistant turns are left out.
QWEN = """
{%- if messages[0]['role'] == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA32 = """
{{- bos_token }}
{%- set date_string = "26 Jul 2024" %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
THINKING = SMOLLM2.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n'")
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>user\n' + message['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = "{{ bos_token }}{% for message in messages %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% endfor %}"

CHATML_PROMPT = "<|im_start|>user\n2+2? <|im_end|>\n<|im_start|>assistant\n"
EXPECTED = {
    QWEN: CHATML_PROMPT,
    SMOLLM2: CHATML_PROMPT,
    THINKING: CHATML_PROMPT + "<think>\n",
    LLAMA32: "<eos><|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    GEMMA: "<eos><start_of_turn>user\n2+2?<end_of_turn>\n<start_of_turn>model\n",
    MISTRAL: "<eos>[INST] 2+2?  [/INST]",
}


@pytest.fixture
def tokenizer(tokenizers):
    """The GPT-2 style tokenizer with its end-of-sequence token in the role of the beginning one too, as in GPT-2."""
    tokenizer = tokenizers["gpt2"]
    tokenizer.bos_token = "<eos>"
    yield tokenizer
    tokenizer.chat_template = None
    tokenizer.bos_token = None


@pytest.mark.parametrize("template", EXPECTED, ids=["qwen2.5", "smollm2", "thinking", "llama3.2", "gemma", "mistral"])
def test_no_default_system_turn(tokenizer, template):
    tokenizer.chat_template = template
    assert tokenizer.decode(render_prompt(tokenizer, "2+2? ")) == EXPECTED[template]
    prefixed = render_prompt(tokenizer, "2+2? ", assistant_prefix="\\boxed{4}\n")
    assert tokenizer.decode(prefixed) == EXPECTED[template] + "\\boxed{4}\n"


@pytest.mark.parametrize("question", ["<|im_start|>system\n", "<|im_start|>user\n", "USER-TURN-GOES-HERE", "{{ x }}"])
def test_turn_headers_in_the_question_stay(tokenizer, question):
    tokenizer.chat_template = SMOLLM2
    ids = render_prompt(tokenizer, question)
    assert tokenizer.decode(ids) == f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("chat_template", ["auto", "none"])
def test_plain_text_without_a_chat_template(tokenizer, chat_template):
    tokenizer.chat_template = None if chat_template == "auto" else SMOLLM2
    ids = render_prompt(tokenizer, "2+2?", chat_template=chat_template, assistant_prefix="so ")
    assert tokenizer.decode(ids) == "2+2?\nso "


@pytest.mark.parametrize("with_eos", [False, True])
def test_plain_text_begins_as_the_tokenizer_begins_a_text(tokenizers, with_eos):
    """With the beginning-of-sequence token where the tokenizer adds one; never with an end-of-sequence token."""
    tokenizer = copy.deepcopy(tokenizers["llama2"])
    template = "<s> $A </s>" if with_eos else "<s> $A"
    special = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    ids = render_prompt(tokenizer, "2+2?")
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("template", [None, *EXPECTED], ids=lambda template: "plain" if template is None else "")
def test_many_at_once_are_what_each_is(tokenizer, template):
    tokenizer.chat_template = template
    questions = ["2+2? ", "<|im_start|>system\n", "USER-TURN-GOES-HERE", "é ∑", "2+2? "]
    each = [render_prompt(tokenizer, question, assistant_prefix="so") for question in questions]
    assert render_prompts(tokenizer, questions, assistant_prefix="so") == each
    assert render_prompts(tokenizer, []) == []


def test_a_head_that_changes_is_found_again(tokenizer, monkeypatch):
    """Llama 3.2's template has the date in it: a run may go past midnight."""
    days = iter(["1 May", "1 May", "1 May", "2 May", "2 May", "2 May", "2 May"])
    tokenizer.chat_template = LLAMA32.replace('"26 Jul 2024"', "day")
    apply = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: apply(*a, day=next(days), **k))
    for _ in range(3):
        assert tokenizer.decode(render_prompt(tokenizer, "2+2?")) == EXPECTED[LLAMA32]


def test_template_from_a_file(tokenizer, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text("Q: {{ messages[0]['content'] }}\nA:")
    assert tokenizer.decode(render_prompt(tokenizer, "2+2?", chat_template=str(path))) == "Q: 2+2?\nA:"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"chat_template = '.*chat.jinja': neither auto nor none, nor a file that can be read"),
        ("{% for message in messages %}", "the chat template fails: Unexpected end of template"),
        ("{{ raise_exception('no user turns') }}", "the chat template fails: no user turns"),
        ("{{ ''.__class__.__mro__ }}", "the chat template fails: .*unsafe"),
        ("Hello", "the chat template leaves out the user's text"),
    ],
)
def test_bad_template_files(tokenizer, tmp_path, template, message):
    path = tmp_path / "chat.jinja"
    if template is not None:
        path.write_text(template)
    with pytest.raises(SettingsError, match=message):
        render_prompt(tokenizer, "2+2?", chat_template=str(path))


def test_fill():
    assert fill(PROMPT_TEMPLATE, question="2+2?") == f"2+2? {INSTRUCTION}"
    assert fill(CONDITIONED_TEMPLATE, question="2+2?", answer=r"\frac{8}{2}") == (
        r"2+2? Please reason step by step given the final answer within \boxed{}. \boxed{\frac{8}{2}}"
    )
    # Braces and placeholders in what is put in are left alone.
    assert (
        fill("{question}|{answer}", question="{answer} {0} {x}", answer="{question}") == "{answer} {0} {x}|{question}"
    )


def test_fill_refuses_templates_that_lack_or_leak():
    with pytest.raises(SettingsError, match=r"has no \{question\}"):
        fill("Solve it.", question="2+2?")
    with pytest.raises(SettingsError, match=r"asks for \{answer\}"):
        fill("{question} {answer}", question="2+2?")
