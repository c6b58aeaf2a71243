// Blocks on stacks of every kind, with memory below them whose bytes are checked afterwards.
//
// block(KIND, ROOM, MS) goes to a stack of that kind, down to ROOM bytes above its end, says `ready`, and waits for a
// line of standard input, or for MS milliseconds. Returns how many bytes below the stack have changed.
#define _GNU_SOURCE
#include <alloca.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define GUARDED (32 << 10)
#define STACK (64 << 10)
#define SENTINEL 0xa5

struct area {
    unsigned char guarded[GUARDED]; // right below the stack
    unsigned char stack[STACK];
};

static struct area in_static_data;
static unsigned char *lowest;
static int room, wait_ms;

static void wait_here(void) {
    struct pollfd input = {0, POLLIN, 0};
    char byte;
    (void)!write(1, "ready\n", 6);
    if (poll(&input, 1, wait_ms) == 1)
        while (read(0, &byte, 1) == 1 && byte != '\n')
            ;
}

// Uses up the stack first.
static __attribute__((noinline)) void wait_low(void) {
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    uintptr_t wanted = (uintptr_t)lowest + room;
    if (here > wanted) {
        volatile char *used = alloca(here - wanted);
        used[0] = 1;
        wait_here();
        used[0] = 2;
    } else {
        wait_here();
    }
}

static void on_signal(int number) {
    (void)number;
    wait_low();
}

static ucontext_t main_context, other_context;

static void on_coroutine(void) {
    wait_low();
}

static long changed(const struct area *area) {
    long count = 0;
    for (int index = 0; index < GUARDED; index++)
        count += area->guarded[index] != SENTINEL;
    return count;
}

static long on_alternate_stack(struct area *area, int flags) {
    memset(area->guarded, SENTINEL, sizeof area->guarded);
    stack_t alternate = {.ss_sp = area->stack, .ss_size = sizeof area->stack}, before, after;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | flags};
    lowest = area->stack;
    sigaltstack(&alternate, &before);
    sigaction(SIGUSR2, &action, NULL);
    raise(SIGUSR2);
    sigaltstack(NULL, &after);
    if (after.ss_sp != alternate.ss_sp || after.ss_size != alternate.ss_size)
        return -1;
    sigaltstack(&before, NULL);
    return changed(area);
}

static long on_own_stack(void) {
    struct area area;
    return on_alternate_stack(&area, 0);
}

static long in_coroutine(struct area *area) {
    memset(area->guarded, SENTINEL, sizeof area->guarded);
    lowest = area->stack;
    getcontext(&other_context);
    other_context.uc_stack.ss_sp = area->stack;
    other_context.uc_stack.ss_size = sizeof area->stack;
    other_context.uc_link = &main_context;
    makecontext(&other_context, on_coroutine, 0);
    swapcontext(&main_context, &other_context);
    return changed(area);
}

// The deepest that this process' main stack has ever been: just inside its lowest page.
static long at_the_end(void) {
    char line[512];
    unsigned long start = 0, end;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "[stack]"))
            sscanf(line, "%lx-%lx", &start, &end);
    fclose(maps);
    lowest = (unsigned char *)start - 8 * 4096;
    wait_low();
    return 0;
}

static struct area *mapped(int has_guard) {
    unsigned char *base = mmap(NULL, 4096 + sizeof(struct area), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (has_guard)
        mprotect(base, 4096, PROT_NONE);
    return (struct area *)(base + 4096);
}

long block(const char *kind, int room_bytes, int ms) {
    room = room_bytes, wait_ms = ms;
    if (strcmp(kind, "static") == 0)
        return on_alternate_stack(&in_static_data, 0);
    if (strcmp(kind, "mapped") == 0)
        return on_alternate_stack(mapped(0), 0);
    if (strcmp(kind, "mapped_nodefer") == 0)
        return on_alternate_stack(mapped(0), SA_NODEFER);
    if (strcmp(kind, "heap") == 0)
        return on_alternate_stack(malloc(sizeof(struct area)), 0);
    if (strcmp(kind, "own") == 0)
        return on_own_stack();
    if (strcmp(kind, "coroutine") == 0)
        return in_coroutine(mapped(1));
    if (strcmp(kind, "coroutine_in_heap") == 0)
        return in_coroutine(malloc(sizeof(struct area)));
    if (strcmp(kind, "end") == 0)
        return at_the_end();
    return -2;
}
