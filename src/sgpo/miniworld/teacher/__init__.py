"""The mini-world's symbolic teacher as an OpenAI-compatible server: `sgpo teacher serve`.

It plays the strong model and the judge, so that the whole path from responses to strategies runs over real HTTP without
a paid model. It recognises the prompts of `sgpo.strategies.prompts` around problems of the mini-world, and answers
nothing else.

    reading.py     a problem's text -> its puzzle, the inverse of what `sgpo.miniworld` writes
    questions.py   a chat request -> what is asked: solve, extract, score or quality
    candidates.py  strategies of five kinds: right, vague, detailed, leaking, wrong
    judging.py     scores of strategies by the four criteria
    faults.py      which fault a request meets, a function of its hash and attempt number
    answering.py   what it says, all of these together
    server.py      HTTP
"""

MODEL = "miniworld-teacher"  # the only one that the server has
