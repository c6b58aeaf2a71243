/* Maps and unmaps while a timer's handler does the same: allocation functions that may be called from handlers, so that the
 * program is right whatever is interrupted. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>

static volatile int handled;

static void churn(void) {
    void *range = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (range == MAP_FAILED || munmap(range, 4096))
        abort();
}

static void on_timer(int number) {
    (void)number;
    churn();
    handled++;
}

/* Until the handler has run so often; how often the program has. */
int run(int times) {
    struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART}, before;
    struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    int count = 0;
    handled = 0;
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &often, NULL);
    for (; handled < times; count++)
        churn();
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    return count;
}
