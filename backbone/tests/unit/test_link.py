"""Calls of the extension, without a broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import _pulsar
import pytest

from opal_backbone.link import LinkError, _call


async def test_a_call_is_cancelled_although_its_answer_comes_at_that_moment() -> None:
    answers: list[Callable[..., None]] = []
    call: asyncio.Task[Any] = asyncio.create_task(_call("test", answers.append, 5))
    await asyncio.sleep(0)
    answers[0](_pulsar.Result.Ok, "a link")
    asyncio.get_running_loop().call_soon(call.cancel)
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_call_that_is_not_answered_says_for_how_long() -> None:
    with pytest.raises(LinkError, match=r"test: no answer in 0\.1 s"):
        await _call("test", lambda _answer: None, 0.1)
