"""Commands and Python snippets of all other guides and documents, run in order or checked."""

import pytest

from tests.documents import GUIDES, run_page, title, workshop_in

# The first runs what its page stands on, too; each command has a limit of its own.
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    with workshop_in(tmp_path_factory.mktemp("workshop")) as made:
        yield made


@pytest.mark.parametrize("document", GUIDES, ids=title)
def test_every_block_of(document, workshop):
    run_page(document, workshop)
