"""Networks that are tested together, as one of RGB and one of optical flow: their scores fused."""

import dataclasses
import pathlib
from collections.abc import Mapping

from jaxvid import config as configs
from jaxvid import fuse
from jaxvid.config import fields
from jaxvid.config.parts import Config
from jaxvid.reports import metrics, results

# What each member has of its own.
_OWN = ("init", "model.name", "model.members", "model.overrides")


def members(config: Config) -> dict[str, Config]:
    """The configs of the networks that `config.model.members` names, by these names.

    Each is its row's own. Fields that `config` has otherwise than its own row hold for all of them,
    `data.flow` for those that take flow. `init` is the folder below `config.init` called as it.
    """
    usual = fields.flat(configs.from_row(config.model.name))
    given = fields.flat(config.to_dict())
    changed = {field: value for field, value in given.items() if value != usual[field]}
    found = {}
    for name in config.model.members:
        member = configs.from_row(name)
        if config.init:
            member.init = str(pathlib.Path(config.init, name))
        own = {field: value for field, value in changed.items() if field not in _OWN}
        if not member.data.flow:
            own.pop("data.flow", None)
        member.update_from_flattened_dict(own)
        found[name] = fields.freeze(member)
    return found


def write_fused(
    config: Config, tests: Mapping[str, fuse.Scores], folder: pathlib.Path
) -> metrics.Result:
    """Writes what a test writes of the mean of its members' scores, by their names."""
    names, average = list(tests), config.test.average
    fused = fuse.fuse(list(tests.values()), [1.0] * len(tests), average, names)
    about = {
        "model": config.model.name,
        "members": names,
        "average": average,
        "dataset": config.data.dataset,
        "split": config.data.test_split,
        "test": {name: dataclasses.asdict(member.test) for name, member in members(config).items()},
    }
    return results.write_scores(
        folder, fused.classes.tolist(), fused.paths.tolist(), fused.scores, fused.labels, about
    )
