"""File trees of boards, put together from published facts; nothing here was recorded by us.

Sources: labels, addresses and zones of Orin NX: NVIDIA Jetson Linux developer guides r35.6 (JetPack 5) and r36.3
(JetPack 6), "Platform power and performance"; zone order of JetPack 5: rbonghi/jetson_stats issue 381; zone names of
JetPack 6 (gpu-thermal): laminair/jetson_stats_node_exporter issue 29; -256000 of a zone that is off: the same issue;
tj empty and GPU device names: ../shared/design/hardware.md. Values are made up, near what the paper measured.
"""

from __future__ import annotations

from pathlib import Path

HWMON = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon{}/"
OC = "sys/devices/platform/soctherm-oc-event/hwmon/hwmon1/"
NVPMODEL = """< PARAM TYPE=FILE NAME=CPU_ONLINE >
CORE_0 /sys/devices/system/cpu/cpu0/online
< POWER_MODEL ID=0 NAME=MAXN >
< POWER_MODEL ID=1 NAME=10W >
< POWER_MODEL ID=2 NAME=15W >
< POWER_MODEL ID=3 NAME=25W >
< PM_CONFIG DEFAULT=2 >
"""


def write(root: Path, files: dict[str, str]) -> Path:
    """Writes texts by path."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def orin_nx(root: Path, jetpack: int = 6, **hwmon: str) -> Path:
    """An Orin NX under JetPack 5 or 6 at 19.0 W (VDD_IN); ``hwmon`` replaces files of the power monitor."""
    kind = "therm" if jetpack == 5 else "thermal"
    upper = str.upper if jetpack == 5 else str
    power = {
        "name": "ina3221\n",
        "in1_label": "VDD_IN\n", "in1_input": "19000\n", "curr1_input": "1000\n",
        "in2_label": "VDD_CPU_GPU_CV\n", "in2_input": "19008\n", "curr2_input": "512\n",
        "in3_label": "VDD_SOC\n", "in3_input": "19000\n", "curr3_input": "200\n",
        "in7_label": "Sum of shunt voltages\n", "in7_input": "9\n",
    }  # fmt: skip
    zones = ["cpu", "gpu", "cv0", "cv1", "cv2", "soc0", "soc1", "soc2", "tj"]
    heat = {"cpu": "48500\n", "gpu": "46250\n", "cv0": "-256000\n", "tj": "\n" if jetpack == 6 else "49000\n"}
    gpu = "sys/class/devfreq/17000000." + ("ga10b" if jetpack == 5 else "gpu") + "/"
    files = {HWMON.format(3 if jetpack == 5 else 4) + name: text for name, text in (power | hwmon).items()}
    for number, zone in enumerate(zones):
        folder = f"sys/class/thermal/thermal_zone{number}/"
        files |= {folder + "type": f"{upper(zone) if zone != 'tj' else zone}-{kind}\n"}
        files |= {folder + "temp": heat.get(zone, "47000\n")}
    files |= {gpu + "cur_freq": "918000000\n", gpu + "device/load": "873\n"}
    files |= {OC + f"oc{number}_event_cnt": "0\n" for number in (1, 2, 3)}
    cooling = ["pwm-fan", "gpu-throttle-alert", "cpu-throttle-alert", "hot-surface-alert"]
    for number, name in enumerate(cooling):
        folder = f"sys/class/thermal/cooling_device{number}/"
        files |= {folder + "type": f"{name}\n", folder + "cur_state": "2\n" if name == "pwm-fan" else "0\n"}
    files |= {"etc/nvpmodel.conf": NVPMODEL, "var/lib/nvpmodel/status": "pmode:0003\n"}
    files |= {"sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1984000\n"}
    files |= {"proc/meminfo": "MemTotal:       15655652 kB\nMemAvailable:   11240000 kB\n"}
    return write(root, files)


def set_power(root: Path, watts: float) -> None:
    """Has VDD_IN say so many watts at 19 V; by one rename, as a sensor's register changes at once."""
    (folder,) = root.glob("sys/bus/i2c/drivers/ina3221/*/hwmon/hwmon*")
    (folder / "curr1_input").write_text(f"{1000 * watts / 19:.6f}\n")
