/*
 * A wall clock that a test can step while a server runs: preloaded into the server, it adds what a file says, in
 * seconds, to what the machine's clock says. The monotonic clock is left alone. The file is mapped, so that all
 * processes see a step at the same moment.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

__attribute__((constructor)) static void map_file(void)
{
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);

    ahead = mapped == MAP_FAILED ? NULL : mapped;
    if (file >= 0)
        close(file);
}

static int64_t seconds_ahead(void)
{
    return ahead ? *ahead : 0;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int) syscall(SYS_clock_gettime, clock, time);

    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += seconds_ahead();
    return result;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    int result = (int) syscall(SYS_gettimeofday, time, zone);

    if (result == 0)
        time->tv_sec += seconds_ahead();
    return result;
}

time_t time(time_t *into)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (into)
        *into = now.tv_sec;
    return now.tv_sec;
}
