/* Preloaded into memray. JUMPING_CLOCK: the time of day leaps an hour ahead and back at every look at it.
 * READ_BEFORE_OPEN: before memray opens a mapping of its target's, somebody else has read all of that memory. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    static int looks;
    if (!real)
        real = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (clock == CLOCK_REALTIME && result == 0 && getenv("JUMPING_CLOCK"))
        time->tv_sec += __atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED) % 2 ? 3600 : -3600;
    return result;
}

static void read_all(int pid, unsigned long start, unsigned long end) {
    static char piece[1 << 16];
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int memory = openat(AT_FDCWD, path, O_RDONLY);
    for (unsigned long at = start; memory >= 0 && at < end; at += sizeof piece)
        if (pread(memory, piece, sizeof piece, at) < 0)
            break;
    close(memory);
}

int open64(const char *path, int flags, ...) {
    static int (*real)(const char *, int, ...);
    va_list list;
    va_start(list, flags);
    mode_t mode = va_arg(list, int);
    va_end(list);
    if (!real)
        real = dlsym(RTLD_NEXT, "open64");
    unsigned long start, end;
    int pid;
    if (getenv("READ_BEFORE_OPEN") && (flags & O_ACCMODE) == O_RDWR
        && sscanf(path, "/proc/%d/map_files/%lx-%lx", &pid, &start, &end) == 3)
        read_all(pid, start, end);
    return real(path, flags, mode);
}
