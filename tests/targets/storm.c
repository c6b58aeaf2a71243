/* The native part of the storm's targets: memory that checks itself, threads that are born and die, signals that
 * interrupt a hook. Every function returns how many things were wrong. Compiled by scripts/storm, -O1 -pthread. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static unsigned step(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static int is_whole(const unsigned char *block, size_t size, unsigned char value)
{
    for (size_t at = 0; at < size; at++)
        if (block[at] != value)
            return 0;
    return 1;
}

enum { KEPT = 64 };

/* malloc, calloc, realloc, aligned_alloc and free at random; what was stored stays stored. */
int churn(unsigned seed, int rounds)
{
    struct { unsigned char *block; size_t size; unsigned char value; } kept[KEPT] = {{0}};
    int bad = 0;
    for (int round = 0; round < rounds + KEPT; round++) {
        int at = round < rounds ? (int)(step(&seed) % KEPT) : round - rounds;
        unsigned kind = step(&seed) % 4;
        if (kept[at].block && !is_whole(kept[at].block, kept[at].size, kept[at].value))
            bad++;
        if (round >= rounds || (kept[at].block && kind < 2)) {
            free(kept[at].block);
            kept[at].block = NULL;
            continue;
        }
        size_t size = 1 + step(&seed) % (kind == 3 ? 300000 : 6000), old = kept[at].size;
        if (kept[at].block) {
            kept[at].block = realloc(kept[at].block, size);
            if (!is_whole(kept[at].block, old < size ? old : size, kept[at].value))
                bad++;
        } else if (kind == 0) {
            kept[at].block = calloc(1, size);
            bad += !is_whole(kept[at].block, size, 0);
        } else if (kind == 1) {
            kept[at].block = aligned_alloc(64, (size + 63) / 64 * 64);
            bad += (uintptr_t)kept[at].block % 64 != 0;
        } else {
            kept[at].block = malloc(size);
        }
        kept[at].size = size;
        kept[at].value = (unsigned char)step(&seed);
        memset(kept[at].block, kept[at].value, size);
    }
    return bad;
}

static void *born(void *seed)
{
    return (void *)(intptr_t)churn((unsigned)(uintptr_t)seed, 60);
}

/* Threads that allocate, end at once, and whose thread pointers are used again. */
int births(unsigned seed, int count)
{
    int bad = 0;
    for (int i = 0; i < count; i += 4) {
        pthread_t threads[4];
        for (int j = 0; j < 4; j++)
            if (pthread_create(&threads[j], NULL, born, (void *)(uintptr_t)(seed + i + j)))
                return bad + 1;
        for (int j = 0; j < 4; j++) {
            void *result;
            pthread_join(threads[j], &result);
            bad += (int)(intptr_t)result;
        }
    }
    return bad;
}

/* One thread's signals, every millisecond, on a stack of their own. The code that they interrupt maps and unmaps: that
 * is hooked, and takes no lock that a handler could meet again. */
static _Thread_local volatile sig_atomic_t taken, is_jumping, handler_bad;
static _Thread_local sigjmp_buf landing;

static void on_signal(int number)
{
    (void)number;
    unsigned char *block = malloc(3000);
    memset(block, 42, 3000);
    handler_bad += !is_whole(block, 3000, 42);
    free(block);
    taken++;
    if (is_jumping)
        siglongjmp(landing, 1);
}

static int start_timer(timer_t *timer)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN + 3};
    struct itimerspec every = {{0, 1000000}, {0, 1000000}};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    return timer_create(CLOCK_MONOTONIC, &event, timer) || timer_settime(*timer, 0, &every, NULL);
}

static int under_signals(int jumps, int wanted)
{
    enum { STACK = 65536, AREA = 1 << 16 };
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
    stack_t stack = {.ss_sp = malloc(STACK), .ss_size = STACK}, before;
    unsigned char *area = mmap(NULL, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    volatile int bad = 0;
    timer_t timer;
    if (area == MAP_FAILED || sigaltstack(&stack, &before) || sigaction(SIGRTMIN + 3, &action, NULL))
        return 1;
    taken = handler_bad = 0;
    if (start_timer(&timer))
        return 1;
    if (jumps) {
        sigsetjmp(landing, 1);
        is_jumping = 1;
    }
    while (taken < wanted) {
        /* In place, so that a jump out of the middle loses no mapping. */
        unsigned char *at = mmap(area, AREA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        if (at != area || area[AREA / 2])
            bad++;
        area[AREA / 2] = 1;
    }
    is_jumping = 0;
    timer_delete(timer);
    /* What was pending is taken before the stack goes. */
    struct timespec moment = {0, 2000000};
    nanosleep(&moment, NULL);
    munmap(area, AREA);
    if (before.ss_flags & SS_DISABLE)
        before.ss_size = STACK;
    sigaltstack(&before, NULL);
    free(stack.ss_sp);
    return bad + handler_bad;
}

int signals(int wanted)
{
    return under_signals(0, wanted);
}

/* Leaves the handler, and the hook that it interrupted, by siglongjmp. */
int jumps(int wanted)
{
    return under_signals(1, wanted);
}
