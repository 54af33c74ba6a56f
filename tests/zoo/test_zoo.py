import csv
import dataclasses
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from jaxvid import zoo
from jaxvid.base.errors import JaxvidError
from jaxvid.rows import CLASS_COUNTS, CROP_COUNTS, SAMPLERS, SHORT_NAMES, Row

# The rows of the published results tables, as they are printed. A family that none of them names is
# not held against them.
TABLE = pathlib.Path(__file__).parents[1] / "golden" / "zoo_rows.csv"


def table() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def rows() -> list[Row]:
    return [zoo.get_row(name) for name in zoo.list_models()]


def key(printed: dict[str, str]) -> tuple:
    """What tells a line of the tables from all others: the main figure is top-1, mAP or none."""
    figure = printed["top1"] or printed["mAP"]
    main = float(figure) if figure else None
    return printed["name"], printed["section"], main, printed["source"] or None


@functools.cache
def published() -> tuple[Row, ...]:
    """The rows of every family of the tables."""
    families = {zoo.family(line["variant"]) for line in table()}
    return tuple(row for row in rows() if zoo.family(row.variant) in families)


def served() -> dict[tuple, Row]:
    figures = {row.name: row.mean_ap if row.top1 is None else row.top1 for row in published()}
    return {(row.upstream, row.section, figures[row.name], row.source): row for row in published()}


def test_every_row_of_the_tables_is_served_once():
    printed = [key(line) for line in table()]
    assert len(set(printed)) == len(printed)
    file = "tests/golden/zoo_rows.csv"
    own = [row.name for line, row in served().items() if line not in printed]
    assert own == [], f"their families are of {file}, which does not print these rows"
    assert set(printed) - set(served()) == set(), f"no row serves these lines of {file}"
    assert len(published()) == len(printed)


def test_rows_say_what_the_tables_print():
    for printed in table():
        row = served()[key(printed)]
        assert row.variant == printed["variant"]
        assert row.num_classes == int(printed["num_classes"] or row.num_classes)
        hvu = row.dataset.startswith("hvu_")
        assert (
            printed["dataset"] == "HVU" if hvu else zoo.dataset(printed["dataset"]) == row.dataset
        )
        modality = zoo.summary(row.name)["modality"]
        assert modality.replace("-", "") == printed["modality"]
        assert row.pretrained == printed["pretrained"] or not printed["pretrained"]
        assert row.recipe.loss == ("sigmoid" if printed["mAP"] else "softmax")
        schedules = {"": row.recipe.schedule, "MultiStep": "step", "Cosine": "cosine"}
        assert row.recipe.schedule == schedules[printed["scheduler"].removeprefix("Linear+")]
        assert (
            bool(row.recipe.warmup_epochs) == ("Linear" in printed["scheduler"])
            or not (printed["scheduler"])
        )
        assert row.top5 == (float(printed["top5"]) if printed["top5"] else None)
        assert row.config == printed["config"]
        if row.test.views != printed["protocol"] and printed["protocol"]:
            assert printed["protocol"] in row.note, row.name


def test_costs_are_those_printed_or_the_note_says_otherwise():
    """FLOPs are printed of a view at the test's or training's size, or of all views."""
    checked = 0
    for printed in table():
        row = served()[key(printed)]
        cost = zoo.cost(row.name)
        # The two streams and six networks have no line of their own in the tables.
        if printed["params"]:
            # What was counted of DualFormer had no classifier.
            headless = row.num_classes * 1025 if row.variant.startswith("dualformer") else 0
            assert 0 <= cost.params - int(printed["params"]) <= headless, row.name
        flops, _, _ = printed["flops"].partition("x")
        views = [cost.macs, cost.total_macs, cost.macs * (row.train_crop / row.test.crop) ** 2]
        for text, counted in ((flops, views), (printed["params_printed"], [cost.params])):
            found = re.fullmatch(r"(\d+)(?:\.(\d+))?([TGM]?)", text)
            if not found:
                assert text in ("", "N/A")
                continue
            unit = {"T": 1e12, "G": 1e9, "M": 1e6, "": 1e9}[found[3]]
            value = float(text.rstrip("TGM"))
            rounding = 0.5 * 10 ** -len(found[2] or "") * unit
            near = [abs(value * unit - c) <= max(rounding, 0.05 * c) for c in counted]
            assert any(near) or found[0].rstrip("TGM") in row.note or "all views" in row.note, row
            checked += 1
    assert checked > 290


def test_names_are_unique_and_snake_case():
    families = {zoo.family(variant) for variant in zoo.variants()}
    names = [row.name for module in families for row in module.ROWS]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)
    assert "tsm_r50_1x1x8_k400" in names


def test_every_row_builds_its_model():
    for row in rows():
        model = zoo.create_model(row.name)
        assert isinstance(model, zoo.family(row.variant).Model)
        assert model.num_classes == row.num_classes
        for field, value in row.overrides.items():
            assert getattr(model, field) == value


def test_protocols_are_complete():
    for row in rows():
        for sampling in (row.train, row.test.sampling):
            assert sampling.sampler in SAMPLERS and sampling.sampler != "untrimmed"
            assert (sampling.sampler == "stacks") == (row.modality == "flow")
            assert sampling.clip_len * sampling.num_clips >= 3, row.name
        assert row.test.crops in CROP_COUNTS
        assert row.test.average in ("prob", "score")
        assert row.channel_order in ("rgb", "bgr")
        assert row.test.crop <= row.test.short_side
        channels = 10 if row.modality == "flow" else 3
        assert len(row.mean) == len(row.std) == channels
        assert row.recipe.optimizer in ("sgd", "adamw")
        assert list(row.recipe.milestones) == sorted(row.recipe.milestones)
        assert all(m < row.recipe.epochs for m in row.recipe.milestones)
        if row.recipe.initial_weights:
            assert zoo.get_row(row.recipe.initial_weights).modality == row.modality


def test_a_test_feeds_as_many_frames_as_training():
    """Where their number is part of the network: all but TSN and MoViNet, which average any."""
    for row in rows():
        if not row.variant.startswith(("tsn", "movinet")):
            train, test = row.train, row.test.sampling
            assert train.clip_len == test.clip_len
            if train.clip_len == 1:
                assert train.num_clips == test.num_clips


def test_labels_match_classes():
    for dataset, count in CLASS_COUNTS.items():
        names = zoo.labels(dataset)
        assert len(names) == len(set(names)) == count
        assert all(name == name.strip() != "" for name in names)
    assert all(CLASS_COUNTS[row.dataset] == row.num_classes for row in rows())
    assert zoo.labels("k400") == zoo.labels("kinetics400")


def test_datasets_have_short_names():
    assert [zoo.dataset(name) for name in ("k400", "Kinetics-400", "ssv2", "hvu_action")] == [
        "kinetics400",
        "kinetics400",
        "sthv2",
        "hvu_action",
    ]
    assert set(SHORT_NAMES.values()) <= set(CLASS_COUNTS)
    with pytest.raises(JaxvidError, match=r"'k401'; there are .*kinetics400 \(k400\), .*mit,"):
        zoo.dataset("k401")


@pytest.mark.parametrize("part", ["kinetics400", "kinetics600", "kinetics700"])
def test_classes_of_kinetics_are_found_among_those_of_710(part):
    joined, own = zoo.labels("k710"), zoo.labels(part)
    channels = zoo.channel_map("k710", part)
    assert len(set(channels)) == CLASS_COUNTS[part]
    # Names that differ are those that later releases of Kinetics made clearer.
    other = {own[i]: joined[c] for i, c in enumerate(channels) if own[i] != joined[c]}
    assert len(other) <= 13
    back = zoo.channel_map(part, "k710")
    assert [back[channel] for channel in channels] == list(range(CLASS_COUNTS[part]))
    assert back.count(None) == 710 - CLASS_COUNTS[part]
    assert zoo.channel_map(part, part) == list(range(CLASS_COUNTS[part]))


def test_classes_of_other_datasets_are_matched_by_name():
    first, second = zoo.labels("sthv1"), zoo.labels("sthv2")
    assert [first[c] for c in zoo.channel_map("ssv1", "ssv2")] == second
    channels = dict(zip(zoo.labels("ucf101"), zoo.channel_map("k700", "ucf101"), strict=True))
    assert zoo.labels("k700")[channels["CleanAndJerk"]] == "clean and jerk"
    assert channels["ApplyLipstick"] is None
    renamed = zoo.labels("k400").index("dying hair")
    assert zoo.channel_map("k400", "k600")[zoo.labels("k600").index("dyeing hair")] == renamed
    with pytest.raises(JaxvidError, match="jester and sthv1 have no class in common"):
        zoo.channel_map("jester", "sthv1")


def test_names_of_tables_and_variants_give_their_first_row():
    upstream = "mvit-small-p244_32xb16-16x4x1-200e_kinetics400-rgb"
    assert zoo.get_row(upstream).name == "mvitv2_s_16x4_k400"
    assert zoo.get_row("tsm_r50_16f").name == "tsm_r50_1x1x16_k400"
    assert zoo.get_row("tsm_r50_1x1x8_k400").name == "tsm_r50_1x1x8_k400"


def test_every_family_lends_its_tiny_net_to_quick_trials():
    """What a config with `runlocal` puts in the place of any of its rows."""
    tiny = {
        f"{module.__name__.split('.')[-1]}_test": module
        for module in {zoo.family(variant) for variant in zoo.variants()}
    }
    assert [name for name, module in tiny.items() if name not in module.VARIANTS] == []


def test_list_models_matches_patterns():
    assert zoo.list_models("tsm_r50_1x1*k400") == ["tsm_r50_1x1x16_k400", "tsm_r50_1x1x8_k400"]
    assert zoo.list_models("nothing*") == []


@pytest.mark.parametrize("ask", [zoo.get_row, zoo.create_model, zoo.starting_row])
def test_unknown_names_suggest_the_nearest(ask):
    with pytest.raises(JaxvidError, match="'tsm_r50_1x1x9_k400'.* tsm_r50_1x1x8_k400"):
        ask("tsm_r50_1x1x9_k400")


def test_a_variant_without_row_has_a_model_but_no_protocol():
    with pytest.raises(JaxvidError, match="no test protocol"):
        zoo.get_row("tsm_test")
    row = zoo.starting_row("tsm_test")
    assert row.variant == row.name == "tsm_test"
    assert row.test == zoo.family("tsm_test").ROWS[0].test
    assert row.top1 is None and row.source is None and row.dataset == ""


def test_create_model_takes_classes_dtype_and_fields():
    model = zoo.create_model("tsm_test", num_classes=7, dtype=jnp.bfloat16, shift_divisor=4)
    assert (model.num_classes, model.dtype, model.shift_divisor) == (7, jnp.bfloat16, 4)
    video = jax.ShapeDtypeStruct((1, 8, 32, 32, 3), jnp.float32)
    (logits, _), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), video)
    assert logits.shape == (1, 7)


def test_unknown_fields_list_the_known():
    with pytest.raises(JaxvidError, match="'shift_div': the nearest are shift_divisor.*dropout"):
        zoo.create_model("tsm_r50_8f", shift_div=4)


def listed(capsys, *arguments: str) -> list[dict]:
    zoo.main(["list", *arguments, "--json"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_list_prints_a_line_a_row(capsys):
    zoo.main(["list", "tsm_r50_1x1x8_k400*"])
    header, first, second = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", header) == [
        "name", "dataset", "frames", "test", "GFLOPs x views", "params", "top-1", "top-5", "weights"
    ]  # fmt: skip
    assert re.split(r"  +", first) == [
        "tsm_r50_1x1x8_k400", "kinetics400", "1x1x8", "8x10", "32.7 x 10", "24.3M", "73.18",
        "90.56", "file",
    ]  # fmt: skip
    assert second.startswith("tsm_r50_1x1x8_k400_100e")
    zoo.main(["list", "tsn_r18_1x1x8_hvu_scene"])
    header, _ = capsys.readouterr().out.splitlines()
    assert header.split()[-2:] == ["mAP", "weights"] and "top-1" not in header


def test_list_filters(capsys):
    everything = listed(capsys)
    assert [row["name"] for row in everything] == zoo.list_models()
    for arguments, passes in [
        (["--dataset=k400"], lambda row: row["dataset"] == "kinetics400"),
        (["--dataset=ssv2"], lambda row: row["dataset"] == "sthv2"),
        (["--family=mvitv2"], lambda row: row["family"] == "MViTv2"),
        (["--family=r2+1d"], lambda row: row["family"] == "R(2+1)D"),
        (["--modality=flow"], lambda row: row["modality"] == "flow"),
        (["--modality=two-stream"], lambda row: "twostream" in row["name"]),
        (["--weights"], lambda row: row["source"] is not None or row["weights"] == "members"),
        (["--max-gflops=10"], lambda row: row["gflops"] <= 10),
        (["--max-params=5"], lambda row: row["params"] <= 5),
    ]:
        expected = [row for row in everything if passes(row)]
        assert 0 < len(expected) < len(everything)
        assert listed(capsys, *arguments) == expected, arguments
    both = listed(capsys, "tsm*", "--dataset=sthv2", "--max-gflops=50")
    assert [row["name"] for row in both] == ["tsm_r50_1x1x8_sthv2"]


def test_list_sorts(capsys):
    best = listed(capsys, "--dataset=k400", "--sort=top1")
    figures = [row["top1"] for row in best if row["top1"] is not None]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] >= zoo.get_row("uniformerv2_l14_336_u32_k400").top1
    assert (
        [row["top1"] for row in best[len(figures) :]] == [None] * (len(best) - len(figures)) != []
    )
    cheap = [row["gflops"] for row in listed(capsys, "--sort=gflops")]
    assert cheap == sorted(cheap)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["qqq"], "'qqq' and all filters"),
        (["tsm*", "--max-params=1"], "No row matches"),
        (["--dataset=k402"], r"'k402'; there are .*kinetics600 \(k600\).*ucf101 \(ucf\)"),
        (["--family=tsw"], "'tsw'; there are .*C2D, .*X3D"),
    ],
)
def test_list_says_what_there_is(arguments, message):
    with pytest.raises(JaxvidError, match=message):
        zoo.main(["list", *arguments])


def shown(capsys, name: str) -> str:
    zoo.main(["show", name])
    return capsys.readouterr().out


def test_show_prints_every_field_and_the_commands(capsys):
    row = zoo.get_row("tsm_r50_1x1x8_k400")
    text = shown(capsys, row.upstream)
    for field in dataclasses.fields(row):
        value = getattr(row, field.name)
        assert value in (None, "", {}, ()) or f"{field.name}:" in text
    assert "takes: 24.33M parameters, 32.70 GFLOPs (multiply-accumulates) a view, 327.0 in" in text
    assert f"python -m converters --model={row.name} --out=WEIGHTS" in text
    arguments = f"name={row.name},dataset=kinetics400,data_dir=DATA,init=WEIGHTS"
    assert f"--config=configs/zoo_row.py:{arguments} --mode=eval" in text
    assert "--short-side" not in text


def test_show_prepares_the_data_of_a_row(capsys):
    text = shown(capsys, "tsm_r50_1x1x8_k400")
    assert "jaxvid.data.prepare kinetics400 --source=SOURCE --out=DATA --splits=val" in text
    assert "--mode=eval --workdir=TESTED --config.data.test_split=val\n" in text
    text = shown(capsys, "tsn_r18_1x1x8_hvu_scene")
    assert "jaxvid.data.prepare hvu --category=scene --source" in text
    text = shown(capsys, "tsn_r50_1x1x8_activitynet_clip")
    assert "jaxvid.data.prepare activitynet --clips --source" in text
    ucf = next(name for name in zoo.list_models() if zoo.get_row(name).dataset == "ucf101")
    assert "ucf101 --source=SOURCE --out=DATA --splits=test\n" in shown(capsys, ucf)


def test_show_builds_records_as_large_as_the_row_needs(capsys):
    assert "--short-side=384 --out=DATA" in shown(capsys, "uniformerv2_l14_336_u32_k400")


def test_show_says_what_a_row_without_weights_is_made_of(capsys):
    assert "No weights are published" in shown(capsys, "mvitv2_s_16x4_k400_norepeat")
    page = shown(capsys, "dualformer_t_32x2_k400")
    assert "fetched by hand as FILE from https://drive" in page and "--checkpoint=FILE" in page
    three = shown(capsys, "tsn_r50_1x1x3_k400_320p_msc_3crop")
    assert "--model=tsn_r50_1x1x3_k400_320p_msc --out=WEIGHTS" in three
    assert "name=tsn_r50_1x1x3_k400_320p_msc_3crop,dataset=kinetics400" in three
    streams = shown(capsys, "tsn_r50_1x1x3_k400_twostream")
    flow = "tsn_r50_flow_5x1x3_k400"
    assert f"python -m converters --model={flow} --out=WEIGHTS/{flow}" in streams
    assert streams.count("python -m jaxvid.data.prepare ") == 2
    assert streams.count(" --flow=tvl1 ") == 1 and "init=WEIGHTS --mode=eval" in streams
    assert "--mode=eval" not in shown(capsys, "tsn_r18_1x1x8_hvu")
    built = [line for line in shown(capsys, flow).splitlines() if "jaxvid.data." in line]
    assert len(built) == 3 and all("--flow=tvl1" in line for line in built)


def test_members_have_weights_and_answer_together():
    for row in rows():
        members = [zoo.get_row(name) for name in row.members]
        assert (row.source is None) or not members
        assert all(member.weights == "file" for member in members)
        if len(members) == 1:
            assert members[0].variant == row.variant and members[0].num_classes == row.num_classes
    streams = zoo.get_row("tsn_r50_1x1x8_k400_twostream")
    rgb, flow = map(zoo.cost, streams.members)
    assert zoo.cost(streams.name).total_macs == rgb.total_macs + flow.total_macs


def test_every_family_has_a_name_of_its_own():
    called = {(zoo.family_name(row.variant), zoo.family(row.variant).__name__) for row in rows()}
    names = [name for name, _ in called]
    assert len(set(names)) == len(names)
    assert {"TSN", "VideoMAE", "VideoMAE V2", "R(2+1)D"} <= set(names)
    assert len({zoo.family_name(row.variant) for row in published()}) == 25


def test_published_files_are_named_once():
    files = {}
    for row in rows():
        if row.file:
            assert files.setdefault(row.file, row.source) == row.source
            assert row.source.startswith("https://")
    assert len(files) > 160
    assert (
        zoo.get_row("x3d_m").file == "x3d_m_16x5x1_facebook-kinetics400-rgb_20201027-3f42382a.pth"
    )
