"""Commands and Python snippets of the guides of one's own clips, run in order or checked."""

import pytest

from tests.documents import GUIDES_OF_CLIPS, run_page, title, workshop_in

# The first runs what its page stands on, too; each command has a limit of its own.
pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    with workshop_in(tmp_path_factory.mktemp("workshop")) as made:
        yield made


@pytest.mark.parametrize("document", GUIDES_OF_CLIPS, ids=title)
def test_every_block_of(document, workshop):
    run_page(document, workshop)
