"""What every Prefect task of this project has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import State

from tasks.failures import transient


def worth_retrying(_task: object, _run: object, state: State[Any]) -> bool:
    """Only a network or a store that had a bad moment; the same bug twice would only take twice as long."""
    error = state.data if isinstance(state.data, BaseException) else None
    if error is None:
        found = state.result(raise_on_failure=False)
        error = found if isinstance(found, BaseException) else None
    return error is not None and transient(error)


def work(name: str) -> Callable[[Callable[..., Any]], Any]:
    """Declare a task with side effects: never cached by Prefect (fingerprints decide), retried after a pause."""
    return task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=2,
        retry_delay_seconds=[2, 15],
        retry_condition_fn=worth_retrying,
    )
