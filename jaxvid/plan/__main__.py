"""What `python -m jaxvid.plan` runs."""

from jaxvid.plan.command import run

if __name__ == "__main__":
    run()
