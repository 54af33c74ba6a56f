"""What training steps take on chips that are not here: the tables of `docs/accelerators.md`.

    python -m tests.accelerators [--only=PATTERN] [--again]

asks `python -m jaxvid.plan` for what `tests/accelerators.json` does not hold yet, one program after
the other (one to three minutes of a core each, with libtpu and JAX's CUDA plugin), and writes the
page anew. It can be stopped and goes on.
"""

import argparse
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
KEPT = pathlib.Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs" / "accelerators.md"
MARKS = ("<!-- the tables: python -m tests.accelerators -->", "<!-- end of the tables -->")
GIB = 2**30

SCAN = "--config.model.overrides.scan_blocks=True"
REMAT = "--config.train.remat=True"
SPLIT = "--config.train.mesh=fsdp:-1"
ALL = "--config.train.norm_group=0"  # Groups of 12 clips, or 6, do not divide eight a chip.


class Asked(NamedTuple):
    """A program: a row on chips, clips a device, and what else is set."""

    row: str
    topology: str
    clips: int = 8
    flags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return " ".join([self.row, self.topology, str(self.clips), *self.flags])


# One network of each family, and what it needs to fit.
FAMILIES = [
    Asked("c2d_r50_8x8_k400", "v5e:2x4"),
    Asked("c3d_16x1_ucf101", "v5e:2x4"),
    Asked("csn_ir_r50_32x2_k400_ig65m_bnfrozen", "v5e:2x4", flags=(ALL,)),
    Asked("dualformer_t_32x2_k400", "v5e:2x4", flags=(SCAN, REMAT)),
    Asked("i3d_r50_32x2_k400", "v5e:2x4"),
    Asked("mvitv2_s_16x4_k400", "v5e:2x4", flags=(REMAT,)),
    Asked("omni_slowonly_r50_8x8_k400", "v5e:2x4"),
    Asked("r2plus1d_r34_8x8_k400", "v5e:2x4"),
    Asked("slowfast_r50_4x16_k400", "v5e:2x4"),
    Asked("slowonly_r50_8x8_k400", "v5e:2x4"),
    Asked("swin_t_32x2_k400", "v5e:2x4", flags=(SCAN, REMAT)),
    Asked("tanet_r50_dense_1x1x8_k400", "v5e:2x4"),
    Asked("tea_r50_1x1x16_sthv2", "v5e:2x4"),
    Asked("timesformer_divst_8x32_k400", "v5e:2x4", flags=(SCAN,)),
    Asked("tin_r50_1x1x8_k400", "v5e:2x4", flags=(ALL,)),
    Asked("tpn_slowonly_r50_8x8_k400", "v5e:2x4"),
    Asked("trn_r50_1x1x8_sthv2", "v5e:2x4"),
    Asked("tsm_r50_1x1x8_k400", "v5e:2x4"),
    Asked("tsn_r50_1x1x8_k400", "v5e:2x4"),
    Asked("uniformer_s_16x4_k400", "v5e:2x4", flags=(SCAN, REMAT)),
    Asked("uniformerv2_b16_u8_k400", "v5e:2x4", flags=(SCAN,)),
    Asked("videomae_vit_b_16x4_k400", "v5e:2x4", flags=(SCAN,)),
    Asked("videomae_pretrain_vit_b", "v5e:2x4", flags=(SCAN,)),
    Asked("vov3d_l_16x5_k400", "v5e:2x4"),
    Asked("x3d_m_16x5_k400", "v5e:2x4"),
]
_LARGE = [
    Asked("tsm_r50_1x1x8_k400", ""),
    Asked("slowfast_r50_4x16_k400", ""),
    Asked("x3d_m_16x5_k400", ""),
    Asked("mvitv2_s_16x4_k400", "", flags=(REMAT,)),
    Asked("swin_t_32x2_k400", "", flags=(SCAN, REMAT)),
    Asked("videomae_vit_b_16x4_k400", "", flags=(SCAN,)),
    Asked("videomae_vit_l_16x4_k400", "", 2, (SCAN, REMAT, SPLIT)),
    Asked("uniformerv2_l14_336_u32_k400", "", 2, (SCAN, REMAT, SPLIT)),
    Asked("mvitv2_l_40x3_k400", "", 2, (SCAN, REMAT, SPLIT)),
    Asked("swin_l_32x2_k400", "", 2, (SCAN, REMAT, SPLIT)),
    Asked("videomae_pretrain_vit_l", "", 8, (SCAN, REMAT, SPLIT)),
    Asked("videomae_pretrain_vit_h", "", 8, (SCAN, REMAT, SPLIT)),
]
ELSEWHERE = [
    asked._replace(topology=topology)
    for topology in ("v5e:16x16", "h200:8", "v6e:16x16", "v5p:8x8x4")
    for asked in _LARGE
]


def ask(asked: Asked) -> dict:
    """What the command says of a program."""
    words = [
        sys.executable,
        *("-m", "jaxvid.plan", f"--config={ROOT}/configs/zoo_row.py:name={asked.row}"),
        *(f"--topology={asked.topology}", f"--clips={asked.clips}", "--json"),
        *("--config.model.dtype=bfloat16", "--config.data.repeats=1", *asked.flags),
        "--test" if asked.topology == "v5e:2x4" else "--notest",
    ]
    begun = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    if not done.stdout.strip():
        return {"error": done.stderr.strip().splitlines()[-1][:300]}
    print(f"{asked.key}: {time.monotonic() - begun:.0f} s", flush=True)
    return json.loads(done.stdout)


def size(number: float | None) -> str:
    return "" if number is None else f"{number / GIB:.1f}"


def line(asked: Asked, found: dict) -> str:
    """A line of a table."""
    if "fits" not in found:
        return f"| {asked.row} | {asked.clips} | not compiled: {found['error']} |" + " |" * 8
    ways = [word for flag, word in ((REMAT, "remat"), (SPLIT, "fsdp")) if flag in asked.flags]
    sent = ", ".join(
        f"{kind} {each['count']} ({each['bytes'] / 1e6:.0f} MB)"
        for kind, each in sorted(found["collectives"].items())
        if each["bytes"] >= 1e5
    )
    compute, memory = found["compute_seconds"], found["memory_seconds"]
    bound = ""
    if compute is not None and memory is not None:
        bound = f"{1e3 * compute:.0f} / {1e3 * memory:.0f}"
    cells = [
        asked.row,
        asked.clips,
        " ".join(ways),
        "yes" if found["fits"] else "**no**",
        size(found["needed_bytes"]),
        size(found["parameter_bytes"] + found["optimizer_bytes"]),
        size(found["temporary_bytes"]),
        size(found["test"]["needed_bytes"]) if "test" in found else "",
        f"{found['flops'] / 1e12:.2f}",
        "" if found["bytes"] is None else f"{found['bytes'] / 1e9:.1f}",
        bound,
        sent,
        ", ".join(found["attention"]),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


_COLUMNS = (
    *("network", "clips", "with", "fits", "GiB", "state", "temporaries", "test"),
    *("TFLOP", "GB", "ms", "sent", "attention"),
)
HEAD = f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}"


def tables(known: dict[str, dict]) -> str:
    """The page's tables of all that is known."""
    parts = []
    for title, asked in (
        ("One network of each family, on 8 chips of v5e", FAMILIES),
        *(
            (f"On {topology}", [each for each in ELSEWHERE if each.topology == topology])
            for topology in dict.fromkeys(each.topology for each in ELSEWHERE)
        ),
    ):
        lines = [line(each, known[each.key]) for each in asked if each.key in known]
        if lines:
            parts += [f"## {title}", "", HEAD, *lines, ""]
    return "\n".join(parts)


def write(known: dict[str, dict]) -> None:
    text = PAGE.read_text("utf-8")
    begin, end = (text.index(mark) for mark in MARKS)
    PAGE.write_text(f"{text[:begin]}{MARKS[0]}\n\n{tables(known)}\n{text[end:]}", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*", help="keys, as a pattern: '*v5e:2x4*'")
    parser.add_argument("--again", action="store_true", help="also what is known already")
    arguments = parser.parse_args()
    known = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for asked in [*FAMILIES, *ELSEWHERE]:
        if fnmatch.fnmatch(asked.key, arguments.only) and (
            arguments.again or "fits" not in known.get(asked.key, {})
        ):
            known[asked.key] = ask(asked)
            KEPT.write_text(json.dumps(known, indent=1) + "\n")
            write(known)
    write(known)


if __name__ == "__main__":
    main()
