"""The evaluation view of a photo as ONNX operations, with the integer arithmetic of Pillow's resizing.

Pillow resizes along rows, rounds to 8 bits, then along columns. Weights are triangles as wide as the reduction (that is
the antialiasing), as whole multiples of 2^-22. Here a pass is a product of integer matrices: a weight is split into
three bytes, so that `MatMulInteger` of bytes, which every processor computes alike, gives the same sums. Outputs are
computed in blocks, each from the pixels that it needs. Of a photo that is more than 20 times as long as wide the ends
are left out first, as `kedge.data.decode.evaluation_view` does it. ONNX's own `Resize` has weights in float32, and is
off by one level in some pixels.
"""

from typing import TYPE_CHECKING

from kedge.data.decode import OBLONG, shorter_side
from kedge.deploy.photo_view import COLUMNS_FIRST

if TYPE_CHECKING:
    from onnx import ModelProto

ACROSS, DOWN = 32, 96  # outputs of a block: along rows there is much to save, along columns little is left
OPSET, IR = 18, 8
LUMA = (0.299, 0.587, 0.114)  # as kedge.data.decode.convert_channels

# One pass for a block of outputs: pixels [rows, n, channels], of which those of the whole side that begin at `offset`
# are there (negative: there are so many before it), to [channels, rows, outputs]. `positions` are those of the
# outputs, from the centre of pixel to pixel.
_PASS = f"""
<domain: "kedge.photo", opset_import: ["": {OPSET}]>
resize (pixels, offset, size, scale, reach, positions) => (resized)
{{
  zero = Constant <value = double {{0}}> ()
  half = Constant <value = double {{0.5}}> ()
  one = Constant <value = double {{1}}> ()
  byte = Constant <value = double {{256}}> ()
  bytes = Constant <value = double {{65536}}> ()
  precision = Constant <value = double {{4194304}}> ()
  down = Constant <value = int64[1] {{0}}> ()
  across = Constant <value = int64[1] {{1}}> ()

  centre = Mul (positions, scale)
  low_edge = Sub (centre, reach)
  low_rounded = Add (low_edge, half)
  low_whole = Floor (low_rounded)
  low = Max (low_whole, zero)
  high_edge = Add (centre, reach)
  high_rounded = Add (high_edge, half)
  high_whole = Floor (high_rounded)
  high = Min (high_whole, size)

  begin = ReduceMin <keepdims = 0> (low)
  end = ReduceMax <keepdims = 0> (high)
  source = Range (begin, end, one)
  pixel = Unsqueeze (source, across)
  apart = Sub (pixel, centre)
  distance = Add (apart, half)
  inverse = Div (one, reach)
  share = Mul (distance, inverse)
  magnitude = Abs (share)
  slope = Sub (one, magnitude)
  tent = Max (slope, zero)
  from_low = GreaterOrEqual (pixel, low)
  to_high = Less (pixel, high)
  inside = And (from_low, to_high)
  weight = Where (inside, tent, zero)
  total = ReduceSum (weight, down)
  normal = Div (weight, total)
  scaled = Mul (normal, precision)
  raised = Add (scaled, half)
  fixed = Floor (raised)

  top_part = Div (fixed, bytes)
  top = Floor (top_part)
  top_back = Mul (top, bytes)
  rest = Sub (fixed, top_back)
  middle_part = Div (rest, byte)
  middle = Floor (middle_part)
  middle_back = Mul (middle, byte)
  bottom = Sub (rest, middle_back)
  in_bytes = Concat <axis = 1> (bottom, middle, top)
  weights = Cast <to = 2> (in_bytes)

  begin_here = Sub (begin, offset)
  end_here = Sub (end, offset)
  begin_whole = Cast <to = 7> (begin_here)
  end_whole = Cast <to = 7> (end_here)
  begins = Unsqueeze (begin_whole, down)
  ends = Unsqueeze (end_whole, down)
  needed = Slice (pixels, begins, ends, across)
  planes = Transpose <perm = [2, 0, 1]> (needed)
  sums = MatMulInteger (planes, weights)
  bottom_sum, middle_sum, top_sum = Split <axis = 2, num_outputs = 3> (sums)
  byte_whole = Constant <value = int32 {{256}}> ()
  rounding = Constant <value = int32 {{2097152}}> ()
  precision_whole = Constant <value = int32 {{4194304}}> ()
  most = Constant <value = int32 {{255}}> ()
  top_shifted = Mul (top_sum, byte_whole)
  upper = Add (top_shifted, middle_sum)
  upper_shifted = Mul (upper, byte_whole)
  sum = Add (upper_shifted, bottom_sum)
  sum_raised = Add (sum, rounding)
  level = Div (sum_raised, precision_whole)
  clipped = Min (level, most)
  resized = Cast <to = 2> (clipped)
}}
"""


def view_graph(shape: tuple[int, int, int]) -> "ModelProto":
    """ONNX operations from `photo`, uint8 `[height, width, 3]`, to `images`, float32 `[1, C, side, side]` in [0, 1].

    Args:
        shape: (C, side, side) of the view, C = 1 or 3.
    """
    from onnx import inliner, parser

    channels, side, _ = shape
    grey = channels == 1
    across, down = _blocks("across", side, ACROSS), _blocks("down", side, DOWN)
    constants = {
        "int64[1] begin": 0, "int64[1] end": 2, "int64 first_axis": 0, "int64 second_axis": 1,
        "int64 shorter": shorter_side(side), "int64 side": side, "int64 fewest": 1, "int64 oblong": OBLONG,
        "bool as_pillow": int(COLUMNS_FIRST),
        "double zero": 0, "double half": 0.5, "double one": 1, "double last": side - 1, "float levels": 255,
        **{f"double[{len(block)}] {name}": ", ".join(map(str, block)) for name, block in (across | down).items()},
        **({"float[3,1,1] luma": ", ".join(map(str, LUMA))} if grey else {}),
    }  # fmt: skip
    initial = ",\n  ".join(f"{name} = {{{value}}}" for name, value in constants.items())
    text = f"""
<ir_version: {IR}, opset_import: ["": {OPSET}, "kedge.photo": 1]>
view (uint8[height, width, 3] photo) => (float[1, {channels}, {side}, {side}] images)
<
  {initial}
>
{{
  photo_shape = Shape (photo)
  photo_height = Gather (photo_shape, first_axis)
  photo_width = Gather (photo_shape, second_axis)
  width_twice = Add (photo_width, photo_width)
  high = Greater (photo_height, width_twice)
  shrinks = Greater (photo_width, shorter)
  high_shrinks = And (high, shrinks)
  columns_first = And (high_shrinks, as_pillow)
  turned = If (columns_first) <
    then_branch = turn () => (uint8[columns, rows, 3] on_its_side) {{
      on_its_side = Transpose <perm = [1, 0, 2]> (photo)
    }},
    else_branch = leave () => (uint8[rows, columns, 3] as_it_is) {{ as_it_is = Identity (photo) }}
  >
  shape = Shape (turned)
  all = Slice (shape, begin, end)
  shorter_of_photo = ReduceMin <keepdims = 0> (all)
  most = Mul (shorter_of_photo, oblong)
  sides = Min (all, most)
  ends = Sub (all, sides)
  ends_exact = Cast <to = 11> (ends)
  ends_half = Mul (ends_exact, half)
  ends_before = Round (ends_half)
  cut = Cast <to = 7> (ends_before)
  cut_above = Gather (cut, first_axis)
  cut_left = Gather (ends_before, second_axis)
  left_out = Neg (cut_left)

  divisor = Max (shorter_of_photo, fewest)
  multiple = Mul (sides, shorter)
  resized = Div (multiple, divisor)
  over = Sub (resized, side)
  over_exact = Cast <to = 11> (over)
  before_exact = Mul (over_exact, half)
  before = Round (before_exact)
  sides_exact = Cast <to = 11> (sides)
  resized_exact = Cast <to = 11> (resized)
  scales = Div (sides_exact, resized_exact)
  reaches = Max (scales, one)
  first = Add (before, half)

  height = Gather (sides_exact, first_axis)
  scale_down = Gather (scales, first_axis)
  reach_down = Gather (reaches, first_axis)
  first_down = Gather (first, first_axis)
  width = Gather (sides_exact, second_axis)
  scale_across = Gather (scales, second_axis)
  reach_across = Gather (reaches, second_axis)
  first_across = Gather (first, second_axis)

  top_centre = Mul (first_down, scale_down)
  top_edge = Sub (top_centre, reach_down)
  top_rounded = Add (top_edge, half)
  top_whole = Floor (top_rounded)
  top = Max (top_whole, zero)
  last_down = Add (first_down, last)
  bottom_centre = Mul (last_down, scale_down)
  bottom_edge = Add (bottom_centre, reach_down)
  bottom_rounded = Add (bottom_edge, half)
  bottom_whole = Floor (bottom_rounded)
  bottom = Min (bottom_whole, height)
  top_row = Cast <to = 7> (top)
  bottom_row = Cast <to = 7> (bottom)
  top_row_there = Add (top_row, cut_above)
  bottom_row_there = Add (bottom_row, cut_above)
  top_rows = Unsqueeze (top_row_there, begin)
  bottom_rows = Unsqueeze (bottom_row_there, begin)
  rows = Slice (turned, top_rows, bottom_rows, begin)

{_passes("rows", "left_out", "width", "across", across)}
  narrow = Concat <axis = 2> ({", ".join(f"{name}_resized" for name in across)})
  columns = Transpose <perm = [2, 1, 0]> (narrow)
{_passes("columns", "top", "height", "down", down)}
  small = Concat <axis = 2> ({", ".join(f"{name}_resized" for name in down)})
  upright = Transpose <perm = [0, 2, 1]> (small)
  exact = Cast <to = 1> (upright)
{_GREY if grey else "  pixels = Identity (exact)"}
  unit = Div (pixels, levels)
  view = Unsqueeze (unit, begin)
  images = If (columns_first) <
    then_branch = turn_back () => (float[1, {channels}, {side}, {side}] back) {{
      back = Transpose <perm = [0, 1, 3, 2]> (view)
    }},
    else_branch = leave_it () => (float[1, {channels}, {side}, {side}] same) {{ same = Identity (view) }}
  >
}}
{_PASS}"""
    return inliner.inline_local_functions(parser.parse_model(text))


_GREY = """
  coloured = Mul (exact, luma)
  light = ReduceSum <keepdims = 1> (coloured, begin)
  pixels = Round (light)
"""


def _blocks(name: str, side: int, most: int) -> dict[str, range]:
    count = -(-side // most)
    return {f"{name}_{i}": range(i * side // count, (i + 1) * side // count) for i in range(count)}


def _passes(pixels: str, offset: str, size: str, way: str, blocks: dict[str, range]) -> str:
    lines = []
    for name in blocks:
        lines += [
            f"  {name}_positions = Add ({name}, first_{way})",
            f"  {name}_resized = kedge.photo.resize ({pixels}, {offset}, {size}, scale_{way}, reach_{way}, "
            f"{name}_positions)",
        ]
    return "\n".join(lines)
