"""DeepSpeed's configuration: presets, "auto" values, and a file of the user's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from thinker_common.distributed import deepspeed_config as module
from thinker_common.distributed.deepspeed_config import RunValues, check_names, deepspeed_config, preset, stage_of
from thinker_common.distributed.launch_settings import LaunchSettings
from thinker_common.errors import SettingsError

VALUES = RunValues(
    micro_batch=4, accumulation=2, world_size=8, max_grad_norm=1.0, bf16=True, learning_rate=1e-6, betas=(0.9, 0.999),
    eps=1e-8, weight_decay=0.0, hidden_size=1536, cpu=False,
)  # fmt: skip
STAGES = [(0, False), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]


@pytest.mark.parametrize(("zero", "offload"), STAGES)
def test_presets_are_filled_and_deepspeed_takes_them(zero, offload):
    from deepspeed.runtime.config import DeepSpeedConfig

    config = deepspeed_config(LaunchSettings(zero=zero, offload=offload), VALUES)
    assert config is not None and stage_of(config) == zero and "auto" not in json.dumps(config)
    check_names(config, "preset")
    assert config["train_batch_size"] == 64
    section = config["zero_optimization"]
    assert ("offload_optimizer" in section, "offload_param" in section) == (offload, offload and zero == 3)
    # DeepSpeed sees one process here: its batch sizes are those of one rank.
    taken = DeepSpeedConfig({**config, "train_batch_size": 8})
    assert taken.zero_optimization_stage == zero and taken.bfloat16_config.enabled
    assert taken.gradient_clipping == 1.0


def test_presets_are_readable_files():
    folder = Path(module.__file__).parent / "presets"
    of_training = {f"zero{z}{'_offload' * o}" for z, o in STAGES}
    assert {file.stem for file in folder.iterdir()} == {*of_training, "evaluate_zero3", "evaluate_zero3_offload"}
    for file in folder.iterdir():
        assert file.read_text() == json.dumps(json.loads(file.read_text()), indent=2) + "\n"


def test_the_optimiser_is_that_of_the_settings():
    """One that DeepSpeed makes decays norms and biases: with --offload it would be another training."""
    for zero, offload in STAGES:
        config = preset(zero, offload=offload)
        assert "optimizer" not in config
        assert config.get("zero_force_ds_cpu_optimizer", True) is not offload


def test_cpu_ranks_get_no_pinned_memory(tmp_path):
    config = deepspeed_config(LaunchSettings(zero=3, offload=True), replace(VALUES, cpu=True, bf16=False))
    assert config is not None
    assert config["zero_optimization"]["offload_optimizer"]["pin_memory"] is False
    assert config["zero_optimization"]["overlap_comm"] is False
    assert config["zero_allow_untested_optimizer"] is True
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"optimizer": {"type": "AdamW", "params": {"torch_adam": "auto"}}}))
    config = deepspeed_config(LaunchSettings(deepspeed_config=str(file)), replace(VALUES, cpu=True))
    assert config is not None and config["optimizer"]["params"]["torch_adam"] is True


def test_transformers_agrees_with_what_is_filled(tmp_path):
    """transformers refuses a value that differs from its arguments, and fills the same where we left none."""
    from transformers import TrainingArguments
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    arguments = TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-6,
        max_grad_norm=1.0, use_cpu=True,
    )  # fmt: skip
    for zero, offload in STAGES:
        ours = deepspeed_config(LaunchSettings(zero=zero, offload=offload), replace(VALUES, world_size=1, bf16=False))
        theirs = HfTrainerDeepSpeedConfig(preset(zero, offload=offload))
        theirs.trainer_config_process(arguments)
        check = HfTrainerDeepSpeedConfig(ours)
        check.trainer_config_process(arguments)
        assert check.mismatches == []
        for key in ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_clipping", "bf16"):
            assert theirs.config[key] == check.config[key]


# --- the user's own -------------------------------------------------------------------------------------------------------


def own(tmp_path, config):
    file = tmp_path / "ds.json"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    return deepspeed_config(LaunchSettings(deepspeed_config=str(file)), VALUES)


def test_a_file_of_the_users_is_taken_as_it_is(tmp_path):
    config = preset(2, offload=False)
    config["zero_optimization"]["allgather_bucket_size"] = 1000
    config["wall_clock_breakdown"] = True
    made = own(tmp_path, config)
    assert made["zero_optimization"]["allgather_bucket_size"] == 1000 and made["wall_clock_breakdown"] is True
    assert made["train_micro_batch_size_per_gpu"] == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"ds.json, line 1, column 2: not valid JSON"),
        ("[]", "a DeepSpeed configuration is a JSON object, got list"),
        ('{"bf16": {}, "bf16": {}}', "the key 'bf16' is given twice"),
        ({"zero_optimisation": {}}, "unknown DeepSpeed key 'zero_optimisation'; did you mean 'zero_optimization'?"),
        ({"zero_optimization": {"stages": 2}}, "unknown DeepSpeed key 'zero_optimization.stages'; did you mean 'zero_optimization.stage'?"),
        ({"zero_optimization": {"offload_optimizer": {"devise": "cpu"}}}, "did you mean 'zero_optimization.offload_optimizer.device'?"),
        ({"bf16": {"enable": True}}, "did you mean 'bf16.enabled'?"),
        ({"bf16": True}, "bf16 = true: expected a JSON object"),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage = 4: "),
        ({"zero_optimization": {"reduce_bucket_size": -1}}, "zero_optimization.reduce_bucket_size = -1: "),
        ({"zero_optimization": {"offload_optimizer": {"device": "gpu"}}}, "zero_optimization.offload_optimizer.device = \"gpu\": "),
        ({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu = 8, but training.per_device_train_batch_size gives 4: write \"auto\""),
        ({"train_batch_size": 32}, "train_batch_size = 32, but .* gives 64"),
        ({"gradient_accumulation_steps": 1}, "gradient_accumulation_steps = 1, but training.gradient_accumulation_steps gives 2"),
        ({"gradient_clipping": 0.5}, "gradient_clipping = 0.5, but training.max_grad_norm gives 1.0"),
        ({"bf16": {"enabled": False}}, "bf16.enabled = false, but model.dtype gives true"),
        ({"fp16": {"enabled": True}}, "fp16.enabled = true, but model.dtype, which is never float16 here gives false"),
        ({"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}}, "optimizer.params.lr = 1e-05, but training.learning_rate gives 1e-06"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler: the schedule is training.lr_scheduler_type"),
        ({"zero_optimization": {"sub_group_size": "auto"}}, 'zero_optimization.sub_group_size = "auto": no setting of a run says this'),
    ],
)  # fmt: skip
def test_mistakes_in_a_file_of_the_users(tmp_path, config, message):
    with pytest.raises(SettingsError, match=message.replace("?", r"\?")):
        own(tmp_path, config)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(SettingsError, match=r"launch.deepspeed_config .*No such file"):
        deepspeed_config(LaunchSettings(deepspeed_config=str(tmp_path / "none.json")), VALUES)


def test_top_level_names_are_deepspeeds_own():
    """Each name occurs as a string in DeepSpeed's sources, or in those of the libraries that read the same file."""
    import deepspeed

    folder = Path(deepspeed.__file__).parent
    sources = "".join(
        file.read_text(errors="replace") for file in folder.rglob("*.py") if "ops" not in file.relative_to(folder).parts
    )
    absent = [name for name in module._TOP_LEVEL if f'"{name}"' not in sources and f"'{name}'" not in sources]
    assert absent == []


def test_no_configuration_without_deepspeed():
    assert deepspeed_config(LaunchSettings(gpus=8), VALUES) is None
