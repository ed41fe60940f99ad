"""What ranks agree on before they read a sharded model, on one process; on two it is tested with the evaluations."""

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from thinker_common.distributed import in_step as module
from thinker_common.errors import UserError

LLAMA = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
OPT = {
    "vocab_size": 30, "hidden_size": 16, "word_embed_proj_dim": 8, "ffn_dim": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 20,
}  # fmt: skip
T5 = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}


@pytest.fixture(autouse=True)
def sharded(monkeypatch):
    """Every parameter counts as divided; one process waits for nobody."""
    monkeypatch.setattr(module, "_is_partitioned", lambda parameter: True)


def models() -> dict[str, PreTrainedModel]:
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**LLAMA)),
        "opt, narrow embeddings": OPTForCausalLM(OPTConfig(**OPT)),
        "t5": T5ForConditionalGeneration(T5Config(**T5, decoder_start_token_id=0)),
    }


@pytest.mark.parametrize("name", models())
def test_a_rank_without_work_can_compute_every_part(name):
    for part in module._parts(models()[name].eval()):
        with torch.no_grad():
            part.idle()


def test_generating_and_reading_embeddings_take_turns_and_leave_no_hook():
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    ids_BT = torch.ones(1, 3, dtype=torch.long)
    expected = model.generate(ids_BT, max_new_tokens=3, do_sample=False)
    hooks = [len(part._forward_pre_hooks) for part in model.modules()]
    with module.in_step(model):
        assert model.generate(ids_BT, max_new_tokens=3, do_sample=False).equal(expected)
        embeds_BTD = model.get_input_embeddings()(ids_BT)
        assert model.get_decoder()(inputs_embeds=embeds_BTD).last_hidden_state.shape == (1, 3, 16)
    assert [len(part._forward_pre_hooks) for part in model.modules()] == hooks


class WithMore(LlamaForCausalLM):
    """A module that is called outside of the decoder and the head."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.more = torch.nn.Linear(16, 16)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.more(self.get_decoder()(input_ids=input_ids).last_hidden_state)


def test_a_model_that_calls_other_modules_is_refused():
    model = WithMore(LlamaConfig(**LLAMA)).eval()
    with pytest.raises(UserError, match="cannot divide this model, which calls more outside"), module.in_step(model):
        model(torch.ones(1, 3, dtype=torch.long))


def test_an_error_in_the_middle_of_a_part_ends_the_rank(capsys):
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()

    def fail(*_):
        raise UserError("out of memory: lower something")

    model.get_decoder().layers[0].register_forward_pre_hook(fail)
    with pytest.raises(SystemExit) as ended, module.in_step(model):
        model(torch.ones(1, 3, dtype=torch.long))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: out of memory: lower something\n"
