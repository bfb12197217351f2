#!/usr/bin/env python3
"""Says how near the nearest thing is, by /scan and by /scan_clean."""

import ctypes

import rospy
from sensor_msgs.msg import LaserScan


def cuda():
    """The version of the CUDA runtime that the image has, or none."""
    try:
        runtime = ctypes.CDLL("libcudart.so.12")
    except OSError:
        return "none"
    version = ctypes.c_int()
    runtime.cudaRuntimeGetVersion(ctypes.byref(version))
    return "%d.%d" % (version.value // 1000, version.value % 1000 // 10)


def main():
    rospy.init_node("watcher")
    print("CUDA runtime:", cuda(), flush=True)

    said = {}

    def nearest(scan, topic):
        now = rospy.get_time()
        if now - said.get(topic, 0) >= 5:
            said[topic] = now
            rospy.loginfo("%s: nearest %.1f m", topic, min(scan.ranges))

    rospy.Subscriber("scan", LaserScan, nearest, "scan")
    rospy.Subscriber("scan_clean", LaserScan, nearest, "scan_clean")
    rospy.spin()


if __name__ == "__main__":
    main()
