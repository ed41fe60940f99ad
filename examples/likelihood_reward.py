"""GeneralThinker from Python: TRL's way of training, with the answer's likelihood as the reward. Two steps, seconds.

python examples/likelihood_reward.py
"""

import tempfile

from trl import GRPOConfig

from generalthinker.config import MethodSettings
from generalthinker.data import training_rows
from generalthinker.trainer import GeneralThinkerTrainer
from thinker_common import load_policy, load_tokenizer
from thinker_common.benchmarks import chains

method = MethodSettings(credit="controlled", credit_strength=0.1)
with tempfile.TemporaryDirectory() as folder:
    arguments = GRPOConfig(
        output_dir=folder,
        max_steps=2,
        learning_rate=5e-4,
        num_generations=4,
        per_device_train_batch_size=16,
        max_completion_length=64,
        beta=0.001,
        use_bias_correction_kl=False,
        loss_type="grpo",
        bf16=False,
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = GeneralThinkerTrainer(
        model=load_policy("embedded"),
        args=arguments,
        method=method,
        train_dataset=training_rows(chains.generate("train", 16), method, seed=0),
        processing_class=load_tokenizer("embedded"),
    )
    trainer.train()
for row in trainer.state.log_history:
    if "reward" in row:
        print(f"step {row['step']}: reward {row['reward']:.3f} nats, well-formed {row['well_formed_rate']:.0%}")
