/*
 * Preloaded into a server, it holds up each process that has just asked the postmaster for something, as a machine that
 * is short of processors may do: what was asked for can be over before the one who asked goes on.
 *
 * A process asks by SIGUSR1 to its parent. The postmaster asks nothing of its own.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int kill(pid_t pid, int number)
{
    int result = (int) syscall(SYS_kill, pid, number);

    if (number == SIGUSR1 && pid == getppid()) {
        struct timespec rest = {.tv_sec = 0, .tv_nsec = 200000000};

        /* A signal is no reason to go on earlier. */
        while (nanosleep(&rest, &rest) != 0)
            ;
    }
    return result;
}
