"""PromQL taken apart by a parser that is not ours."""

from collections.abc import Iterator
from typing import Any

import promql_parser

VARIABLES = {"$__rate_interval": "1m", "$job": "a", "$instance": "b"}  # Grafana puts these in


def selectors(expression: str) -> list[tuple[str, set[str]]]:
    """Name and matched labels of each selector. Raises ValueError for what is not PromQL."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    found = (node for node in _walk(promql_parser.parse(expression)) if isinstance(node, promql_parser.VectorSelector))
    return [(node.name, {matcher.name for matcher in node.matchers.matchers}) for node in found]


def groupings(expression: str) -> set[str]:
    """Labels that an aggregation keeps."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    found: set[str] = set()
    for node in _walk(promql_parser.parse(expression)):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            found |= set(node.modifier.labels)
    return found


def _walk(node: Any) -> Iterator[Any]:
    yield node
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        inner = getattr(node, part, None)
        if inner is not None:
            yield from _walk(inner)
    for inner in getattr(node, "args", None) or ():
        yield from _walk(inner)
