//! Waiting: epoll, signalfd, timerfd.
