"""Which nodes a retry goes to."""

from __future__ import annotations

from quarterdeck.control.again import _aims
from quarterdeck.core.model import Attempt, Task


def task(id: str, node: str) -> Task:
    return Task(id=id, run="r", position=0, node=node, node_name=node)


def attempt(task: str, number: int, node: str) -> Attempt:
    return Attempt(id=f"{task}-{number}", run="r", task=task, node=node, number=number)


def test_a_retry_goes_to_the_nodes_first_aimed_at_not_to_where_tries_ended() -> None:
    tasks = [task("a", "spare"), task("b", "spare")]
    tries = [attempt("a", 2, "spare"), attempt("b", 2, "spare")]
    tries += [attempt("a", 1, "web-1"), attempt("b", 1, "web-2")]
    assert _aims(tasks, tries) == ("web-1", "web-2")


def test_a_task_that_never_began_goes_to_its_node_and_one_without_a_node_to_none() -> None:
    tasks = [task("a", "web-1"), task("b", ""), task("c", "web-3")]
    assert _aims(tasks, [attempt("b", 1, ""), attempt("c", 1, "web-3")]) == ("web-1", "web-3")


def test_no_node_is_aimed_at_twice() -> None:
    tries = [attempt("a", 1, "web-1"), attempt("b", 1, "web-1")]
    assert _aims([task("a", "web-1"), task("b", "web-1")], tries) == ("web-1",)
