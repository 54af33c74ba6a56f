"""What to type for a row: to convert, test, fine-tune or train it."""

from jaxvid.rows import FLOWS, RECORD_SIDE, published_split
from jaxvid.zoo.index import get_row, pretrains, streams


def commands(name: str) -> list[str]:
    """Lines that say what to type to convert, test and fine-tune a row, or to train it.

    Raises:
      JaxvidError: no row has that name.
    """
    row = get_row(name)
    run = f"  python -m jaxvid.main --config=configs/zoo_row.py:name={row.name}"
    build = "  python -m jaxvid.data.build"
    side = f" --short-side={row.short_side}" if row.short_side > RECORD_SIDE else ""
    name, _, category = row.dataset.partition("_")
    dataset = " ".join(filter(None, (name, category and f"--category={category}", row.prepare)))
    prepare = f"  python -m jaxvid.data.prepare {dataset} --source=SOURCE{side} --out=DATA"
    split = published_split(row.dataset)
    on = "" if split == "test" else f" --config.data.test_split={split}"
    published = f"dataset={row.dataset},data_dir=DATA"
    if pretrains(row.variant):
        mine = f"{run},dataset=mine,data_dir=MINE"
        by_hand = "" if row.file else f", fetched by hand as FILE from {row.source},"
        file = "" if row.file else " --checkpoint=FILE"
        return [
            "To pretrain it on your own videos, of which train.csv and test.csv list the path:",
            f"{build} --videos=CLIPS --labels=train.csv --out=MINE",
            f"{build} --videos=CLIPS --labels=test.csv --out=MINE",
            f"{mine} --workdir=RUN",
            f"To see what its weights{by_hand} fill in:",
            f"  python -m converters --model={row.name}{file} --out=WEIGHTS",
            f"{mine},init=WEIGHTS --mode=eval --workdir=SEEN",
        ]
    test = [
        f"To test it on {row.dataset}, of which SOURCE holds the official annotations and media:",
        f"{prepare} --splits={split}",
        f"{run},{published},init=WEIGHTS --mode=eval --workdir=TESTED{on}",
    ]
    if streams(row.name):
        of_flow = any(get_row(member).modality == "flow" for member in row.members)
        return [
            "It has no weights of its own. To fetch and convert those of its members:",
            *(f"  python -m converters --model={m} --out=WEIGHTS/{m}" for m in row.members),
            *test[:-1],
            *([_with_flow(test[1])] * of_flow),
            "and then both members, whose scores it adds:",
            test[-1],
        ]
    if len(row.members) > 1:
        return [
            "It has no weights of its own. To convert and test what it is made of, see",
            *(f"  python -m jaxvid.zoo show {member}" for member in row.members),
        ]
    if row.weights == "none" and not row.members:
        return [
            f"No weights are published. To train it on {row.dataset}, of which SOURCE holds the "
            "official annotations and media:",
            f"{prepare} --splits=train,{split}",
            f"{run},{published} --workdir=RUN{on}",
        ]
    owner = get_row(row.members[0]) if row.members else row
    if owner.weights == "page":
        convert = [
            f"To convert its weights, fetched by hand as FILE from {owner.source}:",
            f"  python -m converters --model={owner.name} --checkpoint=FILE --out=WEIGHTS",
        ]
    else:
        convert = [
            "To fetch and convert its weights:",
            f"  python -m converters --model={owner.name} --out=WEIGHTS",
        ]
    lines = [
        *convert,
        *test,
        "To fine-tune it on your own videos, of which train.csv and test.csv list path,label:",
        f"{build} --videos=CLIPS --labels=train.csv{side} --out=MINE",
        f"{build} --videos=CLIPS --labels=test.csv{side} --out=MINE",
        f"{run},dataset=mine,data_dir=MINE,init=WEIGHTS --workdir=RUN",
    ]
    return [_with_flow(line) for line in lines] if row.modality == "flow" else lines


def _with_flow(line: str) -> str:
    """A line that builds records of optical flow where it built those of pictures."""
    for first in (" --videos=", " --source="):
        line = line.replace(first, f" --flow={FLOWS[0]}{first}")
    return line
