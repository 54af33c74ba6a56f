"""What may be chosen of some datasets."""

import dataclasses
from collections.abc import Collection

from jaxvid.base.errors import JaxvidError


@dataclasses.dataclass(frozen=True)
class Options:
    """`fold` is one of UCF101's and HMDB51's three official splits into training and test.

    `category` is one of HVU's, or empty for all. With `clips` ActivityNet's annotated parts are
    listed, otherwise its whole videos. `classes` are the class names of lists in others' formats,
    which have numbers. Each field that is not its default must be one that the dataset has.
    """

    fold: int = 1
    category: str = ""
    clips: bool = False
    classes: tuple[str, ...] = ()

    def check(self, name: str, known: Collection[str]) -> None:
        """Refuses what the dataset of that name does not have.

        Raises:
          JaxvidError: an option is given that it does not have, or a fold that nobody has.
        """
        for field in dataclasses.fields(self):
            if field.name not in known and getattr(self, field.name) != field.default:
                raise JaxvidError(f"--{field.name} is not for {name}: leave it out")
        if self.fold not in (1, 2, 3):
            raise JaxvidError(f"--fold={self.fold} must be 1, 2 or 3")
