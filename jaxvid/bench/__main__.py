"""What `python -m jaxvid.bench` runs."""

from jaxvid.base.exits import exit_on_error
from jaxvid.bench.command import main

if __name__ == "__main__":
    with exit_on_error():
        main()
