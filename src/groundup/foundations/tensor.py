"""Automatic differentiation of numpy arrays: what `scalar.py` does for single numbers, for whole arrays at a time.

An operation gives a new tensor that holds its parents and a pullback: a function that makes the derivatives by each of them from
the derivative by the result (others call it a vector-Jacobian product). `backward` goes through the graph from its end.

In each pullback below, `up` is the derivative of what `backward` was called on by the operation's result, of the result's shape;
what is returned has the shapes of the parents. An operation by element multiplies `up` by its slope, as in `scalar.py`. The formula of
the matrix product is derived in `docs/concepts/autograd.md`.

Three decisions keep the gradients right:

- The array of a tensor is read-only. Nothing that a gradient needs can change under it: numpy refuses, and `t += 1` makes a
  new tensor. A parameter is trained by giving it a new array (`parameter.data = ...`); graphs that were made before keep
  the old one.
- What is used several times gets the sum of the derivatives from each use.
- Broadcasting is undone: the derivative by something that was stretched is the sum over what it was stretched to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from groundup.core.errors import UsageError

Array: TypeAlias = NDArray[Any]
#: From the derivative by a result to those by its parents, None for a parent that has none.
Pullback: TypeAlias = Callable[[Array], "tuple[Array | None, ...]"]

#: Whether operations keep a graph: a global switch, of which each thread has its own.
_records: ContextVar[bool] = ContextVar("records", default=True)


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside, operations keep no graph: for evaluation, which needs no gradients and should not hold their memory."""
    token = _records.set(False)
    try:
        yield
    finally:
        _records.reset(token)


class Tensor:
    """An array that remembers where it came from.

    Args:
        data: real numbers; whole ones become float64 where a gradient is wanted.
        requires_grad: whether `backward` leaves its derivative here.

    Attributes:
        grad: derivative of what `backward` was called on by this tensor, of its shape; further calls add to it. None before the
            first, and for tensors that were computed from others.
        parents: what it was computed from, empty where no graph is kept.
    """

    # numpy leaves `array + tensor` to us.
    __array_priority__ = 1000
    __slots__ = ("_data", "_pullback", "grad", "operation", "parents", "requires_grad")

    def __init__(self, data: ArrayLike | Tensor, *, requires_grad: bool = False) -> None:
        array = np.array(data.data if isinstance(data, Tensor) else data)
        if array.dtype.kind not in "biuf":
            raise UsageError(
                f"a tensor holds real numbers, not {array.dtype}: stack or concatenate makes one of several tensors and keeps "
                "their graph"
            )
        if requires_grad and not np.issubdtype(array.dtype, np.floating):
            array = array.astype(np.float64)
        self._data = _frozen(array)
        self.requires_grad = requires_grad
        self.grad: Array | None = None
        self.parents: tuple[Tensor, ...] = ()
        self._pullback: Pullback | None = None
        self.operation = ""

    @property
    def data(self) -> Array:
        """The numbers, read-only. Setting it gives a parameter its next values."""
        return self._data

    @data.setter
    def data(self, values: ArrayLike | Tensor) -> None:
        if self.parents:
            raise UsageError(
                f"the result of {self.operation} cannot be given other numbers: make a new tensor from it instead"
            )
        array = np.array(values.data if isinstance(values, Tensor) else values, self.dtype)
        if array.shape != self.shape:
            raise UsageError(f"a tensor of shape {self.shape} was given numbers of shape {array.shape}")
        self._data = _frozen(array)

    def convert(self, dtype: DTypeLike) -> None:
        """Give a parameter another floating type, such as float32; its gradient is forgotten."""
        if self.parents:
            raise UsageError(f"the result of {self.operation} keeps its type: convert what it was made from")
        if not np.issubdtype(dtype, np.floating):
            raise UsageError(f"a parameter is of a floating type, not {np.dtype(dtype)}")
        self._data, self.grad = _frozen(self._data.astype(dtype)), None

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes along each axis."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self._data.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._data.size

    @property
    def T(self) -> Tensor:
        """All axes in the opposite order."""
        return self.transpose()

    def item(self) -> float:
        """The number of a tensor that holds one."""
        return float(self._data.item())

    def detach(self) -> Tensor:
        """The same numbers without their graph."""
        return Tensor(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        made = f", operation={self.operation!r}" if self.operation else ""
        return f"Tensor({self._data}{made}{', requires_grad=True' if self.requires_grad else ''})"

    # Backward -----------------------------------------------------------------------------------------------------

    def backward(self, gradient: ArrayLike | None = None) -> None:
        """Add to the `grad` of every tensor that requires one its derivative of this one.

        Args:
            gradient: of this tensor's shape; the derivatives are those of the sum of its elements, each times its number here.
                By default the tensor must hold one number, with the weight 1.

        Raises:
            UsageError: for a tensor of several numbers without weights, or one that no gradient depends on.
        """
        if not self.requires_grad:
            raise UsageError("this tensor depends on nothing that requires a gradient")
        if gradient is None:
            if self.size != 1:
                raise UsageError(
                    f"backward needs one number to differentiate, this tensor has shape {self.shape}: take its sum or "
                    "mean, or give the weights of its elements"
                )
            gradient = np.ones(self.shape, self.dtype)
        start = np.asarray(gradient, self.dtype)
        if start.shape != self.shape:
            raise UsageError(f"weights of shape {start.shape} for a tensor of shape {self.shape}")
        found: dict[int, Array] = {id(self): start}
        for tensor in reversed(self._ancestors()):
            upstream = found.pop(id(tensor), None)
            if upstream is None:  # a pullback gave None for it
                continue
            if tensor._pullback is None:  # given, and not computed
                tensor.grad = upstream.copy() if tensor.grad is None else tensor.grad + upstream
                continue
            for parent, part in zip(tensor.parents, tensor._pullback(upstream), strict=True):
                if part is None or not parent.requires_grad:
                    continue
                assert part.shape == parent.shape, (tensor.operation, part.shape, parent.shape)
                # A sum of float32 and float64 is float64; the derivative by a parameter is of the parameter's type.
                part = part.astype(parent.dtype, copy=False)
                before = found.get(id(parent))
                # Never added in place: a pullback may hand the same array to several parents.
                found[id(parent)] = part if before is None else before + part

    def _ancestors(self) -> list[Tensor]:
        """What requires a gradient among all that this was made from, parents first; a stack in place of recursion."""
        order: list[Tensor] = []
        seen: set[int] = set()
        stack: list[tuple[Tensor, bool]] = [(self, False)]
        while stack:
            tensor, parents_done = stack.pop()
            if parents_done:
                order.append(tensor)
            elif id(tensor) not in seen:
                seen.add(id(tensor))
                stack.append((tensor, True))
                stack.extend((parent, False) for parent in tensor.parents if parent.requires_grad)
        return order

    # Arithmetic ---------------------------------------------------------------------------------------------------

    def __add__(self, other: ArrayLike | Tensor) -> Tensor:
        a, b = self, _tensor(other, self)
        return operation(
            "+", a.data + b.data, (a, b), lambda up: (_unbroadcast(up, a.shape), _unbroadcast(up, b.shape))
        )

    def __sub__(self, other: ArrayLike | Tensor) -> Tensor:
        a, b = self, _tensor(other, self)
        return operation(
            "-", a.data - b.data, (a, b), lambda up: (_unbroadcast(up, a.shape), _unbroadcast(-up, b.shape))
        )

    def __mul__(self, other: ArrayLike | Tensor) -> Tensor:
        a, b = self, _tensor(other, self)
        x, y = a.data, b.data
        return operation("*", x * y, (a, b), lambda up: (_unbroadcast(up * y, a.shape), _unbroadcast(up * x, b.shape)))

    def __truediv__(self, other: ArrayLike | Tensor) -> Tensor:
        a, b = self, _tensor(other, self)
        x, y = a.data, b.data
        return operation(
            "/", x / y, (a, b), lambda up: (_unbroadcast(up / y, a.shape), _unbroadcast(-up * x / (y * y), b.shape))
        )

    def __pow__(self, exponent: float) -> Tensor:
        """x to a power that is a plain number."""
        if isinstance(exponent, Tensor):
            raise UsageError("the exponent must be a plain number: x ** y is (x.log() * y).exp()")
        x = self.data
        # 0 ** -1 would make 0 * inf of the derivative of a constant.
        return operation(
            "**", x**exponent, (self,), lambda up: (up * (exponent * x ** (exponent - 1)) if exponent else 0 * up,)
        )

    def __neg__(self) -> Tensor:
        return operation("neg", -self.data, (self,), lambda up: (-up,))

    def __radd__(self, other: ArrayLike) -> Tensor:
        return _tensor(other, self) + self

    def __rsub__(self, other: ArrayLike) -> Tensor:
        return _tensor(other, self) - self

    def __rmul__(self, other: ArrayLike) -> Tensor:
        return _tensor(other, self) * self

    def __rtruediv__(self, other: ArrayLike) -> Tensor:
        return _tensor(other, self) / self

    def __matmul__(self, other: ArrayLike | Tensor) -> Tensor:
        """Matrix product over the last two axes, the others broadcast; a vector is a row on the left, a column on the right."""
        a, b = self, _tensor(other, self)
        if a.ndim == 0 or b.ndim == 0:
            raise UsageError("a matrix product needs at least one axis on both sides: use * for numbers")
        if a.ndim > 2 and b.ndim == 2 and a.shape[-1] == b.shape[0]:
            # One product of all rows: numpy would make one for each matrix, and hold a gradient of b for each.
            rows = math.prod(a.shape[:-1])
            return (a.reshape(rows, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[1])
        x = a.data[None, :] if a.ndim == 1 else a.data
        y = b.data[:, None] if b.ndim == 1 else b.data
        if x.shape[-1] != y.shape[-2]:
            raise UsageError(f"a matrix product of shapes {a.shape} and {b.shape}: {x.shape[-1]} is not {y.shape[-2]}")

        def pullback(up: Array) -> tuple[Array, Array]:
            up = up[..., None] if b.ndim == 1 else up
            up = up[..., None, :] if a.ndim == 1 else up
            # Of Y = A B the derivative by A is up B^T and that by B is A^T up; swapaxes transposes the last two axes.
            left, right = up @ y.swapaxes(-1, -2), x.swapaxes(-1, -2) @ up
            return (
                _unbroadcast(left, x.shape).reshape(a.shape),
                _unbroadcast(right, y.shape).reshape(b.shape),
            )

        return operation("@", a.data @ b.data, (a, b), pullback)

    def __rmatmul__(self, other: ArrayLike) -> Tensor:
        return _tensor(other, self) @ self

    # Functions of each element ------------------------------------------------------------------------------------

    def exp(self) -> Tensor:
        """e to each."""
        y = np.exp(self.data)
        return operation("exp", y, (self,), lambda up: (up * y,))

    def log(self) -> Tensor:
        """The natural logarithm of each."""
        x = self.data
        return operation("log", np.log(x), (self,), lambda up: (up / x,))

    def sqrt(self) -> Tensor:
        """The square root of each."""
        y = np.sqrt(self.data)
        return operation("sqrt", y, (self,), lambda up: (up / (2 * y),))

    def tanh(self) -> Tensor:
        """The hyperbolic tangent of each."""
        y = np.tanh(self.data)
        return operation("tanh", y, (self,), lambda up: (up * (1 - y * y),))

    def sigmoid(self) -> Tensor:
        """1 / (1 + e^-x) of each."""
        y = logistic(self.data)
        return operation("sigmoid", y, (self,), lambda up: (up * y * (1 - y),))

    def relu(self) -> Tensor:
        """Each, or 0 where it is negative; the slope at 0 is taken as 0."""
        x = self.data
        return operation("relu", np.maximum(x, 0), (self,), lambda up: (up * (x > 0),))

    # Reductions ---------------------------------------------------------------------------------------------------

    def sum(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> Tensor:
        """The sum over axes, over all by default."""
        x = self.data
        # Each element goes into its sum with the slope 1, and so gets that sum's derivative.
        return operation(
            "sum",
            x.sum(axis=axis, keepdims=keepdims),
            (self,),
            lambda up: (np.broadcast_to(_with_axes(up, x, axis, keepdims), x.shape),),
        )

    def mean(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> Tensor:
        """The mean over axes, over all by default."""
        summed = self.sum(axis, keepdims=keepdims)
        number = math.prod(self.shape[one] for one in _axes_of(axis, self.ndim))
        if not number:
            raise UsageError(
                f"the mean over an axis of size 0, of a tensor of shape {self.shape}: there is nothing in it"
            )
        return summed * (1 / number)

    def var(self, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> Tensor:
        """The mean squared distance from the mean, over axes (biased: divided by their size)."""
        return ((self - self.mean(axis, keepdims=True)) ** 2).mean(axis, keepdims=keepdims)

    def max(self, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
        """The largest over an axis; equal ones share the derivative."""
        x = self.data
        whole = x.max(axis=axis, keepdims=True)
        largest = x == whole

        def pullback(up: Array) -> tuple[Array]:
            return (_with_axes(up, x, axis, keepdims) * largest / largest.sum(axis=axis, keepdims=True),)

        return operation("max", whole if keepdims else x.max(axis=axis), (self,), pullback)

    # Shapes -------------------------------------------------------------------------------------------------------

    def reshape(self, *shape: int) -> Tensor:
        """The same elements in another shape; -1 stands for what is left."""
        old = self.shape
        return operation("reshape", self.data.reshape(shape), (self,), lambda up: (up.reshape(old),))

    def transpose(self, *axes: int) -> Tensor:
        """The axes in another order, all turned round by default."""
        order = axes or tuple(reversed(range(self.ndim)))
        back = np.argsort([axis % self.ndim for axis in order])
        return operation("transpose", self.data.transpose(order), (self,), lambda up: (up.transpose(back),))

    def swapaxes(self, first: int, second: int) -> Tensor:
        """Two axes exchanged."""
        return operation(
            "swapaxes", self.data.swapaxes(first, second), (self,), lambda up: (up.swapaxes(first, second),)
        )

    def __getitem__(self, index: Any) -> Tensor:
        """Elements by numbers, slices, masks or arrays of places; a place named twice gets both derivatives."""
        x = self.data
        index = tuple(map(_plain, index)) if isinstance(index, tuple) else _plain(index)
        return operation("[]", x[index], (self,), lambda up: (_scattered(up, index, x),))

    def __setitem__(self, index: Any, value: Any) -> None:
        raise UsageError(
            "a tensor's numbers cannot be changed in place, since gradients may need the old ones: build a new tensor "
            "with where, concatenate or arithmetic; a parameter gets new numbers by  parameter.data = ..."
        )


def operation(name: str, data: Array, parents: tuple[Tensor, ...], pullback: Pullback) -> Tensor:
    """The result of an operation of your own.

    Args:
        name: for messages and drawings.
        data: the numbers.
        parents: the tensors that it was computed from.
        pullback: from the derivative by the result to those by the parents, each of its parent's shape.
    """
    result = Tensor.__new__(Tensor)
    result._data, result.grad, result.operation = _frozen(np.asarray(data)), None, name
    result.requires_grad = _records.get() and any(parent.requires_grad for parent in parents)
    result.parents = parents if result.requires_grad else ()
    result._pullback = pullback if result.requires_grad else None
    return result


def where(condition: ArrayLike, first: ArrayLike | Tensor, second: ArrayLike | Tensor) -> Tensor:
    """Elements of the first tensor where the condition holds, of the second elsewhere."""
    chosen = np.array(_plain(condition), np.bool_)
    a = first if isinstance(first, Tensor) else _tensor(first, second)
    b = _tensor(second, a)
    return operation(
        "where",
        np.where(chosen, a.data, b.data),
        (a, b),
        lambda up: (
            _unbroadcast(np.where(chosen, up, 0), a.shape),
            _unbroadcast(np.where(chosen, 0, up), b.shape),
        ),
    )


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors one after the other along an axis that they have."""
    ends = np.cumsum([tensor.shape[axis] for tensor in tensors])[:-1]
    data = np.concatenate([tensor.data for tensor in tensors], axis=axis)
    return operation("concatenate", data, tuple(tensors), lambda up: tuple(np.split(up, ends, axis=axis)))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape side by side along a new axis."""
    data = np.stack([tensor.data for tensor in tensors], axis=axis)
    return operation("stack", data, tuple(tensors), lambda up: tuple(np.moveaxis(up, axis, 0)))


def _frozen(array: Array) -> Array:
    view = array.view()
    view.flags.writeable = False
    return view


def _tensor(value: Any, beside: Any) -> Tensor:
    """A tensor as it is, numbers in the type of the tensor beside them."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value)
    floating = isinstance(beside, Tensor) and np.issubdtype(beside.dtype, np.floating)
    return Tensor(array.astype(beside.dtype) if floating else array)


def _plain(index: Any) -> Any:
    """An index without a graph, and of our own: what a derivative goes back to must not move when an array is changed."""
    if isinstance(index, Tensor):
        return index.data
    return np.array(index) if isinstance(index, np.ndarray | list) else index


def _scattered(up: Array, index: Any, x: Array) -> Array:
    """What reading x[index] gives back to x: zeros, and at each place the sum over all readings of it.

    `np.add.at` would do for all of it; it takes several times as long where the index is a slice or an array of rows.
    """
    back = np.zeros_like(x)
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or isinstance(part, int | np.integer | slice) for part in parts):
        back[index] = up  # no place is read twice
    elif isinstance(index, np.ndarray) and np.issubdtype(index.dtype, np.integer) and index.size and x.size:
        # As int64: the number of rows may be too large for the type of the index, as 256 is for the bytes of a text.
        rows = index.reshape(-1).astype(np.int64) % len(x)
        order = np.argsort(rows, kind="stable")
        found, first = np.unique(rows[order], return_index=True)
        back[found] = np.add.reduceat(up.reshape(len(rows), *x.shape[1:])[order], first, axis=0)
    else:
        np.add.at(back, index, up)
    return back


def _unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum over what was stretched from `shape`: axes that were put in front, and those of size 1.

    A bias of shape (3,) added to an array (2, 3) was copied to both rows: its derivative is the sum of the two rows of `gradient`.
    """
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(extra))) if extra else gradient
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    return gradient.sum(axis=stretched, keepdims=True) if stretched else gradient


def logistic(x: Array) -> Array:
    """1 / (1 + e^-x) of each, to the last digits also where it is nearly 0: no power that could overflow, no difference."""
    small = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, small) / (1 + small)
    return result


def _axes_of(axis: int | tuple[int, ...] | None, ndim: int) -> set[int]:
    """The axes that a reduction goes over, from 0."""
    axes = range(ndim) if axis is None else ((axis,) if isinstance(axis, int) else axis)
    return {one % ndim for one in axes} if ndim else set()


def _with_axes(up: Array, x: Array, axis: int | tuple[int, ...] | None, keepdims: bool) -> Array:
    """The derivative by a reduction with the axes that it took away, of size 1."""
    if keepdims:
        return up
    gone = _axes_of(axis, x.ndim)
    return up.reshape([1 if place in gone else size for place, size in enumerate(x.shape)])
