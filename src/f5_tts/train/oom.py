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
class Part(Protocol):
    """Of an item, what one forward pass takes."""

    @property
    def size(self) -> int: ...

    def halves(self) -> Sequence[Part]: ...


class Room:
    """How large a part may be. Where memory does not suffice, parts above half the item's largest are halved, in that
    update and in all later ones of this process; groups stay whole, since their advantages are known by then.

    Not where a process is not alone in its passes, as with optim.shard.
    """

    def __init__(self, say: Callable[[str], None] = print, is_alone: bool = True) -> None:
        self.say, self.is_alone, self.most, self.retries = say, is_alone, float("inf"), 0

    def within(self, item: Any, do: Callable[[Any], Result], optimizer: Optimizer) -> Result:
        """`do` of the item, or as often as memory does not suffice again of its parts, from gradients of zero.

        Raises the library's error when no part can be halved.
        """
        while True:
            parts = item if self.most == float("inf") else [piece for part in item for piece in self.pieces(part)]
            try:
                return do(parts)
            except RuntimeError as error:
                if not (self.is_alone and is_lack_of_memory(error) and self.halve(parts)):
                    raise
                reason = str(error).partition("\n")[0]
            optimizer.zero_grad()
            clear_device_cache(garbage_collection=True)
            self.say(f"{reason}: the update is done again, with at most half as much in a forward pass")

    def halve(self, parts: Sequence[Part]) -> bool:
        """Lower the limit to half of the largest part; False where that divides none."""
        self.retries += 1
        self.most = max(part.size for part in parts) / 2
        return any(len(self.pieces(part)) > 1 for part in parts)

    def pieces(self, part: Part) -> list[Part]:
        """The part, or its halves, and theirs, until each is small enough or one sample."""
        found = part.halves() if part.size > self.most else [part]
        return [part] if len(found) == 1 else [piece for half in found for piece in self.pieces(half)]


def is_lack_of_memory(error: RuntimeError) -> bool:
    return should_reduce_batch_size(error) or str(error) == ONEDNN


@contextmanager
def lack_of_memory_said() -> Iterator[None]:
    """A lack of memory that nothing here can help, in a sentence: MemoryError, with what would spare some."""
    try:
        yield
    except RuntimeError as error:
        if not is_lack_of_memory(error):
            raise
        raise MemoryError(
            f"{str(error).partition(chr(10))[0]}; lower rl.mini_repeat_count or datasets.batch_size_per_gpu, or see "
            "what else would spare memory: python -m f5_tts.scripts.budget, with the same -cn and keys"
        ) from error
