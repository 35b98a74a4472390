"""Visit every state of a model, breadth first, and print the shortest way to one that must not be.

Knows nothing of what the states mean. One visit for each state: equal states are one.
"""

from array import array
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from tests.protocol.model import Configuration, Model, State, Step, begin

MAX_STATES = 20_000_000
"""Beyond it an exploration is broken off: a model that is not bounded would fill the machine."""


@dataclass(frozen=True)
class Exploration:
    """What was found.

    Attributes:
        states: how many were visited.
        steps: between them.
        quiescent: states in which nothing is left to do.
        violation: what is wrong; None if nothing is.
        trace: the steps from the first state to the violation.
    """

    states: int
    steps: int
    quiescent: int
    violation: str | None = None
    trace: tuple[Step, ...] = ()

    def __str__(self) -> str:
        if self.violation is None:
            return f"{self.states} states, {self.steps} steps, {self.quiescent} quiescent"
        steps = "\n".join(f"{number:3}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{self.violation}, after {self.states} states:\n{steps}"


class TooManyStatesError(Exception):
    """The configuration is too big to be explored."""


def explore(configuration: Configuration, max_states: int = MAX_STATES) -> Exploration:
    """Visit all states until one is wrong.

    Besides what the model says of states and of quiescent states, from every state a quiescent one must be reachable
    without a crash or a fault of the network.

    Raises:
        TooManyStatesError: there are more than ``max_states``.
    """
    model = Model(configuration)
    first = begin(configuration)
    numbers = {first: 0}
    queue = deque([first])
    parents = array("q", [-1])
    # Pairs of states, of steps that need no fault: the way back from quiescence.
    sources, targets = array("q"), array("q")
    quiescent = array("q")
    number = steps = 0
    while queue:
        state = queue.popleft()
        is_quiescent = True
        for step, after in model.steps(state):
            steps += 1
            known = numbers.get(after)
            if known is None:
                known = numbers[after] = len(numbers)
                parents.append(number)
                violation = model.violation(after)
                if violation:
                    return _found(violation, model, numbers, parents, known, steps)
                queue.append(after)
            if not step.is_fault and known != number:
                is_quiescent = False
                sources.append(number)
                targets.append(known)
        if is_quiescent:
            quiescent.append(number)
            violation = model.final_violation(state)
            if violation:
                return _found(violation, model, numbers, parents, number, steps)
        if len(numbers) > max_states:
            raise TooManyStatesError(f"more than {max_states} states: {configuration}")
        number += 1
    stuck = _first_that_never_rests(len(numbers), sources, targets, quiescent)
    if stuck is not None:
        return _found("quiescence cannot be reached", model, numbers, parents, stuck, steps)
    return Exploration(len(numbers), steps, len(quiescent))


def _first_that_never_rests(
    states: int, sources: "array[int]", targets: "array[int]", quiescent: "array[int]"
) -> int | None:
    """Return the first state from which no quiescent one is reachable."""
    # Edges chained by target in arrays: lists would take more memory than the states.
    heads, chain = array("q", [-1]) * states, array("q", [-1]) * len(targets)
    for edge, target in enumerate(targets):
        chain[edge], heads[target] = heads[target], edge
    rests = bytearray(states)
    stack = list(quiescent)
    for number in stack:
        rests[number] = True
    while stack:
        edge = heads[stack.pop()]
        while edge >= 0:
            source = sources[edge]
            if not rests[source]:
                rests[source] = True
                stack.append(source)
            edge = chain[edge]
    stuck = rests.find(0)
    return None if stuck < 0 else stuck


def _found(
    violation: str, model: Model, numbers: dict[State, int], parents: "array[int]", last: int, steps: int
) -> Exploration:
    way = [last]
    while parents[way[-1]] >= 0:
        way.append(parents[way[-1]])
    way.reverse()
    states = list(numbers)
    trace = [
        next(step for step, after in model.steps(states[before]) if numbers.get(after) == number)
        for before, number in pairwise(way)
    ]
    return Exploration(len(numbers), steps, 0, violation, tuple(trace))
