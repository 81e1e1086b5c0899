"""What the suites proved, written down for the conformance table (tests/conformance/README.md)."""

import functools
import inspect
import json

from lib.server import TARGET

_results = {}


def proves(*features):
    """A test that shows these features of tests/conformance/features.json when it passes."""

    def mark(test):
        @functools.wraps(test)
        async def run(self):
            try:
                await test(self)
            except BaseException:
                _note(self, features, False)
                raise
            _note(self, features, True)

        assert inspect.iscoroutinefunction(test), f"{test} is no coroutine"
        return run

    return mark


def _note(case, features, passed):
    suite = case.suite
    combination = "/".join((case.sdk, case.transport, case.encoding.name))
    for feature in features:
        _results.setdefault(suite, []).append(
            {"feature": feature, "on": combination, "test": case.id(), "passed": passed}
        )


def write(suite):
    """Writes the results of a suite; those of an earlier run are gone."""
    folder = TARGET / "conformance"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"python-{suite}.json"
    file.write_text(json.dumps(_results.get(suite, []), indent=1) + "\n")
