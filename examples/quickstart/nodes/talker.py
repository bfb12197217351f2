#!/usr/bin/env python3
"""A small robot: says where it is, and publishes what rviz can draw.

Topics: /chatter (std_msgs/String), /scan (sensor_msgs/LaserScan) and
/robot (visualization_msgs/Marker).
"""

import math

import rospy
from sensor_msgs.msg import LaserScan
from std_msgs.msg import String
from visualization_msgs.msg import Marker

RATE_HZ = 5
FRAME = "map"


def scan(step):
    """A round room of 4 m with a wave that travels along its wall."""
    beams = 720
    msg = LaserScan()
    msg.header.frame_id = FRAME
    msg.header.stamp = rospy.Time.now()
    msg.angle_min = -math.pi
    msg.angle_max = math.pi
    msg.angle_increment = 2 * math.pi / beams
    msg.range_min = 0.1
    msg.range_max = 10.0
    msg.ranges = [
        4.0 + 0.4 * math.sin(8 * msg.angle_increment * i + 0.1 * step)
        for i in range(beams)
    ]
    return msg


def marker(x, y, heading):
    """The robot: an arrow that drives in a circle."""
    msg = Marker()
    msg.header.frame_id = FRAME
    msg.header.stamp = rospy.Time.now()
    msg.ns = "quickstart"
    msg.id = 0
    msg.type = Marker.ARROW
    msg.action = Marker.ADD
    msg.pose.position.x = x
    msg.pose.position.y = y
    msg.pose.position.z = 0.2
    msg.pose.orientation.z = math.sin(heading / 2)
    msg.pose.orientation.w = math.cos(heading / 2)
    msg.scale.x = 1.6
    msg.scale.y = 0.4
    msg.scale.z = 0.4
    msg.color.r, msg.color.g, msg.color.b, msg.color.a = 0.1, 0.9, 0.2, 1.0
    return msg


def main():
    rospy.init_node("talker")
    chatter = rospy.Publisher("chatter", String, queue_size=10)
    scans = rospy.Publisher("scan", LaserScan, queue_size=2)
    robot = rospy.Publisher("robot", Marker, queue_size=2)
    rate = rospy.Rate(RATE_HZ)
    step = 0
    while not rospy.is_shutdown():
        angle = 0.05 * step
        x, y = 2 * math.cos(angle), 2 * math.sin(angle)
        text = "message %d: the robot is at x=%.2f y=%.2f" % (step, x, y)
        print("talker says", text, flush=True)
        chatter.publish(String(data=text))
        scans.publish(scan(step))
        robot.publish(marker(x, y, angle + math.pi / 2))
        step += 1
        rate.sleep()


if __name__ == "__main__":
    try:
        main()
    except rospy.ROSInterruptException:
        pass
