"""The verb `inspect`: every chain of one question, the votes, and what the answer owes to the recall."""
