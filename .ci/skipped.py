"""A plugin of pytest for `.ci/run`: writes down which tests were skipped, and runs only those."""

from pathlib import Path

skipped = set()


def pytest_addoption(parser):
    parser.addoption("--skipped-to", type=Path, metavar="FILE")
    parser.addoption("--only-those-of", type=Path, metavar="FILE")


def pytest_runtest_logreport(report):
    if report.skipped:
        skipped.add(report.nodeid)


def pytest_collectreport(report):
    if report.skipped:
        skipped.add(report.nodeid)  # a whole file


def pytest_sessionfinish(session):
    file = session.config.getoption("--skipped-to")
    if file and not hasattr(session.config, "workerinput"):
        file.write_text("\n".join(sorted(skipped)))


def pytest_collection_modifyitems(config, items):
    file = config.getoption("--only-those-of")
    if file:
        wanted = set(file.read_text().splitlines())
        items[:] = [item for item in items if item.nodeid in wanted or item.nodeid.split("::")[0] in wanted]
