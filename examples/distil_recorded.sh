#!/usr/bin/env bash
# Distil with a teacher's recorded replies: questions, splits, replies, rows, training. A minute without a GPU or a network.
#
#   bash examples/distil_recorded.sh
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"

python - > mine.jsonl <<'PYTHON'
import json

for i, (thing, place) in enumerate([("bed", "bedroom"), ("oven", "kitchen"), ("car", "garage"), ("tent", "campsite")] * 8):
    row = {"id": str(i), "question": f"({i}) Where is a {thing}?", "options": [f"in a {place}", "in a pocket"], "answer": "A"}
    print(json.dumps(row))
PYTHON
tinythinker data split --file mine.jsonl --output questions

# What a teacher said about the training questions; here it is made up, in the form that is asked for.
python - > recorded.jsonl <<'PYTHON'
import json

with open("questions/train.jsonl", encoding="utf-8") as rows:
    for number in (json.loads(row)["id"] for row in rows):
        reply = (
            f"Key Information: Question {number} is about a large thing, and a large thing needs room.\n"
            f"A is correct. Because there is room for it, as in house {number}.\n"
            f"B is incorrect. Because it does not fit into a pocket, not even into number {number}."
        )
        print(json.dumps({"id": number, "reply": reply, "finish_reason": "stop"}))
PYTHON

tinythinker data teach --file mine.jsonl teacher.kind=recorded teacher.file=recorded.jsonl --output taught
tinythinker data build --file mine.jsonl --replies taught/replies.jsonl --output rows
tinythinker data preview rows --tokens embedded
tinythinker train data.train_file=mine.jsonl data.rows=rows method.acquisition.max_steps=2 \
    method.reflection.iterations=0 evaluation.limit=4 --output run
