"""What `python -m jaxvid.export` runs."""

from jaxvid.base.exits import exit_on_error
from jaxvid.export.command import main

if __name__ == "__main__":
    with exit_on_error():
        main()
