#!/usr/bin/env python3
"""A lidar that sees a round room, with a wrong value now and then: publishes /scan."""

import math
import random

import rospy
from sensor_msgs.msg import LaserScan

BEAMS = 360


def main():
    rospy.init_node("lidar")
    scans = rospy.Publisher("scan", LaserScan, queue_size=2)
    rate = rospy.Rate(10)
    while not rospy.is_shutdown():
        scan = LaserScan()
        scan.header.stamp = rospy.Time.now()
        scan.header.frame_id = "lidar"
        scan.angle_min, scan.angle_max = -math.pi, math.pi
        scan.angle_increment = 2 * math.pi / BEAMS
        scan.range_min, scan.range_max = 0.1, 10.0
        scan.ranges = [0.2 if random.random() < 0.02 else 4.0 for _ in range(BEAMS)]
        scans.publish(scan)
        rate.sleep()


if __name__ == "__main__":
    try:
        main()
    except rospy.ROSInterruptException:
        pass
