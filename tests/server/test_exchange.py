"""Who is asked what, and what comes of it, when nodes go offline, are started anew, or are not heard for a while."""

import threading
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

import server.app
from consortium.grid import FOR_GOOD_S, InProcessGrid, Node, Offline, honest
from server.app import TIMES, FlowerExchange
from shared_models.claims import Begin
from shared_models.messages import Answer, Task, to_error
from shared_models.records.refusals import Refusal, Refused

LONG_S = 30.0  # Nothing here waits so long: who would, fails the test.


def task(says: str) -> Task:
    begin = Begin(
        opened=says, proof="", since=0, consistency=(), logged_seq=-1, logged_index=0, logged_path=(), cosigned=()
    )
    return Task(begin, b"", "", {})


class Asked:
    """An exchange with members that answer what they are asked, and behave as they are told; and who was asked what."""

    def __init__(self, kind: type[InProcessGrid] = InProcessGrid, **behaviours) -> None:
        self.asked: list[tuple[str, str]] = []
        app = ClientApp()

        @app.train()
        def _answer(message: Message, context) -> Message:
            what = Task.from_record(message.content).begin.opened
            return Message(Answer((what.encode(),), {}, b"").to_record(), reply_to=message)

        self.grid = kind(app, [self._node(name, how) for name, how in behaviours.items()], {}, workers=9)
        self.exchange = FlowerExchange(self.grid)

    def _node(self, name: str, how) -> Node:
        def behave(message: Message, answer):
            self.asked.append((name, Task.from_record(message.content).begin.opened))
            return how(message, answer)

        return Node(name, {}, nullcontext, behave)

    def ask(
        self,
        says: str = "",
        *members: str,
        wait_s: float = LONG_S,
        quorum: int = 0,
        keep: bool = False,
        then: Callable[[], None] = lambda: None,
    ) -> dict[str, str | Refusal]:
        """Ask these members: what each answers, or why it does not. It ends as a round with this quorum would.

        What is done with each answer is `then`.
        """
        said: dict[str, str | Refusal] = {}

        def enough(alone: bool) -> bool:
            return alone and sum(not isinstance(each, Refusal) for each in said.values()) >= quorum

        tasks = {member: task(says) for member in members}
        until = time.monotonic() + wait_s
        for member, answer in self.exchange.ask(tasks, until, 0, lambda *_: None, enough, keep):
            assert member not in said
            said[member] = answer.refusal if isinstance(answer, Refused) else answer.entries[0].decode()
            then()
        return said


@pytest.fixture
def asking(monkeypatch):
    """Makes an `Asked`, whose exchange looks often."""
    monkeypatch.setattr(server.app, "NODES_S", 0.05)
    made: list[Asked] = []

    def make(*kind, **behaviours) -> Asked:
        made.append(Asked(*kind, **behaviours))
        return made[-1]

    yield make
    for each in made:
        for member in [*each.exchange._asked]:
            each.exchange.drop(member)
        each.grid.close()


def first(*behaves):
    """Behaves so when it is asked first, so the second time; then honestly."""
    left = list(behaves)
    return lambda message, answer: (left.pop(0) if left else honest)(message, answer)


def away(seconds: float = FOR_GOOD_S):
    def behave(_message: Message, _answer) -> Offline:
        return Offline(seconds)

    return behave


def unheard(seconds: float, what=honest):
    return lambda message, answer: Offline(seconds, what(message, answer))


def when(there: threading.Event, what=honest):
    def behave(message: Message, answer):
        there.wait()
        return what(message, answer)

    return behave


def refusing(refusal: Refusal):
    def behave(message: Message, _answer) -> Message:
        return Message(to_error(Refused(refusal, "")), reply_to=message)

    return behave


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_who_is_started_anew_is_asked_again_whether_it_was_seen_offline_or_not(asking, seconds):
    here = asking(acme=honest, cedar=first(away(seconds)))
    assert here.ask("one", "acme", "cedar", quorum=2) == {"acme": "one", "cedar": "one"}
    assert here.asked.count(("cedar", "one")) == 2
    assert here.asked.count(("acme", "one")) == 1
    assert here.ask("two", "acme", "cedar", quorum=2) == {"acme": "two", "cedar": "two"}
    assert here.asked.count(("cedar", "two")) == 1


def test_who_is_offline_holds_nobody_up(asking):
    here = asking(acme=honest, cedar=away())
    assert here.ask("one", "acme", "cedar") == {"acme": "one", "cedar": Refusal.DEAD}
    assert here.ask("two", "acme", "cedar") == {"acme": "two", "cedar": Refusal.DEAD}
    assert here.asked.count(("cedar", "two")) == 0


def test_without_a_quorum_who_is_offline_is_waited_for_to_the_deadline(asking):
    here = asking(acme=honest, cedar=away())
    began = time.monotonic()
    assert here.ask("one", "acme", "cedar", quorum=2, wait_s=1.5)["cedar"] is Refusal.DEAD
    assert time.monotonic() - began > 1.4


def test_who_comes_back_while_another_is_at_work_is_asked(asking):
    """It was offline when the round began, too."""
    there = threading.Event()

    def back(message: Message, answer) -> Message:
        there.set()
        return answer(message)

    here = asking(acme=when(there), cedar=first(away(1.0), back))
    assert here.ask("one", "cedar") == {"cedar": Refusal.DEAD}
    assert here.ask("two", "acme", "cedar") == {"acme": "two", "cedar": "two"}


def test_who_was_only_not_heard_is_asked_again_and_its_first_answer_counts_once(asking):
    over = threading.Event()
    here = asking(cedar=first(unheard(0.5), when(over)))
    assert here.ask("one", "cedar", quorum=1, keep=True) == {"cedar": "one"}
    over.set()
    assert here.ask("two", "cedar", quorum=1, keep=True) == {"cedar": "two"}
    assert here.asked == [("cedar", "one"), ("cedar", "one"), ("cedar", "two")]


def test_what_it_refused_before_it_was_asked_again_is_no_answer(asking):
    here = asking(cedar=first(unheard(0.5, refusing(Refusal.NO_TASK))))
    assert here.ask("one", "cedar", quorum=1) == {"cedar": "one"}
    assert asking(cedar=refusing(Refusal.NO_TASK)).ask("one", "cedar", quorum=1) == {"cedar": Refusal.NO_TASK}


@pytest.mark.parametrize("lost", [away(0.0), refusing(Refusal.DEAD)])
def test_who_loses_it_again_and_again_is_given_up(asking, lost):
    here = asking(cedar=lost)
    assert here.ask("one", "cedar", quorum=1) == {"cedar": Refusal.DEAD}
    assert len(here.asked) == TIMES


def test_who_is_late_and_then_offline_is_waited_for_no_more(asking):
    gone = threading.Event()
    here = asking(acme=honest, cedar=when(gone, away()))
    assert here.ask("one", "acme", "cedar", wait_s=0.5, keep=True) == {"acme": "one", "cedar": Refusal.LATE}
    gone.set()
    assert here.ask(keep=True) == {"cedar": Refusal.DEAD}
    assert here.exchange._asked == {}


def test_who_is_late_and_started_anew_then_is_asked_the_same_again(asking):
    gone = threading.Event()
    here = asking(acme=honest, cedar=first(when(gone, away(0.0))))
    assert here.ask("one", "acme", "cedar", wait_s=0.5, keep=True) == {"acme": "one", "cedar": Refusal.LATE}
    gone.set()
    assert here.ask(keep=True) == {"cedar": "one"}


def test_without_that_nobody_waits_for_a_late_answer(asking):
    over = threading.Event()
    here = asking(cedar=first(when(over)))
    assert here.ask("one", "cedar", wait_s=0.5) == {"cedar": Refusal.LATE}
    over.set()
    assert here.ask() == {}
    assert here.ask("two", "cedar") == {"cedar": "two"}


def cedars(grid: InProcessGrid):
    (state,) = [each for each in grid._states.values() if each.node.name == "cedar"]
    return state


def test_an_answer_that_is_being_fetched_is_waited_for_whoever_goes_offline(asking):
    class Slow(InProcessGrid):
        def pull_messages(self, message_ids):
            if replies := super().pull_messages(message_ids):
                cedars(self).leave(Offline())
                time.sleep(0.5)
            return replies

    assert asking(Slow, cedar=honest).ask("one", "cedar") == {"cedar": "one"}


def test_the_longer_an_answer_takes_the_seldomer_it_is_looked_for(asking, monkeypatch):
    monkeypatch.setattr(server.app, "LOOK_S", (0.01, 0.2))
    looks = []

    class Counting(InProcessGrid):
        def pull_messages(self, message_ids):
            looks.append(message_ids)
            return super().pull_messages(message_ids)

    never = threading.Event()
    assert asking(Counting, cedar=when(never)).ask("one", "cedar", wait_s=3.0) == {"cedar": Refusal.LATE}
    never.set()
    assert 3 < len(looks) < 60  # Of 300.


def test_an_answer_that_was_fetched_counts_whoever_goes_offline(asking):
    """While the coordinator is busy with another one."""
    busy = threading.Event()
    here = asking(acme=honest, cedar=when(busy))

    def then() -> None:
        busy.set()
        while here.exchange._came.empty():
            time.sleep(0.01)
        cedars(here.grid).leave(Offline())
        time.sleep(0.2)

    said = here.ask("one", "acme", "cedar", then=lambda: busy.is_set() or then())
    assert said == {"acme": "one", "cedar": "one"}


def test_of_two_answers_to_the_same_that_come_at_once_one_counts(asking):
    both = threading.Barrier(2)

    class Together(InProcessGrid):
        def pull_messages(self, message_ids):
            if replies := super().pull_messages(message_ids):
                both.wait()
            return replies

    here = asking(Together, cedar=first(unheard(0.5)))
    assert here.ask("one", "cedar", quorum=1) == {"cedar": "one"}
    assert here.ask(wait_s=0.5, quorum=1) == {}
    assert here.exchange._came.empty()
