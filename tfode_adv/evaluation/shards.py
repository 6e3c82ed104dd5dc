"""Parts of the images, one for each of several processes or machines."""

import dataclasses

from tfode_adv.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Shard:
    """Part `number` of `count` of the images: every `count`-th one.

    Attributes:
        number: in [1, count].
        count: 1 for all images.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads `"2/4"`. Raises UsageError for anything that names no part."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UsageError(f"shard is {text!r}, but must be i/n with i from 1 to n, as in 2/4")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def tag(self) -> str:
        """For file names."""
        return f"{self.number}of{self.count}"

    def split(self, parts: int) -> list["Shard"]:
        """This shard in `parts` parts."""
        return [Shard(self.number + self.count * part, self.count * parts) for part in range(parts)]

    def indices(self, total: int) -> range:
        """The shard's images out of `total`."""
        return range(self.number - 1, total, self.count)
