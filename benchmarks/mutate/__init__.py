"""Mutation testing of the machines: `python -m benchmarks.mutate` breaks them one small way at a time.

A mutant that no test notices is a sentence of the code that no test has read. Own operators and a loop of our own, for
mutmut 3 passes over decorated functions (every `rule` that is replaced live is one) and breaks messages too.
"""
