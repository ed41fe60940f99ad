"""Malformed input to `spiralthinker` and `tinythinker`: exit code 2, one or two exact lines on stderr, no traceback, and
nothing half-written. `thinker` and `generalthinker` have tables of their own (test_base_bad_input.py, test_bad_input.py).
"""

import importlib
import json
import re
import shutil

import pytest

from thinker_common.models.embedded import embedded_path

USAGE = "USAGE"  # the last line of a message about the command line's own form
ROWQ = {"question": "Where is a bed?", "options": ["a bedroom", "an oven"], "answer": "A"}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


FILES = {
 "mcq.jsonl": lines(*({**ROWQ, "id": i} for i in range(6))),
 "steps.jsonl": lines(*({"question": f"What is {i} + 1 + 1?", "answer": str(i + 2), "steps": [f"{i}+1={i+1}", f"{i+1}+1={i+2}"]} for i in range(40))),
 "no_steps.jsonl": lines(*({"question": f"What is {i}?", "answer": str(i)} for i in range(4))),
 "text_steps.jsonl": lines({"question": "1?", "answer": "1", "steps": "1=1"}),
 "empty_step.jsonl": lines({"question": "1?", "answer": "1", "steps": ["1=1", " "]}),
 "marker.jsonl": lines({"question": "1 <bot> ?", "answer": "1", "steps": ["1=1"]}),
 "marker_step.jsonl": lines({"question": "1?", "answer": "1", "steps": ["1=<latent>1"]}),
 "one_option.jsonl": lines({**ROWQ, "options": ["a"]}),
 "no_options.jsonl": lines({"question": "1?", "answer": "A"}),
 "bad_letter.jsonl": lines({**ROWQ, "answer": "C"}),
 "text_answer.jsonl": lines({**ROWQ, "answer": "a bedroom"}),
 "empty_option.jsonl": lines({**ROWQ, "options": ["a", ""]}),
 "text_options.jsonl": lines({**ROWQ, "options": "a|b"}),
 "not_utf8.jsonl": lines(ROWQ).encode() + b'{"question": "f\xfcnf"}\n',
 "broken.jsonl": lines(ROWQ) + '{"question": "1?" "answer": "A"}\n',
 "empty.jsonl": "", "file": "", "held/config.yaml": "", "full/notes.txt": "mine", "data/readme.txt": "",
 "broken.yaml": "model: [a\n", "latin.yaml": "# für\n".encode("latin-1"), "no_mapping.yaml": "- model\n",
 "twice.yaml": "data:\n  limit: 1\n  limit: 2\n", "tagged.yaml": "model: !!python/object/apply:os.system [touch code_was_run]\n", "alias.yaml": "model: &a {dtype: auto}\ndata: *a\n",
 "replies_broken.jsonl": '{"id": "x"\n', "replies_odd.jsonl": '{"settings": {}}\n{"id": 3}\n', "replies_none.jsonl": "",
 "recorded_odd.jsonl": lines({"question_id": 1}),
 "rows_odd/recall.jsonl": "[]\n", "rows_empty/notes.txt": "",
 "hosts_empty": "", "hosts_bad": "host slots=many\n", "hosts_twice": "a slots=1\na slots=1\n",
 "ds_broken.json": "{", "broken.jinja": "{% if %}",
}  # fmt: skip
S_TRAIN = [
    "train",
    "--output",
    "out",
    "data.limit=8",
    "stage1.max_steps=1",
    "training.max_steps=1",
    "evaluation.at_end=false",
    "evaluation.every_steps=null",
]
T_TRAIN = [
    "train",
    "--output",
    "out",
    "data.limit=8",
    "method.acquisition.max_steps=1",
    "method.reflection.iterations=0",
    "evaluation.limit=2",
]
S_EVALUATE = ["--output", "out", "--limit", "2", "--max-new-tokens", "8"]
T_EVALUATE = ["--output", "out", "--limit", "2"]

SPIRAL_TRAIN = {
    "--recipe embeded": ([*S_TRAIN, "--recipe", "embeded"], "unknown recipe 'embeded'; did you mean 'embedded'? (there are: embedded, gsm8k-aug-llama-3.2-1b, prosqa-llama-3.2-1b, prosqa-small, strategyqa-llama-3.2-1b)"),
    "--recipe embedded --config file": ([*S_TRAIN, "--recipe", "embedded", "--config", "file"], "--recipe and --config exclude each other: a run has one recipe"),
    "--config nowhere.yaml": ([*S_TRAIN, "--config", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
    "--config data": ([*S_TRAIN, "--config", "data"], "data: Is a directory"),
    "--config broken.yaml": ([*S_TRAIN, "--config", "broken.yaml"], "broken.yaml, line 2, column 1: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    "--config latin.yaml": ([*S_TRAIN, "--config", "latin.yaml"], "latin.yaml: not UTF-8 text (byte 3)"),
    "--config no_mapping.yaml": ([*S_TRAIN, "--config", "no_mapping.yaml"], "no_mapping.yaml: a recipe is a mapping of sections (model, data, method, training, stage1, evaluation, launch), got ['model']"),
    "--config twice.yaml": ([*S_TRAIN, "--config", "twice.yaml"], "twice.yaml, line 3, column 3: not valid YAML: the key 'limit' is given twice"),
    "--config tagged.yaml": ([*S_TRAIN, "--config", "tagged.yaml"], "tagged.yaml, line 1, column 8: not valid YAML: tags (!name) are not accepted"),
    "--config alias.yaml": ([*S_TRAIN, "--config", "alias.yaml"], "alias.yaml, line 2, column 7: not valid YAML: aliases (*name) are not accepted"),
    "--limit 0": ([*S_TRAIN, "--limit", "0"], f"Invalid value for '--limit': Input should be greater than or equal to 1\n{USAGE}"),
    "--seed -1": ([*S_TRAIN, "--seed", "-1"], f"Invalid value for '--seed': Input should be greater than or equal to 0\n{USAGE}"),
    "--resume sometimes": ([*S_TRAIN, "--resume", "sometimes"], "--resume sometimes: there is no such folder"),
    "--resume nowhere": ([*S_TRAIN, "--resume", "nowhere"], "--resume nowhere: there is no such folder"),
    "--zero 4": ([*S_TRAIN, "--zero", "4"], f"Invalid value for '--zero': Input should be less than or equal to 3\n{USAGE}"),
    "--gpus 0": ([*S_TRAIN, "--gpus", "0"], f"Invalid value for '--gpus': Input should be greater than or equal to 1\n{USAGE}"),
    "--launcher mpi": ([*S_TRAIN, "--launcher", "mpi"], f"Invalid value for '--launcher': Value error, 'mpi' is not one of 'deepspeed', 'torchrun', 'slurm'.\n{USAGE}"),
    "--hostfile nowhere": ([*S_TRAIN, "--hostfile", "nowhere"], "hostfile nowhere: No such file or directory"),
    "--hostfile hosts_empty": ([*S_TRAIN, "--hostfile", "hosts_empty"], "hostfile hosts_empty names no host: write a line `NAME slots=N` for each"),
    "--hostfile hosts_bad": ([*S_TRAIN, "--hostfile", "hosts_bad"], "hosts_bad, line 1: expected `NAME slots=N`, got 'host slots=many'"),
    "--hostfile hosts_twice": ([*S_TRAIN, "--hostfile", "hosts_twice"], "hosts_twice, line 2: a is given twice"),
    "--nodes 2": ([*S_TRAIN, "--nodes", "2"], "launch.nodes = 2: name the hosts in a hostfile (a line `NAME slots=N` each), or use launcher = slurm"),
    "--offload": ([*S_TRAIN, "--offload"], "launch.offload = true: expected zero = 1, 2 or 3 with it (zero is null)"),
    "method.latent=3": ([*S_TRAIN, "method.latent=3"], "command line: unknown setting 'method.latent'; did you mean 'method.latents'?"),
    "method.latents=0": ([*S_TRAIN, "method.latents=0"], "method.latents = 0: expected at least 1 (without latents a step has no place)"),
    "method.latents=many": ([*S_TRAIN, "method.latents=many"], "command line: method.latents = 'many': expected a whole number"),
    "method.iterations=-1": ([*S_TRAIN, "method.iterations=-1"], "method.iterations = -1: expected at least 0"),
    "method.parity=both": ([*S_TRAIN, "method.parity=both"], "command line: method.parity = 'both': expected one of odd, even"),
    "method.schedule=random": ([*S_TRAIN, "method.schedule=random"], "command line: method.schedule = 'random': expected one of sequential, simultaneous"),
    "method.align_weight=-1": ([*S_TRAIN, "method.align_weight=-1"], "command line: method.align_weight = -1.0: expected a number of at least 0"),
    "method.prompt_template=Think": ([*S_TRAIN, "method.prompt_template=Think"], "method.prompt_template = 'Think': expected a text with {question} in it"),
    "method.answer_template=x": ([*S_TRAIN, "method.answer_template=x"], "method.answer_template = 'x': expected a text with {answer} in it"),
    "stage1.max_step=1": ([*S_TRAIN, "stage1.max_step=1"], "unknown setting 'stage1.max_step'; did you mean 'stage1.max_steps'?"),
    "stage1.max_steps=-5": ([*S_TRAIN, "stage1.max_steps=-5"], "stage1.max_steps = -5: expected at least 1, or -1 to train for num_train_epochs"),
    "stage2.max_steps=1": ([*S_TRAIN, "stage2.max_steps=1"], "command line: unknown setting 'stage2'; did you mean 'stage1'?"),
    "training.learning_rate=fast": ([*S_TRAIN, "training.learning_rate=fast"], "training.learning_rate = 'fast': expected a finite number"),
    "training.learning_rat=1": ([*S_TRAIN, "training.learning_rat=1"], "unknown setting 'training.learning_rat'; did you mean 'training.learning_rate'?"),
    "training.output_dir=x": ([*S_TRAIN, "training.output_dir=x"], "training.output_dir cannot be set here: use --output"),
    "training.max_steps=0": ([*S_TRAIN, "training.max_steps=0"], "training.max_steps = 0: expected at least 1, or -1 to train for num_train_epochs"),
    "training.per_device_train_batch_size=0": ([*S_TRAIN, "training.per_device_train_batch_size=0"], "training.per_device_train_batch_size = 0: expected a number of at least 1"),
    "training.report_to=paper": ([*S_TRAIN, "training.report_to=paper"], re.compile(r"training\.report_to = 'paper': paper is not supported, only .+")),
    "training.torch_compile=true": ([*S_TRAIN, "training.torch_compile=true"], "training.torch_compile cannot be set here: use the recipe as it is (losses take parts of the model, in shapes that change at every step)"),
    "training.deepspeed=x": ([*S_TRAIN, "training.deepspeed=x"], "training.deepspeed cannot be set here: use --zero, or launch.deepspeed_config"),
    "just words": ([*S_TRAIN, "just words"], "'just words' is not a setting: write section.key=value, for example training.max_steps=20"),
    "=1": ([*S_TRAIN, "=1"], "'=1' is not a setting: write section.key=value, for example training.max_steps=20"),
    "model..dtype=1": ([*S_TRAIN, "model..dtype=1"], "'model..dtype=1' is not a setting: write section.key=value, for example training.max_steps=20"),
    "model.dtype=float99": ([*S_TRAIN, "model.dtype=float99"], "command line: model.dtype = 'float99': expected one of auto, float32, bfloat16, float16"),
    "model.lora=true": ([*S_TRAIN, "model.lora=true"], "command line: model.lora = true: expected a section with r, alpha, dropout, target_modules or null"),
    "model.quantization=4bit": ([*S_TRAIN, "model.quantization=4bit", "model.lora.r=2"], "model.quantization = '4bit': expected none, since each stage starts from the merged weights of the one before, and an adapter on quantized weights is not merged"),
    "model.name_or_path=./nowhere": ([*S_TRAIN, "model.name_or_path=./nowhere"], "./nowhere: there is no such folder"),
    "model.name_or_path=owner/nosuch": ([*S_TRAIN, "model.name_or_path=owner/nosuch"], re.compile(r"owner/nosuch: no folder of this name, .+ --local-dir FOLDER")),
    "model.name_or_path=pickle": ([*S_TRAIN, "model.name_or_path=pickle"], "pickle: the weights are in pickle files, which can run code and are not loaded; save the model as safetensors: model.save_pretrained(folder)"),
    "model.name_or_path=truncated": ([*S_TRAIN, "model.name_or_path=truncated"], "truncated: cannot be loaded: Error while deserializing header: incomplete metadata, file not fully covered"),
    "model.name_or_path=no_weights": ([*S_TRAIN, "model.name_or_path=no_weights"], "no_weights: no weights in this folder (no model.safetensors)"),
    "model.name_or_path=no_tokenizer": ([*S_TRAIN, "model.name_or_path=no_tokenizer"], "no_tokenizer: no tokenizer in this folder (none of tokenizer.json, tokenizer.model, vocab.json, vocab.txt, spiece.model, tekken.json); save it there with tokenizer.save_pretrained(folder)"),
    "model.name_or_path=broken_config": ([*S_TRAIN, "model.name_or_path=broken_config"], re.compile(r"broken_config: cannot be loaded: .+not a valid JSON file")),
    "model.chat_template=no.jinja": ([*S_TRAIN, "model.chat_template=no.jinja"], "chat_template = 'no.jinja': neither auto nor none, nor a file that can be read ([Errno 2] No such file or directory: 'no.jinja')"),
    "data.benchmark=chain": ([*S_TRAIN, "data.benchmark=chain"], "unknown benchmark 'chain'; did you mean 'chains'? (`thinker benchmarks list` shows all)"),
    "data.split=dev": ([*S_TRAIN, "data.split=dev"], "chains has no split 'dev'; it has train, valid, test"),
    "data.train_file=nowhere.jsonl": ([*S_TRAIN, "data.train_file=nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
    "data.train_file=empty.jsonl": ([*S_TRAIN, "data.train_file=empty.jsonl"], "empty.jsonl: the file holds no rows"),
    "data.train_file=no_steps.jsonl": ([*S_TRAIN, "data.train_file=no_steps.jsonl"], "no_steps.jsonl: no problem has steps, which the method needs (a list of texts, `steps`)"),
    "data.train_file=text_steps.jsonl": ([*S_TRAIN, "data.train_file=text_steps.jsonl"], "text_steps.jsonl, line 1, column 35: steps must be a list of non-empty strings"),
    "data.train_file=empty_step.jsonl": ([*S_TRAIN, "data.train_file=empty_step.jsonl"], "empty_step.jsonl, line 1, column 35: steps must be a list of non-empty strings"),
    "data.train_file=marker.jsonl": ([*S_TRAIN, "data.train_file=marker.jsonl"], "marker/file/1: the question holds the text <bot>, which marks steps: change the text"),
    "data.train_file=marker_step.jsonl": ([*S_TRAIN, "data.train_file=marker_step.jsonl"], "marker_step/file/1: the step 1 holds the text <latent>, which marks steps: change the text"),
    "data.train_file=not_utf8.jsonl": ([*S_TRAIN, "data.train_file=not_utf8.jsonl"], "not_utf8.jsonl, line 2, column 16: not UTF-8 (byte 0xfc); save the file as UTF-8"),
    "data.train_file=broken.jsonl": ([*S_TRAIN, "data.train_file=broken.jsonl"], "broken.jsonl, line 2, column 19: broken JSON (Expecting ',' delimiter)"),
    "data.train_file=steps.jsonl data.columns={steps: thoughts}": ([*S_TRAIN, "data.train_file=steps.jsonl", "data.columns={steps: thoughts}"], "steps.jsonl, line 1, column 1: no column 'thoughts' for steps (columns: question, answer, steps)"),
    "data.train_file=steps.jsonl data.columns={step: steps}": ([*S_TRAIN, "data.train_file=steps.jsonl", "data.columns={step: steps}"], "columns: unknown field 'step'; did you mean 'steps'? (fields: question, answer, id, options, aliases, steps)"),
    "data.benchmark=gsm8k --data-dir data": ([*S_TRAIN, "data.benchmark=gsm8k", "--data-dir", "data"], "gsm8k: there is neither data/gsm8k/train.jsonl nor data/train.jsonl"),
    "--output file": ([*S_TRAIN, "--output", "file"], "output file is or lies below a file: choose another --output"),
    "--output file/out": ([*S_TRAIN, "--output", "file/out"], "output file/out is or lies below a file: choose another --output"),
    "--output full": ([*S_TRAIN, "--output", "full"], "output full is not empty (it holds notes.txt): choose another --output"),
    "--output held": ([*S_TRAIN, "--output", "held"], re.compile(r"output held holds another run \(.+\): choose another --output, or go on with it anyway by --allow-changes")),
}  # fmt: skip

SPIRAL_EVALUATE = {
    "as it is": (["evaluate", "embedded", *S_EVALUATE], "name what to evaluate on: --benchmark NAME[,NAME] or --file FILE"),
    "--column without --file": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--column", "question=prompt"], "--column is for --file"),
    "--file nowhere.jsonl": (["evaluate", "embedded", *S_EVALUATE, "--file", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
    "--benchmark chain": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chain"], "unknown benchmark 'chain'; did you mean 'chains'? (`thinker benchmarks list` shows all)"),
    "--benchmark ,": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", ","], "--benchmark ',' names no benchmark"),
    "--benchmark chains --iterations few": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--iterations", "few"], "--iterations few: expected whole numbers with commas between them"),
    "--benchmark chains --iterations -1": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--iterations", "-1"], "--iterations -1: expected numbers of at least 0"),
    "--benchmark chains --latents 0": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--latents", "0"], "--latents 0: expected numbers of at least 1"),
    "--benchmark chains --control shuffle": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--control", "shuffle"], "--control shuffle: expected none, shuffled or zeroed"),
    "--benchmark chains --decoding greedy": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--decoding", "greedy"], "--decoding greedy: expected sequential or simultaneous"),
    "--option without --benchmark": (["evaluate", "embedded", *S_EVALUATE, "--file", "some.jsonl", "--option", "size=small"], "--option is a benchmark's own: name one --benchmark with it"),
    "--benchmark graphs --option size=tiny": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "graphs", "--option", "size=tiny"], "size = 'tiny': expected one of small, medium, full"),
    "--benchmark chains --split dev": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--split", "dev"], "chains has no split 'dev'; it has train, valid, test"),
    "--benchmark chains --max-new-tokens 0": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--max-new-tokens", "0"], f"Invalid value for '--max-new-tokens': Input should be greater than or equal to 1\n{USAGE}"),
    "--benchmark chains": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains"], "embedded: no spiralthinker.json, so this is not a SpiralThinker model; `spiralthinker train model.name_or_path=...` makes one of it"),
    "./nowhere --benchmark chains": (["evaluate", "./nowhere", *S_EVALUATE, "--benchmark", "chains"], "./nowhere: there is no such folder"),
    "truncated --benchmark chains": (["evaluate", "truncated", *S_EVALUATE, "--benchmark", "chains"], "truncated: no spiralthinker.json, so this is not a SpiralThinker model; `spiralthinker train model.name_or_path=...` makes one of it"),
    "pickle --benchmark chains": (["evaluate", "pickle", *S_EVALUATE, "--benchmark", "chains"], "pickle: no spiralthinker.json, so this is not a SpiralThinker model; `spiralthinker train model.name_or_path=...` makes one of it"),
    "--benchmark gsm8k --data-dir data": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "gsm8k", "--data-dir", "data"], "gsm8k: there is neither data/gsm8k/test.jsonl nor data/test.jsonl"),
    "--benchmark chains --output full": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--output", "full"], "output full is not empty (it holds notes.txt): choose another --output"),
    "--benchmark chains --output file": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--output", "file"], "output file is or lies below a file: choose another --output"),
    "--benchmark chains --dtype int8": (["evaluate", "embedded", *S_EVALUATE, "--benchmark", "chains", "--dtype", "int8"], f"Invalid value for '--dtype': Value error, 'int8' is not one of 'auto', 'float32', 'bfloat16', 'float16'.\n{USAGE}"),
    "no_weights --benchmark chains --revision main": (["evaluate", "no_weights", *S_EVALUATE, "--benchmark", "chains", "--revision", "main"], "revision = 'main': the folder no_weights has no revisions, only a hub id has"),
}  # fmt: skip

SPIRAL_INSPECT = {
    "inspect embedded": (["inspect", "embedded"], "embedded: no spiralthinker.json, so this is not a SpiralThinker model; `spiralthinker train model.name_or_path=...` makes one of it"),
    "inspect ./nowhere": (["inspect", "./nowhere"], "./nowhere: there is no such folder"),
    "inspect embedded  ": (["inspect", "embedded", " "], "the question is empty"),
    "inspect embedded --step 1=1": (["inspect", "embedded", "--step", "1=1"], "--step and --answer belong to a question of your own"),
    "inspect embedded 1? --answer  ": (["inspect", "embedded", "1?", "--answer", " "], "--answer must not be empty"),
    "inspect embedded --page file": (["inspect", "embedded", "--page", "file"], "file exists already: name another file with --page"),
    "inspect embedded --page file/x.html": (["inspect", "embedded", "--page", "file/x.html"], "file/x.html lies below a file: name another place with --page"),
    "inspect embedded --curves chains": (["inspect", "embedded", "--curves", "chains"], "--curves: they are drawn on the page, so name one with --page"),
    "inspect embedded --index -1": (["inspect", "embedded", "--index", "-1"], f"Invalid value for '--index': Input should be greater than or equal to 0\n{USAGE}"),
    "inspect embedded --top 0": (["inspect", "embedded", "--top", "0"], f"Invalid value for '--top': Input should be greater than or equal to 1\n{USAGE}"),
    "inspect embedded --benchmark chain": (["inspect", "embedded", "--benchmark", "chain"], "unknown benchmark 'chain'; did you mean 'chains'? (`thinker benchmarks list` shows all)"),
}  # fmt: skip

SPIRAL_DATA = {
    "data preview --index -1": (["data", "preview", "--index", "-1"], f"Invalid value for '--index': Input should be greater than or equal to 0\n{USAGE}"),
    "data preview --index 99999999": (["data", "preview", "--index", "99999999"], "--index 99999999: generated by thinker_common.benchmarks.chains, seed 0 has 20000 problems, numbered from 0"),
    "data preview --recipe no": (["data", "preview", "--recipe", "no"], "unknown recipe 'no' (there are: embedded, gsm8k-aug-llama-3.2-1b, prosqa-llama-3.2-1b, prosqa-small, strategyqa-llama-3.2-1b)"),
    "data preview data.train_file=marker.jsonl": (["data", "preview", "data.train_file=marker.jsonl"], "marker/file/1: the question holds the text <bot>, which marks steps: change the text"),
    "data preview data.train_file=empty_step.jsonl": (["data", "preview", "data.train_file=empty_step.jsonl"], "empty_step.jsonl, line 1, column 35: steps must be a list of non-empty strings"),
    "data preview method.latents=0": (["data", "preview", "method.latents=0"], "method.latents = 0: expected at least 1 (without latents a step has no place)"),
    "data preview --config tagged.yaml": (["data", "preview", "--config", "tagged.yaml"], "tagged.yaml, line 1, column 8: not valid YAML: tags (!name) are not accepted"),
    "data preview data.limits=3": (["data", "preview", "data.limits=3"], "command line: unknown setting 'data.limits'; did you mean 'data.limit'?"),
    "data show": (["data", "show"], f"No such command 'show'.\n{USAGE}"),
    "trian": (["trian"], f"No such command 'trian'. Did you mean 'train'?\n{USAGE}"),
    "recipes show ../../etc/passwd": (["recipes", "show", "../../etc/passwd"], "unknown recipe '../../etc/passwd' (there are: embedded, gsm8k-aug-llama-3.2-1b, prosqa-llama-3.2-1b, prosqa-small, strategyqa-llama-3.2-1b)"),
    "recipes copy embedded --to file": (["recipes", "copy", "embedded", "--to", "file"], "file exists already: name another file with --to"),
    "recipes copy embedded --to nowhere/x.yaml": (["recipes", "copy", "embedded", "--to", "nowhere/x.yaml"], "nowhere is not a folder"),
}  # fmt: skip

TINY_TRAIN = {
    "--recipe csqa": ([*T_TRAIN, "--recipe", "csqa"], "unknown recipe 'csqa' (there are: csqa-qwen2.5-0.5b-instruct, csqa-t5-base, embedded, obqa-t5-base, strategyqa-t5-base, t5-large)"),
    "--config nowhere.yaml": ([*T_TRAIN, "--config", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
    "--config latin.yaml": ([*T_TRAIN, "--config", "latin.yaml"], "latin.yaml: not UTF-8 text (byte 3)"),
    "--config tagged.yaml": ([*T_TRAIN, "--config", "tagged.yaml"], "tagged.yaml, line 1, column 8: not valid YAML: tags (!name) are not accepted"),
    "--resume runs/x": ([*T_TRAIN, "--resume", "runs/x"], "--resume runs/x: expected auto or never (each phase has checkpoints of its own)"),
    "method.acquisition.stages=[]": ([*T_TRAIN, "method.acquisition.stages=[]"], "command line: method.acquisition.stages = []: expected each stage once, and at least one"),
    "method.acquisition.stages=[recall]": ([*T_TRAIN, "method.acquisition.stages=[recall]"], "command line: method.acquisition.stages = ['recall']: without summarize there is no answer"),
    "method.acquisition.stages=[recal]": ([*T_TRAIN, "method.acquisition.stages=[recal]"], "command line: method.acquisition.stages[0] = 'recal': expected one of recall, analyze, summarize"),
    "method.acquisition.mixing=random": ([*T_TRAIN, "method.acquisition.mixing=random"], "command line: method.acquisition.mixing = 'random': expected one of interval, proportional, sequential, single"),
    "method.acquisition.interval=0": ([*T_TRAIN, "method.acquisition.interval=0"], "command line: method.acquisition.interval = 0: expected a whole number of at least 1"),
    "method.reflection.samples=1": ([*T_TRAIN, "method.reflection.samples=1"], "command line: method.reflection.samples = 1: expected a whole number of at least 2"),
    "method.reflection.beta=0": ([*T_TRAIN, "method.reflection.beta=0"], "command line: method.reflection.beta = 0.0: expected a number above 0"),
    "method.reflection.temperature=0": ([*T_TRAIN, "method.reflection.temperature=0"], "command line: method.reflection.temperature = 0.0: expected a number above 0"),
    "method.reflection.alpha=-1": ([*T_TRAIN, "method.reflection.alpha=-1"], "command line: method.reflection.alpha = -1.0: expected a number of at least 0"),
    "method.baseline=none": ([*T_TRAIN, "method.baseline=none"], "command line: method.baseline = 'none': expected one of label, cot or null"),
    "data.benchmark=chains": ([*T_TRAIN, "data.benchmark=chains"], "data.benchmark = 'chains': its questions have no options, which the method needs"),
    "data.benchmark=fact": ([*T_TRAIN, "data.benchmark=fact"], "unknown benchmark 'fact'; did you mean 'facts'? (`thinker benchmarks list` shows all)"),
    "data.rows=nowhere": ([*T_TRAIN, "data.rows=nowhere"], "nowhere: there is no recall.jsonl; make the rows with `tinythinker data build`"),
    "data.rows=rows_empty": ([*T_TRAIN, "data.rows=rows_empty"], "rows_empty: there is no recall.jsonl; make the rows with `tinythinker data build`"),
    "data.rows=rows_odd": ([*T_TRAIN, "data.rows=rows_odd"], "rows_odd: there is no analyze.jsonl; make the rows with `tinythinker data build`"),
    "training.torch_compile=true": ([*T_TRAIN, "training.torch_compile=true"], "training.torch_compile cannot be set here: use the recipe as it is (losses take parts of the model, in shapes that change at every step)"),
    "training.learning_rate=1": ([*T_TRAIN, "training.learning_rate=1"], "training.learning_rate cannot be set here: use method.acquisition.learning_rate and method.reflection.learning_rate"),
    "training.learning_rat=1": ([*T_TRAIN, "training.learning_rat=1"], "unknown setting 'training.learning_rat'"),
    "training.seed=x": ([*T_TRAIN, "training.seed=x"], "training.seed = 'x': expected a whole number of at least 0"),
    "model.name_or_path=./nowhere": ([*T_TRAIN, "model.name_or_path=./nowhere"], "./nowhere: there is no such folder"),
    "model.name_or_path=pickle": ([*T_TRAIN, "model.name_or_path=pickle"], "pickle: the weights are in pickle files, which can run code and are not loaded; save the model as safetensors: model.save_pretrained(folder)"),
    "model.name_or_path=truncated": ([*T_TRAIN, "model.name_or_path=truncated"], "truncated: cannot be loaded: Error while deserializing header: incomplete metadata, file not fully covered"),
    "--limit 0": ([*T_TRAIN, "--limit", "0"], f"Invalid value for '--limit': Input should be greater than or equal to 1\n{USAGE}"),
    "--seed x": ([*T_TRAIN, "--seed", "x"], f"Invalid value for '--seed': Input should be a valid integer, unable to parse string as an integer\n{USAGE}"),
    "--zero 9": ([*T_TRAIN, "--zero", "9"], f"Invalid value for '--zero': Input should be less than or equal to 3\n{USAGE}"),
    "--output file": ([*T_TRAIN, "--output", "file"], "output file is or lies below a file: choose another --output"),
    "--output full": ([*T_TRAIN, "--output", "full"], "output full is not empty (it holds notes.txt): choose another --output"),
    "--output held": ([*T_TRAIN, "--output", "held"], re.compile(r"output held holds another run \(.+\): choose another --output, or go on with it anyway by --allow-changes")),
    "data.benchmark=csqa --data-dir data": ([*T_TRAIN, "data.benchmark=csqa", "--data-dir", "data"], "csqa: there is neither data/csqa/train_rand_split.jsonl, data/csqa/train.jsonl, data/train_rand_split.jsonl nor data/train.jsonl"),
}  # fmt: skip

TINY_EVALUATE = {
    "--file mcq.jsonl --benchmark facts": (["evaluate", "embedded", *T_EVALUATE, "--file", "mcq.jsonl", "--benchmark", "facts"], "--benchmark and --file exclude each other"),
    "--file nowhere.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
    "--file one_option.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "one_option.jsonl"], "one_option.jsonl, line 1, column 33: 1 options; there must be 2 to 26"),
    "--file no_options.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "no_options.jsonl"], "no_options.jsonl, line 1, column 1: a question without options; there must be 2 to 26"),
    "--file bad_letter.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "bad_letter.jsonl"], "bad_letter.jsonl, line 1, column 70: answer 'C' is no letter from A to B"),
    "--file empty_option.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "empty_option.jsonl"], "empty_option.jsonl, line 1, column 33: options must be a list of texts that are not empty"),
    "--file text_options.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "text_options.jsonl"], "text_options.jsonl, line 1, column 33: options must be a list of texts that are not empty"),
    "--file not_utf8.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "not_utf8.jsonl"], "not_utf8.jsonl, line 2, column 16: not UTF-8 (byte 0xfc); save the file as UTF-8"),
    "--file broken.jsonl": (["evaluate", "embedded", *T_EVALUATE, "--file", "broken.jsonl"], "broken.jsonl, line 2, column 19: broken JSON (Expecting ',' delimiter)"),
    "--file mcq.jsonl --column question": (["evaluate", "embedded", *T_EVALUATE, "--file", "mcq.jsonl", "--column", "question"], "--column question: write FIELD=NAME, for example question=prompt"),
    "--file mcq.jsonl --column questoin=a": (["evaluate", "embedded", *T_EVALUATE, "--file", "mcq.jsonl", "--column", "questoin=a"], "data.columns: unknown field 'questoin' (fields: question, options, answer, id, facts, knowledge, reasons)"),
    "--benchmark facts --answer luck": (["evaluate", "embedded", *T_EVALUATE, "--benchmark", "facts", "--answer", "luck"], f"Invalid value for '--answer': Value error, 'luck' is not one of 'greedy', 'self_consistency', 'option_likelihood'.\n{USAGE}"),
    "--benchmark facts --samples 1": (["evaluate", "embedded", *T_EVALUATE, "--benchmark", "facts", "--samples", "1"], f"Invalid value for '--samples': Input should be greater than or equal to 2\n{USAGE}"),
    "--benchmark facts --top-k -1": (["evaluate", "embedded", *T_EVALUATE, "--benchmark", "facts", "--top-k", "-1"], f"Invalid value for '--top-k': Input should be greater than or equal to 0\n{USAGE}"),
    "--benchmark facts --split dev": (["evaluate", "embedded", *T_EVALUATE, "--benchmark", "facts", "--split", "dev"], "facts has no split 'dev'; it has train, valid, test"),
    "--benchmark facts --output full": (["evaluate", "embedded", *T_EVALUATE, "--benchmark", "facts", "--output", "full"], "output full is not empty (it holds notes.txt): choose another --output"),
    "truncated --benchmark facts": (["evaluate", "truncated", *T_EVALUATE, "--benchmark", "facts"], "truncated: cannot be loaded: Error while deserializing header: incomplete metadata, file not fully covered"),
    "no_tokenizer --benchmark facts": (["evaluate", "no_tokenizer", *T_EVALUATE, "--benchmark", "facts"], "no_tokenizer: no tokenizer in this folder (none of tokenizer.json, tokenizer.model, vocab.json, vocab.txt, spiece.model, tekken.json); save it there with tokenizer.save_pretrained(folder)"),
}  # fmt: skip

TINY_INSPECT = {
    "inspect embedded --question 1?": (["inspect", "embedded", "--question", "1?"], "--question and --options belong together"),
    "inspect embedded --question 1? --options a --answer A": (["inspect", "embedded", "--question", "1?", "--options", "a", "--answer", "A"], "--options: 1 options; there must be 2 to 26, with | between them"),
    "inspect embedded --question 1? --options a|b --answer C": (["inspect", "embedded", "--question", "1?", "--options", "a|b", "--answer", "C"], "--answer C: expected a letter from A to B"),
    "inspect embedded --question   --options a|b --answer A": (["inspect", "embedded", "--question", " ", "--options", "a|b", "--answer", "A"], "--question and each of the --options must not be empty"),
    "inspect embedded --options a|b": (["inspect", "embedded", "--options", "a|b"], "--question and --options belong together"),
    "inspect embedded --benchmark chains": (["inspect", "embedded", "--benchmark", "chains"], "data.benchmark = 'chains': its questions have no options, which the method needs"),
    "inspect embedded --index 999999": (["inspect", "embedded", "--index", "999999"], "--index 999999: facts has 1000 questions, numbered from 0"),
    "inspect embedded --page file": (["inspect", "embedded", "--page", "file"], "file exists already: name another file with --page"),
    "inspect embedded --page file/x": (["inspect", "embedded", "--page", "file/x"], "file/x lies below a file: name another place with --page"),
    "inspect embedded --samples -1": (["inspect", "embedded", "--samples", "-1"], f"Invalid value for '--samples': Input should be greater than or equal to 0\n{USAGE}"),
    "inspect embedded --temperature 0": (["inspect", "embedded", "--temperature", "0"], "--temperature 0.0: expected a number above 0; --samples 0 draws nothing"),
    "inspect ./nowhere": (["inspect", "./nowhere"], "./nowhere: there is no such folder"),
}  # fmt: skip

TINY_DATA = {
    "data split --output out --benchmark csqa --file mcq.jsonl": (["data", "split", "--output", "out", "--benchmark", "csqa", "--file", "mcq.jsonl"], "--benchmark and --file exclude each other"),
    "data split --output out --benchmark chains": (["data", "split", "--output", "out", "--benchmark", "chains"], "data.benchmark = 'chains': its questions have no options, which the method needs"),
    "data split --output out --benchmark facts --split dev": (["data", "split", "--output", "out", "--benchmark", "facts", "--split", "dev"], "facts has no split 'dev'; it has train, valid, test"),
    "data split --output out --file text_answer.jsonl": (["data", "split", "--output", "out", "--file", "text_answer.jsonl"], "text_answer.jsonl, line 1, column 70: answer 'a bedroom' is no letter from A to B"),
    "data split --output out --benchmark facts --output file/x": (["data", "split", "--output", "out", "--benchmark", "facts", "--output", "file/x"], "lies below a file: file/x"),
    "data teach --output out --benchmark facts teacher.kind=robot": (["data", "teach", "--output", "out", "--benchmark", "facts", "teacher.kind=robot"], "command line: teacher.kind = 'robot': expected one of endpoint, model, recorded, human"),
    "data teach --output out --benchmark facts teacher.kind=recorded": (["data", "teach", "--output", "out", "--benchmark", "facts", "teacher.kind=recorded"], "command line: teacher.file is null: for kind = recorded it has to name the replies (JSON lines)"),
    "data teach --output out --benchmark facts --limit 2 teacher.kind=recorded teacher.file=nowhere.jsonl": (["data", "teach", "--output", "out", "--benchmark", "facts", "--limit", "2", "teacher.kind=recorded", "teacher.file=nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
    "data teach --output out --benchmark facts --limit 2 teacher.kind=recorded teacher.file=recorded_odd.jsonl": (["data", "teach", "--output", "out", "--benchmark", "facts", "--limit", "2", "teacher.kind=recorded", "teacher.file=recorded_odd.jsonl"], "recorded_odd.jsonl, line 1, column 1: a reply without the id of its question"),
    "data teach --output out --benchmark facts teacher.base_url=ftp://x": (["data", "teach", "--output", "out", "--benchmark", "facts", "teacher.base_url=ftp://x"], "command line: teacher.base_url: expected an address such as http://localhost:8000/v1"),
    "data teach --output out --benchmark facts teacher.base_url=nonsense": (["data", "teach", "--output", "out", "--benchmark", "facts", "teacher.base_url=nonsense"], "command line: teacher.base_url: expected an address such as http://localhost:8000/v1"),
    "data teach --output out --benchmark facts --limit 2 teacher.model=m teacher.base_url=http://localhost:9/v1 teacher.api_key_env=NO_SUCH_KEY_HERE": (["data", "teach", "--output", "out", "--benchmark", "facts", "--limit", "2", "teacher.model=m", "teacher.base_url=http://localhost:9/v1", "teacher.api_key_env=NO_SUCH_KEY_HERE"], "the environment variable NO_SUCH_KEY_HERE holds no key: set it, or say teacher.api_key_env=null for a server that needs none"),
    "data teach --output out --benchmark facts teacher.samples=0": (["data", "teach", "--output", "out", "--benchmark", "facts", "teacher.samples=0"], "command line: teacher.samples = 0: expected a whole number of at least 1"),
    "data teach --output out --benchmark facts teacher.api_key=sk-123": (["data", "teach", "--output", "out", "--benchmark", "facts", "teacher.api_key=sk-123"], "command line: unknown setting 'teacher.api_key'; did you mean 'teacher.api_key_env'?"),
    "data teach --output out --benchmark facts --limit 2 teacher.kind=human": (["data", "teach", "--output", "out", "--benchmark", "facts", "--limit", "2", "teacher.kind=human"], "facts train holds nothing that people wrote about its answers: use strategyqa, obqa, csqa with teacher.file=ecqa.jsonl, or a file of your own with facts"),
    "data teach --output out --benchmark facts --limit 2 teacher.kind=model teacher.model=./nowhere": (["data", "teach", "--output", "out", "--benchmark", "facts", "--limit", "2", "teacher.kind=model", "teacher.model=./nowhere"], "./nowhere: there is no such folder"),
    "data teach --output out --benchmark facts teacher.temperature=-1": (["data", "teach", "--output", "out", "--benchmark", "facts", "teacher.temperature=-1"], "command line: teacher.temperature = -1.0: expected a number of at least 0"),
    "data build --output out --benchmark facts --replies nowhere.jsonl": (["data", "build", "--output", "out", "--benchmark", "facts", "--replies", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
    "data build --output out --benchmark facts --replies replies_broken.jsonl": (["data", "build", "--output", "out", "--benchmark", "facts", "--replies", "replies_broken.jsonl"], "replies_broken.jsonl, line 1, column 11: broken JSON (Expecting ',' delimiter)"),
    "data build --output out --benchmark facts --replies replies_odd.jsonl": (["data", "build", "--output", "out", "--benchmark", "facts", "--replies", "replies_odd.jsonl"], re.compile(r"replies_odd\.jsonl, line 1, column 1: these are replies to another data set: .+")),
    "data build --output out --benchmark facts --replies replies_none.jsonl": (["data", "build", "--output", "out", "--benchmark", "facts", "--replies", "replies_none.jsonl"], "replies_none.jsonl: the file holds no rows"),
    "data build --output out --file mcq.jsonl": (["data", "build", "--output", "out", "--file", "mcq.jsonl"], "2: mcq has no exact explanations; make replies with `tinythinker data teach`, rows of them with `tinythinker data build --replies FILE`, and train with data.rows=FOLDER"),
    "data build --output out --benchmark facts build.labels=all": (["data", "build", "--output", "out", "--benchmark", "facts", "build.labels=all"], "command line: build.labels = 'all': expected one of keep_gold, drop_disagreeing, vote"),
    "data build --output out --benchmark facts --output full": (["data", "build", "--output", "out", "--benchmark", "facts", "--output", "full"], "full is not empty: choose another --output"),
    "data build --output out --benchmark facts --output file": (["data", "build", "--output", "out", "--benchmark", "facts", "--output", "file"], "lies below a file: file"),
    "data preview nowhere": (["data", "preview", "nowhere"], "nowhere: there is no recall.jsonl; make the rows with `tinythinker data build`"),
    "data preview rows_empty": (["data", "preview", "rows_empty"], "rows_empty: there is no recall.jsonl; make the rows with `tinythinker data build`"),
    "data preview rows_odd": (["data", "preview", "rows_odd"], "rows_odd: there is no analyze.jsonl; make the rows with `tinythinker data build`"),
    "data preview file": (["data", "preview", "file"], "file: there is no recall.jsonl; make the rows with `tinythinker data build`"),
    "data preview rows_odd --stage think": (["data", "preview", "rows_odd", "--stage", "think"], "--stage think: must be one of recall, analyze, summarize"),
    "data tech": (["data", "tech"], f"No such command 'tech'. Did you mean 'teach'?\n{USAGE}"),
}  # fmt: skip

TABLES = {
    "spiral train": SPIRAL_TRAIN,
    "spiral evaluate": SPIRAL_EVALUATE,
    "spiral inspect": SPIRAL_INSPECT,
    "spiral data": SPIRAL_DATA,
    "tiny train": TINY_TRAIN,
    "tiny evaluate": TINY_EVALUATE,
    "tiny inspect": TINY_INSPECT,
    "tiny data": TINY_DATA,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all that is wrong."""
    folder = tmp_path_factory.mktemp("bad")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    weights = (embedded_path() / "model.safetensors").read_bytes()
    models = {
        "no_weights": {"model.safetensors": None},
        "pickle": {"model.safetensors": None, "pytorch_model.bin": b"\x80\x04."},
        "truncated": {"model.safetensors": weights[: len(weights) // 2]},
        "no_tokenizer": {"tokenizer.json": None},
        "broken_config": {"config.json": b"{"},
    }
    for name, changes in models.items():
        shutil.copytree(embedded_path(), folder / name)
        for file, content in changes.items():
            if content is None:
                (folder / name / file).unlink()
            else:
                (folder / name / file).write_bytes(content)
    return folder


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


CASES = {f"{table}: {name}": (table, *case) for table, cases in TABLES.items() for name, case in cases.items()}


@pytest.mark.parametrize(("table", "arguments", "message"), CASES.values(), ids=CASES)
def test_a_mistake(folder, monkeypatch, capfd, table, arguments, message):
    import huggingface_hub.constants
    import transformers.utils.logging

    command = f"{table.split()[0]}thinker"
    cli = pytest.importorskip(f"{command}.cli")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transformers.utils.logging, "_tqdm_active", False)
    monkeypatch.delenv("NO_SUCH_KEY_HERE", raising=False)
    monkeypatch.chdir(folder)
    before = contents(folder)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"{command}._common").run(cli.app, arguments)
    _, err = capfd.readouterr()
    assert ended.value.code == 2, err
    text = err.removeprefix("error: ").removesuffix("\n")
    text = text.replace(f"`{command} --help` and `{command} VERB --help` say more", USAGE)
    if isinstance(message, re.Pattern):
        assert message.fullmatch(text)
    else:
        assert text == message
    assert len(err.splitlines()) <= 2
    assert contents(folder) == before
    assert not (folder / "code_was_run").exists()


def test_the_tables_are_long_enough():
    assert len(CASES) >= 150
