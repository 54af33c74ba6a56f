"""What `python -m jaxvid.data.prepare` runs."""

from jaxvid.base.exits import exit_on_error
from jaxvid.data.prepare.command import main

if __name__ == "__main__":
    with exit_on_error():
        main()
