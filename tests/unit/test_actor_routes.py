"""What an actor measured, in one row."""

from cluster.actor_routes import actor_row


def test_a_row_has_sums_and_the_worst() -> None:
    row = actor_row(
        "collector0",
        [
            ("millrace_actor_up", (), 1.0),
            ("millrace_registry_active_series", ("acme",), 5),
            ("millrace_registry_active_series", ("globex",), 7),
            ("millrace_remote_write_lag_seconds", ("acme", "e"), 3.0),
            ("millrace_remote_write_lag_seconds", ("globex", "e"), 1.0),
            ("millrace_unknown", (), 9),
        ],
        "node1",
    )
    assert row == {"name": "collector0", "node": "node1", "is_up": True, "active_series": 12, "endpoint_lag_s": 3.0}


def test_one_that_does_not_answer_is_down() -> None:
    assert actor_row("gateway0", [("millrace_actor_up", (), 0.0)], None) == {
        "name": "gateway0",
        "node": None,
        "is_up": False,
    }
