"""The embedded model's own scores: greedy decoding on the test split of each generated task.

python common/scripts/score_embedded.py common/src/thinker_common/models/embedded/v1    # writes scores.json there
"""

import argparse
import json
from pathlib import Path

from thinker_common.benchmarks import load_benchmark
from thinker_common.evaluation.evaluate import evaluate
from thinker_common.evaluation.progress import progress_bar
from thinker_common.evaluation.table import COLUMNS, cells
from thinker_common.models.load import load_policy, load_tokenizer

MAX_NEW_TOKENS = {"chains": 64, "facts": 96, "graphs": 128, "phrases": 48}


def main(folder: Path, limit: int | None) -> None:
    model, tokenizer = load_policy(folder), load_tokenizer(folder)
    scores = {}
    print(" | ".join(COLUMNS))
    for name, max_new_tokens in MAX_NEW_TOKENS.items():
        with progress_bar(name) as update:
            result = evaluate(
                model,
                tokenizer,
                load_benchmark(name, limit=limit),
                max_new_tokens=max_new_tokens,
                max_tokens_per_batch=16384,
                progress=update,
            )
        scores[name] = result.to_dict()
        print(" | ".join(cells(result, folder.name)), flush=True)
    (folder / "scores.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, help="a sample of each test split")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.limit)
