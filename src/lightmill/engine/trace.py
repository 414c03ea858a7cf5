"""What every thread did and when, as a Chrome trace: open it in chrome://tracing or in Perfetto.

The format: Trace Event Format (Google), JSON object form, complete events (`"ph": "X"`) in microseconds.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

MOST_EVENTS = 2_000_000
_PID = 1

_Event: TypeAlias = "tuple[str, str, str, float, float, Mapping[str, Any] | None]"


class Trace:
    """Collects events from any thread; the times are of one clock (`time.perf_counter`), in seconds.

    What comes after `most` events is counted and not kept, so that a long run cannot fill the memory.
    """

    def __init__(self, most: int = MOST_EVENTS) -> None:
        if most < 1:
            raise ValueError(f"a trace holds at least one event, got most={most}")
        self._most = most
        self._events: list[_Event] = []  # list.append is atomic: no lock where the work is done
        self._dropped = 0
        self._lock = threading.Lock()

    def add(
        self,
        name: str,
        category: str,
        thread_name: str,
        began_s: float,
        ended_s: float,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        """One stretch of work. `args` (JSON values) is shown when the event is clicked."""
        if len(self._events) < self._most:
            self._events.append((name, category, thread_name, began_s, ended_s, args))
        else:
            with self._lock:
                self._dropped += 1

    @property
    def dropped(self) -> int:
        """Events that came when the trace was full."""
        return self._dropped

    def __len__(self) -> int:
        return len(self._events)

    def __bool__(self) -> bool:
        """A trace without events is a trace all the same: `if trace` asks whether there is one."""
        return True

    def to_json(self) -> str:
        """The whole trace as the text of a JSON file (ASCII)."""
        return "".join(self.chunks())

    def chunks(self) -> Iterator[str]:
        """`to_json` in pieces, one line each: a long trace need not be in memory twice."""
        events = sorted(self._events, key=lambda event: event[3])
        origin_s = events[0][3] if events else 0.0
        threads = sorted({event[2] for event in events}, key=lambda name: (len(name), name))  # cpu 2 before cpu 10
        numbers = {name: number for number, name in enumerate(threads, 1)}
        yield f'{{"displayTimeUnit": "ms", "otherData": {json.dumps(self._remarks(len(events)))}, "traceEvents": [\n'
        yield json.dumps(_metadata("process_name", 0, {"name": "lightmill"}))
        for name, number in numbers.items():
            yield ",\n" + json.dumps(_metadata("thread_name", number, {"name": name}))
            yield ",\n" + json.dumps(_metadata("thread_sort_index", number, {"sort_index": number}))
        for event in events:
            yield ",\n" + json.dumps(_complete(event, origin_s, numbers[event[2]]))
        yield "\n]}\n"

    def _remarks(self, kept: int) -> dict[str, Any]:
        remarks: dict[str, Any] = {"events": kept, "dropped": self._dropped}
        if self._dropped:
            remarks["note"] = f"the trace was full after {kept} events; {self._dropped} later ones were not kept"
        return remarks


def _metadata(what: str, tid: int, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": _PID, "tid": tid, "args": args}


def _complete(event: _Event, origin_s: float, tid: int) -> dict[str, Any]:
    name, category, _, began_s, ended_s, args = event
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": round(1e6 * (began_s - origin_s), 3),
        "dur": round(1e6 * (ended_s - began_s), 3),
        "pid": _PID,
        "tid": tid,
        "args": dict(args or {}),
    }
