"""Out of memory: an update is repeated in smaller micro-batches, and what remains too large is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from traceback import clear_frames
from typing import Any, Protocol, TypeVar, runtime_checkable

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.optim import Optimizer

Result = TypeVar("Result")
ONEDNN = "could not create a primitive"  # message of oneDNN, the CPU's convolution library, when memory runs out


@runtime_checkable
class Splittable(Protocol):
    """Micro-batch: what one forward pass takes from an item."""

    @property
    def num_entries(self) -> int:
        """Return the size in mel entries, padding included."""
        ...

    def split(self) -> Sequence[Splittable]:
        """Split the micro-batch into two; one that cannot be split is returned alone."""
        ...


class OomRetry:
    """Upper limit of a micro-batch's size, lowered when a pass runs out of memory.

    Micro-batches above half of the largest size of the item are then halved, in that update and in all later ones of
    this rank. Groups may be split, since their advantages are known by then.

    Nothing is retried where forward passes are shared with other ranks, as with optim.shard.
    """

    def __init__(self, log: Callable[[str], None] = print, can_retry: bool = True) -> None:
        self.log, self.can_retry, self.max_size, self.retries = log, can_retry, float("inf"), 0

    def run(self, item: Any, compute: Callable[[Any], Result], optimizer: Optimizer) -> Result:
        """Run a function on the item; repeat it with smaller micro-batches each time memory runs out.

        Gradients are reset to zero before each repetition. Raises the library's error when no micro-batch can be split.
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
            self.log(f"{reason}: the update is repeated with micro-batches of at most half the size")

    def lower_limit(self, chunks: Sequence[Splittable]) -> bool:
        """Lower the limit to half of the largest micro-batch; return False if that splits none of them."""
        self.retries += 1
        self.max_size = max(chunk.num_entries for chunk in chunks) / 2
        return any(len(self.split(chunk)) > 1 for chunk in chunks)

    def split(self, chunk: Splittable) -> list[Splittable]:
        """Split a micro-batch in halves until each is within the limit or has one sample."""
        halves = chunk.split() if chunk.num_entries > self.max_size else [chunk]
        return [chunk] if len(halves) == 1 else [smaller for half in halves for smaller in self.split(half)]


def is_oom(error: RuntimeError) -> bool:
    """Check whether an error means out of memory, on a GPU or in the CPU's convolutions."""
    return should_reduce_batch_size(error) or str(error) == ONEDNN


@contextmanager
def explain_oom() -> Iterator[None]:
    """Turn an out-of-memory error that no retry can solve into MemoryError with the config keys that save memory."""
    try:
        yield
    except RuntimeError as error:
        if not is_oom(error):
            raise
        clear_frames(error.__traceback__)  # they hold activations, and the state is about to be saved
        raise MemoryError(
            f"{str(error).partition(chr(10))[0]}; lower rl.mini_repeat_count or datasets.batch_size_per_gpu, or see "
            "what else would save memory: f5-tts budget, with the same -cn and keys"
        ) from error
