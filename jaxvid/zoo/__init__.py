"""The zoo: every row of every family by name, what each takes, and `python -m jaxvid.zoo`.

A *row* is one line of a published results table: a variant with a dataset, a test protocol and a
training recipe. A *variant* is an architecture. Every variant of the tables has rows; a variant
made here for tests, such as `tsm_test`, has none: `create_model` takes it, `get_row` refuses it,
and `starting_row` lends it its family's first protocol for a config to override.
"""

from jaxvid.zoo.classes import channel_map as channel_map
from jaxvid.zoo.classes import dataset as dataset
from jaxvid.zoo.classes import labels as labels
from jaxvid.zoo.command import main as main
from jaxvid.zoo.costs import Cost as Cost
from jaxvid.zoo.costs import cost as cost
from jaxvid.zoo.index import create_model as create_model
from jaxvid.zoo.index import family as family
from jaxvid.zoo.index import family_name as family_name
from jaxvid.zoo.index import get_row as get_row
from jaxvid.zoo.index import list_models as list_models
from jaxvid.zoo.index import names as names
from jaxvid.zoo.index import pretrains as pretrains
from jaxvid.zoo.index import starting_row as starting_row
from jaxvid.zoo.index import streams as streams
from jaxvid.zoo.index import variants as variants
from jaxvid.zoo.summaries import percent as percent
from jaxvid.zoo.summaries import summary as summary
from jaxvid.zoo.usage import commands as commands
