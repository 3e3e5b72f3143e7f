"""Vectors of sixteen lanes for kernels: types and operations that numba lacks, as LLVM's own vectors.

A kernel written with these runs on every processor: LLVM splits a vector of sixteen floats into as many registers as
the target needs (one with AVX-512, two with AVX, four with NEON or SSE). Only `dot_u8` and `dot_u7` ask what the target
can do, and all of their forms give the same integers; so a kernel's result does not depend on the width of registers.

Memory is reached by address (an int64 from `array.ctypes.data`), because a step works on many buffers of many types.
The caller keeps the arrays alive and the addresses in range; nothing is checked here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from groundup.core.jit import target_features

LANES = 16

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
_FLOAT = ir.FloatType()
_F32 = ir.VectorType(_FLOAT, LANES)
_I32S = ir.VectorType(_I32, LANES)
_U8S = ir.VectorType(_I8, 4 * LANES)
_ELEMENTS = {"f32": _F32, "i32": _I32S, "u8": _U8S}


class Vector(types.Type):
    """The type of a vector, or of several, inside of kernels; it cannot leave them.

    Args:
        kind: f32 or i32 of sixteen lanes, u8 of sixty-four (four for each lane of thirty-two bits).
        count: 0 for one vector; else a bundle of so many, one for each row of activations (`rows_...`).
    """

    def __init__(self, kind: str, count: int = 0) -> None:
        self.kind, self.count = kind, count
        super().__init__(name=f"Vector({kind}, {count})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: Vector) -> None:
        element = _ELEMENTS[vector.kind]
        super().__init__(
            manager,
            vector,  # type: ignore[no-untyped-call]
            ir.ArrayType(element, vector.count) if vector.count else element,
        )


f32, i32, u8 = Vector("f32"), Vector("i32"), Vector("u8")

Build = Callable[..., Any]
_SCALARS = {"int": types.int64, "float": types.float32}


def _operation(takes: Sequence[Any], gives: Any) -> Callable[[Build], Any]:
    """An operation of kernels from a function `(builder, *values) -> value` that writes its instructions.

    Args:
        takes: numba types of the arguments; numbers are converted to them.
        gives: that of the result; None for none.
    """
    result = types.void if gives is None else gives

    def define(build: Build) -> Any:
        # numba reads the names of the arguments, so one wrapper serves each number of them.
        def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = build(builder, *arguments)
            return context.get_dummy_value() if gives is None else value

        def typed(*given: Any) -> tuple[Any, Any]:
            assert len(given) == len(takes)
            return result(*takes), write

        wrappers: dict[int, Callable[..., Any]] = {
            0: lambda typing: typed(),
            1: lambda typing, a: typed(a),
            2: lambda typing, a, b: typed(a, b),
            3: lambda typing, a, b, c: typed(a, b, c),
        }
        wrapper = wrappers[len(takes)]
        wrapper.__name__ = wrapper.__qualname__ = build.__name__
        wrapper.__doc__ = build.__doc__
        return intrinsic(wrapper)

    return define


def _constant(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call one of LLVM's functions."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function: Any = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
    return builder.call(function, arguments)


def _splat(builder: Any, kind: ir.VectorType, value: Any) -> Any:
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    zeros = ir.Constant(ir.VectorType(_I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(first, undefined, zeros)


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def _store(builder: Any, address: Any, value: Any, align: int) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


# Memory ---------------------------------------------------------------------------------------------------------------


@_operation([types.int64], f32)
def load_f32(builder: Any, address: Any) -> Any:
    """Sixteen floats."""
    return _load(builder, address, _F32, 4)


@_operation([types.int64, f32], None)
def store_f32(builder: Any, address: Any, value: Any) -> None:
    """Write sixteen floats."""
    _store(builder, address, value, 4)


@_operation([types.int64], u8)
def load_u8(builder: Any, address: Any) -> Any:
    """Sixty-four bytes."""
    return _load(builder, address, _U8S, 1)


@_operation([types.int64], i32)
def load_i32(builder: Any, address: Any) -> Any:
    """Sixteen whole numbers of thirty-two bits."""
    return _load(builder, address, _I32S, 4)


@_operation([types.int64], f32)
def load_f32_from_i8(builder: Any, address: Any) -> Any:
    """Sixteen signed bytes as floats."""
    return builder.sitofp(_load(builder, address, ir.VectorType(_I8, LANES), 1), _F32)


@_operation([types.int64], f32)
def load_f32_from_u8(builder: Any, address: Any) -> Any:
    """Sixteen bytes as floats."""
    return builder.uitofp(_load(builder, address, ir.VectorType(_I8, LANES), 1), _F32)


@_operation([types.int64], f32)
def load_f32_from_bf16(builder: Any, address: Any) -> Any:
    """Sixteen bfloat16 as floats, which they are the upper half of."""
    wide = builder.zext(_load(builder, address, ir.VectorType(_I16, LANES), 2), _I32S)
    return builder.bitcast(builder.shl(wide, _constant(_I32S, 16)), _F32)


@_operation([types.int64], f32)
def load_f32_from_f16(builder: Any, address: Any) -> Any:
    """Sixteen finite float16 as floats."""
    halves = _load(builder, address, ir.VectorType(_I16, LANES), 2)
    if "f16c" in target_features() or "fullfp16" in target_features():
        return builder.fpext(builder.bitcast(halves, ir.VectorType(ir.HalfType(), LANES)), _F32)
    # Without an instruction LLVM calls a function that numba does not have. Exponent and mantissa moved to their places
    # are the number times 2^-112, subnormal ones too.
    wide = builder.zext(halves, _I32S)
    sign = builder.shl(builder.and_(wide, _constant(_I32S, 0x8000)), _constant(_I32S, 16))
    rest = builder.shl(builder.and_(wide, _constant(_I32S, 0x7FFF)), _constant(_I32S, 13))
    scaled = builder.fmul(builder.bitcast(rest, _F32), _constant(_F32, 2.0**112))
    return builder.bitcast(builder.or_(builder.bitcast(scaled, _I32S), sign), _F32)


@_operation([types.int64, i32], None)
def store_i8(builder: Any, address: Any, value: Any) -> None:
    """Write the low bytes of sixteen whole numbers."""
    _store(builder, address, builder.trunc(value, ir.VectorType(_I8, LANES)), 1)


@_operation([types.int64, i32, types.int64], None)
def store_fours(builder: Any, address: Any, value: Any, step: Any) -> None:
    """Write the low bytes of sixteen whole numbers, every four `step` bytes after the four before."""
    words = builder.bitcast(builder.trunc(value, ir.VectorType(_I8, LANES)), ir.VectorType(_I32, 4))
    for place in range(4):
        target = builder.add(address, builder.mul(step, ir.Constant(_I64, place)))
        _store(builder, target, builder.extract_element(words, ir.Constant(_I32, place)), 4)


@_operation([types.int64], types.float32)
def read_f32(builder: Any, address: Any) -> Any:
    """One float."""
    return _load(builder, address, _FLOAT, 4)


@_operation([types.int64, types.float32], None)
def write_f32(builder: Any, address: Any, value: Any) -> None:
    """Write one float."""
    _store(builder, address, value, 4)


def _reader(kind: ir.IntType, align: int, signed: bool) -> Build:
    def read(builder: Any, address: Any) -> Any:
        value = _load(builder, address, kind, align)
        if kind.width == 64:
            return value
        return builder.sext(value, _I64) if signed else builder.zext(value, _I64)

    return read


def _writer(kind: ir.IntType, align: int) -> Build:
    def write(builder: Any, address: Any, value: Any) -> None:
        _store(builder, address, value if kind.width == 64 else builder.trunc(value, kind), align)

    return write


read_u8 = _operation([types.int64], types.int64)(_reader(_I8, 1, False))
read_i8 = _operation([types.int64], types.int64)(_reader(_I8, 1, True))
read_u16 = _operation([types.int64], types.int64)(_reader(_I16, 2, False))
read_i32 = _operation([types.int64], types.int64)(_reader(_I32, 4, True))
read_i64 = _operation([types.int64], types.int64)(_reader(_I64, 8, True))
write_i8 = _operation([types.int64, types.int64], None)(_writer(_I8, 1))
write_u16 = _operation([types.int64, types.int64], None)(_writer(_I16, 2))
write_i32 = _operation([types.int64, types.int64], None)(_writer(_I32, 4))


def _prefetch(typing: Any, address: Any, lines: Any) -> Any:
    """Ask for so many cache lines (a literal number) from an address on; they may lie beyond the memory that is there."""
    count = lines.literal_value

    def write(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _I8.as_pointer()
        function: Any = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]
            builder.module, ir.FunctionType(ir.VoidType(), [pointer, _I32, _I32, _I32]), "llvm.prefetch.p0"
        )
        for line in range(count):
            place = builder.inttoptr(builder.add(values[0], ir.Constant(_I64, 64 * line)), pointer)
            # To be read, to stay in all caches, as data.
            builder.call(function, [place, *(ir.Constant(_I32, number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64, lines), write


prefetch: Any = intrinsic(prefer_literal=True)(_prefetch)


# Making and converting ------------------------------------------------------------------------------------------------


@_operation([types.float32], f32)
def splat_f32(builder: Any, value: Any) -> Any:
    """The same float in all lanes."""
    return _splat(builder, _F32, value)


@_operation([types.int64], i32)
def splat_i32(builder: Any, value: Any) -> Any:
    """The same whole number in all lanes."""
    return _splat(builder, _I32S, builder.trunc(value, _I32))


@_operation([types.int64], f32)
def splat_read_f32(builder: Any, address: Any) -> Any:
    """The float at an address in all lanes."""
    return _splat(builder, _F32, _load(builder, address, _FLOAT, 4))


@_operation([types.int64], i32)
def splat_read_i32(builder: Any, address: Any) -> Any:
    """The whole number at an address in all lanes; for `dot_u8` four neighbouring bytes."""
    return _splat(builder, _I32S, _load(builder, address, _I32, 4))


@_operation([types.int64], u8)
def splat_u8(builder: Any, value: Any) -> Any:
    """The same byte sixty-four times."""
    return _splat(builder, _U8S, builder.trunc(value, _I8))


@_operation([], i32)
def iota(builder: Any) -> Any:
    """0, 1, ... 15."""
    return ir.Constant(_I32S, list(range(LANES)))


@_operation([i32], f32)
def to_f32(builder: Any, value: Any) -> Any:
    """Whole numbers as floats."""
    return builder.sitofp(value, _F32)


@_operation([f32], i32)
def bits_of(builder: Any, value: Any) -> Any:
    """The bits of floats as whole numbers."""
    return builder.bitcast(value, _I32S)


@_operation([i32], f32)
def from_bits(builder: Any, value: Any) -> Any:
    """Whole numbers as the bits of floats."""
    return builder.bitcast(value, _F32)


@_operation([types.float32], types.int64)
def float_bits(builder: Any, value: Any) -> Any:
    """The bits of one float as a whole number from 0 to 2^32 - 1."""
    return builder.zext(builder.bitcast(value, _I32), _I64)


@_operation([types.int64], types.float32)
def float_from_bits(builder: Any, value: Any) -> Any:
    """The float with these bits."""
    return builder.bitcast(builder.trunc(value, _I32), _FLOAT)


# Arithmetic -----------------------------------------------------------------------------------------------------------


@_operation([f32, f32], f32)
def add(builder: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return builder.fadd(a, b)


@_operation([f32, f32], f32)
def sub(builder: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return builder.fsub(a, b)


@_operation([f32, f32], f32)
def mul(builder: Any, a: Any, b: Any) -> Any:
    """a b."""
    return builder.fmul(a, b)


@_operation([f32, f32], f32)
def div(builder: Any, a: Any, b: Any) -> Any:
    """a / b."""
    return builder.fdiv(a, b)


@_operation([f32, f32, f32], f32)
def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c; rounded once where the target has an instruction for it, else twice."""
    return _call(builder, "llvm.fmuladd.v16f32", _F32, a, b, c)


@_operation([f32, f32], f32)
def larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger of each pair."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@_operation([f32], f32)
def absolute(builder: Any, value: Any) -> Any:
    """|a|."""
    bits = builder.and_(builder.bitcast(value, _I32S), _constant(_I32S, 0x7FFFFFFF))
    return builder.bitcast(bits, _F32)


@_operation([i32, i32], i32)
def add_i32(builder: Any, a: Any, b: Any) -> Any:
    """a + b."""
    return builder.add(a, b)


@_operation([i32, i32], i32)
def sub_i32(builder: Any, a: Any, b: Any) -> Any:
    """a - b."""
    return builder.sub(a, b)


@_operation([i32, types.int64], i32)
def shift_left(builder: Any, value: Any, bits: Any) -> Any:
    """Each lane times 2^bits."""
    return builder.shl(value, _splat(builder, _I32S, builder.trunc(bits, _I32)))


@_operation([i32, types.int64], i32)
def and_i32(builder: Any, value: Any, mask: Any) -> Any:
    """The bits of each lane that the mask has."""
    return builder.and_(value, _splat(builder, _I32S, builder.trunc(mask, _I32)))


@_operation([u8, u8], u8)
def and_u8(builder: Any, a: Any, b: Any) -> Any:
    """The bits that both have."""
    return builder.and_(a, b)


@_operation([u8, u8], u8)
def or_u8(builder: Any, a: Any, b: Any) -> Any:
    """The bits that one of them has."""
    return builder.or_(a, b)


@_operation([u8, u8], u8)
def shift_right_u8(builder: Any, value: Any, bits: Any) -> Any:
    """Each byte without its lowest bits; `bits` from `splat_u8` of a constant."""
    return builder.lshr(value, bits)


@_operation([u8, u8], u8)
def shift_left_u8(builder: Any, value: Any, bits: Any) -> Any:
    """Each byte times 2^bits; `bits` from `splat_u8` of a constant."""
    return builder.shl(value, bits)


@_operation([u8, types.int64, types.int64], u8)
def or_where(builder: Any, value: Any, mask: Any, bit: Any) -> Any:
    """Set `bit` in the bytes whose bit of the 64 in `mask` is set."""
    chosen = builder.bitcast(mask, ir.VectorType(_I1, 64))
    changed = builder.or_(value, _splat(builder, _U8S, builder.trunc(bit, _I8)))
    return builder.select(chosen, changed, value)


@_operation([f32, i32, types.int64], f32)
def keep_up_to(builder: Any, value: Any, place: Any, last: Any) -> Any:
    """Minus infinity in the lanes whose place is beyond `last`."""
    inside = builder.icmp_signed("<=", place, _splat(builder, _I32S, builder.trunc(last, _I32)))
    return builder.select(inside, value, _constant(_F32, float("-inf")))


@_operation([f32, f32, f32], f32)
def zero_below(builder: Any, value: Any, x: Any, limit: Any) -> Any:
    """0 in the lanes where x is below the limit."""
    return builder.select(builder.fcmp_ordered("<", x, limit), _constant(_F32, 0.0), value)


def _tree(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """One value of sixteen, halves joined with each other: always in the same order."""
    count = LANES
    while count > 1:
        count //= 2
        low, high = (
            builder.shuffle_vector(
                value, value, ir.Constant(ir.VectorType(_I32, count), list(range(start, start + count)))
            )
            for start in (0, count)
        )
        value = join(low, high)
    return builder.extract_element(value, ir.Constant(_I32, 0))


@_operation([f32], types.float32)
def sum_of(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return _tree(builder, value, builder.fadd)


@_operation([f32], types.float32)
def largest_of(builder: Any, value: Any) -> Any:
    """The largest lane."""
    return _tree(builder, value, lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))


@_operation([i32], types.int64)
def sum_of_i32(builder: Any, value: Any) -> Any:
    """The sum of the lanes."""
    return builder.sext(_tree(builder, value, builder.add), _I64)


# Dot products of bytes ------------------------------------------------------------------------------------------------


def _halves(builder: Any, value: Any) -> list[Any]:
    """A vector as its two halves."""
    half = value.type.count // 2
    return [
        builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(_I32, half), list(range(start, start + half))))
        for start in (0, half)
    ]


def _joined(builder: Any, low: Any, high: Any) -> Any:
    count = 2 * low.type.count
    return builder.shuffle_vector(low, high, ir.Constant(ir.VectorType(_I32, count), list(range(count))))


def _dot(builder: Any, total: Any, codes: Any, numbers: Any, *, small: bool) -> Any:
    features = target_features()
    wide, half = ir.VectorType(_I32, 16), ir.VectorType(_I32, 8)
    if {"avx512vnni", "avx512f"} <= features:
        # LLVM calls both factors vectors of i32; the instruction reads them as bytes.
        return _call(builder, "llvm.x86.avx512.vpdpbusd.512", wide, total, builder.bitcast(codes, wide), numbers)
    if "avxvnni" in features or {"avx512vnni", "avx512vl"} <= features:
        parts = zip(
            _halves(builder, total),
            _halves(builder, builder.bitcast(codes, wide)),
            _halves(builder, numbers),
            strict=True,
        )
        sums = [_call(builder, "llvm.x86.avx512.vpdpbusd.256", half, *part) for part in parts]
        return _joined(builder, *sums)
    signed = builder.bitcast(numbers, _U8S)
    if "avx2" in features:
        if small:
            return builder.add(total, _dot_avx2(builder, codes, signed))
        # A sum of two products must fit into sixteen bits: the highest bit of the codes goes by itself.
        low = _dot_avx2(builder, builder.and_(codes, _constant(_U8S, 127)), signed)
        high = _dot_avx2(builder, builder.lshr(codes, _constant(_U8S, 7)), signed)
        return builder.add(total, builder.add(low, builder.shl(high, _constant(_I32S, 7))))
    # 255 * 127 fits into sixteen bits; neighbours are added by taking two of them as one number.
    shorts, pairs, quads = ir.VectorType(_I16, 64), ir.VectorType(_I32, 32), ir.VectorType(_I64, 16)
    products = builder.mul(builder.zext(codes, shorts), builder.sext(signed, shorts))
    both = builder.bitcast(products, pairs)
    sixteen = _constant(pairs, 16)
    two = builder.add(builder.ashr(builder.shl(both, sixteen), sixteen), builder.ashr(both, sixteen))
    both = builder.bitcast(two, quads)
    four = builder.add(builder.trunc(both, _I32S), builder.trunc(builder.lshr(both, _constant(quads, 32)), _I32S))
    return builder.add(total, four)


def _dot_avx2(builder: Any, codes: Any, signed: Any) -> Any:
    shorts, ints = ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)
    sums = []
    for a, b in zip(_halves(builder, codes), _halves(builder, signed), strict=True):
        pairs = _call(builder, "llvm.x86.avx2.pmadd.ub.sw", shorts, a, b)
        sums.append(_call(builder, "llvm.x86.avx2.pmadd.wd", ints, pairs, _constant(shorts, 1)))
    return _joined(builder, *sums)


@_operation([i32, u8, i32], i32)
def dot_u8(builder: Any, total: Any, codes: Any, numbers: Any) -> Any:
    """Add to each lane the products of its four bytes 0 to 255 with four signed bytes -127 to 127."""
    return _dot(builder, total, codes, numbers, small=False)


@_operation([i32, u8, i32], i32)
def dot_u7(builder: Any, total: Any, codes: Any, numbers: Any) -> Any:
    """`dot_u8` for codes 0 to 127, which AVX2 computes in half the time."""
    return _dot(builder, total, codes, numbers, small=True)


# Bundles: the same vector of weights meets several rows of activations, whose numbers stand side by side ---------------


def _bundle(takes: Sequence[Any], gives: str | None) -> Callable[[Build], Any]:
    """An operation on bundles of any count, from a function `(builder, count, *values)`.

    Args:
        takes: numba types; "count" stands for the literal number of rows, "f32" and "i32" for bundles.
        gives: kind of the resulting bundle, or None.
    """

    def define(build: Build) -> Any:
        def typed(*given: Any) -> tuple[Any, Any]:
            if "count" in takes:
                count = given[takes.index("count")].literal_value
            else:
                count = next(kind.count for kind, wanted in zip(given, takes, strict=True) if isinstance(wanted, str))
            kinds = [
                given[place] if wanted == "count" else Vector(wanted, count) if isinstance(wanted, str) else wanted
                for place, wanted in enumerate(takes)
            ]

            def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                values = [value for value, wanted in zip(arguments, takes, strict=True) if wanted != "count"]
                made = build(builder, count, *values)
                if gives is None:
                    return context.get_dummy_value()
                result = ir.Constant(ir.ArrayType(_ELEMENTS[gives], count), ir.Undefined)
                for place, value in enumerate(made):
                    result = builder.insert_value(result, value, place)
                return result

            return (types.void if gives is None else Vector(gives, count))(*kinds), write

        wrappers: dict[int, Callable[..., Any]] = {
            1: lambda typing, a: typed(a),
            2: lambda typing, a, b: typed(a, b),
            3: lambda typing, a, b, c: typed(a, b, c),
            4: lambda typing, a, b, c, d: typed(a, b, c, d),
        }
        wrapper = wrappers[len(takes)]
        wrapper.__name__ = wrapper.__qualname__ = build.__name__
        wrapper.__doc__ = build.__doc__
        return intrinsic(prefer_literal=True)(wrapper)

    return define


def _places(builder: Any, count: int, address: Any, stride: Any = None) -> list[Any]:
    """Addresses of the rows' numbers: side by side, or `stride` bytes apart."""
    offsets = [ir.Constant(_I64, 4 * row) for row in range(count)]
    if stride is not None:
        offsets = [builder.mul(stride, ir.Constant(_I64, row)) for row in range(count)]
    return [builder.add(address, offset) for offset in offsets]


def _madd(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "llvm.fmuladd.v16f32", _F32, a, b, c)


@_bundle(["count"], "f32")
def rows_zero_f32(builder: Any, count: int) -> Any:
    """Zeros for each row."""
    return [_constant(_F32, 0.0)] * count


@_bundle(["count"], "i32")
def rows_zero_i32(builder: Any, count: int) -> Any:
    """Zeros for each row."""
    return [_constant(_I32S, 0)] * count


@_bundle(["count", types.int64, types.int64], "i32")
def rows_splat_i32(builder: Any, count: int, address: Any, factor: Any) -> Any:
    """Each row's whole number, times a factor, in all lanes."""
    narrow = builder.trunc(factor, _I32)
    return [
        _splat(builder, _I32S, builder.mul(_load(builder, place, _I32, 4), narrow))
        for place in _places(builder, count, address)
    ]


@_bundle(["count", types.int64, types.int64, types.int64], "i32")
def rows_splat_sum(builder: Any, count: int, address: Any, step: Any, factor: Any) -> Any:
    """The sum of each row's whole number and the one `step` bytes after it, times a factor, in all lanes."""
    narrow, made = builder.trunc(factor, _I32), []
    for place in _places(builder, count, address):
        total = builder.add(_load(builder, place, _I32, 4), _load(builder, builder.add(place, step), _I32, 4))
        made.append(_splat(builder, _I32S, builder.mul(total, narrow)))
    return made


def _rows_dot(builder: Any, count: int, totals: Any, codes: Any, address: Any, *, small: bool) -> list[Any]:
    made = []
    for row, place in enumerate(_places(builder, count, address)):
        numbers = _splat(builder, _I32S, _load(builder, place, _I32, 4))
        made.append(_dot(builder, builder.extract_value(totals, row), codes, numbers, small=small))
    return made


@_bundle(["i32", u8, types.int64], "i32")
def rows_dot_u8(builder: Any, count: int, totals: Any, codes: Any, address: Any) -> Any:
    """`dot_u8` of the same codes with each row's four bytes."""
    return _rows_dot(builder, count, totals, codes, address, small=False)


@_bundle(["i32", u8, types.int64], "i32")
def rows_dot_u7(builder: Any, count: int, totals: Any, codes: Any, address: Any) -> Any:
    """`dot_u7` of the same codes with each row's four bytes."""
    return _rows_dot(builder, count, totals, codes, address, small=True)


@_bundle(["f32", "i32", f32, types.int64], "f32")
def rows_add_scaled(builder: Any, count: int, sums: Any, totals: Any, scales: Any, address: Any) -> Any:
    """Add to each row its totals times the weights' scales times the row's own scale."""
    made = []
    for row, place in enumerate(_places(builder, count, address)):
        scale = builder.fmul(scales, _splat(builder, _F32, _load(builder, place, _FLOAT, 4)))
        total = builder.sitofp(builder.extract_value(totals, row), _F32)
        made.append(_madd(builder, total, scale, builder.extract_value(sums, row)))
    return made


@_bundle(["f32", f32, types.int64], "f32")
def rows_multiply_add(builder: Any, count: int, sums: Any, values: Any, address: Any) -> Any:
    """Add to each row the same values times the row's float."""
    made = []
    for row, place in enumerate(_places(builder, count, address)):
        number = _splat(builder, _F32, _load(builder, place, _FLOAT, 4))
        made.append(_madd(builder, values, number, builder.extract_value(sums, row)))
    return made


@_bundle(["f32", f32], "f32")
def rows_add_vector(builder: Any, count: int, values: Any, vector: Any) -> Any:
    """Add the same vector to each row."""
    return [builder.fadd(builder.extract_value(values, row), vector) for row in range(count)]


@_bundle(["f32", "f32", f32], "f32")
def rows_add_product(builder: Any, count: int, sums: Any, values: Any, scales: Any) -> Any:
    """Add to each row its values times the same scales."""
    return [
        _madd(builder, builder.extract_value(values, row), scales, builder.extract_value(sums, row))
        for row in range(count)
    ]


@_bundle(["f32", types.int64], "f32")
def rows_multiply(builder: Any, count: int, values: Any, address: Any) -> Any:
    """Each row's values times its float."""
    return [
        builder.fmul(builder.extract_value(values, row), _splat(builder, _F32, _load(builder, place, _FLOAT, 4)))
        for row, place in enumerate(_places(builder, count, address))
    ]


@_bundle(["count", types.int64, types.int64], "f32")
def rows_load_f32(builder: Any, count: int, address: Any, stride: Any) -> Any:
    """Each row's sixteen floats, the rows `stride` bytes apart."""
    return [_load(builder, place, _F32, 4) for place in _places(builder, count, address, stride)]


@_bundle(["f32", types.int64, types.int64], "f32")
def rows_add_memory(builder: Any, count: int, values: Any, address: Any, stride: Any) -> Any:
    """Add to each row its sixteen floats, the rows `stride` bytes apart."""
    return [
        builder.fadd(builder.extract_value(values, row), _load(builder, place, _F32, 4))
        for row, place in enumerate(_places(builder, count, address, stride))
    ]


@_bundle(["f32", types.int64, types.int64, types.int64], None)
def rows_store_f32(builder: Any, count: int, values: Any, address: Any, stride: Any, limit: Any) -> None:
    """Write sixteen floats of each of the first `limit` rows, the rows `stride` bytes apart."""
    for row, place in enumerate(_places(builder, count, address, stride)):
        with builder.if_then(builder.icmp_signed("<", ir.Constant(_I64, row), limit)):
            _store(builder, place, builder.extract_value(values, row), 4)


# Functions ------------------------------------------------------------------------------------------------------------

_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.44269504088896341, 0.693359375, -2.12194440e-4
# e^r - 1 - r over r^2 for |r| <= ln(2) / 2, highest power first (Moshier 1989, Cephes, expf).
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
#: Added to a float below 2^22 in size, it leaves the nearest whole number in the lowest bits (ties to even).
ROUNDING = 12582912.0
_ROUNDING_BITS = 0x4B400000


def _exp(builder: Any, x: Any) -> Any:
    def madd(a: Any, b: Any, c: Any) -> Any:
        return _call(builder, "llvm.fmuladd.v16f32", _F32, a, b, c)

    low, high = _constant(_F32, -87.0), _constant(_F32, 88.0)
    y = builder.select(builder.fcmp_ordered("<", x, low), low, x)
    y = builder.select(builder.fcmp_ordered(">", y, high), high, y)
    magic = _constant(_F32, ROUNDING)
    shifted = madd(y, _constant(_F32, _LOG2_E), magic)
    whole = builder.fsub(shifted, magic)
    r = madd(whole, _constant(_F32, -_LN2_HIGH), y)
    r = madd(whole, _constant(_F32, -_LN2_LOW), r)
    p = _constant(_F32, _EXP[0])
    for coefficient in _EXP[1:]:
        p = madd(p, r, _constant(_F32, coefficient))
    p = builder.fadd(madd(builder.fmul(r, r), p, r), _constant(_F32, 1.0))
    exponent = builder.shl(builder.bitcast(shifted, _I32S), _constant(_I32S, 23))
    scaled = builder.bitcast(builder.add(builder.bitcast(p, _I32S), exponent), _F32)
    return builder.select(builder.fcmp_ordered("<", x, low), _constant(_F32, 0.0), scaled)


@_operation([f32], f32)
def exp(builder: Any, x: Any) -> Any:
    """e^x to some 1e-7 of itself; 0 below -87, e^88 above 88, NaN of NaN."""
    return _exp(builder, x)


@_operation([f32], f32)
def sigmoid(builder: Any, x: Any) -> Any:
    """1 / (1 + e^-x)."""
    one = _constant(_F32, 1.0)
    return builder.fdiv(one, builder.fadd(one, _exp(builder, builder.fneg(x))))


@_operation([f32], f32)
def tanh(builder: Any, x: Any) -> Any:
    """The hyperbolic tangent, to some 1e-7."""
    one, two = _constant(_F32, 1.0), _constant(_F32, 2.0)
    return builder.fsub(one, builder.fdiv(two, builder.fadd(one, _exp(builder, builder.fmul(two, x)))))


@_operation([f32], i32)
def nearest_i32(builder: Any, x: Any) -> Any:
    """The nearest whole number, ties to even, for |x| below 2^22."""
    shifted = builder.fadd(x, _constant(_F32, ROUNDING))
    return builder.sub(builder.bitcast(shifted, _I32S), _constant(_I32S, _ROUNDING_BITS))


# Between threads ------------------------------------------------------------------------------------------------------


@_operation([types.int64, types.int64], types.int64)
def fetch_add(builder: Any, address: Any, amount: Any) -> Any:
    """Add to the int64 at an address as one indivisible act; returns what was there before."""
    return builder.atomic_rmw("add", builder.inttoptr(address, _I64.as_pointer()), amount, "acq_rel")


@_operation([types.int64], types.int64)
def load_acquire(builder: Any, address: Any) -> Any:
    """Read an int64 after which everything is visible that was written before it was set."""
    return builder.load_atomic(builder.inttoptr(address, _I64.as_pointer()), "acquire", 8)


def _call_kernel(typing: Any, kernel: Any, arguments: Any, start: Any, end: Any, state: Any, worker: Any) -> Any:
    """Call the `StepKernel` at an address."""

    def write(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [_I64] * 5)
        builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), write


call_kernel: Any = intrinsic(_call_kernel)


@_operation([], None)
def pause(builder: Any) -> None:
    """Tell the processor that this thread waits for another."""
    if builder.module.triple.startswith(("x86_64", "i686", "i386")):
        _call(builder, "llvm.x86.sse2.pause", ir.VoidType())
