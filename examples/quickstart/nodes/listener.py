#!/usr/bin/env python3
"""Prints what the talker says, and how far its nearest wall is."""

import rospy
from sensor_msgs.msg import LaserScan
from std_msgs.msg import String


def heard(msg):
    print("listener heard", msg.data, flush=True)


def seen(msg):
    print("listener saw a wall at %.2f m" % min(msg.ranges), flush=True)


def main():
    rospy.init_node("listener")
    rospy.Subscriber("chatter", String, heard)
    rospy.Subscriber("scan", LaserScan, seen)
    rospy.spin()


if __name__ == "__main__":
    main()
