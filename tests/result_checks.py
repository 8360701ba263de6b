"""What the tests of every theory's result ask of it."""

import copy
import json


def damaged(result, path, value):
    """Returns the JSON of a result with another value at a path of keys and places."""
    return changed(json.loads(json.dumps(result.to_json())), path, value)


def changed(data, path, value):
    """Returns a copy of nested lists and dictionaries with another value at a path of keys and places."""
    wrong = copy.deepcopy(data)
    place = wrong
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return wrong


def assert_every_number_stands(line, numbers):
    """Asserts that a line of a table has value, error and chance of all numbers."""
    for key, number in numbers.items():
        assert line[key] == number.value, key
        if number.spread is not None:
            assert line[f"{key}, error"] == number.spread, key
        if number.chance is not None:
            assert (line[f"{key}, chance from"], line[f"{key}, chance to"]) == number.chance, key
