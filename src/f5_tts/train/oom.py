"""Memory that does not suffice: an update is done again in smaller parts, and what is still too large is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.optim import Optimizer

Result = TypeVar("Result")
ONEDNN = "could not create a primitive"  # what the CPU's library of convolutions says of it


@runtime_checkable
class Splittable(Protocol):
    """Of an item, what one forward pass takes."""

    @property
    def num_entries(self) -> int: ...

    def split(self) -> Sequence[Splittable]: ...


class OomRetry:
    """How large a part may be. Where memory does not suffice, parts above half the item's largest are halved, in that
    update and in all later ones of this process; groups stay whole, since their advantages are known by then.

    Not where a process is not alone in its passes, as with optim.shard.
    """

    def __init__(self, log: Callable[[str], None] = print, can_retry: bool = True) -> None:
        self.log, self.can_retry, self.max_size, self.retries = log, can_retry, float("inf"), 0

    def run(self, item: Any, compute: Callable[[Any], Result], optimizer: Optimizer) -> Result:
        """`do` of the item, or as often as memory does not suffice again of its parts, from gradients of zero.

        Raises the library's error when no part can be halved.
        """
        while True:
            chunks = (
                item if self.max_size == float("inf") else [smaller for chunk in item for smaller in self.split(chunk)]
            )
            try:
                return compute(chunks)
            except RuntimeError as error:
                if not (self.can_retry and is_oom(error) and self.lower_limit(chunks)):
                    raise
                reason = str(error).partition("\n")[0]
            optimizer.zero_grad()
            clear_device_cache(garbage_collection=True)
            self.log(f"{reason}: the update is done again, with at most half as much in a forward pass")

    def lower_limit(self, chunks: Sequence[Splittable]) -> bool:
        """Lower the limit to half of the largest part; False where that divides none."""
        self.retries += 1
        self.max_size = max(chunk.num_entries for chunk in chunks) / 2
        return any(len(self.split(chunk)) > 1 for chunk in chunks)

    def split(self, chunk: Splittable) -> list[Splittable]:
        """The part, or its halves, and theirs, until each is small enough or one sample."""
        halves = chunk.split() if chunk.num_entries > self.max_size else [chunk]
        return [chunk] if len(halves) == 1 else [smaller for half in halves for smaller in self.split(half)]


def is_oom(error: RuntimeError) -> bool:
    return should_reduce_batch_size(error) or str(error) == ONEDNN


@contextmanager
def explain_oom() -> Iterator[None]:
    """A lack of memory that nothing here can help, in a sentence: MemoryError, with what would spare some."""
    try:
        yield
    except RuntimeError as error:
        if not is_oom(error):
            raise
        raise MemoryError(
            f"{str(error).partition(chr(10))[0]}; lower rl.mini_repeat_count or datasets.batch_size_per_gpu, or see "
            "what else would spare memory: python -m f5_tts.scripts.budget, with the same -cn and keys"
        ) from error
