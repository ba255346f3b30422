"""How long things took, in a fixed amount of memory and to a known precision.

A benchmark of a million round trips must not keep a million numbers, and must not average what
it should show: the slowest one in a thousand. So times fall into buckets that grow with the
value: within each power of two there are SLOTS of equal width, which makes every percentile
right to one part in SLOTS, whether it is 50 us or 5 s.
"""

from __future__ import annotations

from array import array
from typing import Final

_SLOT_BITS: Final = 7
SLOTS: Final = 1 << _SLOT_BITS
_VALUE_BITS: Final = 42
VALUE_MAX: Final = (1 << _VALUE_BITS) - 1
"""In nanoseconds more than an hour; what is above counts as this much."""
BUCKETS: Final = (_VALUE_BITS - _SLOT_BITS + 1) * SLOTS


class Histogram:
    """Counts of whole numbers from 0 to VALUE_MAX, by convention nanoseconds."""

    __slots__ = ("_counts", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self._counts = array("Q", bytes(8 * BUCKETS))
        self.count = 0
        self.total = 0
        """The sum of all values, exact."""
        self.minimum = VALUE_MAX
        self.maximum = 0

    def record(self, value: int, count: int = 1) -> None:
        """Count a value, `count` times over; one below 0, from a clock set back, counts as 0."""
        value = min(max(value, 0), VALUE_MAX)
        self._counts[bucket_of(value)] += count
        self.count += count
        self.total += value * count
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def merge(self, other: Histogram) -> None:
        """Add all that another one has counted."""
        for index, count in enumerate(other._counts):
            if count:
                self._counts[index] += count
        self.count += other.count
        self.total += other.total
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)

    def percentile(self, percent: float) -> int:
        """A value that `percent` of the counted ones do not exceed; 0 when nothing was counted.

        It is the upper end of a bucket, so never too small, and never above the largest counted.
        """
        wanted = max(1, -(-self.count * percent // 100))
        seen = 0
        for index, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(top_of(index), self.maximum)
        return self.maximum

    @property
    def mean(self) -> float:
        """The exact mean; 0 when nothing was counted."""
        return self.total / self.count if self.count else 0.0


def bucket_of(value: int) -> int:
    """Which bucket a value from 0 to VALUE_MAX falls into."""
    shift = max(value.bit_length() - _SLOT_BITS - 1, 0)
    return shift * SLOTS + (value >> shift)


def top_of(bucket: int) -> int:
    """The largest value of a bucket."""
    shift = max(bucket // SLOTS - 1, 0)
    return ((bucket - shift * SLOTS + 1) << shift) - 1
