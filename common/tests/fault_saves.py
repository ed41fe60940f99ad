"""Worker of test_faults.py: one save of a tiny training, failed at every single thing it changes on disk.

    LD_PRELOAD=fault_shim.so python fault_saves.py FOLDER die|full|broken [PART PARTS]

Trains three steps with `save_total_limit=1`. The save of step 3 is done by children of this process, one for each
operation, which fails or dies there; after each of them this process looks at what is left. Prints a line of JSON.
"""

import ctypes
import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import tiny_training

from thinker_common.errors import UserError
from thinker_common.training import checkpoints
from thinker_common.training.resume import choose
from thinker_common.training.supervised import SupervisedTrainer

MODES = {"die": 1, "full": 2, "broken": 3}
REASONS = {"full": "No space left on device", "broken": "Input/output error"}
shim = ctypes.CDLL(None)


class Faulty(SupervisedTrainer):
    mode = ""
    share = (0, 1)
    outcome: dict[str, Any] | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.state.global_step < 3:
            super()._save_checkpoint(model, trial)
        else:
            self.outcome = every_fault(lambda: super(Faulty, self)._save_checkpoint(model, trial), self)


def every_fault(save: Any, trainer: Faulty) -> dict[str, Any]:
    folder = Path(trainer.args.output_dir)
    pristine = folder.with_name("pristine")
    shutil.copytree(folder, pristine)
    log = folder.with_name("operations")
    assert in_child(save, folder, 0, 0, log)[0] == 0
    operations = log.read_text().splitlines()
    expected = {
        3: choose(folder, "auto").checkpoint.manifest.files,
        2: choose(pristine, "auto").checkpoint.manifest.files,
    }
    assert names(folder) == ["checkpoint-3"]
    found: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    part, parts = trainer.share
    for number in range(1 + part, len(operations) + 1, parts):
        restore(folder, pristine)
        code, message = in_child(save, folder, number, MODES[trainer.mode], None)
        where = f"operation {number}, {operations[number - 1]}: exit {code}, {message}"
        point = choose(folder, "auto")
        assert point.checkpoint is not None, where
        step = point.checkpoint.manifest.step
        assert step in (2, 3) and point.checkpoint.manifest.files == expected[step], where
        assert {path.name for path in checkpoints.committed(folder)} <= {"checkpoint-2", "checkpoint-3"}, where
        assert all(each.path.parent.name == checkpoints.PARTIAL for each in point.skipped), (where, point.skipped)
        if trainer.mode == "die":
            assert code == -9, where
        elif step == 2 or code:
            assert code == 3 and message.startswith("step 3: cannot "), where
            assert any(f"({folder / f'checkpoint-{kept}'} is complete)" in message for kept in {2, step}), where
            assert REASONS[trainer.mode] in message, where
        found[f"step {step} left"] += 1
        messages[message.replace(str(folder), "FOLDER")] += 1
        # Whatever was left, the next save succeeds and tidies up.
        assert in_child(save, folder, 0, 0, None)[0] == 0, where
        assert names(folder) == ["checkpoint-3"], where
        assert choose(folder, "auto").checkpoint.manifest.files == expected[3], where
    return {"operations": Counter(line.split()[0] for line in operations), **found, "messages": messages}


def in_child(save: Any, folder: Path, number: int, mode: int, log: Path | None) -> tuple[int, str]:
    """(exit code, negative for a signal; the error's text) of a save in a process of its own."""
    reading, writing = os.pipe()
    numbers = random.getstate()
    child = os.fork()
    if child == 0:
        os.close(reading)
        random.setstate(numbers)  # Python seeds anew after a fork, and the checkpoint holds this state
        if log is not None:
            shim.fault_log(str(log).encode())
        shim.fault_watch((str(folder) + "/").encode())
        shim.fault_arm(number, mode)
        try:
            save()
        except UserError as error:
            os.write(writing, str(error).encode())
            os._exit(3)
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        message = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def restore(folder: Path, pristine: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)
    for path in pristine.iterdir():
        shutil.copytree(path, folder / path.name)


def main(folder: str, mode: str, part: str = "0", parts: str = "1") -> None:
    Faulty.mode, Faulty.share = mode, (int(part), int(parts))
    path = Path(folder).resolve() / "checkpoints"
    trainer = tiny_training.trainer(path, cls=Faulty, max_steps=3, save_steps=1, save_total_limit=1)
    trainer.train()
    print(json.dumps(trainer.outcome))


if __name__ == "__main__":
    main(*sys.argv[1:])
