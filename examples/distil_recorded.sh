#!/usr/bin/env bash
# Distil with a teacher's recorded replies: questions, replies, rows, training. A minute without a GPU or a network.
#
#   bash examples/distil_recorded.sh
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

python - "$work" <<'PYTHON'
import json
import sys

with open(f"{sys.argv[1]}/mine.jsonl", "w") as questions, open(f"{sys.argv[1]}/recorded.jsonl", "w") as replies:
    for i, (thing, place) in enumerate([("bed", "bedroom"), ("oven", "kitchen"), ("car", "garage"), ("tent", "campsite")] * 8):
        question = {"id": str(i), "question": f"({i}) Where is a {thing}?", "options": [f"in a {place}", "in a pocket"], "answer": "A"}
        reply = (
            f"Key Information: A {thing} is large and belongs in a {place}.\n"
            f"A is correct. Because a {place} is made for a {thing}, as in house {i}.\n"
            f"B is incorrect. Because a {thing} does not fit into a pocket, not even into number {i}."
        )
        questions.write(json.dumps(question) + "\n")
        replies.write(json.dumps({"id": str(i), "reply": reply, "finish_reason": "stop"}) + "\n")
PYTHON

cd "$work"
tinythinker data teach --file mine.jsonl --split all teacher.kind=recorded teacher.file=recorded.jsonl --output taught
tinythinker data build --file mine.jsonl --split train --replies taught/replies.jsonl --output rows ||
    tinythinker data build --file mine.jsonl --split all --replies taught/replies.jsonl --output rows
tinythinker data preview rows --tokens embedded
tinythinker train data.train_file=mine.jsonl data.rows=rows method.acquisition.max_steps=2 \
    method.reflection.iterations=0 evaluation.limit=4 --output run
