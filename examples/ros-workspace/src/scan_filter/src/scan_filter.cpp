#include <ros/ros.h>
#include <sensor_msgs/LaserScan.h>

#include "median.hpp"

// Subscribes to /scan, publishes /scan_clean.
int main(int argc, char** argv) {
  ros::init(argc, argv, "scan_filter");
  ros::NodeHandle node;
  const int reach = ros::NodeHandle("~").param("reach", 2);
  ros::Publisher clean = node.advertise<sensor_msgs::LaserScan>("scan_clean", 2);
  ros::Subscriber scans = node.subscribe<sensor_msgs::LaserScan>(
      "scan", 2, [&](const sensor_msgs::LaserScan::ConstPtr& scan) {
        sensor_msgs::LaserScan out = *scan;
        out.ranges = median(scan->ranges, reach);
        clean.publish(out);
      });
  ros::spin();
  return 0;
}
