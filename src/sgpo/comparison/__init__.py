"""`sgpo compare`: every method from the same warm-up on the same data, over seeds and base models; `sgpo plot`.

    recipe -> plan (jobs, cells) -> runs -> results.jsonl -> statistics -> table, pictures

A cell is one method with one seed on one base model. results.jsonl has a line for each finished cell, which is all that
the table and the pictures need.
"""
