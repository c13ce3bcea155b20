"""The classic pair in PyTorch, written from its description.

A bidirectional LSTM of one layer reads the source. One linear layer, the same for h and for c, merges the last states
of its two directions; the merged (h, c) is the decoder's first state and the merged h its context. At every step an
LSTM reads [embedding; context], and a linear layer over [state; embedding; context] gives the logits of the next token.
In training a coin a step, for the whole batch, decides whether the decoder reads the true token or the one that it
found likeliest.
"""

import torch

PAD, BOS, EOS = 0, 2, 3


class Seed(torch.nn.Module):
    """The pair of encoder and decoder.

    Args:
        source_vocabulary_size: Number of source ids.
        target_vocabulary_size: Number of target ids.
        embedding_units: Width of both embeddings.
        units: Width of one direction, of the merged state and of the decoder.
    """

    def __init__(self, source_vocabulary_size, target_vocabulary_size, embedding_units, units):
        super().__init__()
        self.source_embedding = torch.nn.Embedding(source_vocabulary_size, embedding_units)
        self.target_embedding = torch.nn.Embedding(target_vocabulary_size, embedding_units)
        self.encoder = torch.nn.LSTM(embedding_units, units, bidirectional=True, batch_first=True)
        self.merge = torch.nn.Linear(2 * units, units)
        self.decoder = torch.nn.LSTMCell(embedding_units + units, units)
        self.output = torch.nn.Linear(units + embedding_units + units, target_vocabulary_size)

    def encode(self, source):
        """[B, S] ids to the merged h and c, each [B, units]."""
        lengths = (source != PAD).sum(1)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.source_embedding(source), lengths, batch_first=True, enforce_sorted=False)
        _, states = self.encoder(packed)  # h and c, each [2, B, units], forward and backward
        return tuple(self.merge(torch.cat(tuple(state), -1)) for state in states)

    def step(self, tokens, state, context):
        """[B] last tokens to the logits [B, V] of the next, and the next state."""
        embedding = self.target_embedding(tokens)
        state = self.decoder(torch.cat([embedding, context], -1), state)
        return self.output(torch.cat([state[0], embedding, context], -1)), state

    def forward(self, source, target, coins=None):
        """Logits [B, T, V].

        Args:
            source: [B, S] ids, ended by PAD.
            target: [B, T] ids, BOS first.
            coins: T bools, whether the true token is read; None for always. The first step reads BOS in any case.
        """
        state = self.encode(source)
        context, found, tokens = state[0], [], target[:, 0]
        for t in range(target.shape[1]):
            if t and (coins is None or coins[t]):
                tokens = target[:, t]
            logits, state = self.step(tokens, state, context)
            found.append(logits)
            tokens = logits.argmax(-1)
        return torch.stack(found, 1)

    def greedy(self, source, max_length):
        """The likeliest real token at each step, up to and with EOS, which ends a row at `max_length` at the latest.

        Returns:
            A list of ids a row.
        """
        state = self.encode(source)
        context, tokens = state[0], torch.full([len(source)], BOS)
        rows = [[] for _ in source]
        for t in range(max_length):
            logits, state = self.step(tokens, state, context)
            logits[:, [PAD, BOS]] = -torch.inf
            tokens = logits.argmax(-1) if t < max_length - 1 else torch.full([len(source)], EOS)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if EOS not in row:
                    row.append(token)
        return rows
