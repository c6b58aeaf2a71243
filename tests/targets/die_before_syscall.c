/* Preloaded into memray: kills it right before it has the borrowed thread make its Nth step towards a system call, N
 * being DIE_BEFORE. The thread then has the call ahead of it. With DIE_TOGETHER its guardian dies first. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <unistd.h>

static int steps, last;

__attribute__((constructor)) static void begin(int count, char **arguments) {
    const char *text = getenv("DIE_BEFORE");
    /* Not its guardian, which inherits the environment. */
    last = text && count > 1 && !strcmp(arguments[1], "attach") ? atoi(text) : 0;
}

static void kill_children(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", getpid());
    FILE *children = fopen(path, "r");
    int child;
    while (children && fscanf(children, "%d", &child) == 1)
        kill(child, SIGKILL);
}

long ptrace(enum __ptrace_request request, ...) {
    long (*real)(enum __ptrace_request, ...) = dlsym(RTLD_NEXT, "ptrace");
    va_list list;
    va_start(list, request);
    long tid = va_arg(list, long), address = va_arg(list, long), data = va_arg(list, long);
    va_end(list);
    if (request == PTRACE_SYSCALL && ++steps == last) {
        if (getenv("DIE_TOGETHER"))
            kill_children();
        kill(getpid(), SIGKILL);
        pause();
    }
    return real(request, tid, address, data);
}
