"""A folder of checkpoint files, each converted for the rows that it was published for."""

import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from converters import checkpoints
from jaxvid import checkpoint, zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.base.text import say
from jaxvid.rows import Row

CONVERTED, SKIPPED, FAILED = "converted", "was there", "failed"
_ENDINGS = (".pth", ".pyth", ".pt", ".pkl", ".safetensors", ".npz")
_MAX_REASON = 100


def convert_all(
    folder: Path, out: Path, pattern: str = "*", *, ema: bool = False, overwrite: bool = False
) -> None:
    """Converts every file below `folder` that is of a row to the folder `out`/ROW.

    A file is a row's if it has the name that it was published under, or the row's own name before
    its ending. `pattern` restricts the rows. What was converted from the same file before is left
    as it is, unless `overwrite`. Prints what becomes of each row, and a table in the end. Raises
    `JaxvidError` at the end if a file failed, or if there is no file of any row.
    """
    if not folder.is_dir():
        raise JaxvidError(f"there is no folder {folder}: check --all")
    names = zoo.list_models(pattern)
    if not names:
        raise JaxvidError(f"no row matches --model={pattern}: `python -m jaxvid.zoo list`")
    rows = [zoo.get_row(name) for name in names]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    work = list(_of_rows(rows, files))
    if not work:
        raise JaxvidError(
            f"{folder} holds no file of any row: a file should have the name that it was published "
            "under, or that of a row, as tsm_r50_1x1x8_k400.pth"
        )
    results = []
    for number, (row, path) in enumerate(work, start=1):
        say(f"[{number}/{len(work)}] {row.name} from {path}")
        begun = time.monotonic()
        result, reason = _convert(row, path, out / row.name, ema, overwrite)
        say(f"  {result}{f': {reason}' if reason else ''}")
        results.append((row.name, result, f"{time.monotonic() - begun:.1f} s", reason))
    say("")
    _print_table(results)
    used = {path for _, path in work}
    _print_names("no file", sorted({row.name for row in rows} - {row.name for row, _ in work}))
    _print_names("of no row", [str(path.relative_to(folder)) for path in files if path not in used])
    failed = [name for name, result, *_ in results if result == FAILED]
    if failed:
        raise JaxvidError(
            f"{len(failed)} of {len(work)} failed ({', '.join(failed)}): the reasons stand above; "
            "what was converted is not converted again"
        )


def _of_rows(rows: list[Row], files: list[Path]) -> Iterator[tuple[Row, Path]]:
    named: dict[str, Path] = {}
    for path in files:
        named.setdefault(path.name, path)
        if path.suffix in _ENDINGS:
            named.setdefault(path.stem, path)
    for row in rows:
        found = named.get(row.file or row.name) or named.get(row.name)
        if found is not None:
            yield row, found


def _convert(row: Row, path: Path, out: Path, ema: bool, overwrite: bool) -> tuple[str, str]:
    """Returns what became of a row, and why."""
    try:
        if not overwrite and (out / checkpoint.RECORD).is_file():
            source = checkpoint.load_meta(out).get("source") or {}
            if (source.get("file"), source.get("bytes")) == (path.name, path.stat().st_size):
                return SKIPPED, ""
            raise JaxvidError(f"{out} holds a checkpoint of another file: pass --overwrite")
        variables, meta, _ = checkpoints.convert_and_tell(row.name, path, ema=ema)
        checkpoint.save(out, variables, meta, overwrite=overwrite)
    except JaxvidError as error:
        return FAILED, str(error)
    # One bad file must not cost the others, whatever is wrong with it.
    except Exception as error:
        return FAILED, f"{type(error).__name__}: {error}"
    return CONVERTED, ""


def _print_table(results: list[tuple[str, str, str, str]]) -> None:
    widths = [max(len(line[column]) for line in results) for column in range(3)]
    for *cells, reason in results:
        line = "  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True))
        say(f"{line}  {textwrap.shorten(reason, _MAX_REASON, placeholder=' ...')}".rstrip())


def _print_names(what: str, names: list[str]) -> None:
    if names:
        text = f"{what} ({len(names)}): {', '.join(names)}"
        wrapper = textwrap.TextWrapper(100, break_long_words=False, break_on_hyphens=False)
        wrapper.subsequent_indent = "  "
        say(*wrapper.wrap(text))
