import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tenants.identity import Authenticator, DenialReason, Denied, KnownToken, Token, TokenTable, new_token
from tenants.identity.denied import Denial
from tests.unit.conditions import until
from tests.unit.standing_clock import StandingClock
from tests.unit.tokens import CountingCheck, known, really_hashed, table, wrong

TOKEN = new_token()
OTHER = new_token()


class Harness:
    """An authenticator, its clock, and what it had checked the slow way."""

    def __init__(self, most_checks: int = 64) -> None:
        self.clock = StandingClock()
        self.check = CountingCheck()
        self.authenticator = Authenticator(self.clock.now_ms, self.check, most_checks=most_checks)

    def put(self, version: int, *tokens: KnownToken) -> None:
        self.authenticator.put_tokens(version, table(*tokens))

    async def ask(self, token: Token = TOKEN) -> KnownToken | Denied:
        return await asyncio.wait_for(self.authenticator.authenticate(token), 10)

    async def reason(self, token: Token = TOKEN) -> DenialReason | None:
        found = await self.ask(token)
        return found.reason if isinstance(found, Denied) else None


@pytest.fixture
async def harness() -> AsyncIterator[Harness]:
    made = Harness()
    yield made
    made.check.open()
    made.authenticator.close()


async def test_right_secret_is_checked_once_and_then_remembered(harness: Harness) -> None:
    harness.put(1, known(TOKEN))

    assert [await harness.ask() for _ in range(3)] == [known(TOKEN)] * 3
    assert harness.check.checked == [TOKEN.text]


async def test_remembered_token_is_answered_without_giving_way_to_others(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    await harness.ask()

    coroutine = harness.authenticator.authenticate(TOKEN)
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    assert caught.value.value == known(TOKEN)


async def test_real_hashes_are_checked() -> None:
    authenticator = Authenticator(StandingClock().now_ms)
    entry = really_hashed(TOKEN, known(TOKEN))
    authenticator.put_tokens(1, table(entry))
    [other] = wrong(TOKEN)

    refused = await authenticator.authenticate(other)
    assert isinstance(refused, Denied)
    assert refused.reason is DenialReason.WRONG_SECRET
    assert await authenticator.authenticate(TOKEN) == entry
    authenticator.close()


async def test_nobody_is_let_through_before_the_first_table(harness: Harness) -> None:
    denied = await harness.ask()
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.denial) == (DenialReason.NO_TABLE, Denial.UNAVAILABLE)
    assert denied.retry_after_s

    harness.put(0)
    assert await harness.reason() is DenialReason.UNKNOWN


async def test_every_bad_token_gets_the_same_answer(harness: Harness) -> None:
    now_ms = harness.clock.now_ms()
    tokens = {reason: new_token() for reason in ("expired", "revoked", "wrong_secret")}
    harness.put(
        1,
        replace(known(tokens["expired"]), expires_ms=now_ms),
        replace(known(tokens["revoked"]), revoked_ms=now_ms),
        known(tokens["wrong_secret"]),
    )
    [tokens["wrong_secret"]] = wrong(tokens["wrong_secret"])
    tokens["unknown"] = new_token()

    denials = {reason: await harness.ask(token) for reason, token in tokens.items()}

    assert {reason: denied.reason.value for reason, denied in denials.items() if isinstance(denied, Denied)} == {
        reason: reason for reason in tokens
    }
    answers = {(denied.denial, denied.message) for denied in denials.values() if isinstance(denied, Denied)}
    assert len(answers) == 1
    assert {denial for denial, _ in answers} == {Denial.UNAUTHENTICATED}


async def test_expiry_revocation_and_removal_count_at_once_for_remembered_tokens(harness: Harness) -> None:
    expires_ms = harness.clock.now_ms() + 1000
    entry = replace(known(TOKEN), expires_ms=expires_ms)
    harness.put(1, entry)
    assert await harness.reason() is None

    harness.clock.move(0.999)
    assert await harness.reason() is None
    harness.clock.move(0.001)
    assert await harness.reason() is DenialReason.EXPIRED

    harness.put(2, replace(entry, expires_ms=None, revoked_ms=1))
    assert await harness.reason() is DenialReason.REVOKED
    harness.put(3)
    assert await harness.reason() is DenialReason.UNKNOWN
    assert harness.check.checked == [TOKEN.text]


async def test_rights_are_those_of_the_newest_table(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    await harness.ask()

    harness.put(2, known(TOKEN, "globex"))

    assert await harness.ask() == known(TOKEN, "globex")
    assert harness.check.checked == [TOKEN.text]


async def test_older_tables_and_repeated_ones_change_nothing(harness: Harness) -> None:
    harness.put(5, known(TOKEN))
    harness.put(5)
    harness.put(4)

    assert await harness.reason() is None


async def test_other_secret_under_the_same_id_makes_the_former_one_wrong(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    await harness.ask()
    renewed = Token(TOKEN.token_id, OTHER.secret)

    harness.put(2, known(renewed))

    assert await harness.reason() is DenialReason.WRONG_SECRET
    assert await harness.reason(renewed) is None


async def test_guessing_costs_nothing_once_the_right_secret_is_known(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    await harness.ask()

    assert {await harness.reason(guess) for guess in wrong(TOKEN, 100)} == {DenialReason.WRONG_SECRET}
    assert harness.check.checked == [TOKEN.text]
    assert await harness.reason() is None


async def test_same_wrong_secret_is_checked_once(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    [guess] = wrong(TOKEN)

    assert {await harness.reason(guess) for _ in range(100)} == {DenialReason.WRONG_SECRET}
    assert harness.check.checked == [guess.text]


async def test_guessing_is_slowed_and_the_owner_gets_through(harness: Harness) -> None:
    harness.put(1, known(TOKEN), known(OTHER))
    reasons = [await harness.reason(guess) for guess in wrong(TOKEN, 6)]

    assert reasons == [DenialReason.WRONG_SECRET] * 3 + [DenialReason.SLOWED] * 3
    assert len(harness.check.checked) == 3
    slowed = await harness.ask()
    assert isinstance(slowed, Denied)
    assert (slowed.reason, slowed.retry_after_s) == (DenialReason.SLOWED, 1.0)
    assert await harness.reason(OTHER) is None

    harness.clock.move(1)
    assert await harness.reason() is None


async def test_wait_doubles_up_to_eight_seconds(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    waits: list[float | None] = []
    for guess in wrong(TOKEN, 9):
        assert await harness.reason(guess) is DenialReason.WRONG_SECRET
        denied = await harness.ask(new_guess := next(iter(wrong(TOKEN))))
        if isinstance(denied, Denied) and denied.reason is DenialReason.SLOWED:
            waits.append(denied.retry_after_s)
            harness.clock.move(denied.retry_after_s or 0)
        else:
            assert new_guess.text in harness.check.checked

    assert waits[:4] == [1, 2, 4, 8]
    assert set(waits[4:]) == {8}


async def test_requests_with_one_new_token_share_one_check(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    harness.check.shut()
    asking = [asyncio.ensure_future(harness.ask()) for _ in range(20)]
    await until(lambda: bool(harness.check.checked))
    asking[0].cancel()

    harness.check.open()

    assert [await each for each in asking[1:]] == [known(TOKEN)] * 19
    assert harness.check.checked == [TOKEN.text]


async def test_check_goes_on_when_all_who_wait_for_it_go_away(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    harness.check.shut()
    asking = asyncio.ensure_future(harness.ask())
    await until(lambda: bool(harness.check.checked))
    asking.cancel()
    await asyncio.wait([asking])
    harness.check.open()

    assert await harness.reason() is None
    assert harness.check.checked == [TOKEN.text]


async def test_one_secret_of_a_token_is_checked_at_a_time(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    harness.check.shut()
    asking = asyncio.ensure_future(harness.reason())
    await until(lambda: bool(harness.check.checked))

    assert {await harness.reason(guess) for guess in wrong(TOKEN, 10)} == {DenialReason.SLOWED}

    harness.check.open()
    assert await asking is None


async def test_checks_are_few_at_once_and_those_beyond_the_queue_come_later() -> None:
    harness = Harness(most_checks=5)
    tokens = [new_token() for _ in range(8)]
    harness.put(1, *map(known, tokens))
    harness.check.shut()
    asking = [asyncio.ensure_future(harness.ask(token)) for token in tokens]
    await until(lambda: sum(each.done() for each in asking) == 3)
    harness.check.open()
    found = await asyncio.gather(*asking)

    refused = [each for each in found if isinstance(each, Denied)]
    assert {(each.reason, each.denial, each.retry_after_s) for each in refused} == {
        (DenialReason.OVERLOADED, Denial.UNAVAILABLE, 1.0)
    }
    assert len(harness.check.checked) == 5
    assert harness.check.most_at_once <= 2
    assert [await harness.reason(token) for token in tokens] == [None] * 8
    harness.authenticator.close()


async def test_token_that_is_revoked_while_it_is_checked_is_refused(harness: Harness) -> None:
    harness.put(1, known(TOKEN))
    harness.check.shut()
    asking = asyncio.ensure_future(harness.reason())
    await until(lambda: bool(harness.check.checked))

    harness.put(2)
    harness.check.open()

    assert await asking is DenialReason.UNKNOWN
    assert len(harness.authenticator._verdicts) == 0


async def test_nothing_is_remembered_of_tokens_that_do_not_exist(harness: Harness) -> None:
    tokens = [new_token() for _ in range(50)]
    harness.put(1, *map(known, tokens))
    for token in tokens:
        await harness.ask(token)
        for guess in wrong(token, 10):
            await harness.ask(guess)
        await harness.ask(new_token())
    assert len(harness.authenticator._verdicts) == 50

    harness.put(2, known(tokens[0]))

    assert len(harness.authenticator._verdicts) == 1


async def test_check_that_fails_by_a_bug_is_not_taken_for_an_answer(harness: Harness) -> None:
    def broken(_token: Token, _secret_hash: str) -> bool:
        raise ValueError("broken")

    authenticator = Authenticator(harness.clock.now_ms, broken)
    authenticator.put_tokens(1, table(known(TOKEN)))
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            await authenticator.authenticate(TOKEN)
    assert authenticator._checks == {}
    authenticator.close()


def test_no_secret_is_in_a_repr() -> None:
    authenticator = Authenticator(StandingClock().now_ms)
    authenticator.put_tokens(1, table(known(TOKEN)))

    assert TOKEN.secret not in repr(authenticator) + repr(vars(authenticator)) + repr(TokenTable({"a": known(TOKEN)}))
    authenticator.close()


class Store:
    """Where another process makes tokens."""

    def __init__(self) -> None:
        self.made: list[KnownToken] = []
        self.looks = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.clock = StandingClock()
        self.authenticator = Authenticator(self.clock.now_ms, CountingCheck(), look=self.look)
        self.authenticator.put_tokens(0, table())

    async def look(self) -> None:
        self.looks += 1
        await self.answers.wait()
        self.authenticator.put_tokens(self.looks, table(*self.made))


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    made = Store()
    yield made
    made.authenticator.close()


async def test_token_that_another_process_has_just_made_is_good_at_once(store: Store) -> None:
    store.made = [known(TOKEN)]
    assert await store.authenticator.authenticate(TOKEN) == known(TOKEN)
    assert await store.authenticator.authenticate(TOKEN) == known(TOKEN)
    assert store.looks == 1


async def test_whoever_guesses_tokens_does_not_keep_the_store_busy(store: Store) -> None:
    store.answers.clear()
    asked = [asyncio.create_task(store.authenticator.authenticate(new_token())) for _ in range(50)]
    await until(lambda: store.looks == 1)
    store.answers.set()
    assert {found.reason for found in await asyncio.gather(*asked) if isinstance(found, Denied)} == {
        DenialReason.UNKNOWN
    }
    await store.authenticator.authenticate(new_token())
    assert store.looks == 1
    store.clock.move(1)
    await store.authenticator.authenticate(new_token())
    assert store.looks == 2


async def test_store_that_does_not_answer_holds_nobody_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenants.identity.authenticator._LOOK_S", 0.01)
    store.answers.clear()
    found = await store.authenticator.authenticate(TOKEN)
    assert isinstance(found, Denied)
    assert found.reason is DenialReason.UNKNOWN
