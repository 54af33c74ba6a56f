"""One network out of two files: V-JEPA's encoder, and the probe that was trained on it.

A probe's file holds a list of them, `classifiers`, as many are trained beside one another. Of the
published files it is the first one that published figures are of.
"""

from collections.abc import Mapping

import numpy as np

from converters import files, spellings
from converters.mapped import Mapped
from converters.names import NameMap, quoted
from converters.shards import Sharded
from jaxvid import zoo
from jaxvid.base.errors import JaxvidError, listed
from jaxvid.rows import Row

# What the keys of a network begin with that holds both.
ENCODER, PROBE = "encoder.", "classifier."
_OF = {ENCODER: "an encoder, which --checkpoint gives", PROBE: "a probe, which --head gives"}


def check_probed(row: Row) -> None:
    """Refuses a network that is not an encoder with a probe."""
    names = NameMap(zoo.names(row.variant))
    if not all(names.knows(f"{part}.weight") for part in (f"{ENCODER}norm", f"{PROBE}linear")):
        raise JaxvidError(
            f"{row.name} is no encoder with a probe, as --head is for: leave it out, or take a row "
            "of V-JEPA 2's (python -m jaxvid.zoo list 'vjepa2*')"
        )


def read_probe(file: Mapped | Sharded, number: int) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the tensors of probe `number`, from 0, of a file, and remarks on what is left out."""
    held = files.read_list(file, "classifiers")
    if held is None:
        if number:
            raise JaxvidError(f"{file.path} holds no list of classifiers: leave --classifier out")
        return files.read_and_tell(file)
    if not 0 <= number < len(held):
        raise JaxvidError(
            f"{file.path} holds {len(held)} classifiers, from 0 on, and none of number {number}: "
            "change --classifier"
        )
    others = ": --classifier=N takes another" if len(held) > 1 else ""
    remark = f"the probe is classifier {number} of {len(held)} in {file.path.name}{others}"
    return held[number](), [remark]


def join(
    row: Row,
    encoder: Mapping[str, np.ndarray],
    probe: Mapping[str, np.ndarray],
    encoder_file: object,
    probe_file: object,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns the tensors of both by the keys of one network, and remarks.

    Raises `JaxvidError` where one file holds what the other should.
    """
    names = NameMap(zoo.names(row.variant))
    joined: dict[str, np.ndarray] = {}
    remarks = []
    for begin, tensors, file in ((ENCODER, encoder, encoder_file), (PROBE, probe, probe_file)):
        reading = spellings.read(names, tensors)
        known = {key: said for key, said in reading.known.items() if said is not None}
        strange = [
            key
            for key, said in known.items()
            if not (said.startswith(begin) and names.knows(spellings.whole(said)))
        ]
        if strange:
            raise JaxvidError(
                f"{file} should hold {_OF[begin]}, but {len(strange)} of its {len(tensors)} keys "
                f"are of none that {row.name} has ({listed(map(quoted, strange), 3, ', ')}): check "
                "--checkpoint, --head and --model"
            )
        beside = [key for group in reading.beside.values() for key in group]
        joined |= {said: tensors[key] for key, said in known.items()}
        joined |= {begin + key: tensors[key] for key in beside}
        remarks.append(f"{len(known)} tensors of {file} are those at '{begin}*'")
        remarks += reading.left()
    return joined, [*remarks, "--to=torch writes both as one file"]
