"""What the text of a compiled program says, on a short one written by hand."""

from jaxvid.reports.programs import Array, Program, arrays, summed

TEXT = """HloModule step, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, may-alias) }

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[4,8]) -> f32[] {
  %p = bf16[4,8]{1,0} parameter(0)
  ROOT %hidden = f32[]{:T(128)} all-reduce(%p), to_apply=%add, metadata={op_name="jit(step)/loss"}
}

%body (x: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %x = (s32[], bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %whole = bf16[4,8]{1,0} all-gather(%x), dimensions={0}, metadata={op_name="jit(step)/block"}CYCLES
  ROOT %next = (s32[], bf16[4,8]{1,0}) tuple(%x, %whole)
}

ENTRY %main (p0: f32[3], p1: f32[3]) -> (f32[3], f32[3]) {
  %p0 = f32[3]{0} parameter(0)
  %begun = (bf16[2,8]{1,0}, bf16[4,8]{1,0}) all-gather-start(%p0), dimensions={0}
  %sent = (bf16[5]{0}, bf16[5]{0}, s32[], s32[]) collective-permute-start(%p0)
  %both = (f32[3]{0}, f32[]) all-reduce(%p0, %p0), to_apply=%add
  %loop = (s32[], bf16[4,8]) while(%p0), body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %told = f32[3]{0} custom-call(%p0), custom_call_target="tpu_custom_call"
  %f = f32[] fusion(%p0), kind=kLoop, calls=%fused, backend_config={"w":{"estimated_cycles":"500"}}
  ROOT %out = (f32[3]{0}, f32[3]{0}) tuple(%p0, %p0)
}
""".replace("CYCLES", ', backend_config={"window_config":{"estimated_cycles":"7"}}')
PROGRAM = Program(TEXT)


def test_arrays_have_a_type_a_shape_and_bytes():
    assert arrays("(bf16[4,8]{1,0}, f32[], pred[3], /*index=5*/s4[5])") == (
        Array("bf16", (4, 8)),
        Array("f32", ()),
        Array("pred", (3,)),
        Array("s4", (5,)),
    )
    assert [array.bytes for array in arrays("bf16[4,8] f32[] pred[3] s4[5] f8e4m3fn[6]")] == [
        64,
        4,
        3,
        3,
        6,
    ]


def test_what_devices_send_counts_as_often_as_it_is_sent():
    assert summed(PROGRAM.collectives()) == {
        "all-gather": {"count": 13, "bytes": 13 * 64},
        "all-reduce": {"count": 2, "bytes": 16 + 4},
        "collective-permute": {"count": 1, "bytes": 10},
    }
    first = PROGRAM.collectives()[0]
    assert (first.kind, first.times, first.origin) == ("all-gather", 12, "jit(step)/block")
    assert first.results == (Array("bf16", (4, 8)),)


def test_bytes_are_counted_as_often_as_they_move():
    # all-gather-start 12 + 96, collective-permute-start 12 + 28, all-reduce 2 x 12 + 16, custom
    # call 24, fusion 12 + 4; in the loop 12 times an all-gather of a pair of 68 to 64.
    once = (96 + 12) + (28 + 12) + (16 + 24) + 24 + (4 + 12)
    assert PROGRAM.traffic() == once + 12 * (64 + 68)
    # The compiler's own number counts the loop once.
    assert PROGRAM.traffic(1000.0) == 1000 + 11 * (64 + 68)


def test_cycles_are_counted_as_often_as_they_pass():
    assert PROGRAM.cycles() == 500 + 12 * 7


def test_calls_aliases_and_types_are_found():
    assert PROGRAM.custom_calls() == {"tpu_custom_call": 1}
    assert PROGRAM.aliases() == 2
    assert PROGRAM.dtypes() == {"f32", "bf16", "s32"}
    assert [each.kind for each in PROGRAM.instructions()].count("fusion") == 1
