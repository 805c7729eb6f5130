"""Golden runs: what the commands give on planted and tiny models, against a stored record and against another
commit.
"""
