"""Fuzz target: rules. Text of any kind is a rule that round-trips, or a RuleError."""

from __future__ import annotations

from lopower.proxy.policy import Context, Policy, Rule, RuleError, routes

CONTEXT = Context()


def one_input(data: bytes) -> None:
    text, _, destination = data.partition(b"\0")
    try:
        rule = Rule.parse(text.decode("utf-8", "replace"))
    except RuleError:
        return
    assert Rule.parse(str(rule)) == rule
    policy = Policy((rule,), CONTEXT)
    policy.check(destination[:16], len(data), "tcp")
    routes((rule,), CONTEXT)
