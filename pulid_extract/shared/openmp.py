"""How OpenMP's threads wait, said by the variable that its library reads when torch is imported.

A network's step is hundreds of operations of all threads, each of which ends when the slowest has
done its share. GNU's library, which torch brings on Linux, lets the others spin for some
milliseconds each time: where another program wants the processor too, they keep it from the thread
they wait for (a small-world picture on two busy cores: 25 to 33 processor seconds, 4 to 5 without).
"""

from __future__ import annotations

import os

# turns of the loop in which a thread waits before it sleeps, some ten microseconds; GNU's library
# takes 300,000 by itself, and 100 where it knows that there are more threads than processors
SPINS = "1000"


def wait_asleep() -> None:
    """Let threads that have nothing to do sleep soon, unless somebody said how they shall wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
