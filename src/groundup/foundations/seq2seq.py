"""From one sequence to another: a network that reads, one that writes, and attention between them.

The encoder, a GRU, leaves a state h_j after each symbol read. The decoder, a GRU too, writes symbol by symbol:

    c_i = sum_j a_ij h_j,   a_i = softmax_j(e_ij),   e_ij = v . tanh(s_i-1 W + h_j U)        (additive attention)
    s_i = GRU([embedding(y_i-1), c_i], s_i-1),       p(y_i) = softmax([s_i, c_i] W_y + b_y)

Without attention c_i is the encoder's last state at every step: all that was read must fit into that one vector.

Sources: Cho et al. 2014, section 2.2, and Sutskever et al. 2014 (encoder and decoder); Bahdanau et al. 2015, section 3.1 and
appendix A.1.2 (attention); Williams and Zipser 1989 (teacher forcing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from groundup.core.errors import DataError, UsageError
from groundup.core.progress import Progress
from groundup.foundations.functions import cross_entropy, softmax
from groundup.foundations.modules import Embedding, Linear, Module, parameter
from groundup.foundations.optimizers import Adam, clip_gradients
from groundup.foundations.recurrent import GRUCell, State, unroll
from groundup.foundations.seq2seq_tasks import Example, ExampleMaker
from groundup.foundations.tensor import Tensor, concatenate, no_grad, stack, where

Ids = NDArray[np.int64]
#: The id that stands before the first symbol written, after the last, and where there is none.
END = 0


class Alphabet:
    """The characters of a task by their ids, from 1; 0 is the end.

    Args:
        characters: each once.
    """

    def __init__(self, characters: str) -> None:
        if len(set(characters)) != len(characters) or not characters:
            raise UsageError(f"an alphabet names each character once, and at least one: not {characters!r}")
        self.characters = characters
        self._ids = {character: id for id, character in enumerate(characters, start=1)}

    def __len__(self) -> int:
        return len(self.characters) + 1

    def encode(self, texts: Sequence[str]) -> Ids:
        """Texts as (B, T), each with at least one end behind it.

        Raises:
            DataError: for no text, or a character that is not in the alphabet.
        """
        if not texts:
            raise DataError("no text to encode: give at least one")
        ids = np.full((len(texts), 1 + max(map(len, texts))), END, np.int64)
        for row, text in enumerate(texts):
            unknown = sorted(set(text) - self._ids.keys())
            if unknown:
                raise DataError(f"{text!r} has {unknown[0]!r}, which is none of the characters {self.characters!r}")
            ids[row, : len(text)] = [self._ids[character] for character in text]
        return ids

    def decode(self, ids: Ids) -> list[str]:
        """The text of each row of (B, T) up to its first end."""
        return ["".join(self.characters[id - 1] for id in row[: _length(row)]) for row in ids]


class AdditiveAttention(Module):
    """v . tanh(s W + h U) as the score of each state that was read (Bahdanau et al. 2015).

    Args:
        hidden_size: of both states, and of the space in which they meet.
        random: draws the weights.
    """

    def __init__(self, hidden_size: int, random: np.random.Generator) -> None:
        self.from_state = Linear(hidden_size, hidden_size, random, bias=False)
        self.from_memory = Linear(hidden_size, hidden_size, random, bias=False)
        self.direction = parameter(random.standard_normal(hidden_size) * hidden_size**-0.5)

    def keys(self, memory: Tensor) -> Tensor:
        """h U of (B, S, H), which is the same at every step of the decoder."""
        return self.from_memory(memory)

    def __call__(self, state: Tensor, memory: Tensor, keys: Tensor, mask: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """The mean of the memory (B, S, H) under the shares for a state (B, H), and the shares (B, S).

        Args:
            mask: (B, S), which places hold something; at least one in each row.
        """
        query = self.from_state(state)
        batch, size = query.shape
        scores = (query.reshape(batch, 1, size) + keys).tanh() @ self.direction  # (B, S)
        shares = softmax(where(mask, scores, -np.inf))
        mixed = shares.reshape(batch, 1, -1) @ memory
        return mixed.reshape(batch, size), shares


@dataclass(frozen=True)
class Encoded:
    """What the encoder left.

    Attributes:
        memory: (B, S, H), the state after each symbol.
        keys: what the attention compares with; None without attention.
        mask: (B, S), which symbols are there.
        last: (B, H), the state after the last of them.
    """

    memory: Tensor
    keys: Tensor | None
    mask: NDArray[np.bool_]
    last: Tensor


class Seq2Seq(Module):
    """Reads a sequence of symbols and writes another.

    Args:
        vocab_size: symbols, with the end.
        random: draws the weights.
        embedding_size, hidden_size: numbers of a symbol, and of a state.
        has_attention: whether the decoder looks back at every state of the encoder, or has the last one only.
    """

    def __init__(
        self,
        vocab_size: int,
        random: np.random.Generator,
        *,
        embedding_size: int = 32,
        hidden_size: int = 64,
        has_attention: bool = True,
    ) -> None:
        self.embed_read = Embedding(vocab_size, embedding_size, random)
        self.embed_written = Embedding(vocab_size, embedding_size, random)
        self.encoder = GRUCell(embedding_size, hidden_size, random)
        self.decoder = GRUCell(embedding_size + hidden_size, hidden_size, random)
        self.attention = AdditiveAttention(hidden_size, random) if has_attention else None
        self.head = Linear(2 * hidden_size, vocab_size, random)

    def encode(self, ids: Ids) -> Encoded:
        """Read (B, S) symbols; each row up to and with its first end."""
        mask = np.arange(ids.shape[1]) <= np.array([[_length(row)] for row in ids])
        outputs, state = unroll(self.encoder, [self.embed_read(column) for column in ids.T], mask=mask)
        memory = stack(outputs, axis=1)
        return Encoded(memory, self.attention.keys(memory) if self.attention else None, mask, state[0])

    def step(self, column: Ids, state: State, encoded: Encoded) -> tuple[Tensor, State, Tensor | None]:
        """Write one symbol.

        Args:
            column: (B,), the symbols written before.
            state: of the decoder; `encoded.last` to begin with.

        Returns:
            scores of the next symbol (B, V), the next state, and the attention's shares (B, S).
        """
        context, shares = encoded.last, None
        if self.attention is not None and encoded.keys is not None:
            context, shares = self.attention(state[0], encoded.memory, encoded.keys, encoded.mask)
        state = self.decoder(concatenate([self.embed_written(column), context], axis=1), state)
        return self.head(concatenate([state[0], context], axis=1)), state, shares

    def loss(self, read: Ids, written: Ids) -> Tensor:
        """Mean cross-entropy, in nats, of each symbol of (B, T) and its end, given the right ones before it (teacher forcing)."""
        encoded = self.encode(read)
        state: State = (encoded.last,)
        scores = []
        before = np.full(len(written), END)
        for column in written.T:
            logits, state, _ = self.step(before, state, encoded)
            scores.append(logits)
            before = column
        mask = np.arange(written.shape[1]) <= np.array([[_length(row)] for row in written])
        return cross_entropy(stack(scores, axis=1), written, mask)

    def write(self, read: Ids, *, longest: int = 40) -> tuple[Ids, NDArray[np.floating]]:
        """The likeliest symbol at each step, until every row has ended.

        Returns:
            (B, T) with ends behind what was written, and the attention's shares (B, T, S), all zero without attention.
        """
        with no_grad():
            encoded = self.encode(read)
            state: State = (encoded.last,)
            column, ended = np.full(len(read), END), np.zeros(len(read), np.bool_)
            columns: list[Ids] = []
            looks: list[NDArray[np.floating]] = []
            while len(columns) < longest and not ended.all():
                logits, state, shares = self.step(column, state, encoded)
                column = np.where(ended, END, logits.data.argmax(axis=1))
                ended |= column == END
                columns.append(column)
                looks.append(np.zeros(read.shape) if shares is None else shares.data)
        return np.stack(columns, axis=1), np.stack(looks, axis=1)


def train_seq2seq(
    model: Seq2Seq,
    alphabet: Alphabet,
    make: ExampleMaker,
    random: np.random.Generator,
    *,
    steps: int,
    batch_size: int = 64,
    rate: float = 5e-3,
    clip: float = 1.0,
    progress: Progress | None = None,
) -> list[float]:
    """Train on fresh examples; the learning rate falls to zero in a straight line.

    Args:
        make: an example from the random generator.

    Returns:
        the loss of each batch, in nats per symbol.
    """
    optimizer = Adam(model.parameters(), rate)
    losses = []
    for step in range(steps):
        pairs = [make(random) for _ in range(batch_size)]
        optimizer.rate = rate * (1 - step / steps)
        optimizer.zero_grad()
        loss = model.loss(alphabet.encode([a for a, _ in pairs]), alphabet.encode([b for _, b in pairs]))
        loss.backward()
        clip_gradients(optimizer.parameters, clip)
        optimizer.step()
        losses.append(loss.item())
        if progress is not None:
            progress(step + 1, steps)
    return losses


def share_exact(model: Seq2Seq, alphabet: Alphabet, examples: Sequence[Example]) -> float:
    """The share of examples that the model writes without a single wrong symbol."""
    written, _ = model.write(
        alphabet.encode([read for read, _ in examples]), longest=2 + max(len(b) for _, b in examples)
    )
    return float(
        np.mean([ours == wanted for ours, (_, wanted) in zip(alphabet.decode(written), examples, strict=True)])
    )


def _length(row: Ids) -> int:
    """Symbols before the first end."""
    ends = np.flatnonzero(row == END)
    return int(ends[0]) if len(ends) else len(row)
