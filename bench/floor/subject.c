/*
 * What the containers of the benchmarks run, linked statically so that it
 * starts as fast as a program can:
 *
 *   subject              end at once with status 0 (also under the name `true`)
 *   subject pause        wait, and end at SIGTERM or SIGINT as a good pid 1 does
 *   subject write DIR FILES BYTES
 *                        make FILES files of BYTES bytes under DIR
 *
 * cc -O2 -static -o subject subject.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void end(int signal)
{
	(void)signal;
	_exit(0);
}

static _Noreturn void wait_for_signal(void)
{
	struct sigaction action = { .sa_handler = end };

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	for (;;)
		pause();
}

/* Words out of a small vocabulary: compresses about as program text does. */
static void fill(char *buffer, size_t size, uint64_t *seed)
{
	size_t at = 0;

	while (at < size) {
		*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
		unsigned word = *seed >> 52; /* 4096 words */
		unsigned length = 3 + word % 7;
		for (unsigned i = 0; i < length && at < size; i++)
			buffer[at++] = 'a' + (word * 31 + i * 7 + (word >> i)) % 26;
		if (at < size)
			buffer[at++] = ' ';
	}
}

static int write_files(const char *dir, long files, long bytes)
{
	char *buffer = malloc(bytes > 0 ? bytes : 1);
	char path[4096];
	uint64_t seed = 42;

	if (mkdir(dir, 0755) < 0 && errno != EEXIST) {
		perror(dir);
		return 1;
	}
	for (long i = 0; i < files; i++) {
		if (i % 100 == 0) {
			snprintf(path, sizeof path, "%s/%ld", dir, i / 100);
			if (mkdir(path, 0755) < 0 && errno != EEXIST) {
				perror(path);
				return 1;
			}
		}
		snprintf(path, sizeof path, "%s/%ld/%ld", dir, i / 100, i);
		int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		fill(buffer, bytes, &seed);
		if (fd < 0 || write(fd, buffer, bytes) != bytes) {
			perror(path);
			return 1;
		}
		close(fd);
	}
	free(buffer);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "pause") == 0)
		wait_for_signal();
	if (argc > 4 && strcmp(argv[1], "write") == 0)
		return write_files(argv[2], atol(argv[3]), atol(argv[4]));
	return 0;
}
