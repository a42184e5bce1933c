"""`sgpo data prepare`: published sets of problems, responses and answers, made into files for sft and train.

sources.py        where rows come from, and which layout they have
answers.py        golds and worked solutions as GSM8K writes them; what kind an answer is
spool.py          the responses, kept on the disk meanwhile
dropped.py        what is left out: counts, each with an example
judging.py        golds that cannot be read, responses with another answer
duplicates.py     one problem from all rows of one text
contamination.py  problems that a benchmark has too
strategies.py     strategies joined by the question's hash, and their checks
parts.py          the parts for warm-up and RL
report.py         the page that says all this
prepare.py        all of these, in order
"""
