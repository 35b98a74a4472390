"""The numbered cases of the contract (processors §6), played to the engine.

``fixtures`` has the contract's named inputs, ``case`` the form of a row, ``driver`` the tenant that rows are played to.
Every row asserts all series of the metrics that it names. Where the engine is meant to give something else than the
contract's text, the row expects what the engine gives and carries the :class:`~tests.conformance.case.Difference`.
"""
