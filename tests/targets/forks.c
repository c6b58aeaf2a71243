/* What Python's own fork can't do: children of vfork that allocate, and children that a signal handler makes in the
 * middle of whatever it interrupted. Compiled by the tests, -O0 -fno-builtin. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

/* The blocks of a vfork child are its parent's: the same heap. Returns how many were not whole. */
int vforks(size_t size, int times)
{
    static char *volatile blocks[256];
    int bad = 0;
    for (volatile int i = 0; i < times && i < 256; i++) {
        pid_t child = vfork();
        if (child == 0) {
            blocks[i] = malloc(size);
            if (blocks[i])
                memset(blocks[i], i, size);
            _exit(0);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child || status)
            bad++;
    }
    for (int i = 0; i < times && i < 256; i++) {
        for (size_t at = 0; blocks[i] && at < size; at++)
            if (blocks[i][at] != (char)i) {
                bad++;
                break;
            }
        bad += !blocks[i];
        free(blocks[i]);
        blocks[i] = NULL;
    }
    return bad;
}

static volatile sig_atomic_t is_child, children;
static pid_t made[4096];
/* _Fork may be called in a handler, whatever that has interrupted; older C libraries have but fork, which may not
 * where there was ever a second thread. */
static pid_t (*fork_anywhere)(void) = fork;

static void on_alarm(int number)
{
    (void)number;
    if (is_child || children >= 4096)
        return;
    pid_t child = fork_anywhere();
    if (child == 0)
        is_child = 1;
    else if (child > 0)
        made[children++] = child;
}

static int is_whole(unsigned char *block, unsigned char value, size_t size)
{
    for (size_t at = 0; at < size; at++)
        if (block[at] != value)
            return 0;
    return 1;
}

/* What a child does that finds itself in the middle of its parent's loop: allocate on its own and check it. */
static void be_a_child(void)
{
    unsigned char *blocks[20];
    for (int i = 0; i < 20; i++)
        if (!(blocks[i] = malloc(70001)))
            _exit(3);
        else
            memset(blocks[i], i, 70001);
    for (int i = 0; i < 20; i++) {
        if (!is_whole(blocks[i], i, 70001))
            _exit(4);
        free(blocks[i]);
    }
    _exit(0);
}

/* Allocates and frees without a pause while a timer's handler forks. Returns how many children did not end well, or
 * -1 if there were none; `pairs` is how many blocks of this size were allocated and freed. */
int forks_in_handler(size_t size, int wanted, uint64_t *pairs)
{
    struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART}, before;
    struct itimerval every = {{0, 700}, {0, 700}}, never = {{0, 0}, {0, 0}};
    int bad = 0;
    void *function = dlsym(RTLD_DEFAULT, "_Fork");
    if (function)
        fork_anywhere = (pid_t (*)(void))function;
    children = 0;
    *pairs = 0;
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &every, NULL);
    while (children < wanted) {
        void *block = malloc(size);
        free(block);
        ++*pairs;
        if (is_child)
            be_a_child();
    }
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    for (int i = 0; i < children; i++) {
        int status = 0;
        if (waitpid(made[i], &status, 0) != made[i] || status)
            bad++;
    }
    return children ? bad : -1;
}
