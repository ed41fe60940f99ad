"""Bad input: every mistake ends with exit code 2 and one or two exact lines on stderr, and leaves nothing half-written."""

import builtins
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from generalthinker import _common, cli
from thinker_common.models.embedded import embedded_path

USAGE = "`generalthinker --help` and `generalthinker VERB --help` say more"
ROW = '{"question": "What is 1 + 1?", "answer": "2"}\n'
FILES = {
    "good.jsonl": "".join(json.dumps({"question": f"What is {i} + 1?", "answer": str(i + 1)}) + "\n" for i in range(8)),
    "no_answer.jsonl": ROW + '{"question": "What is 1 + 2?"}\n',
    "empty_answer.jsonl": ROW + '{"question": "What is 1 + 2?", "answer": " "}\n',
    "empty_question.jsonl": '{"question": "", "answer": "2"}\n',
    "not_utf8.jsonl": ROW.encode() + b'{"question": "f\xfcnf?", "answer": "5"}\n',
    "broken.jsonl": ROW + '{"question": "What is 1 + 2?" "answer": "3"}\n',
    "no_rows.jsonl": "\n",
    "long_question.jsonl": json.dumps({"question": "1 + " * 1500, "answer": "2"}) + "\n",
    "long_answer.jsonl": json.dumps({"question": "Which digits?", "answer": "1 " * 400}) + "\n",
    "broken.yaml": "model: [a\n",
    "latin.yaml": "# für\n".encode("latin-1"),
    "no_mapping.yaml": "- model\n",
    "broken.jinja": "{% if %}",
    "held/config.yaml": "",
    "full/notes.txt": "mine",
    "file": "",
    "data/readme.txt": "",
}
TINY = [
    "training.max_steps=1", "training.per_device_train_batch_size=8", "training.num_generations=4",
    "data.train_file=good.jsonl", "generation.max_new_tokens=16", "evaluation.max_new_tokens=16",
    "evaluation.limit=4", "evaluation.at_start=false", "evaluation.at_end=false", "evaluation.every_steps=null",
]  # fmt: skip


def train(*arguments):
    return ["train", *TINY, "--output", "out", *arguments]


def evaluate(*arguments, model="embedded"):
    return ["evaluate", model, "--limit", "2", "--max-new-tokens", "8", "--output", "out", *arguments]


def inspect(*arguments, model="embedded"):
    return ["inspect", model, "--max-new-tokens", "8", *arguments]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all that is wrong: data, recipes, models."""
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    weights = (embedded_path() / "model.safetensors").read_bytes()
    models = {
        "no_weights": {"model.safetensors": None},
        "no_config": {"config.json": None},
        "pickle": {"model.safetensors": None, "pytorch_model.bin": b"weights"},
        "truncated": {"model.safetensors": weights[: len(weights) // 2]},
        "broken_config": {"config.json": b"{"},
        "no_tokenizer": {"tokenizer.json": None},
    }
    for name, changes in models.items():
        shutil.copytree(embedded_path(), folder / name)
        for file, content in changes.items():
            if content is None:
                (folder / name / file).unlink()
            else:
                (folder / name / file).write_bytes(content)
    shape = T5Config(vocab_size=983, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(shape).save_pretrained(folder / "t5")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded_path() / file, folder / "t5")
    return folder


@pytest.fixture
def ended(folder, monkeypatch, capfd):
    """Runs the command line in the folder, offline: (exit code, stdout, stderr)."""
    import huggingface_hub.constants
    import transformers.utils.logging

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # it read the variable when it was imported
    monkeypatch.chdir(folder)
    # tqdm reads TQDM_DISABLE when it is imported, which in this process another test may have done before us.
    progress_bars = transformers.utils.logging
    progress_bars.disable_progress_bar()

    def run(arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            _common.run(cli.app, arguments)
        captured = capfd.readouterr()
        return caught.value.code, captured.out, captured.err

    yield run
    progress_bars.enable_progress_bar()


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def check(folder, ended, arguments, message):
    """Exit code 2, the message alone on stderr in one or two lines, and the folder as it was."""
    before = contents(folder)
    code, out, err = ended(arguments)
    assert code == 2, err
    assert out == ""
    if isinstance(message, re.Pattern):
        assert message.fullmatch(err.removeprefix("error: ").removesuffix("\n")), err
    else:
        assert err == f"error: {message}\n"
    assert len(err.splitlines()) <= 2
    assert contents(folder) == before


# --- found before torch is imported -------------------------------------------------------------------------------------


SETTINGS = {
    "unknown recipe": (["train", "--recipe", "gsm8k-smolm2"], "unknown recipe 'gsm8k-smolm2'; did you mean 'gsm8k-smollm2-135m'? (there are: embedded, gsm8k-smollm2-135m, paper-qwen2.5-1.5b)"),
    "unknown key": (train("generation.max_tokens=8"), "command line: unknown setting 'generation.max_tokens'; did you mean 'generation.max_new_tokens'?"),
    "key of another section": (train("method.temperature=1"), "command line: unknown setting 'method.temperature'; did you mean 'generation.temperature'?"),
    "unknown section": (train("modell.dtype=auto"), "command line: unknown setting 'modell'; did you mean 'model'?"),
    "wrong type, number": (train("generation.max_new_tokens=many"), "command line: generation.max_new_tokens = 'many': expected a whole number"),
    "wrong type, truth": (train("evaluation.at_start=1"), "command line: evaluation.at_start = 1: expected true or false"),
    "wrong type, section": (train("model.lora=true"), "command line: model.lora = true: expected a section with r, alpha, dropout, target_modules or null"),
    "impossible temperature": (train("generation.temperature=0"), "command line: generation.temperature = 0.0: expected a number above 0 (training samples)"),
    "impossible top_p": (train("generation.top_p=1.5"), "command line: generation.top_p = 1.5: expected a number above 0 and at most 1"),
    "impossible length": (train("generation.max_new_tokens=0"), "command line: generation.max_new_tokens = 0: expected a whole number of at least 1"),
    "impossible credit strength": (train("method.credit_strength=-0.1"), "command line: method.credit_strength = -0.1: expected a number from 0 to below 1"),
    "impossible rank": (train("model.lora.r=0"), "command line: model.lora.r = 0: expected a whole number of at least 1"),
    "quantized without an adapter": (train("model.quantization=4bit"), "command line: model.quantization = '4bit': quantized weights are not trained: add an adapter, lora.r=16, or set quantization to none"),
    "eight bits": (train("model.quantization=8bit"), "command line: model.quantization = '8bit': expected one of none, 4bit"),
    "impossible limit": (train("data.limit=0"), "command line: data.limit = 0: expected a whole number of at least 1"),
    "negative seed": (train("--seed", "-1"), f"Invalid value for '--seed': Input should be greater than or equal to 0\n{USAGE}"),
    "prompt without the question": (train("method.prompt_template=Think."), "command line: method.prompt_template = 'Think.': expected a text with {question} in it"),
    "conditioned prompt without the answer": (train("method.conditioned_template='{question}'"), "command line: method.conditioned_template = '{question}': expected a text with {answer} in it"),
    "group of one": (train("training.num_generations=1"), "training.num_generations = 1: expected a whole number of at least 2 (a response is compared with the others of its group)"),
    "no --config file": (["train", "--config", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
    "--config is a folder": (["train", "--config", "data"], "data: Is a directory"),
    "--config is not YAML": (["train", "--config", "broken.yaml"], "broken.yaml, line 2, column 1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    "--config is not UTF-8": (["train", "--config", "latin.yaml"], "latin.yaml: not UTF-8 text (byte 3)"),
    "--config has no sections": (["train", "--config", "no_mapping.yaml"], "no_mapping.yaml: a recipe is a mapping of sections (model, data, method, training, generation, evaluation, launch), got ['model']"),
    "inspect, question without answer": (inspect("--question", "1 + 1?"), "--question and --answer belong together"),
    "inspect, page exists": (inspect("--page", "file"), "file exists already: name another file with --page"),
    "inspect, negative index": (inspect("--index", "-1"), f"Invalid value for '--index': Input should be greater than or equal to 0\n{USAGE}"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), SETTINGS.values(), ids=SETTINGS)
def test_a_mistake_in_the_settings(folder, ended, monkeypatch, arguments, message):
    for module in ("train", "inspect"):  # what needs torch is not reached: importing it would fail
        monkeypatch.setitem(sys.modules, f"generalthinker.{module}", None)
    check(folder, ended, arguments, message)


# --- found before anything is written -----------------------------------------------------------------------------------


ROLLOUT = "lower training.per_device_train_batch_size, gradient_accumulation_steps or steps_per_generation"
OFFLINE = re.compile(
    r"owner/nosuch: no folder of this name, and the Hugging Face hub cannot be reached; give a folder, or fetch it "
    r"where there is a connection: hf download owner/nosuch --local-dir FOLDER"
)
NO_SUCH_FILE = re.escape(
    "neither auto nor none, nor a file that can be read ([Errno 2] No such file or directory: 'no.jinja')"
)
UNKNOWN_BENCHMARK = "unknown benchmark 'chain'; did you mean 'chains'? (`thinker benchmarks list` shows all)"
AT_END = "evaluation.at_end=true"
INPUT = {
    # arguments of the trainer
    "unknown argument": (train("training.learning_rat=1"), "unknown setting 'training.learning_rat'; did you mean 'training.learning_rate'?"),
    "compiled": (train("training.torch_compile_mode=default"), "training.torch_compile_mode cannot be set here: use the recipe as it is (losses take parts of the model, in shapes that change at every step)"),
    "managed argument": (train("training.output_dir=x"), "training.output_dir cannot be set here: use --output"),
    "argument of a wrong type": (train("training.learning_rate=fast"), "training.learning_rate = 'fast': expected a finite number"),
    "impossible argument, negative": (train("training.beta=-1"), "training.beta = -1.0: expected a number of at least 0"),
    "impossible argument, zero": (train("training.per_device_train_batch_size=0"), "training.per_device_train_batch_size = 0: expected a number of at least 1"),
    "impossible argument, no steps": (train("training.max_steps=0"), "training.max_steps = 0: expected at least 1, or -1 to train for training.num_train_epochs"),
    "impossible argument, loss": (train("training.loss_type=grop"), "training.loss_type = 'grop': expected one of grpo, bnpo, dr_grpo, dapo, cispo, sapo, luspo, vespo"),
    "impossible argument, tracker": (train("training.report_to=paper"), re.compile(r"training\.report_to = 'paper': paper is not supported, only .+ are supported\.")),
    "groups that do not divide the batch": (train("training.num_generations=3"), "training: generation_batch_size (8) must be divisible by num_generations (3)."),
    "credit without a reference": (train("training.beta=0"), "method.credit = 'controlled' compares with the reference policy, which training.beta = 0 leaves out: set training.beta above 0, or method.credit_base to current"),
    "fewer problems than a rollout": (train("data.limit=1"), f"a rollout takes 2 problems and the data has 1: {ROLLOUT}"),
    "nothing left to train on": (train("evaluation.every_steps=1", "evaluation.validation_limit=8"), "evaluation.validation_limit = 8 would hold out all 8 problems: lower it, or set evaluation.every_steps = null to train without validation"),
    # data
    "no train_file": (train("data.train_file=nowhere.jsonl"), "nowhere.jsonl: there is no such file"),
    "train_file is a folder": (train("data.train_file=data"), "data: this is a folder; a file is needed"),
    "row without an answer": (train("data.train_file=no_answer.jsonl"), "no_answer.jsonl, line 2, column 1: the row has no answer (column 'answer')"),
    "empty answer": (train("data.train_file=empty_answer.jsonl"), "empty_answer.jsonl, line 2, column 32: the row has an empty answer (column 'answer')"),
    "empty question": (train("data.train_file=empty_question.jsonl"), "empty_question.jsonl, line 1, column 2: the row has an empty question (column 'question')"),
    "broken UTF-8": (train("data.train_file=not_utf8.jsonl"), "not_utf8.jsonl, line 2, column 16: not UTF-8 (byte 0xfc); save the file as UTF-8"),
    "broken JSON": (train("data.train_file=broken.jsonl"), "broken.jsonl, line 2, column 31: broken JSON (Expecting ',' delimiter)"),
    "no rows": (train("data.train_file=no_rows.jsonl"), "no_rows.jsonl: the file holds no rows"),
    "unknown column": (train("data.columns={answer: gold}"), "good.jsonl, line 1, column 1: no column 'gold' for answer (columns: question, answer)"),
    "unknown benchmark": (train("data.train_file=null", "data.benchmark=chain"), UNKNOWN_BENCHMARK),
    "unknown benchmark to evaluate": (train("evaluation.benchmarks=[chain]", AT_END), UNKNOWN_BENCHMARK),
    "unknown split": (train("data.train_file=null", "data.split=dev"), "chains has no split 'dev'; it has train, valid, test"),
    "unknown split to evaluate": (train("evaluation.split=dev", AT_END), "chains has no split 'dev'; it has train, valid, test"),
    "no file in --data-dir": (train("data.train_file=null", "data.benchmark=gsm8k", "--data-dir", "data"), "gsm8k: there is neither data/gsm8k/train.jsonl nor data/train.jsonl"),
    "no file to evaluate in --data-dir": (train("evaluation.benchmarks=[gsm8k]", AT_END, "--data-dir", "data"), "gsm8k: there is neither data/gsm8k/test.jsonl nor data/test.jsonl"),
    "no room for a response": (train("data.train_file=long_question.jsonl"), re.compile(r"long_question/file/1: its prompt has \d+ tokens, which leaves no room for a response of 16 \(generation\.max_new_tokens\) and the answer's 2 in the model's 1024 positions: lower generation\.max_new_tokens or leave the row out")),
    "no room for the answer shown": (train("data.train_file=long_answer.jsonl"), re.compile(r"long_answer/file/1: its answer-conditioned prompt has \d+ tokens, which leaves no room for a response of 16 \(generation\.max_new_tokens\) and the answer's \d+ in the model's 1024 positions: lower generation\.max_new_tokens or leave the row out")),
    "no room to evaluate": (train("evaluation.max_new_tokens=1020", AT_END), re.compile(r"chains/test/\d+: its prompt has \d+ tokens, which leaves no room for a response of 1020 \(evaluation\.max_new_tokens\) in the model's 1024 positions: lower evaluation\.max_new_tokens")),
    # model
    "no model folder": (train("model.name_or_path=./nowhere"), "./nowhere: there is no such folder"),
    "no weights": (train("model.name_or_path=no_weights"), "no_weights: no weights in this folder (no model.safetensors)"),
    "no config": (train("model.name_or_path=no_config"), "no_config: no config.json in this folder, so it is not a Hugging Face model"),
    "pickled weights": (train("model.name_or_path=pickle"), "pickle: the weights are in pickle files, which can run code and are not loaded; save the model as safetensors: model.save_pretrained(folder)"),
    "truncated weights": (train("model.name_or_path=truncated"), re.compile("truncated: cannot be loaded: .*not fully covered")),
    "broken config": (train("model.name_or_path=broken_config"), re.compile("broken_config: cannot be loaded: .*broken_config/config.json' is not a valid JSON file")),
    "no tokenizer": (train("model.name_or_path=no_tokenizer"), re.compile(r"no_tokenizer: no tokenizer in this folder \(none of tokenizer\.json, .+\); save it there with tokenizer\.save_pretrained\(folder\)")),
    "a file for a model": (train("model.name_or_path=file"), "file: this is a file; give the folder that holds config.json and the weights"),
    "encoder-decoder model": (train("model.name_or_path=t5"), "t5: an encoder-decoder model; GeneralThinker needs a causal language model"),
    "hub id offline": (train("model.name_or_path=owner/nosuch"), OFFLINE),
    "unknown embedded version": (train("model.name_or_path=embedded@9"), "unknown model 'embedded@9': the embedded models are embedded@1"),
    "revision of the embedded model": (train("model.revision=main"), "revision = 'main': embedded@1 has none; its versions are named embedded@N"),
    "unknown modules for LoRA": (train("model.lora.target_modules=[attention]"), re.compile(r"lora\.target_modules = \['attention'\]: .+")),
    "no chat template file": (train("model.chat_template=no.jinja"), re.compile(r"chat_template = 'no\.jinja': " + NO_SUCH_FILE)),
    "broken chat template": (train("model.chat_template=broken.jinja"), "the chat template fails: Expected an expression, got 'end of statement block'"),
    # output
    "output holds another run": (train("--output", "held"), re.compile(r"output held holds another run \(data.benchmark was not set and is .+\): choose another --output, or go on with it anyway by --allow-changes")),
    "output holds other files": (train("--output", "full"), "output full is not empty (it holds notes.txt): choose another --output"),
    "output is a file": (train("--output", "file"), "output file is or lies below a file: choose another --output"),
    "output below a file": (train("--output", "file/run"), "output file/run is or lies below a file: choose another --output"),
    # the other verbs
    "inspect, encoder-decoder model": (inspect(model="t5"), "t5: an encoder-decoder model; GeneralThinker needs a causal language model"),
    "inspect, encoder-decoder reference": (inspect("--reference", "t5"), "t5: an encoder-decoder model; GeneralThinker needs a causal language model"),
    "evaluate, unknown split": (evaluate("--benchmark", "chains", "--split", "dev"), "chains has no split 'dev'; it has train, valid, test"),
    "evaluate, broken JSON": (evaluate("--file", "broken.jsonl"), "broken.jsonl, line 2, column 31: broken JSON (Expecting ',' delimiter)"),
    "evaluate, hub id offline": (evaluate("--benchmark", "chains", model="owner/nosuch"), OFFLINE),
    "evaluate, no weights": (evaluate("--benchmark", "chains", model="no_weights"), "no_weights: no weights in this folder (no model.safetensors)"),
    "evaluate, no room for a response": (evaluate("--benchmark", "chains", "--max-new-tokens", "1020"), re.compile(r"the longest prompt has \d+ tokens; with max_new_tokens = 1020 it exceeds the model's context of 1024 tokens: set it to at most \d+")),
    "evaluate, no chat template file": (evaluate("--benchmark", "chains", "--chat-template", "no.jinja"), re.compile(r"chat_template = 'no\.jinja': " + NO_SUCH_FILE)),
    "evaluate, output holds another run": (evaluate("--benchmark", "chains", "--output", "held"), "output held holds another run: choose another --output or remove that folder"),
    "inspect, no weights": (inspect(model="no_weights"), "no_weights: no weights in this folder (no model.safetensors)"),
    "inspect, unknown version of the reference": (inspect("--reference", "embedded@9"), "unknown model 'embedded@9': the embedded models are embedded@1"),
    "inspect, no room for a response": (inspect("--max-new-tokens", "2000"), re.compile(r"the longest prompt has \d+ tokens; with max_new_tokens = 2000 it exceeds the model's context of 1024 tokens: set it to at most \d+")),
    "inspect, empty question": (inspect("--question", " ", "--answer", "2"), "--question and --answer must not be empty"),
    "inspect, page below a file": (inspect("--page", "file/credit.html"), "file/credit.html lies below a file: name another place with --page"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), INPUT.values(), ids=INPUT)
def test_a_mistake_in_the_input(folder, ended, arguments, message):
    check(folder, ended, arguments, message)


# --- a disk that fills up -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many pages, where the machine lets us."""
    mounted = []

    def mount(pages):
        size = pages * os.sysconf("SC_PAGE_SIZE")
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", tmp_path]
        if os.name != "posix" or os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this machine does not let the tests mount a small disk")
        mounted.append(tmp_path)
        return tmp_path

    yield mount
    for path in mounted:
        subprocess.run(["umount", path], check=True)


class FullDisk(io.FileIO):
    """A file on a disk with room for the first 1000 bytes: it takes what fits and then fails, as the system does."""

    def write(self, content):
        room = 1000 - self.seek(0, os.SEEK_END)
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(bytes(content)[:room])


def fill_disk(monkeypatch, when):
    """Lets the writes of one kind of file run into a full disk."""
    if when == "model":
        import transformers.modeling_utils
        from safetensors import SafetensorError

        def save(tensors, filename, metadata=None):
            Path(filename).write_bytes(b"the first part")
            raise SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error {errno.ENOSPC})")

        monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", save)
        return
    from thinker_common.evaluation import generations
    from thinker_common.training import run_folder

    def opened(path, mode="r", **options):
        full = Path(path).name == f"{when}.jsonl"
        return FullDisk(path, mode) if full else builtins.open(path, mode, **options)

    for module in (generations, run_folder):
        monkeypatch.setattr(module, "open", opened, raising=False)


# What is being written -> the file that the message names, settings, and how many pages hold all that comes before it
# (config.yaml and environment.json; the first line of the generations).
FULL = {
    "metrics": ("metrics.jsonl", [], 2),
    "generations": ("evaluation/before/chains/generations.jsonl", ["evaluation.at_start=true"], 3),
    "model": ("model", ["training.save_strategy=no"], 100),
}


@pytest.mark.parametrize("disk", ["injected", "mounted"])
@pytest.mark.parametrize("when", FULL)
def test_a_disk_that_fills_up(folder, ended, monkeypatch, tmp_path, small_disk, when, disk):
    file, settings, pages = FULL[when]
    if disk == "mounted":
        small_disk(pages)
    else:
        fill_disk(monkeypatch, when)
    before = contents(folder)
    # Many long rows, so that a page is not enough for the generations.
    more = ["evaluation.limit=64", "evaluation.max_tokens_per_batch=1024"] if when == "generations" else []
    output = tmp_path / "run"
    code, out, err = ended([*train(*settings, *more), "--output", str(output)])
    assert (code, out, err) == (2, "", f"error: disk full: {output / file}\n")
    assert contents(folder) == before
    held = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    lines = {f"{name}.jsonl" for name in ("metrics", "evaluation/before/chains/generations")}
    assert {"config.yaml", "environment.json"} <= held <= {"config.yaml", "environment.json", *lines}
    for name in held & lines:  # whole rows only
        text = (output / name).read_text()
        assert text == "" or text.endswith("\n")
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
