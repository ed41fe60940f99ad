"""A reward of your own beside the likelihood: here a short response gets a little more. Two steps, seconds.

python examples/own_reward.py
"""

import tempfile

import torch
from trl import GRPOConfig

from generalthinker.config import MethodSettings
from generalthinker.data import training_rows
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common import load_policy, load_tokenizer
from thinker_common.benchmarks import chains

NATS_PER_TOKEN = 0.05


class BriefTrainer(GeneralThinkerTrainer):
    """The likelihood of the reference answer, less a price for each token of the response."""

    def reward_scores(self, rollout, inputs, answer_scores):
        likelihood_B = super().reward_scores(rollout, inputs, answer_scores)
        lengths_B = torch.tensor([len(response) for response in rollout.responses], device=likelihood_B.device)
        return likelihood_B - NATS_PER_TOKEN * lengths_B


method = MethodSettings()
with tempfile.TemporaryDirectory() as folder:
    arguments = GRPOConfig(
        output_dir=folder,
        max_steps=2,
        learning_rate=5e-4,
        num_generations=4,
        per_device_train_batch_size=16,
        max_completion_length=48,
        beta=0.001,
        use_bias_correction_kl=False,
        loss_type="grpo",
        bf16=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = BriefTrainer(
        model=load_policy("embedded"),
        args=arguments,
        method=method,
        train_dataset=training_rows(chains.generate("train", 16), method, seed=0),
        processing_class=load_tokenizer("embedded"),
    )
    trainer.train()
for row in trainer.state.log_history:
    if "reward" in row:
        print(f"step {row['step']}: likelihood less length {row['reward']:.3f} nats")
