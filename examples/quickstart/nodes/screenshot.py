#!/usr/bin/env python3
"""screenshot.py FILE [SECONDS]: saves a picture of the rviz window.

Only that window is looked at, never the rest of the desktop. The picture is
good once enough pixels have the colours of the laser scan and of the robot
(see quickstart.rviz and talker.py); until then the window is looked at again.
Exit status 1, and the last picture kept, if that does not happen in time.
"""

import subprocess
import sys
import time

from PyQt5.QtGui import QGuiApplication, QImage

ENOUGH = 600


def window():
    """The number of the rviz main window, or None while there is none."""
    found = subprocess.run(
        ["xdotool", "search", "--onlyvisible", "--name", r"\.rviz.* - RViz$"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    numbers = found.stdout.split()
    return int(numbers[-1]) if numbers else None


def count(image):
    """Pixels that show the scan (plain orange) and the robot (lit green)."""
    rgb = image.convertToFormat(QImage.Format_RGB888)
    data = rgb.constBits().asstring(rgb.sizeInBytes())
    scan = robot = 0
    for y in range(rgb.height()):
        start = y * rgb.bytesPerLine()
        line = data[start : start + 3 * rgb.width()]
        for r, g, b in zip(line[0::3], line[1::3], line[2::3]):
            if r > 240 and 70 < g < 100 and b < 15:
                scan += 1
            elif g > 60 and g > 3 * r and g > 3 * b:
                robot += 1
    return scan, robot


def main():
    path = sys.argv[1]
    deadline = time.monotonic() + float(sys.argv[2] if len(sys.argv) > 2 else 60)
    app = QGuiApplication(sys.argv[:1])
    scan = robot = 0
    while time.monotonic() < deadline:
        number = window()
        if number is not None:
            picture = app.primaryScreen().grabWindow(number)
            if not picture.isNull():
                scan, robot = count(picture.toImage())
                picture.save(path)
                if scan >= ENOUGH and robot >= ENOUGH:
                    print("scan: %d pixels, robot: %d pixels" % (scan, robot))
                    return 0
        time.sleep(0.5)
    print("not shown in time (scan: %d pixels, robot: %d pixels)" % (scan, robot), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
