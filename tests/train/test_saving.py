import asyncio

import pytest

from jaxvae.train import saving


class Future:
    def __init__(self, error=None):
        self.error = error

    def result(self, timeout=None):
        if self.error is not None:
            raise self.error
        return timeout


class Handler:
    def __init__(self, futures):
        self.futures = futures

    async def async_save(self, directory, args=None):
        assert (directory, args) == ("there", 1)
        return self.futures

    def finalize(self, directory):
        assert directory == "there"
        if self.futures is None:
            raise OSError("full")
        return "put together"


def test_a_write_that_fails_is_told_and_raised():
    heard, full = [], OSError("full")
    handler = saving.watched(Handler([Future(), Future(full)]), heard.append)
    good, bad = asyncio.run(handler.async_save("there", args=1))
    assert good.result(timeout=3) == 3 and heard == []
    with pytest.raises(OSError, match="full"):
        bad.result()
    assert heard == [full]
    assert not isinstance(good, tuple)  # which Orbax would take apart
    assert handler.finalize("there") == "put together"


def test_a_handler_that_writes_nothing_behind_the_run_stays_so():
    handler = saving.watched(Handler(None), pytest.fail)
    assert asyncio.run(handler.async_save("there", args=1)) == []


def test_what_cannot_be_put_together_is_told_and_raised():
    heard = []
    handler = saving.watched(Handler(None), heard.append)
    with pytest.raises(OSError, match="full") as raised:
        handler.finalize("there")
    assert heard == [raised.value]
