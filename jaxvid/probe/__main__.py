"""What `python -m jaxvid.probe` runs."""

from jaxvid.probe.command import run

if __name__ == "__main__":
    run()
