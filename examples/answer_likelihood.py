"""How likely does a model find an answer, given a chain of reasoning? No verifier, no sampling, no network.

python examples/answer_likelihood.py              # the embedded model
python examples/answer_likelihood.py FOLDER       # any Hugging Face folder or id
"""

import sys

from thinker_common import AnswerScorer, ScoringItem, load_policy, load_tokenizer
from thinker_common.models.chat import PROMPT_TEMPLATE, fill, render_prompt

QUESTION = "Mia has 12 apples. She buys 9 more. Mia loses 7 of them. How many apples does Mia have now?"
REASONING = {
    "right": "12+9=21. 21-7=14. So \\boxed{",
    "wrong": "12+9=21. 21+7=28. So \\boxed{",
    "none": "It is \\boxed{",
}

model_name = sys.argv[1] if len(sys.argv) > 1 else "embedded"
tokenizer = load_tokenizer(model_name)
scorer = AnswerScorer(load_policy(model_name), tokenizer)
prompt = render_prompt(tokenizer, fill(PROMPT_TEMPLATE, question=QUESTION))
items = [ScoringItem(prompt, reasoning, answer="14", suffix="}") for reasoning in REASONING.values()]
for name, score in zip(REASONING, scorer.score(items), strict=True):
    print(f"log p(14 | {name:5} reasoning) = {score.sum:7.3f} nats")
