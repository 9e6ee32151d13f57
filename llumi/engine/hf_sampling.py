"""How the rows of a batch of the `hf` engine draw their next tokens, each by its own temperature, top-p and seed."""

from collections.abc import Sequence

import torch

from llumi.engine.hf_row import Row

_LIKELY_NUCLEUS = 256
"""How many candidates usually hold the mass of a nucleus: picking them out is 20 times faster than sorting all."""


def draw(logits: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
    """The next token of each row, shape (rows,), from logits of shape (rows, vocabulary), which it overwrites.

    Greedy at temperature 0, else the Gumbel-max trick: argmax(logits + G) with independent Gumbel noise G is a sample of
    softmax(logits) (Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030). Each row's noise comes from its own generator.
    """
    places = [place for place, row in enumerate(rows) if row.sampling.temperature > 0]
    if places:
        sampling = [rows[place].sampling for place in places]
        temperature = logits.new_tensor([[each.temperature] for each in sampling])
        kept = nucleus(logits[places] / temperature, logits.new_tensor([[each.top_p] for each in sampling]))
        logits[places] = kept + _gumbel(kept, [rows[place].generator for place in places])
    return logits.argmax(-1)


def _gumbel(like: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    noise = torch.empty_like(like)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    # An exponential draw may round to 0, whose logarithm would be infinite.
    return -noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()


def nucleus(logits: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Mask all but the smallest set of most probable tokens whose mass reaches `top_p` (arXiv 1904.09751).

    `logits` has shape (rows, vocabulary), `top_p` (rows, 1); masked logits are -inf.
    """
    total = logits.logsumexp(-1, keepdim=True)
    ranked = logits.topk(min(_LIKELY_NUCLEUS, logits.shape[-1])).values
    if ((ranked - total).exp().sum(-1, keepdim=True) < top_p).any():
        ranked = logits.sort(descending=True).values
    mass = (ranked - total).exp()
    kept = mass.cumsum(-1) - mass < top_p
    smallest = ranked.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
    return logits.masked_fill(logits < smallest, -torch.inf)
