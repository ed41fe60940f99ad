"""The embedded student learns the stages of `facts` in a few steps: what it is not trained on becomes likelier."""

import torch
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from tinythinker._common import AnswerScorer, ScoringItem
from tinythinker.build import build_from_references
from tinythinker.config import DataSettings
from tinythinker.question_sets import load_questions
from tinythinker.student import load_student
from tinythinker.trainer import AcquisitionTrainer, StageOrder


def test_a_few_steps_make_held_out_targets_likelier(tmp_path):
    student = load_student("embedded")

    def rows(split, limit):
        built = build_from_references(load_questions(DataSettings(split=split, limit=limit))).rows
        return {
            stage: [
                {"prompt_ids": student.prompt_ids(row.prompt()), "target_ids": student.target_ids(row.target)}
                for row in own
            ]
            for stage, own in built.items()
        }

    held_out = rows("valid", 6)

    def nats_a_token():
        found = {}
        for stage, own in held_out.items():
            scores = AnswerScorer(student.model, student.tokenizer).score(
                [ScoringItem(row["prompt_ids"], [], row["target_ids"]) for row in own]
            )
            found[stage] = -sum(s.sum for s in scores) / sum(len(s.token_ids) for s in scores)
        return found

    before, train = nats_a_token(), rows("train", 60)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=36, per_device_train_batch_size=10, learning_rate=2e-3, lr_scheduler_type="cosine",
        warmup_steps=4, logging_steps=12, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=3,
    )  # fmt: skip
    torch.manual_seed(0)
    order = StageOrder(list(train), [len(own) for own in train.values()], "interval", [1, 2, 1])
    trainer = AcquisitionTrainer(student, arguments, [row for own in train.values() for row in own], order)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    after = nats_a_token()
    for stage, nats in after.items():
        assert nats < 0.75 * before[stage], (stage, before, after)
