"""From a dataset's annotations and media to lists, records, and a report of what there is."""

import csv
import io
import math
import os
import pathlib
import shutil
from collections.abc import Collection, Mapping, Sequence

from jaxvid.base import jsons, locks, paths, text, whole
from jaxvid.base.errors import JaxvidError
from jaxvid.data import bounds, records
from jaxvid.data.building import Summary, build
from jaxvid.data.prepare.annotations import Annotations
from jaxvid.data.prepare.catalogue import DATASETS, Dataset
from jaxvid.data.prepare.entries import Listing
from jaxvid.data.prepare.media import Match, Matches, Media
from jaxvid.data.prepare.options import Options
from jaxvid.data.prepare.report import Report, overlaps, split_report
from jaxvid.data.prepare.tree import Tree, unpacked_by, walk
from jaxvid.data.windows import WHOLE
from jaxvid.rows import RECORD_SIDE


def prepare(
    name: str,
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    annotations: str | os.PathLike | None = None,
    given: Mapping[str, str | os.PathLike] | None = None,
    options: Options | None = None,
    splits: Collection[str] = (),
    fps: float | None = None,
    lists: bool = False,
    flow: str = "",
    short_side: int = RECORD_SIDE,
    workers: int | None = None,
    overwrite: bool = False,
) -> tuple[Report, dict[str, Summary]]:
    """Prepares a dataset; the arguments are the command's. Nothing is downloaded.

    Writes into `out` a list for each split of which media is found, `labels.txt`, `missing.csv`,
    and the report as `report.txt` and `report.json`; unless only `lists` are wanted also records of
    `splits`, by default of those with labels. The report is said and written before they are built,
    as that may take days, and written anew after that. `given` maps splits to their annotation
    files, and `flow` is a way to optical flow, as `build` takes it.

    Returns:
        The report, and what was built of each split.

    Raises:
      JaxvidError: annotations are missing or are not the official ones, none of the media is found,
        or an option does not belong to the dataset.
    """
    dataset = _dataset(name)
    options = options or Options()
    options.check(name, dataset.options)
    source = _folder(source, "--source")
    annotations = source if annotations is None else _folder(annotations, "--annotations")
    files = {split: paths.readable(path, f"--{split}") for split, path in (given or {}).items()}
    out = paths.writable(out, "--out")
    if out.resolve() in (source.resolve(), annotations.resolve()):
        raise JaxvidError(f"--out={out} holds the dataset itself: choose a folder of its own")
    tree = walk(source, out, dataset.pictures)
    described = tree if annotations == source else walk(annotations, out)
    known = Annotations(annotations, described.annotations, files)
    listing = dataset.parse(known, options)
    _check_splits(splits, listing, name)
    rate = _rate(fps, dataset)
    media = Media(tree, listing.classes, dataset.exact, dataset.by_path)
    matches = {split: media.match(split, rows) for split, rows in listing.splits.items()}
    if not lists and not any(each.found for each in matches.values()):
        raise _nothing_found(listing, tree)
    with locks.hold(out, "--out"), paths.writing(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        _write_labels(out, listing.classes)
        for split, found in matches.items():
            _write_list(out / f"{split}.csv", source, found.found, rate)
        _write_missing(out, matches)
    report = _report(name, dataset, tree, listing, matches, {})
    _write_report(out, report)
    text.say(*report.lines())
    if lists:
        return report, {}
    built: dict[str, Summary] = {}
    for split in splits or [split for split, rows in listing.splits.items() if rows[0].labels]:
        if matches[split].found:
            built[split] = build(
                source,
                out / f"{split}.csv",
                out,
                short_side=short_side,
                flow=flow,
                workers=workers,
                overwrite=overwrite,
            )
    report = _report(name, dataset, tree, listing, matches, built)
    _write_report(out, report)
    return report, built


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise JaxvidError(f"no dataset is called {text.quoted(name)}: {', '.join(DATASETS)}")
    return DATASETS[name]


def _folder(path: str | os.PathLike, what: str) -> pathlib.Path:
    folder = paths.readable(path, what)
    if not folder.is_dir():
        raise JaxvidError(f"{what}={folder} is not a folder: give the one that holds the dataset")
    return folder


def _check_splits(splits: Collection[str], listing: Listing, name: str) -> None:
    for split, rows in listing.splits.items():
        if not rows:
            raise JaxvidError(f"{', '.join(listing.sources[split])} lists nothing of {split}")
    unknown = [split for split in splits if split not in listing.splits]
    if unknown:
        raise JaxvidError(
            f"--splits={','.join(splits)}: {name} has {', '.join(listing.splits)} here, no "
            f"{', '.join(unknown)}"
        )


def _rate(fps: float | None, dataset: Dataset) -> float | None:
    if fps is not None and not 0 < fps <= bounds.MAX_FPS:
        raise JaxvidError(f"--fps={fps:g} must be above 0, at most {bounds.MAX_FPS}")
    return fps or dataset.fps


def _nothing_found(listing: Listing, tree: Tree) -> JaxvidError:
    """The error that says what was looked for and what was found, archives above all."""
    total = sum(len(rows) for rows in listing.splits.values())
    first = next(iter(listing.splits.values()))[0]
    said = (
        f"of the {total} rows of the annotations none has media below {tree.root}, which holds "
        f"{tree.describe()}; the first row would be {' or '.join(first.files)}"
    )
    if not tree.archives:
        return JaxvidError(f"{said}: give the folder of the media as --source")
    ending = tree.archives.most_common(1)[0][0]
    tool = unpacked_by(ending)
    lacking = "" if shutil.which(tool) else f", which is not installed on this machine: get {tool}"
    return JaxvidError(f"{said}: unpack the {ending} archives, with {tool}{lacking}")


def _write_labels(out: pathlib.Path, classes: Sequence[str]) -> None:
    """Writes `labels.txt`, or sees that the one there is the same."""
    path = out / "labels.txt"
    existing = records.read_classes(path)
    if existing and existing != tuple(classes):
        raise JaxvidError(f"{path} names other classes than this dataset: choose another --out")
    if classes and not existing:
        whole.text(path, "".join(f"{name}\n" for name in classes))


def _write_list(
    path: pathlib.Path, source: pathlib.Path, found: Sequence[Match], fps: float | None
) -> None:
    """Writes the list of a split; one of which nothing is found is not there."""
    if not found:
        path.unlink(missing_ok=True)
        return
    columns = ["path", "label"] if found[0].entry.labels else ["path"]
    timed = any(match.entry.window != WHOLE for match in found)
    folders = fps is not None and {
        match.path for match in found if match.path and (source / match.path).is_dir()
    }
    annotated = any(match.entry.annotated for match in found)
    columns += ["start", "end"] * timed + ["fps"] * bool(folders) + ["annotated"] * annotated
    # Not by `csvs.write`: the lists are read as they are, and a path may begin with a minus.
    lines = io.StringIO(newline="")
    writer = csv.DictWriter(lines, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for match in found:
        entry = match.entry
        writer.writerow(
            {
                "path": match.path,
                "label": "|".join(entry.labels),
                "start": _seconds(entry.window.start),
                "end": _seconds(entry.window.end),
                "fps": f"{fps:g}" if folders and match.path in folders else "",
                "annotated": "|".join(entry.annotated),
            }
        )
    with whole.file(path) as file:
        file.write(lines.getvalue().encode("utf-8", "surrogateescape"))


def _seconds(time: float) -> str:
    return "" if math.isinf(time) else f"{time:.6f}".rstrip("0").rstrip(".")


def _write_missing(out: pathlib.Path, matches: Mapping[str, Matches]) -> None:
    """Lists what has no media, and the names under which it was looked for."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(["split", "id", "label", "looked for"])
    for split, found in matches.items():
        for match in found.missing:
            entry = match.entry
            writer.writerow([split, entry.id, "|".join(entry.labels), "|".join(entry.files)])
    with whole.file(out / "missing.csv") as file:
        file.write(lines.getvalue().encode("utf-8", "surrogateescape"))


def _report(
    name: str,
    dataset: Dataset,
    tree: Tree,
    listing: Listing,
    matches: Mapping[str, Matches],
    built: Mapping[str, Summary],
) -> Report:
    bad = {split: summary.bad for split, summary in built.items()}
    edition = listing.edition or name
    reports = {}
    for split, found in matches.items():
        reports[split] = split_report(
            edition,
            split,
            listing.sources[split],
            found.matches,
            listing.classes,
            _odd(found),
            bad.get(split, {}),
        )
    notes = list(listing.notes)
    if not built and any(each.found for each in matches.values()):
        notes.append("nothing was decoded yet: of broken files only empty ones are known")
    return Report(
        name=edition,
        title=dataset.title,
        source=str(tree.root),
        splits=reports,
        overlaps=overlaps(listing.splits),
        notes=notes,
    )


def _write_report(out: pathlib.Path, report: Report) -> None:
    with paths.writing(out, "--out"):
        lines = [*report.lines(), *report.table()]
        whole.text(out / "report.txt", "".join(f"{text.shown(line)}\n" for line in lines))
        whole.text(out / "report.json", jsons.dump(report.json(), indent=1) + "\n")


def _odd(found: Matches) -> list[str]:
    """What is to be said of how media was found."""
    counted = {
        "found under another spelling": found.respelled,
        "there more than once, of which one was taken": found.several,
        "missing as their file is another row's": found.shared,
    }
    return [f"{what}: {count:,}" for what, count in counted.items() if count]
