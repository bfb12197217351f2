/*
 * The floor: the least that starting a container costs on this machine.
 *
 * One process that does with the fewest system calls what `run --rm` has to do:
 * clone3 with all namespaces, an overlay of ten read-only layers by the new
 * mount API, /proc, /sys and /dev, pivot_root, exec of a static program, wait,
 * clean-up. No image store, no records, no command line, no monitor: what an
 * engine takes beyond this is its own.
 *
 *   floor [OPTION...] DIR [PROGRAM [ARGUMENT...]]
 *
 * DIR holds the layers l0 to l9 (`floor --prepare DIR PROGRAM` makes them, with
 * PROGRAM as /bin/true); PROGRAM is by default /bin/true.
 *
 *   --net             a new network namespace with lo up (default: the host's)
 *   --bridge          --net with a veth pair at the bridge floor0 (10.250.77.1/24,
 *                     made if it is missing), an address and a default route
 *   --cgroup V        v1, v2 or none (default): a control group of its own
 *   --seccomp KIND    short (a search tree's usual path, 21 instructions),
 *                     long (601 instructions in a row) or none (default)
 *   --tmpfs           the writable layer on a tmpfs (default: in DIR)
 *   --sync            without the overlay's `volatile`: every unmount then
 *                     syncs the whole file system below
 *   --masks           read-only and masked paths as Docker has them
 *   --loop N          N times in this process; prints minimum and median
 *
 * cc -O2 -o floor floor.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/if_link.h>
#include <linux/mount.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* <sys/mount.h> and <linux/mount.h> do not go together everywhere. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);
#ifndef MNT_DETACH
#define MNT_DETACH 2
#endif
#ifndef MS_BIND
#define MS_RDONLY 1
#define MS_NOSUID 2
#define MS_NODEV 4
#define MS_NOEXEC 8
#define MS_REMOUNT 32
#define MS_BIND 4096
#define MS_REC 16384
#define MS_SLAVE (1 << 19)
#endif

#define LAYERS 10

enum seccomp { SECCOMP_NONE, SECCOMP_SHORT, SECCOMP_LONG };
enum cgroup { CGROUP_NONE, CGROUP_V1, CGROUP_V2 };

static struct {
	int net, bridge, tmpfs, sync, masks;
	enum cgroup cgroup;
	enum seccomp seccomp;
	long loop;
	const char *dir;
	char **argv;
} opt = { .loop = 0 };

static char upper[4096], work[4096], group[256];
static char *default_argv[] = { "/bin/true", NULL };

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	_exit(125);
}

static void check(long result, const char *what)
{
	if (result < 0)
		fail(what);
}

/* --- mounts -------------------------------------------------------------- */

static int fs_open(const char *type)
{
	int fd = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	check(fd, type);
	return fd;
}

static int fs_set(int fd, const char *key, const char *value)
{
	return syscall(SYS_fsconfig, fd, FSCONFIG_SET_STRING, key, value, 0);
}

static int fs_mount(int fd, unsigned attributes, const char *what)
{
	check(syscall(SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, NULL, NULL, 0), what);
	int mnt = syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes);
	check(mnt, what);
	close(fd);
	return mnt;
}

static void place(int mnt, int at, const char *path)
{
	check(syscall(SYS_move_mount, mnt, "", at, path, MOVE_MOUNT_F_EMPTY_PATH), path);
}

static int overlay(void)
{
	char lower[4096], all[LAYERS * 4096];
	int fd = fs_open("overlay"), appended = 1;
	size_t length = 0;

	fs_set(fd, "source", "floor");
	for (int i = LAYERS - 1; i >= 0; i--) {
		snprintf(lower, sizeof lower, "%s/l%d", opt.dir, i);
		length += snprintf(all + length, sizeof all - length, "%s%s", length ? ":" : "", lower);
		/* Since Linux 6.5 a layer at a time. */
		if (appended && fs_set(fd, "lowerdir+", lower) < 0)
			appended = 0;
	}
	if (!appended)
		check(fs_set(fd, "lowerdir", all), "lowerdir");
	check(fs_set(fd, "upperdir", upper), "upperdir");
	check(fs_set(fd, "workdir", work), "workdir");
	if (!opt.sync)
		check(syscall(SYS_fsconfig, fd, FSCONFIG_SET_FLAG, "volatile", NULL, 0), "volatile");
	return fs_mount(fd, 0, "overlay");
}

static void device(int dev, const char *name, unsigned major, unsigned minor)
{
	check(mknodat(dev, name, S_IFCHR | 0666, makedev(major, minor)), name);
}

static void devices(int root)
{
	int fd = fs_open("tmpfs");
	fs_set(fd, "mode", "755");
	fs_set(fd, "size", "65536k");
	int dev = fs_mount(fd, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "tmpfs");
	place(dev, root, "dev");

	umask(0);
	device(dev, "null", 1, 3);
	device(dev, "zero", 1, 5);
	device(dev, "full", 1, 7);
	device(dev, "random", 1, 8);
	device(dev, "urandom", 1, 9);
	device(dev, "tty", 5, 0);
	check(symlinkat("/proc/self/fd", dev, "fd"), "fd");
	check(symlinkat("/proc/self/fd/0", dev, "stdin"), "stdin");
	check(symlinkat("/proc/self/fd/1", dev, "stdout"), "stdout");
	check(symlinkat("/proc/self/fd/2", dev, "stderr"), "stderr");
	check(symlinkat("pts/ptmx", dev, "ptmx"), "ptmx");
	check(mkdirat(dev, "pts", 0755), "pts");
	check(mkdirat(dev, "shm", 01777), "shm");
	check(mkdirat(dev, "mqueue", 01777), "mqueue");
	umask(022);

	fd = fs_open("devpts");
	syscall(SYS_fsconfig, fd, FSCONFIG_SET_FLAG, "newinstance", NULL, 0);
	fs_set(fd, "ptmxmode", "0666");
	fs_set(fd, "mode", "0620");
	fs_set(fd, "gid", "5");
	place(fs_mount(fd, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, "devpts"), dev, "pts");
	fd = fs_open("tmpfs");
	fs_set(fd, "mode", "1777");
	fs_set(fd, "size", "65536k");
	place(fs_mount(fd, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, "shm"), dev, "shm");
	fd = fs_open("mqueue");
	place(fs_mount(fd, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, "mqueue"), dev, "mqueue");
}

static void masks(void)
{
	static const char *hidden[] = { "/proc/kcore", "/proc/keys", "/proc/timer_list", NULL };
	static const char *empty[] = { "/proc/acpi", "/proc/scsi", "/sys/firmware", NULL };
	static const char *readonly[] = { "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
					  "/proc/sysrq-trigger", NULL };

	for (int i = 0; hidden[i]; i++)
		if (mount("/dev/null", hidden[i], NULL, MS_BIND, NULL) < 0 && errno != ENOENT)
			fail(hidden[i]);
	for (int i = 0; empty[i]; i++)
		if (mount("tmpfs", empty[i], "tmpfs", MS_RDONLY, NULL) < 0 && errno != ENOENT)
			fail(empty[i]);
	for (int i = 0; readonly[i]; i++) {
		if (mount(readonly[i], readonly[i], NULL, MS_BIND | MS_REC, NULL) < 0) {
			if (errno == ENOENT)
				continue;
			fail(readonly[i]);
		}
		check(mount(NULL, readonly[i], NULL,
			    MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL),
		      readonly[i]);
	}
}

/* --- the rest of what a container is made of ------------------------------ */

static void loopback_up(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	check(fd, "socket");
	check(ioctl(fd, SIOCSIFFLAGS, &request), "lo");
	close(fd);
}

/* --- a bridge, by route messages ----------------------------------------- */

#define BRIDGE "floor0"

static char batch[4096];
static size_t filled;
static struct nlmsghdr *last;
static int asked;

static void begin(int kind, int flags, const void *fixed, size_t size)
{
	last = (struct nlmsghdr *)(batch + filled);
	memset(last, 0, NLMSG_HDRLEN);
	last->nlmsg_type = kind;
	last->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	last->nlmsg_len = NLMSG_LENGTH(size);
	memcpy(NLMSG_DATA(last), fixed, size);
	filled += NLMSG_ALIGN(last->nlmsg_len);
	asked++;
}

static struct rtattr *put(int kind, const void *value, size_t size)
{
	struct rtattr *attribute = (struct rtattr *)(batch + filled);

	attribute->rta_type = kind;
	attribute->rta_len = RTA_LENGTH(size);
	if (size)
		memcpy(RTA_DATA(attribute), value, size);
	filled += RTA_ALIGN(attribute->rta_len);
	last->nlmsg_len = batch + filled - (char *)last;
	return attribute;
}

static void close_nest(struct rtattr *nest)
{
	nest->rta_len = batch + filled - (char *)nest;
}

/* Sends what was begun, and fails with the first refusal that is not `fine`. */
static void talk(int fine)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	char answer[8192];

	check(fd, "netlink");
	check(send(fd, batch, filled, 0), "netlink");
	while (asked > 0) {
		ssize_t n = recv(fd, answer, sizeof answer, 0);
		check(n, "netlink");
		for (struct nlmsghdr *h = (void *)answer; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			struct nlmsgerr *error = NLMSG_DATA(h);
			if (h->nlmsg_type != NLMSG_ERROR)
				continue;
			asked--;
			if (error->error && -error->error != fine) {
				errno = -error->error;
				fail("netlink");
			}
		}
	}
	close(fd);
	filled = 0;
}

static void address(int index, unsigned last_byte)
{
	struct ifaddrmsg fixed = { .ifa_family = AF_INET, .ifa_prefixlen = 24, .ifa_index = index };
	unsigned char ip[4] = { 10, 250, 77, last_byte };

	begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &fixed, sizeof fixed);
	put(IFA_LOCAL, ip, 4);
	put(IFA_ADDRESS, ip, 4);
}

static void bridge(void)
{
	struct ifinfomsg up = { .ifi_flags = IFF_UP, .ifi_change = IFF_UP };

	if (if_nametoindex(BRIDGE))
		return;
	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
	put(IFLA_IFNAME, BRIDGE, sizeof BRIDGE);
	struct rtattr *info = put(IFLA_LINKINFO, NULL, 0);
	put(IFLA_INFO_KIND, "bridge", 7);
	close_nest(info);
	talk(EEXIST);
	address(if_nametoindex(BRIDGE), 1);
	talk(EEXIST);
}

static void link_into(int pid)
{
	struct ifinfomsg up = { .ifi_flags = IFF_UP, .ifi_change = IFF_UP }, plain = { 0 };
	int index = if_nametoindex(BRIDGE);
	char name[16];

	snprintf(name, sizeof name, "fl%d", pid);
	begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
	put(IFLA_IFNAME, name, strlen(name) + 1);
	put(IFLA_MASTER, &index, sizeof index);
	struct rtattr *info = put(IFLA_LINKINFO, NULL, 0);
	put(IFLA_INFO_KIND, "veth", 5);
	struct rtattr *data = put(IFLA_INFO_DATA, NULL, 0);
	struct rtattr *peer = put(VETH_INFO_PEER, NULL, 0);
	memcpy(batch + filled, &plain, sizeof plain);
	filled += NLMSG_ALIGN(sizeof plain);
	put(IFLA_IFNAME, "eth0", 5);
	put(IFLA_NET_NS_PID, &pid, sizeof pid);
	close_nest(peer);
	close_nest(data);
	close_nest(info);
	talk(0);
}

static void configure(void)
{
	struct rtmsg route = { .rtm_family = AF_INET, .rtm_table = RT_TABLE_MAIN, .rtm_protocol = RTPROT_STATIC,
			       .rtm_type = RTN_UNICAST };
	int index = if_nametoindex("eth0");
	struct ifinfomsg up = { .ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP };
	unsigned char gateway[4] = { 10, 250, 77, 1 };

	begin(RTM_NEWLINK, 0, &up, sizeof up);
	address(index, 2);
	begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &route, sizeof route);
	put(RTA_GATEWAY, gateway, 4);
	put(RTA_OIF, &index, sizeof index);
	talk(0);
}

static int unbridge(void)
{
	struct ifinfomsg plain = { 0 };

	begin(RTM_DELLINK, 0, &plain, sizeof plain);
	put(IFLA_IFNAME, BRIDGE, sizeof BRIDGE);
	talk(ENODEV);
	return 0;
}

/* Allows everything, after as many comparisons as a real filter makes. */
static void filter(void)
{
	int steps = opt.seccomp == SECCOMP_SHORT ? 18 : 598;
	struct sock_filter code[604];
	int n = 0;

	code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < steps; i++)
		code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 100000u + i, 0, 0);
	code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { .len = n, .filter = code };
	check(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

static const char *controllers[] = { "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer",
				     "blkio", "pids", NULL };

static void write_to(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fail(path);
	close(fd);
}

static void copy_value(const char *from, const char *to)
{
	char value[256];
	int fd = open(from, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, value, sizeof value - 1);

	if (n < 0)
		fail(from);
	close(fd);
	value[n] = 0;
	write_to(to, value);
}

/* Makes the groups; on v2 returns the fd that clone3 puts the child into. */
static int make_groups(void)
{
	char path[512], from[512];

	snprintf(group, sizeof group, "floor-%d", getpid());
	if (opt.cgroup == CGROUP_V2) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/unified/%s", group);
		if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
			snprintf(path, sizeof path, "/sys/fs/cgroup/%s", group);
		check(mkdir(path, 0755), path);
		int fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
		check(fd, path);
		return fd;
	}
	for (int i = 0; controllers[i]; i++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", controllers[i], group);
		if (mkdir(path, 0755) < 0) {
			if (errno == ENOENT)
				continue;
			fail(path);
		}
		if (strcmp(controllers[i], "cpuset") == 0) {
			static const char *values[] = { "cpuset.cpus", "cpuset.mems" };
			for (int v = 0; v < 2; v++) {
				snprintf(from, sizeof from, "/sys/fs/cgroup/cpuset/%s", values[v]);
				snprintf(path, sizeof path, "/sys/fs/cgroup/cpuset/%s/%s", group, values[v]);
				copy_value(from, path);
			}
		}
	}
	return -1;
}

static void join_groups(pid_t pid)
{
	char path[512], text[32];

	snprintf(text, sizeof text, "%d", pid);
	for (int i = 0; controllers[i]; i++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s/cgroup.procs", controllers[i], group);
		if (access(path, F_OK) == 0)
			write_to(path, text);
	}
}

static void remove_groups(void)
{
	char path[512];

	if (opt.cgroup == CGROUP_V2) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/unified/%s", group);
		if (rmdir(path) < 0) {
			snprintf(path, sizeof path, "/sys/fs/cgroup/%s", group);
			rmdir(path);
		}
		return;
	}
	for (int i = 0; controllers[i]; i++) {
		snprintf(path, sizeof path, "/sys/fs/cgroup/%s/%s", controllers[i], group);
		rmdir(path);
	}
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st, (void)type, (void)where;
	return remove(path);
}

/* --- one container --------------------------------------------------------- */

static void contained(int gate)
{
	char byte;

	signal(SIGINT, SIG_DFL);
	if (gate >= 0 && read(gate, &byte, 1) != 1)
		_exit(125);
	check(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
	check(mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL), "slave");
	if (opt.tmpfs) {
		char layer[4096];
		snprintf(layer, sizeof layer, "%s/rw", opt.dir);
		place(fs_mount(fs_open("tmpfs"), 0, "tmpfs"), AT_FDCWD, layer);
		check(mkdir(upper, 0755), upper);
		check(mkdir(work, 0755), work);
	}
	int root = overlay();
	char target[4096];
	snprintf(target, sizeof target, "%s/root", opt.dir);
	place(root, AT_FDCWD, target);

	place(fs_mount(fs_open("proc"), MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, "proc"),
	      root, "proc");
	place(fs_mount(fs_open("sysfs"),
		       MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC, "sysfs"),
	      root, "sys");
	devices(root);
	if (opt.net)
		loopback_up();
	if (opt.bridge)
		configure();
	check(sethostname("floor", 5), "hostname");

	check(fchdir(root), "root");
	check(syscall(SYS_pivot_root, ".", "."), "pivot_root");
	check(umount2(".", MNT_DETACH), "umount");
	check(chdir("/"), "/");
	if (opt.masks)
		masks();
	if (opt.seccomp)
		filter();
	execv(opt.argv[0], opt.argv);
	fail(opt.argv[0]);
}

static void once(void)
{
	int gate[2] = { -1, -1 }, into = -1, status;
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC,
		.exit_signal = SIGCHLD,
	};

	if (!opt.tmpfs) {
		check(mkdir(upper, 0755), upper);
		check(mkdir(work, 0755), work);
	}
	if (opt.net)
		args.flags |= CLONE_NEWNET;
	if (opt.cgroup != CGROUP_NONE) {
		into = make_groups();
		args.flags |= CLONE_NEWCGROUP;
	}
	if (into >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = into;
	}
	if (opt.cgroup == CGROUP_V1 || opt.bridge)
		check(pipe2(gate, O_CLOEXEC), "pipe");
	if (opt.bridge)
		bridge();

	long pid = syscall(SYS_clone3, &args, sizeof args);
	check(pid, "clone3");
	if (pid == 0)
		contained(gate[0]);
	if (opt.cgroup == CGROUP_V1)
		join_groups(pid);
	if (opt.bridge)
		link_into(pid);
	if (gate[1] >= 0) {
		if (write(gate[1], "", 1) != 1)
			fail("gate");
		close(gate[0]);
		close(gate[1]);
	}
	check(waitpid(pid, &status, 0), "wait");
	if (into >= 0)
		close(into);
	if (opt.cgroup != CGROUP_NONE)
		remove_groups();
	if (!opt.tmpfs) {
		nftw(upper, remove_one, 16, FTW_DEPTH | FTW_PHYS);
		nftw(work, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void make_dir(const char *dir, const char *name)
{
	char path[4096];

	snprintf(path, sizeof path, "%s/%s", dir, name);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		fail(path);
}

static int prepare(const char *dir, const char *program)
{
	char path[4096], buffer[65536];
	ssize_t n;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		fail(dir);
	make_dir(dir, "root");
	make_dir(dir, "rw");
	for (int i = 0; i < LAYERS; i++) {
		snprintf(path, sizeof path, "l%d", i);
		make_dir(dir, path);
		snprintf(path, sizeof path, "l%d/etc", i);
		make_dir(dir, path);
		snprintf(path, sizeof path, "l%d/usr", i);
		make_dir(dir, path);
	}
	make_dir(dir, "l0/proc");
	make_dir(dir, "l0/sys");
	make_dir(dir, "l0/dev");
	make_dir(dir, "l0/bin");
	snprintf(path, sizeof path, "%s/l0/bin/true", dir);
	int from = open(program, O_RDONLY), to = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0755);
	check(from, program);
	check(to, path);
	while ((n = read(from, buffer, sizeof buffer)) > 0)
		check(write(to, buffer, n), path);
	return 0;
}

static int usage(void)
{
	fprintf(stderr, "usage: floor [--net] [--bridge] [--cgroup v1|v2|none] [--seccomp short|long|none] [--tmpfs]\n"
			"             [--sync] [--masks] [--loop N] DIR [PROGRAM [ARGUMENT...]]\n"
			"       floor --prepare DIR PROGRAM\n"
			"       floor --unbridge\n");
	return 125;
}

int main(int argc, char **argv)
{
	int i = 1;

	for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
		const char *value = i + 1 < argc ? argv[i + 1] : "";
		if (strcmp(argv[i], "--net") == 0) {
			opt.net = 1;
		} else if (strcmp(argv[i], "--bridge") == 0) {
			opt.net = opt.bridge = 1;
		} else if (strcmp(argv[i], "--unbridge") == 0) {
			return unbridge();
		} else if (strcmp(argv[i], "--tmpfs") == 0) {
			opt.tmpfs = 1;
		} else if (strcmp(argv[i], "--sync") == 0) {
			opt.sync = 1;
		} else if (strcmp(argv[i], "--masks") == 0) {
			opt.masks = 1;
		} else if (strcmp(argv[i], "--cgroup") == 0) {
			opt.cgroup = strcmp(value, "v1") == 0 ? CGROUP_V1 :
				     strcmp(value, "v2") == 0 ? CGROUP_V2 : CGROUP_NONE;
			i++;
		} else if (strcmp(argv[i], "--seccomp") == 0) {
			opt.seccomp = strcmp(value, "short") == 0 ? SECCOMP_SHORT :
				      strcmp(value, "long") == 0 ? SECCOMP_LONG : SECCOMP_NONE;
			i++;
		} else if (strcmp(argv[i], "--loop") == 0) {
			opt.loop = atol(value);
			i++;
		} else if (strcmp(argv[i], "--prepare") == 0 && i + 2 < argc) {
			return prepare(argv[i + 1], argv[i + 2]);
		} else {
			return usage();
		}
	}
	if (i >= argc)
		return usage();
	opt.dir = argv[i];
	opt.argv = i + 1 < argc ? argv + i + 1 : default_argv;
	snprintf(upper, sizeof upper, "%s/rw/u%d", opt.dir, getpid());
	snprintf(work, sizeof work, "%s/rw/w%d", opt.dir, getpid());

	/* Ctrl-C ends what it runs; the clean-up is still done. */
	signal(SIGINT, SIG_IGN);
	if (opt.loop <= 0) {
		once();
		return 0;
	}
	double *times = calloc(opt.loop, sizeof *times);
	for (long n = 0; n < opt.loop; n++) {
		double start = now();
		once();
		times[n] = now() - start;
	}
	qsort(times, opt.loop, sizeof *times, by_value);
	printf("min %.2f ms, median %.2f ms\n", times[0], times[opt.loop / 2]);
	return 0;
}
