"""The nearest of many features, found exactly.

Nearly all of the time goes into the inner products of queries and memory, and nearly all of the
room into those of one chunk of queries, which `ROOM` bounds.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import conv2d, normalize

from barlow_atlas.nn.devices import sent

ROOM = 13_000_000
"""Bytes of the inner products that are held at a time."""
TILE = 1 << 30
"""Bytes of the memory that are compared with queries at a time. What is found in several tiles is
merged."""
MERGED = 1 << 12
"""Queries whose neighbours in two tiles are ranked at a time."""
MULTIPLE = 16
"""Of the queries in a chunk, and of the rows whose inner products `inner_products` is asked for."""


def neighbours(
    memory: Tensor, queries: Tensor, k: int, distance: str, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The k nearest rows of memory (M, f) for each query (q, f), a chunk of queries at a time.

    Yields:
        Closeness in falling order and the rows, both (chunk, k). The closeness is the cosine; for
        the Euclidean distance |q - m| it is q.m - |m|^2 / 2, which falls as the distance rises. Of
        equally close rows the lower one comes first, also where only some of them are among the k.
    """
    tiles = memory.split(max(MULTIPLE, TILE // (memory.element_size() * memory.shape[1])))
    if len(tiles) == 1:
        yield from _in_tile(memory.to(device), queries, k, distance)
        return
    ranking = [(queries.new_empty(len(queries), 0), torch.empty(len(queries), 0).long())]
    first = 0
    for tile in tiles:
        parts = _in_tile(tile.to(device), queries, min(k, len(tile)), distance)
        closeness, rows = (torch.cat(each).cpu() for each in zip(*parts, strict=True))
        # Those of earlier rows come first, and so do their equals.
        [(best, known)] = ranking
        closeness, rows = torch.cat([best, closeness], 1), torch.cat([known, rows + first], 1)
        most = min(k, closeness.shape[1])
        order = torch.cat([largest(each, most) for each in closeness.split(MERGED)])
        ranking = [(closeness.gather(1, order), rows.gather(1, order))]
        first += len(tile)
    [(closeness, rows)] = ranking
    size = chunk_size(memory)
    for close, nearest in zip(closeness.split(size), rows.split(size), strict=True):
        yield close.to(device), nearest.to(device)


def _in_tile(
    memory: Tensor, queries: Tensor, k: int, distance: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """`neighbours` in a memory that is on the device."""
    cosine = distance == "cosine"
    if cosine:
        of_rows = torch.linalg.vector_norm(memory, dim=1, keepdim=True).clamp_min(1e-12)
    else:
        # In parts, as all squares would take as much room as the memory.
        parts = [rows.square().sum(1, keepdim=True) for rows in memory.split(4096)]
        of_rows = torch.cat(parts) / 2
    for chunk in queries.split(chunk_size(memory)):
        asked = sent(chunk, memory.device)
        yield _nearest(memory, of_rows, normalize(asked, dim=1) if cosine else asked, k, cosine)


def chunk_size(memory: Tensor) -> int:
    """How many queries are compared with memory (M, f) at a time: their products fill `ROOM`."""
    fitting = ROOM // (memory.element_size() * max(1, len(memory)))
    return max(MULTIPLE, fitting - fitting % MULTIPLE)


def _nearest(
    memory: Tensor, of_rows: Tensor, queries: Tensor, k: int, cosine: bool
) -> tuple[Tensor, Tensor]:
    """What `neighbours` yields, from one chunk of queries (q, f).

    The k blocks of successive rows with the closest members contain the k closest rows, so they
    are all that is ranked. Blocks of b = sqrt(M / k) rows leave the fewest numbers: M / b + k b.

    Args:
        of_rows: what an inner product with a row is divided by for the cosine, or lessened by for
            the Euclidean distance, (M, 1).
    """
    n = len(memory)
    block = math.isqrt(n // k)
    whole = n - n % (MULTIPLE * block)
    blocks = whole // block

    def closeness(products: Tensor, of_rows: Tensor) -> Tensor:
        return products.div_(of_rows) if cosine else products.sub_(of_rows)

    products = inner_products(memory[:whole], queries)
    close = closeness(products, of_rows[:whole]).view(blocks, block, len(queries))
    rest = closeness(memory[whole:] @ queries.T, of_rows[whole:]).T
    # In the order of their rows, which decides between equals.
    best = largest(close.amax(1).T, min(k, blocks)).sort(dim=1).values
    members = close.permute(2, 0, 1).gather(1, best[:, :, None].expand(-1, -1, block))
    candidates = torch.cat([members.flatten(1), rest], dim=1)
    order = largest(candidates, k)
    # The candidates after the members of the blocks are the last rows, all of them.
    rows = best[:, :, None] * block + torch.arange(block, device=best.device)
    last = torch.arange(whole, n, device=best.device).expand(len(queries), -1)
    rows = torch.cat([rows.flatten(1), last], dim=1)
    return candidates.gather(1, order), rows.gather(1, order)


def inner_products(memory: Tensor, queries: Tensor) -> Tensor:
    """Those of memory (M, f), M a multiple of 16, and queries (q, f): (M, q)."""
    if memory.device.type != "cpu" or memory.dtype != torch.float32 or len(memory) == 0:
        return memory @ queries.T
    # The same, as a convolution of 16 images of M / 16 pixels with 1 x 1 filters. On a CPU torch
    # leaves that to oneDNN (on one thread: from 16 images on), which on an AMD EPYC takes a third
    # of the time of MKL, the library of matrix products, for products as narrow as these.
    images = memory.reshape(MULTIPLE, 1, -1, memory.shape[1]).permute(0, 3, 1, 2)
    products: Tensor = conv2d(images, queries[:, :, None, None])
    return products.permute(0, 2, 3, 1).reshape(len(memory), len(queries))


def largest(values: Tensor, k: int) -> Tensor:
    """Columns (n, k) of the k largest values (n, m) of each row, in falling order.

    Of equal values the first comes first, which `topk` would not promise.
    """
    if values.dtype != torch.float32:
        return values.sort(dim=1, descending=True, stable=True).indices[:, :k]
    # As keys that are never equal: the bits of a float32, made to rise with its value, above the
    # column, made to fall. Adding 0 turns -0 into 0.
    bits = (values + 0.0).view(torch.int32)
    keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long().bitwise_left_shift_(32)
    keys -= torch.arange(values.shape[1], device=values.device)
    return keys.topk(k, dim=1).indices
