"""What training took of electrical energy: by this machine's own counters, read outside the process that trains.

Where it trains on an NVIDIA GPU, that GPU's counter (NVML, Volta and newer; `pip install '.[gpu]'`). Otherwise the
counters of the processors (RAPL, Linux powercap: Documentation/power/powercap/powercap.rst), which only root may read
unless somebody lets others. Where there is neither, what the policy declares, `price.watts`, times the time of the
devices. A counter counts all that used its processor or GPU meanwhile, this training or not.
"""

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
LOOK_S = 60.0  # A counter of RAPL wraps around after 262 kJ or more: in 14 minutes at 300 W.
MEASURED = {"nvml": "by the GPU's counter (NVML)", "rapl": "by the processors' counters (RAPL)"}
NEVER = 0  # Where a gauge does not wrap around.

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Gauge:
    """One counter of energy that grows, and begins again at `wraps_uj`."""

    read_uj: Callable[[], int]
    wraps_uj: int
    before_uj: int

    def more_uj(self) -> int:
        """What was used since the last look, or since this was made. Raises ValueError if it cannot be right."""
        now, before = self.read_uj(), self.before_uj
        if not 0 <= now <= (self.wraps_uj or now) or (now < before and self.wraps_uj == NEVER):
            raise ValueError(f"a counter went from {before} µJ to {now} µJ")
        self.before_uj = now
        return (now - before) % self.wraps_uj if self.wraps_uj else now - before


class Counter:
    """What some gauges have counted since this was made. Look at it more often than one of them wraps around."""

    def __init__(self, method: str, gauges: list[Gauge]) -> None:
        self.method, self._gauges, self._uj, self._works = method, gauges, 0, True
        self._turn = threading.Lock()

    def read_mj(self) -> int | None:
        """Millijoules so far; None from when a gauge was first not to be read, for what it missed is not known."""
        with self._turn:
            try:
                self._uj += sum(each.more_uj() for each in self._gauges) if self._works else 0
            except (OSError, ValueError) as error:
                log.warning("energy is not measured any more: %s", error)
                self._works = False
            return self._uj // 1000 if self._works else None


def rapl(root: Path) -> Counter:
    """The packages of this machine's processors. Raises OSError, ValueError if there is none that may be read.

    A domain of a package, such as its cores, is a part of it, and `psys` has all of them in it: neither is counted.
    """
    packages = [
        zone
        for zone in sorted(root.glob("intel-rapl:*"))
        if re.fullmatch(r"intel-rapl:\d+", zone.name) and (zone / "name").read_text().startswith("package-")
    ]
    if not packages:
        raise FileNotFoundError(f"no package of a processor in {root}")
    return Counter("rapl", [_package(zone) for zone in packages])


def _package(zone: Path) -> Gauge:
    def read_uj() -> int:
        return int((zone / "energy_uj").read_text())

    return Gauge(read_uj, int((zone / "max_energy_range_uj").read_text()), read_uj())


def nvml(processor: str) -> Counter:
    """The GPU of this name, such as cuda or cuda:1, numbered as NVML does: by its place on the bus.

    Raises OSError if NVML is not installed, or does not count this one's energy.
    """
    try:
        import pynvml  # Only where there is a GPU.
    except ImportError:
        raise FileNotFoundError("nvidia-ml-py is not installed: pip install '.[gpu]'") from None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(processor.partition(":")[2] or 0))

        def read_uj() -> int:
            try:
                return 1000 * int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))
            except pynvml.NVMLError as error:
                raise OSError(f"NVML: {error}") from None

        return Counter("nvml", [Gauge(read_uj, NEVER, read_uj())])
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from None


class Energy:
    """The energy of one task, from when this was made."""

    def __init__(self, processor: str, watts: Fraction, devices: int, root: Path | None = None) -> None:
        """`watts` is what the operator declares of one of the devices; 0 if nothing. `root` is `POWERCAP`."""
        self._counter, self.why = None, ""
        self._milliwatts = watts * devices * 1000
        try:
            self._counter = nvml(processor) if processor.startswith("cuda") else rapl(root or POWERCAP)
        except (OSError, ValueError) as error:
            self.why = str(error)  # Why nothing counts.

    def used(self, wall_ms: int) -> tuple[int, str]:
        """(millijoules in this time, how that is known), as a receipt says it: docs/protocol.md has the words."""
        if self._counter is not None and (counted := self._counter.read_mj()) is not None:
            return counted, self._counter.method
        if self._milliwatts:
            return int(self._milliwatts * wall_ms / 1000), "declared"
        return 0, "none"

    def look(self) -> None:
        """To be called every `LOOK_S`: a counter that wraps around twice in between has lost a whole range."""
        if self._counter is not None:
            self._counter.read_mj()
