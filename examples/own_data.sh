#!/usr/bin/env bash
# Train GeneralThinker on your own questions, JSON lines, and score answers with what came out. A minute without a GPU.
#
#   bash examples/own_data.sh [FILE]
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
file="${1:-$work/mine.jsonl}"
if [ $# -eq 0 ]; then
    for i in $(seq 1 20); do
        echo "{\"prompt\": \"Mia has $i coins. She finds 2 coins. How many coins does Mia have now?\", \"solution\": \"$((i + 2))\"}"
    done > "$file"
fi

generalthinker train data.train_file="$file" data.columns='{question: prompt, answer: solution}' \
    training.max_steps=2 training.per_device_train_batch_size=16 training.num_generations=4 \
    generation.max_new_tokens=48 evaluation.at_start=false evaluation.at_end=false evaluation.every_steps=null \
    --output "$work/run"
thinker score "$file" --model "$work/run/model" --column answer=solution --output "$work/scores.jsonl"
