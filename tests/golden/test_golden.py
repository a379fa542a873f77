"""Our implementation against numbers computed by the papers' own code, one test a case."""

from typing import Any

import pytest

from barlow_atlas.verify import REFERENCE, read, verify_case
from barlow_atlas.verify.topics import TOPICS

FILES = sorted(REFERENCE.glob("*.json"))


def cases() -> list[Any]:
    contents = [read(file) for file in FILES]
    return [
        pytest.param(content["topic"], case, id=f"{content['topic']}-{case['name']}")
        for content in contents
        for case in content["cases"]
    ]


@pytest.mark.parametrize(("topic", "case"), cases())
def test_case(topic: str, case: dict[str, Any]) -> None:
    outcome = verify_case(f"{topic}.json", topic, case)
    assert outcome.passed, outcome


def test_every_topic_has_its_file() -> None:
    """And further ones that begin with its name, of values that have another source."""
    topics = {file.stem: read(file)["topic"] for file in FILES}
    assert set(TOPICS) <= topics.keys()
    assert all(stem.startswith(topic) for stem, topic in topics.items())
