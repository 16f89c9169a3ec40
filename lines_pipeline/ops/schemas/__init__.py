"""Which tensors a step's value has: schemas, their comparison, and the rules that ops share."""
