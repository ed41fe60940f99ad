"""Malformed input to `thinker`: exit code 2, one or two exact lines on stderr, no traceback, and nothing half-written."""

import builtins
import errno
import io
import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel

from thinker_common.cli.app import run
from thinker_common.cli.main import app
from thinker_common.models.embedded import embedded_path

USAGE = "`thinker --help` and `thinker VERB --help` say more"
ROW = '{"prompt": "1 + 1 =", "answer": " 2", "question": "1 + 1?"}\n'
SCORES_OF_OTHERS = '{"settings": {"scores": 1, "closing": "token"}}\n{"id": 1, "scores": []}\n'
FILES = {
    # rows
    "good.jsonl": "".join(json.dumps({"prompt": f"{i} + 1 =", "answers": [" 2", " 3"], "question": f"{i} + 1?", "answer": None}) + "\n" for i in range(4)),
    "not_utf8.jsonl": ROW.encode() + b'{"prompt": "f\xfcnf", "answer": "5"}\n',
    "gzip.jsonl": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "broken.jsonl": ROW + '{"prompt": "1 + 2 =" "answer": " 3"}\n',
    "cut.jsonl": ROW + '{"prompt": "1 + 2 =", "ans',
    "list.jsonl": '["1 + 1 =", " 2"]\n',
    "array.json": '[\n  {"prompt": "1 + 1 =", "answer": " 2"}\n]\n',
    "deep.jsonl": '{"prompt": ' + "[" * 200_000 + "\n",
    "digits.jsonl": '{"prompt": ' + "1" * 10_000 + ', "answer": "2"}\n',
    "no_prompt.jsonl": ROW + '{"answer": " 2", "text": "1 + 1 ="}\n',
    "null_prompt.jsonl": ROW + '{"prompt": null, "answer": " 2"}\n',
    "empty_prompt.jsonl": '{"prompt": "", "answer": " 2"}\n',
    "number_prompt.jsonl": '{"prompt": 11, "answer": " 2"}\n',
    "chat_prompt.jsonl": '{"prompt": [{"role": "user", "content": "1 + 1?"}], "answer": " 2"}\n',
    "no_answer.jsonl": ROW + '{"prompt": "1 + 1 ="}\n',
    "empty_answer.jsonl": '{"prompt": "1 + 1 =", "answer": ""}\n',
    "number_answer.jsonl": '{"prompt": "1 + 1 =", "answer": 2}\n',
    "both.jsonl": '{"prompt": "1 + 1 =", "answer": " 2", "answers": [" 2", " 3"]}\n',
    "no_answers.jsonl": '{"prompt": "1 + 1 =", "answers": []}\n',
    "text_answers.jsonl": '{"prompt": "1 + 1 =", "answers": "23"}\n',
    "odd_answers.jsonl": '{"prompt": "1 + 1 =", "answers": [" 2", null]}\n',
    "blank_answers.jsonl": '{"prompt": "1 + 1 =", "answers": [" 2", ""]}\n',
    "odd_reasoning.jsonl": '{"prompt": "1 + 1 =", "answer": " 2", "reasoning": ["a", "b"]}\n',
    "odd_suffix.jsonl": '{"prompt": "1 + 1 =", "answer": " 2", "suffix": true}\n',
    "same_id.jsonl": '{"id": "a", "prompt": "1 + 1 =", "answer": " 2"}\n{"id": "a", "prompt": "1 + 2 =", "answer": " 3"}\n',
    "odd_id.jsonl": '{"id": 1.5, "prompt": "1 + 1 =", "answer": " 2"}\n',
    "half.jsonl": '{"prompt": "smile \\ud83d", "answer": " 2", "question": "smile \\ud83d"}\n',
    "half_answer.jsonl": '{"prompt": "smile", "answer": " \\ude00"}\n',
    "long.jsonl": ROW + json.dumps({"prompt": "1 + " * 2000, "answer": " 2"}) + "\n",
    "empty.jsonl": "",
    "blank.jsonl": "\n \n",
    # templates, outputs and what else lies about
    "broken.jinja": "{% if %}",
    "silent.jinja": "{{ bos_token }}",
    "others.jsonl": SCORES_OF_OTHERS,
    "generations.jsonl": '{"settings": {"benchmark": "gsm8k"}}\n',
    "broken_scores.jsonl": '{"settings": {"scores": 1}}\n{"id": 1, "sco\n{"id": 2, "scores": []}\n',
    "twice_scores.jsonl": '{"settings": {"scores": 1}}\n{"id": 1, "scores": []}\n{"id": 1, "scores": []}\n',
    "no_line_break.json": '{"notes": "mine"}',
    "full/notes.txt": "mine",
    "held/config.yaml": "",
    "file": "",
    # benchmarks
    "chains.jsonl": '{"question": "1 + 1?", "answer": "2"}\n',
    "data/readme.txt": "",
    "no_rows/gsm8k_aug/test.txt": "\n",
    "columns/gsm8k/test.jsonl": '{"problem": "1 + 1?", "solution": "#### 2"}\n',
    "cut_data/gsm8k/test.jsonl": '{"question": "1 + 1?", "answer": "#### 2"}\n{"question": "1 + 2?", "ans',
    "csv/gpqa/gpqa_main.csv": "Record ID,Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3\nrec1,Q\n",
}  # fmt: skip


def score(file, *arguments, model="embedded"):
    return ["score", file, "--model", model, "--output", "scores.jsonl", *arguments]


def evaluate(*arguments, model="embedded"):
    return ["evaluate", model, "--limit", "2", "--max-new-tokens", "8", "--output", "out", *arguments]


def benchmarks(*arguments):
    return ["benchmarks", *arguments]


def export(model, out="out"):
    return ["export", model, out]


# --- models that are broken in one way each -----------------------------------------------------------------------------


def safetensors_file(header, data=b"", length=None):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + data


def byte_tokenizer(first=0, without=""):
    """One token a byte, as in ours, with ids from `first` on."""
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(without))
    alphabet = {letter: first + index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str().encode()


def broken_models():
    """Folder -> file -> its content; None removes the file. Everything else is the embedded model."""
    weights = (embedded_path() / "model.safetensors").read_bytes()
    config = json.loads((embedded_path() / "config.json").read_text())
    head_size = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + head_size])
    names = sorted(name for name in header if name != "__metadata__")
    lacking = {name: entry for name, entry in header.items() if name != names[-1]}
    beyond = {**header, names[0]: {**header[names[0]], "data_offsets": [0, 2**62]}}
    negative = {"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "./nowhere", "r": 1, "target_modules": ["q_proj"]}
    only_adapter = dict.fromkeys(("config.json", "model.safetensors"))
    index = {"weight_map": {names[0]: "model-00001-of-00002.safetensors", names[1]: "model-00002-of-00002.safetensors"}}
    return {
        "no_weights": {"model.safetensors": None},
        "no_config": {"config.json": None},
        "pickle": {"model.safetensors": None, "pytorch_model.bin": b"\x80\x04."},
        "truncated": {"model.safetensors": weights[: len(weights) // 2]},
        "no_bytes": {"model.safetensors": b""},
        "huge_header": {"model.safetensors": safetensors_file(b"{}", length=2**63)},
        "garbage_header": {"model.safetensors": safetensors_file(b"{'not': json}")},
        "beyond": {"model.safetensors": safetensors_file(beyond, weights[8 + head_size :])},
        "negative": {"model.safetensors": safetensors_file(negative, b"\0\0\0\0")},
        "lacking": {"model.safetensors": safetensors_file({**lacking}, weights[8 + head_size :])},
        "missing_shard": {
            "model.safetensors": None,
            "model.safetensors.index.json": json.dumps(index).encode(),
            "model-00001-of-00002.safetensors": weights,
        },
        "odd_index": {"model.safetensors": None, "model.safetensors.index.json": b'{"weight_map": ["a"]}'},
        "other_shape": {"config.json": json.dumps({**config, "intermediate_size": 8}).encode()},
        "broken_config": {"config.json": b"{"},
        "no_such_type": {"config.json": json.dumps({**config, "model_type": "nosuch"}).encode()},
        "own_code": {
            "config.json": json.dumps(
                {**config, "model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
            ).encode(),
            "own.py": b"open('code_was_run', 'w')\n",
        },
        "no_tokenizer": {"tokenizer.json": None},
        "foreign_tokenizer": {"tokenizer.json": byte_tokenizer(first=100_000)},
        "no_braces": {"tokenizer.json": byte_tokenizer(without="{}")},
        "broken_tokenizer": {"tokenizer.json": b"{"},
        "adapter_without_base": {
            **only_adapter,
            "adapter_config.json": json.dumps(adapter).encode(),
            "adapter_model.safetensors": weights,
        },
        "adapter_of_nothing": {
            **only_adapter,
            "adapter_config.json": json.dumps({**adapter, "base_model_name_or_path": None}).encode(),
            "adapter_model.safetensors": weights,
        },
        "adapter_in_a_pickle": {
            **only_adapter,
            "adapter_config.json": json.dumps(adapter).encode(),
            "adapter_model.bin": b"\x80\x04.",
        },
        "adapter_of_others": {
            **only_adapter,
            "adapter_config.json": json.dumps({**adapter, "base_model_name_or_path": str(embedded_path())}).encode(),
            "adapter_model.safetensors": weights,
        },
        "adapter_broken": {
            **only_adapter,
            "adapter_config.json": b"[]",
            "adapter_model.safetensors": weights,
        },
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all that is wrong."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, changes in broken_models().items():
        shutil.copytree(embedded_path(), folder / name)
        for file, content in changes.items():
            if content is None:
                (folder / name / file).unlink()
            else:
                (folder / name / file).write_bytes(content)
    shutil.copytree(embedded_path(), folder / "encoder")
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)).save_pretrained(folder / "encoder")  # fmt: skip
    return folder


@pytest.fixture
def ended(folder, monkeypatch, capfd):
    """Runs the command line in the folder, offline: (exit code, stdout, stderr)."""
    import datasets.config
    import huggingface_hub.constants
    import transformers.utils.logging

    # They read the variables when they were imported.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(folder)
    progress_bars = transformers.utils.logging
    progress_bars.disable_progress_bar()

    def call(arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            run(app, arguments)
        captured = capfd.readouterr()
        return caught.value.code, captured.out, captured.err

    yield call
    progress_bars.enable_progress_bar()


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def check(folder, ended, arguments, message):
    """Exit code 2, the message alone on stderr in one or two lines, and the folder as it was."""
    before = contents(folder)
    code, out, err = ended(arguments)
    assert code == 2, err
    assert out == ""
    assert re.fullmatch(f"error: {message}\n", err), err
    assert len(err.splitlines()) <= 2
    assert contents(folder) == before


def exactly(text):
    return re.escape(text)


# --- the table ----------------------------------------------------------------------------------------------------------

OFFLINE = (
    r"owner/nosuch: no folder of this name, and the Hugging Face hub cannot be reached; give a folder, or fetch it "
    r"where there is a connection: hf download owner/nosuch --local-dir FOLDER"
)
NEITHER_TEMPLATE = r"chat_template = '{}': neither auto nor none, nor a file that can be read \({}\)"

OPTIONS = {
    "unknown verb": (["scor"], exactly(f"No such command 'scor'. Did you mean 'score', 'doctor'?\n{USAGE}")),
    "unknown sub-verb": (benchmarks("lst"), exactly(f"No such command 'lst'. Did you mean 'list'?\n{USAGE}")),
    "score, no file": (["score", "--model", "embedded"], exactly(f"Missing argument 'FILE'.\n{USAGE}")),
    "score, no model": (["score", "good.jsonl"], exactly(f"Missing option '--model'.\n{USAGE}")),
    "score, unknown option": (score("good.jsonl", "--colum", "a=b"), r"No such option: --colum.+\n.+"),
    "score, option without its value": (score("good.jsonl", "--limit"), exactly(f"Option '--limit' requires an argument.\n{USAGE}")),
    "score, limit of none": (score("good.jsonl", "--limit", "0"), r"Invalid value for '--limit': .+\n.+"),
    "score, limit in words": (score("good.jsonl", "--limit", "few"), r"Invalid value for '--limit': .+\n.+"),
    "score, no tokens a batch": (score("good.jsonl", "--max-tokens-per-batch", "0"), r"Invalid value for '--max-tokens-per-batch': .+\n.+"),
    "score, negative seed": (score("good.jsonl", "--seed", "-1"), r"Invalid value for '--seed': .+\n.+"),
    "score, unknown closing": (score("good.jsonl", "--closing", "brace"), r"Invalid value for '--closing': .+\n.+"),
    "score, unknown dtype": (score("good.jsonl", "--dtype", "int8"), r"Invalid value for '--dtype': .+\n.+"),
    "score, mapping of nothing": (score("good.jsonl", "--column", "prompt"), exactly("--column prompt: write FIELD=NAME, for example question=prompt")),
    "score, mapping to nothing": (score("good.jsonl", "--column", "prompt="), exactly("--column prompt=: write FIELD=NAME, for example question=prompt")),
    "score, mapping of an unknown field": (score("good.jsonl", "--column", "promt=question"), exactly("--column promt=question: unknown field 'promt'; did you mean 'prompt'? (fields: prompt, reasoning, answer, answers, suffix, id)")),
    "score, mapping to an unknown column": (score("good.jsonl", "--column", "prompt=questoin"), exactly("good.jsonl, line 1, column 1: no column 'questoin' for prompt; did you mean 'question'? (columns: prompt, answers, question, answer)")),
    "score, no chat template file": (score("good.jsonl", "--chat-template", "no.jinja"), NEITHER_TEMPLATE.format(r"no\.jinja", ".+")),
    "score, chat template that is binary": (score("good.jsonl", "--chat-template", "gzip.jsonl"), NEITHER_TEMPLATE.format(r"gzip\.jsonl", ".+")),
    "score, broken chat template": (score("good.jsonl", "--chat-template", "broken.jinja"), r"the chat template fails: .+"),
    "score, chat template without the user": (score("good.jsonl", "--chat-template", "silent.jinja"), exactly("the chat template leaves out the user's text")),
    "evaluate, on nothing": (evaluate(), exactly("name what to evaluate on: --benchmark NAME[,NAME] or --file FILE")),
    "evaluate, on no name": (evaluate("--benchmark", " ,"), r"--benchmark ' ,' names no benchmark"),
    "evaluate, no new tokens": (evaluate("--benchmark", "chains", "--max-new-tokens", "0"), r"Invalid value for '--max-new-tokens': .+\n.+"),
    "evaluate, no samples": (evaluate("--benchmark", "chains", "--samples", "0"), r"Invalid value for '--samples': .+\n.+"),
    "evaluate, equal samples": (evaluate("--benchmark", "chains", "--samples", "4"), exactly("samples = 4: greedy responses are all equal, set temperature above 0")),
    "evaluate, negative temperature": (evaluate("--benchmark", "chains", "--temperature", "-1"), r"Invalid value for '--temperature': .+\n.+"),
    "evaluate, impossible top_p": (evaluate("--benchmark", "chains", "--temperature", "1", "--top-p", "1.5"), exactly("top_p = 1.5: must be above 0 and at most 1")),
    "evaluate, k above the samples": (evaluate("--benchmark", "chains", "--k", "9"), exactly("k = 9: must be at least 1 and at most the number of samples, 1")),
    "evaluate, k in words": (evaluate("--benchmark", "chains", "--k", "few"), exactly("--k few: numbers with commas between them are needed, for example 1,4,16")),
    "evaluate, options to rank where there are none": (evaluate("--benchmark", "chains", "--rank-options", "letter"), exactly("chains: no problem has options to rank; evaluate it by generating")),
    "evaluate, mapping without a file": (evaluate("--benchmark", "chains", "--column", "question=q"), r"--column is for --file"),
    "evaluate, unknown kind": (evaluate("--file", "good.jsonl", "--kind", "maths"), r"Invalid value for '--kind': .+\n.+"),
    "evaluate, compared with no folder": (evaluate("--benchmark", "chains", "--compare", "nowhere"), exactly("nowhere: there is no chains/generations.jsonl, so nothing to compare with")),
    "evaluate, compared with another folder": (evaluate("--benchmark", "chains", "--compare", "full"), exactly("full: there is no chains/generations.jsonl, so nothing to compare with")),
    "preview of nothing": (benchmarks("preview", "chains", "--limit", "0"), r"Invalid value for '--limit': .+\n.+"),
    "option of a benchmark without a value": (benchmarks("check", "gpqa", "--option", "option_seed"), exactly("--option option_seed: write NAME=VALUE, for example option_seed=1")),
    "option of a benchmark, broken YAML": (benchmarks("check", "gpqa", "--option", "option_seed=[1"), r"--option option_seed=\[1, line 1, column \d+: not valid YAML: .+"),
    "doctor of something": (["doctor", "torch"], exactly(f"Got unexpected extra argument(s) (torch)\n{USAGE}")),
    "doctor, unknown option": (["doctor", "--jsn"], r"No such option: --jsn.+\n.+"),
    "export to nowhere": (["export", "embedded"], exactly(f"Missing argument 'OUT'.\n{USAGE}")),
}  # fmt: skip

ROWS = {
    "broken UTF-8": (score("not_utf8.jsonl"), exactly("not_utf8.jsonl, line 2, column 14: not UTF-8 (byte 0xfc); save the file as UTF-8")),
    "compressed": (score("gzip.jsonl"), exactly("gzip.jsonl, line 1, column 2: not UTF-8 (byte 0x8b); save the file as UTF-8")),
    "broken JSON": (score("broken.jsonl"), exactly("broken.jsonl, line 2, column 22: broken JSON (Expecting ',' delimiter)")),
    "cut off": (score("cut.jsonl"), r"cut\.jsonl, line 2, column 23: broken JSON \(.+\)"),
    "a list": (score("list.jsonl"), exactly("list.jsonl, line 1, column 1: a row must be a JSON object, and this is a list")),
    "one array": (score("array.json"), r"array\.json, line 1, column 2: broken JSON \(.+\)"),
    "nested too deeply": (score("deep.jsonl"), r"deep\.jsonl, line 1, column 1: JSON that cannot be read \(.+\)"),
    "a number too long": (score("digits.jsonl"), r"digits\.jsonl, line 1, column 1: JSON that cannot be read \(.+\)"),
    "no prompt": (score("no_prompt.jsonl"), exactly("no_prompt.jsonl, line 2, column 1: the row has no prompt (column 'prompt'); map another one: --column prompt=NAME (columns: answer, text)")),
    "null for a prompt": (score("null_prompt.jsonl"), r"null_prompt\.jsonl, line 2, column 2: the row has no prompt .+"),
    "empty prompt": (score("empty_prompt.jsonl"), exactly("empty_prompt.jsonl, line 1, column 2: prompt is empty")),
    "number for a prompt": (score("number_prompt.jsonl"), exactly("number_prompt.jsonl, line 1, column 2: prompt must be a text, and is a number")),
    "messages for a prompt": (score("chat_prompt.jsonl"), exactly("chat_prompt.jsonl, line 1, column 2: prompt must be a text, and is a list")),
    "no answer": (score("no_answer.jsonl"), exactly("no_answer.jsonl, line 2, column 1: the row has neither answer nor answers (no column 'answer' nor 'answers')")),
    "empty answer": (score("empty_answer.jsonl"), exactly("empty_answer.jsonl, line 1, column 23: answer is empty")),
    "number for an answer": (score("number_answer.jsonl"), exactly("number_answer.jsonl, line 1, column 23: answer must be a text, and is a number")),
    "answer and answers": (score("both.jsonl"), exactly("both.jsonl, line 1, column 1: the row has both answer and answers: give one of them, or map it with --column")),
    "no answers": (score("no_answers.jsonl"), exactly("no_answers.jsonl, line 1, column 23: answers must be a list of one text or more, and is an empty list")),
    "text for answers": (score("text_answers.jsonl"), exactly("text_answers.jsonl, line 1, column 23: answers must be a list of one text or more, and is a text")),
    "null among answers": (score("odd_answers.jsonl"), exactly("odd_answers.jsonl, line 1, column 23: answers[1] must be a text, and is null")),
    "empty among answers": (score("blank_answers.jsonl"), exactly("blank_answers.jsonl, line 1, column 23: answers[1] is empty")),
    "list for a reasoning": (score("odd_reasoning.jsonl"), exactly("odd_reasoning.jsonl, line 1, column 39: reasoning must be a text, and is a list")),
    "truth for a suffix": (score("odd_suffix.jsonl"), exactly("odd_suffix.jsonl, line 1, column 39: suffix must be a text, and is true or false")),
    "an id twice": (score("same_id.jsonl"), exactly("same_id.jsonl, line 2, column 2: the id of line 1 again ('a'); ids must differ")),
    "a fraction for an id": (score("odd_id.jsonl"), exactly("odd_id.jsonl, line 1, column 2: id must be a text or a whole number, and is a number")),
    "half a character": (score("half.jsonl"), exactly(r"half.jsonl, line 1, column 1: \ud83d alone is half of a character")),
    "half a character, answer": (score("half_answer.jsonl"), exactly(r"half_answer.jsonl, line 1, column 1: \ude00 alone is half of a character")),
    "longer than the model": (score("long.jsonl"), r"long\.jsonl, line 2, column 1: \d+ tokens with its longest answer, more than the model's 1024 positions"),
    "evaluate, broken UTF-8": (evaluate("--file", "not_utf8.jsonl"), r"not_utf8\.jsonl, line .+"),
    "evaluate, broken JSON": (evaluate("--file", "broken.jsonl", "--column", "question=prompt"), exactly("broken.jsonl, line 2, column 22: broken JSON (Expecting ',' delimiter)")),
    "evaluate, nested too deeply": (evaluate("--file", "deep.jsonl"), r"deep\.jsonl, line 1, column 1: JSON that cannot be read \(.+\)"),
    "evaluate, no answer": (evaluate("--file", "good.jsonl"), r"good\.jsonl, line 1, column \d+: the row has no answer \(column 'answer'\)"),
    "evaluate, an id twice": (evaluate("--file", "same_id.jsonl", "--column", "question=prompt"), exactly("same_id.jsonl, line 2, column 2: the id of line 1 again; ids must differ")),
}  # fmt: skip

PLACES = {
    "no such file": (score("nowhere.jsonl"), exactly("nowhere.jsonl: there is no such file")),
    "a folder": (score("full"), exactly("full: this is a folder; a file is needed")),
    "below a file": (score("file/rows.jsonl"), r".*file/rows\.jsonl.*"),
    "a name that is too long": (score("n" * 300), r"the name is too long: n+"),
    "empty": (score("empty.jsonl"), exactly("empty.jsonl: the file holds no rows")),
    "blank": (score("blank.jsonl"), exactly("blank.jsonl: the file holds no rows")),
    "evaluate, no such file": (evaluate("--file", "nowhere.jsonl"), exactly("nowhere.jsonl: there is no such file")),
    "output is the input": (score("good.jsonl", "--output", "./good.jsonl"), exactly("--output good.jsonl is the file to score: name another one")),
    "output is a folder": (score("good.jsonl", "--output", "full"), exactly("--output full is a folder: name a file")),
    "output below a file": (score("good.jsonl", "--output", "file/scores.jsonl"), exactly("--output file/scores.jsonl lies below a file: name another place")),
    "output holds other scores": (score("good.jsonl", "--output", "others.jsonl"), r'others\.jsonl was written under other settings: .*closing was "token" and is "prefix_mass".*'),
    "output holds generations": (score("good.jsonl", "--output", "generations.jsonl"), r'generations\.jsonl was written under other settings: benchmark was "gsm8k" and is null.*'),
    "output holds other rows": (score("good.jsonl", "--output", "both.jsonl"), r"both\.jsonl, line 1, column 1: .+this is another kind of file"),
    "output holds something else": (score("good.jsonl", "--output", "no_line_break.json"), exactly("no_line_break.json: no settings of an evaluation here; this is another kind of file")),
    "output is broken": (score("good.jsonl", "--output", "broken_scores.jsonl"), r"broken_scores\.jsonl, line 2, column \d+: broken JSON .+"),
    "output has a row twice": (score("good.jsonl", "--output", "twice_scores.jsonl"), r"twice_scores\.jsonl, line 3, column 1: .+ 1 again"),
    "evaluate, output holds another run": (evaluate("--benchmark", "chains", "--output", "held"), r"output held .+"),
    "evaluate, output below a file": (evaluate("--benchmark", "chains", "--output", "file/out"), r"output file/out is or lies below a file: choose another --output"),
    "export to this folder": (export("embedded", "."), exactly(".: name the new folder")),
    "export to a full folder": (export("embedded", "full"), exactly("full: this folder is not empty; remove it or export to another")),
    "export to a file": (export("embedded", "file"), exactly("file is or lies below a file: export to another folder")),
    "export below a file": (export("embedded", "file/out"), exactly("file/out is or lies below a file: export to another folder")),
    "export of a run without a model": (export("held"), exactly("held: this run has not written a model yet; export one of its checkpoints/")),
}  # fmt: skip

MODELS = {
    "no folder": (score("good.jsonl", model="./nowhere"), exactly("./nowhere: there is no such folder")),
    "a file": (score("good.jsonl", model="file"), exactly("file: this is a file; give the folder that holds config.json and the weights")),
    "hub id offline": (score("good.jsonl", model="owner/nosuch"), OFFLINE),
    "export, hub id offline": (export("owner/nosuch"), OFFLINE),
    "unknown embedded version": (score("good.jsonl", model="embedded@9"), exactly("unknown model 'embedded@9': the embedded models are embedded@1")),
    "revision of a folder": (score("good.jsonl", "--revision", "main", model="no_weights"), exactly("revision = 'main': the folder no_weights has no revisions, only a hub id has")),
    "no weights": (score("good.jsonl", model="no_weights"), exactly("no_weights: no weights in this folder (no model.safetensors)")),
    "no config": (score("good.jsonl", model="no_config"), exactly("no_config: no config.json in this folder, so it is not a Hugging Face model")),
    "pickled weights": (score("good.jsonl", model="pickle"), exactly("pickle: the weights are in pickle files, which can run code and are not loaded; save the model as safetensors: model.save_pretrained(folder)")),
    "truncated weights": (score("good.jsonl", model="truncated"), r"truncated: cannot be loaded: .+"),
    "weights without a byte": (score("good.jsonl", model="no_bytes"), r"no_bytes: cannot be loaded: .+"),
    "header longer than memory": (score("good.jsonl", model="huge_header"), r"huge_header: cannot be loaded: .+"),
    "header that is no JSON": (score("good.jsonl", model="garbage_header"), r"garbage_header: cannot be loaded: .+"),
    "offsets beyond the file": (score("good.jsonl", model="beyond"), r"beyond: cannot be loaded: .+"),
    "negative shape": (score("good.jsonl", model="negative"), r"negative: cannot be loaded: .+"),
    "a weight is missing": (score("good.jsonl", model="lacking"), r"lacking: .+"),
    "a shard is missing": (score("good.jsonl", model="missing_shard"), exactly("missing_shard: 1 of 2 weight files are missing: model-00002-of-00002.safetensors")),
    "odd index": (score("good.jsonl", model="odd_index"), r"odd_index/model\.safetensors\.index\.json: not an index of weights .+"),
    "other shapes": (score("good.jsonl", model="other_shape"), r"other_shape: .+ has shape \[.+\], config\.json asks for \[.+\]"),
    "broken config": (score("good.jsonl", model="broken_config"), r"broken_config: cannot be loaded: .*not a valid JSON file.*"),
    "unknown architecture": (score("good.jsonl", model="no_such_type"), r"no_such_type: cannot be loaded: .*nosuch.*"),
    "another architecture": (score("good.jsonl", model="encoder"), r"encoder: .+"),
    "no tokenizer": (score("good.jsonl", model="no_tokenizer"), r"no_tokenizer: no tokenizer in this folder \(none of tokenizer\.json, .+\); save it there with tokenizer\.save_pretrained\(folder\)"),
    "broken tokenizer": (score("good.jsonl", model="broken_tokenizer"), r"broken_tokenizer: cannot be loaded: .+"),
    "tokenizer of another model": (score("good.jsonl", model="foreign_tokenizer"), r"good\.jsonl, line 1, column 1: the tokenizer gives token \d+ and the model has \d+: they do not belong together"),
    "adapter without its base": (export("adapter_without_base"), exactly("adapter_without_base: the base model of this adapter: ./nowhere: there is no such folder")),
    "adapter without its base, to score": (score("good.jsonl", model="adapter_without_base"), exactly("adapter_without_base: the base model of this adapter: ./nowhere: there is no such folder")),
    "adapter of nothing": (export("adapter_of_nothing"), exactly("adapter_of_nothing/adapter_config.json: names no base_model_name_or_path; put the base model's folder or id there")),
    "adapter in a pickle": (export("adapter_in_a_pickle"), r"adapter_in_a_pickle: this adapter has no adapter_model\.safetensors \(pickle files can run code and are not loaded\); .+"),
    "adapter of other shapes": (export("adapter_of_others"), r"adapter_of_others: cannot be loaded: .+"),
    "adapter, broken configuration": (export("adapter_broken"), r"adapter_broken/adapter_config\.json: not the configuration of an adapter \(.+\)"),
    "evaluate, truncated weights": (evaluate("--benchmark", "chains", model="truncated"), r"truncated: cannot be loaded: .+"),
    "export, pickled weights": (export("pickle"), r"pickle: the weights are in pickle files, .+"),
    "preview, a tokenizer without braces": (benchmarks("preview", "chains", "--tokens", "no_braces"), r"chains/test/\d+: the tokenizer does not reproduce the answer '\d+': it becomes '\d+'"),
    "preview, no tokenizer": (benchmarks("preview", "chains", "--tokens", "no_tokenizer"), r"no_tokenizer: no tokenizer in this folder .+"),
}  # fmt: skip

BENCHMARKS = {
    "unknown": (benchmarks("show", "gsm8"), r"unknown benchmark 'gsm8'; did you mean 'gsm8k'\? .+"),
    "unknown, to evaluate": (evaluate("--benchmark", "math-500"), r"unknown benchmark 'math-500'; did you mean 'math500'\? .+"),
    "one name for a file and a benchmark": (evaluate("--benchmark", "chains", "--file", "chains.jsonl"), exactly("--file chains.jsonl and --benchmark chains have one name: rename the file")),
    "path for a name": (benchmarks("check", "../../evil"), r"unknown benchmark '\.\./\.\./evil'.+"),
    "unknown split": (benchmarks("preview", "chains", "--split", "dev"), exactly("chains has no split 'dev'; it has train, valid, test")),
    "unknown split, to evaluate": (evaluate("--benchmark", "gsm8k", "--split", "dev", "--data-dir", "data"), r"gsm8k has no split 'dev'; it has train, test"),
    "unknown option": (benchmarks("check", "gpqa", "--option", "option_sed=1"), exactly("gpqa has no option 'option_sed'; did you mean 'option_seed'? (there are: option_order, option_seed)")),
    "option where there is none": (benchmarks("check", "aime24", "--option", "gold=ok"), exactly("aime24 has no option 'gold' (it has none)")),
    "option of the command line": (benchmarks("preview", "gpqa", "--option", "seed=1"), exactly("--option seed=1: seed is not an option of a benchmark's own; see --help")),
    "option of a wrong type": (benchmarks("check", "supergpqa", "--option", "sample_size=few", "--data-dir", "data"), r"sample_size = 'few': .+"),
    "option of a wrong type, a list": (benchmarks("check", "mmlu", "--option", "subjects=[a]", "--data-dir", "data"), r"subjects = .+"),
    "impossible option": (benchmarks("check", "gpqa", "--option", "option_order=random", "--data-dir", "data"), r"option_order = 'random': must be one of shuffled, alphabetical"),
    "no --data-dir": (benchmarks("check", "gsm8k", "--data-dir", "nowhere"), r"gsm8k: there is neither nowhere/gsm8k/test\.jsonl nor nowhere/test\.jsonl"),
    "no file in --data-dir": (benchmarks("check", "gsm8k", "--data-dir", "data"), r"gsm8k: there is neither data/gsm8k/test\.jsonl nor data/test\.jsonl"),
    "file for --data-dir": (benchmarks("check", "gsm8k", "--data-dir", "file"), r"gsm8k: there is neither file/gsm8k/test\.jsonl nor file/test\.jsonl"),
    "no file to evaluate": (evaluate("--benchmark", "gsm8k", "--data-dir", "data"), r"gsm8k: there is neither data/gsm8k/test\.jsonl nor data/test\.jsonl"),
    "wrong columns": (benchmarks("check", "gsm8k", "--data-dir", "columns"), exactly("columns/gsm8k/test.jsonl: no column question, answer (there are: problem, solution)")),
    "file cut off": (benchmarks("check", "gsm8k", "--data-dir", "cut_data"), r"cut_data/gsm8k/test\.jsonl, line 2, column \d+: broken JSON .+"),
    "text without rows": (benchmarks("check", "gsm8k_aug", "--data-dir", "no_rows"), exactly("no_rows/gsm8k_aug/test.txt: the file holds no rows")),
    "CSV without cells": (benchmarks("check", "gpqa", "--data-dir", "csv"), exactly("csv/gpqa/gpqa_main.csv, line 2: 2 cells, and there are 6 columns")),
    "hub offline": (benchmarks("preview", "gsm8k"), r"openai/gsm8k .+ cannot be loaded from the Hugging Face hub \(.+\)\. Go online, or give the original files: --data-dir DIR with DIR/gsm8k/"),
    "hub offline, gated": (benchmarks("check", "gpqa"), r"Idavidrein/gpqa .+ cannot be loaded from the Hugging Face hub .+ GPQA is gated: accept its terms at .+ then log in \(`hf auth login`\) or set HF_TOKEN"),
}  # fmt: skip

TABLE = {
    f"{part}: {name}": case
    for part, cases in {"options": OPTIONS, "rows": ROWS, "places": PLACES, "models": MODELS, "benchmarks": BENCHMARKS}.items()
    for name, case in cases.items()
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), TABLE.values(), ids=TABLE)
def test_a_mistake(folder, ended, arguments, message):
    check(folder, ended, arguments, message)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_file_that_may_not_be_read(folder, ended, tmp_path):
    secret = tmp_path / "secret.jsonl"
    secret.write_text(ROW)
    secret.chmod(0)
    check(folder, ended, score(str(secret)), r".+secret\.jsonl: no permission to read it")


@pytest.mark.parametrize("verb", [score("good.jsonl", model="own_code"), export("own_code")], ids=lambda verb: verb[0])
def test_code_that_comes_with_a_model_is_not_run(folder, ended, verb):
    before = contents(folder)
    code, _, err = ended(verb)  # transformers says more on stderr
    assert code == 2
    assert re.fullmatch(r"error: own_code: cannot be loaded: .+", err.splitlines()[-1])
    assert contents(folder) == before
    assert not (folder / "code_was_run").exists()


# --- a disk that fills up -----------------------------------------------------------------------------------------------


class FullDisk(io.FileIO):
    """A file on a disk with room for the first 1000 bytes: it takes what fits and then fails, as the system does."""

    def write(self, content):
        room = 1000 - self.seek(0, os.SEEK_END)
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(content)[:room])


@pytest.fixture
def full_disk(request, tmp_path, monkeypatch):
    """A folder on a disk of one page: a real one where the machine lets us mount it, or one that is injected."""
    if request.param == "injected":
        from thinker_common.evaluation import generations

        def opened(path, mode="r", **options):
            full = Path(path).is_relative_to(tmp_path) and "a" in mode
            return FullDisk(path, mode) if full else builtins.open(path, mode, **options)

        monkeypatch.setattr(generations, "open", opened, raising=False)
        yield tmp_path
        return
    command = ["mount", "-t", "tmpfs", "-o", f"size={os.sysconf('SC_PAGE_SIZE')}", "none", tmp_path]
    if os.name != "posix" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this machine does not let the tests mount a small disk")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("full_disk", ["injected", "mounted"], indirect=True)
def test_a_disk_that_fills_up(folder, ended, full_disk):
    rows = full_disk.parent / "many.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"{i} + 1 =", "answers": [" 2", " 3"]}) + "\n" for i in range(64)))
    before = contents(folder)
    output = full_disk / "scores.jsonl"
    code, out, err = ended(score(str(rows), "--max-tokens-per-batch", "1", "--output", str(output)))
    assert (code, out, err) == (2, "", f"error: disk full: {output}\n")
    assert contents(folder) == before
    lines = output.read_bytes().split(b"\n")
    assert lines.pop() == b""  # whole rows only
    assert [json.loads(line).get("id") for line in lines] == [None, *range(1, len(lines))]
    assert [path.name for path in full_disk.iterdir()] == ["scores.jsonl"]
