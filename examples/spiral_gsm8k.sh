#!/usr/bin/env bash
# GSM8K's solutions as steps, SpiralThinker trained on them, and a look at its latents. A minute without a GPU.
#
#   bash examples/spiral_gsm8k.sh DIR     # DIR/gsm8k/train.jsonl: the original file; without DIR three rows of its form
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
data="${1:-$work}"
if [ $# -eq 0 ]; then
    mkdir "$work/gsm8k"
    for i in 3 4 5; do
        echo "{\"question\": \"Tom has $i boxes of 2 pens and finds 1 pen. How many pens?\", \"answer\": \"In boxes $i*2=<<$i*2=$((i * 2))>>$((i * 2)).\nWith one more $((i * 2))+1=<<$((i * 2))+1=$((i * 2 + 1))>>$((i * 2 + 1)).\n#### $((i * 2 + 1))\"}"
    done > "$work/gsm8k/train.jsonl"
fi

# A line of a solution is a step; what follows #### is the answer.
python - "$data/gsm8k/train.jsonl" "$work/steps.jsonl" <<'PYTHON'
import json
import re
import sys

with open(sys.argv[1], encoding="utf-8") as rows, open(sys.argv[2], "w", encoding="utf-8") as out:
    for row in map(json.loads, rows):
        solution, _, answer = row["answer"].partition("####")
        steps = [re.sub(r"<<.*?>>", "", line).strip() for line in solution.splitlines()]
        steps = [step for step in steps if step]
        out.write(json.dumps({"question": row["question"], "answer": answer.strip(), "steps": steps}) + "\n")
PYTHON

spiralthinker data preview data.train_file="$work/steps.jsonl" method.latents=3
spiralthinker train data.train_file="$work/steps.jsonl" method.latents=3 method.iterations=2 \
    stage1.max_steps=2 training.max_steps=2 evaluation.at_end=false evaluation.every_steps=null --output "$work/run"
spiralthinker inspect "$work/run/model" "Tom has 3 boxes of 2 pens. How many pens?" --max-new-tokens 16
