"""What a receipt says of energy: what the machine's counters counted while it trained, and by which of them."""

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parties import Parties

from client.energy import Energy, rapl
from client.meter import ProcessMeter
from shared_models.records import entry as entries

RANGE_UJ = 262_143_328_850  # Of a real package.


def zone(root: Path, folder: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> Path:
    """One zone as Linux lays it out."""
    there = root / folder
    there.mkdir(parents=True)
    (there / "name").write_text(f"{name}\n")
    (there / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (there / "energy_uj").write_text(f"{energy_uj}\n")
    return there


@pytest.fixture
def root(tmp_path):
    """A machine with two packages, the cores of one of them, and the platform around them."""
    there = tmp_path / "powercap"
    zone(there, "intel-rapl:0", "package-0", 5_000_000)
    zone(there, "intel-rapl:1", "package-1", 7_000_000)
    zone(there, "intel-rapl:2", "psys", 0)
    zone(there, "intel-rapl:0:0", "core", 0)
    zone(there, "intel-rapl-mmio:0", "package-0", 0)
    (there / "intel-rapl").mkdir()
    return there


def use(root: Path, folder: str, more_uj: int) -> None:
    """As the machine would, with the counter's own range."""
    path = root / folder / "energy_uj"
    path.write_text(f"{(int(path.read_text()) + more_uj) % int((root / folder / 'max_energy_range_uj').read_text())}\n")


def test_packages_are_counted_and_neither_their_parts_nor_what_they_are_part_of(root):
    energy = Energy("cpu", Fraction(100), 1, root)
    assert energy.used(0) == (0, "rapl")
    for folder, more_uj in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 500_000)):
        use(root, folder, more_uj)
    for folder in ("intel-rapl:2", "intel-rapl:0:0", "intel-rapl-mmio:0"):
        use(root, folder, 99_000_000)
    assert energy.used(1_000) == (2_500, "rapl")


@given(
    start=st.integers(0, RANGE_UJ - 1),
    used=st.lists(st.tuples(st.integers(0, RANGE_UJ - 1), st.integers(0, RANGE_UJ - 1)), max_size=8),
)
def test_counters_wrap_around_and_nothing_is_lost_that_was_looked_at_in_time(tmp_path_factory, start, used):
    root = tmp_path_factory.mktemp("powercap")
    zone(root, "intel-rapl:0", "package-0", start)
    zone(root, "intel-rapl:1", "package-1", RANGE_UJ - 1 - start)
    counter = rapl(root)
    for first, second in used:
        use(root, "intel-rapl:0", first)
        use(root, "intel-rapl:1", second)
        counter.read_mj()
    assert counter.read_mj() == sum(map(sum, used)) // 1000
    shutil.rmtree(root)


@pytest.mark.parametrize("broken", ["-1\n", f"{RANGE_UJ + 1}\n", "", "much\n", None])
def test_a_counter_that_cannot_be_right_or_read_counts_no_more(root, broken):
    """What is declared stands in its place, for the whole time: how much it missed is not known."""
    energy = Energy("cpu", Fraction("0.5"), 3, root)
    use(root, "intel-rapl:0", 4_000_000)
    energy.look()
    path = root / "intel-rapl:0" / "energy_uj"
    path.unlink()
    if broken is not None:
        path.write_text(broken)
    assert energy.used(2_000) == (3_000, "declared")
    path.write_text("5000000\n")
    assert energy.used(2_001) == (3_001, "declared")


def test_without_a_counter_energy_is_as_declared_or_unknown(tmp_path):
    assert Energy("cpu", Fraction(350), 2, tmp_path).used(10) == (7_000, "declared")
    silent = Energy("cpu", Fraction(0), 2, tmp_path)
    assert (silent.used(10), silent.why) == ((0, "none"), f"no package of a processor in {tmp_path}")
    zone(tmp_path, "intel-rapl:0", "package-0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    assert "energy_uj" in Energy("cpu", Fraction(0), 1, tmp_path).why


def test_a_receipt_says_what_was_counted_and_what_kept_it_in_while_a_process_trained(tmp_path, root):
    parties = Parties(tmp_path)
    signer = parties.consenting("acme")
    signer.begin(parties.begin("acme", *parties.say(parties.opened())))
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        meter = ProcessMeter(
            process.pid, Energy("cpu", Fraction(0), 1, root), landlock=6, offline=True, memory=lambda: 77
        )
        use(root, "intel-rapl:1", 123_456_789)
        claim = parties.claim()
        while meter.read().wall_ms < claim.busy_ms:
            pass
        leaf = signer.claim(claim, meter)[-1]
        process.communicate(b"\n")
    receipt = entries.peek(leaf)
    assert (receipt.energy_mj, receipt.energy_method) == (123_456, "rapl")
    assert (receipt.isolation, receipt.memory_bytes) == ("landlock-6+netns", 77)
    parties.log.append(leaf)
    parties.log.close()


# A GPU. NVIDIA's binding is the real one; under it lies a library that has NVML's functions, and two GPUs.

LIBRARY = r"""
#include <stdio.h>
#include <stdlib.h>
typedef struct { int index; } gpu;
static gpu gpus[2] = {{0}, {1}};
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 2 ? "Invalid Argument" : "Not Supported"; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu **found) {
    if (index > 1) return 2;
    *found = &gpus[index];
    return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(gpu *of, unsigned long long *mj) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%d", getenv("GPUS"), of->index);
    FILE *file = fopen(path, "r");
    if (!file) return 3;
    int read = fscanf(file, "%llu", mj);
    fclose(file);
    return read == 1 ? 0 : 3;
}
"""
ASK = """
import json, os, sys
from fractions import Fraction
from pathlib import Path
from client.energy import Energy
gpus, found = Path(os.environ["GPUS"]), []
energy = Energy(sys.argv[1], Fraction(7), 1, gpus)
found.append(energy.used(1000))
for more in sys.argv[2:]:
    name, _, mj = more.partition("=")
    (gpus / name).write_text(mj)
    found.append(energy.used(1000))
print(json.dumps([found, energy.why]))
"""


@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_gpu_is_counted_by_its_own_counter(tmp_path):
    (tmp_path / "nvml.c").write_text(LIBRARY)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)

    def ask(*words: str) -> list:
        (tmp_path / "0").write_text("10000")
        (tmp_path / "1").write_text("900000000000")
        env = os.environ | {"LD_LIBRARY_PATH": str(tmp_path), "GPUS": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", ASK, *words], env=env, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert ask("cuda", "0=10250", "1=0") == [[[0, "nvml"], [250, "nvml"], [250, "nvml"]], ""]
    assert ask("cuda:1", "0=0", "1=900000000007") == [[[0, "nvml"], [0, "nvml"], [7, "nvml"]], ""]
    assert ask("cuda:2") == [[[7_000, "declared"]], "NVML: Invalid Argument"]
    back = ask("cuda:0", "0=10250", "0=3", "0=20000")  # The driver was loaded anew.
    assert back == [[[0, "nvml"], [250, "nvml"], [7_000, "declared"], [7_000, "declared"]], ""]
    assert ask("cuda:0", "0=")[0] == [[0, "nvml"], [7_000, "declared"]]
