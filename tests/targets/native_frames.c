/* Allocates from all kinds of frames and notes, by glibc's own unwinder, from where. Each block has a size of its own,
 * by which its record is known. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

#define KEEP(value) __asm__ volatile("" ::"r"(value) : "memory")
#define NOINLINE __attribute__((noinline, noclone))

enum { PLACES_MAX = 64, FRAMES_MAX = 4096 };

static struct note {
    size_t size;
    char kind[24];
    int count;
    void *frames[FRAMES_MAX];
} notes[PLACES_MAX];
static int notes_count;
static size_t next_size = 700001;

/* Its own frame differs: backtrace and malloc are two calls. */
NOINLINE void *noted(const char *kind) {
    struct note *note = &notes[notes_count++];
    snprintf(note->kind, sizeof note->kind, "%s", kind);
    note->size = next_size;
    next_size += 16;
    note->count = backtrace(note->frames, FRAMES_MAX);
    void *block = malloc(note->size);
    KEEP(block);
    return block;
}

NOINLINE int plain(void) {
    void *block = noted("plain");
    KEEP(block);
    return 1;
}

NOINLINE int deep(int depth) {
    int sum = depth ? deep(depth - 1) : (noted("deep"), 0);
    KEEP(&sum);
    return sum + 1;
}

/* The CFA is by RBP. */
NOINLINE int with_alloca(int bytes) {
    char *room = __builtin_alloca(bytes);
    room[0] = 1;
    KEEP(room);
    void *block = noted("alloca");
    KEEP(block);
    KEEP(room);
    return 1;
}

/* The stack is realigned; with a frame of unknown size besides, the CFA is read from the stack. */
NOINLINE int realigned(int bytes) {
    char aligned[128] __attribute__((aligned(64)));
    memset(aligned, bytes, sizeof aligned);
    char *room = __builtin_alloca(bytes);
    room[0] = 1;
    KEEP(aligned);
    KEEP(room);
    void *block = noted("realigned");
    KEEP(block);
    KEEP(aligned);
    return 1;
}

/* A frame of more than a page. */
NOINLINE int large(void) {
    char room[300000];
    memset(room, 1, sizeof room);
    KEEP(room);
    void *block = noted("large");
    KEEP(block);
    KEEP(room);
    return 1;
}

/* Through libc's code. */
static int compare(const void *left, const void *right) {
    static int is_noted;
    if (!is_noted) {
        is_noted = 1;
        noted("qsort");
    }
    return *(const int *)left - *(const int *)right;
}

NOINLINE int sorted(void) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof *numbers, compare);
    KEEP(numbers);
    return numbers[0];
}

static const char *handler_kind;
static void handler(int number) {
    (void)number;
    void *block = noted(handler_kind);
    KEEP(block);
}

NOINLINE int signalled(const char *kind, int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags}, before;
    handler_kind = kind;
    sigaction(SIGUSR2, &action, &before);
    raise(SIGUSR2);
    sigaction(SIGUSR2, &before, NULL);
    return 1;
}

/* Interrupted in the kernel's own code, which is in no file. */
static uintptr_t vdso;
static volatile int is_in_vdso;
static void on_timer(int number, siginfo_t *info, void *context) {
    (void)number, (void)info;
    uintptr_t pc = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (!is_in_vdso && pc >= vdso && pc < vdso + 4096) {
        is_in_vdso = 1;
        noted("vdso");
    }
}

NOINLINE int in_vdso(void) {
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART}, before;
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    struct timespec now, start;
    vdso = getauxval(AT_SYSINFO_EHDR);
    is_in_vdso = 0;
    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &often, NULL);
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while (!is_in_vdso && now.tv_sec < start.tv_sec + 20);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &before, NULL);
    return is_in_vdso;
}

NOINLINE int alternate(void) {
    stack_t stack = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16}, before;
    sigaltstack(&stack, &before);
    signalled("alternate", SA_ONSTACK);
    sigaltstack(&before, NULL);
    return 1;
}

static ucontext_t main_context, coroutine_context;
static void coroutine(void) {
    void *block = noted("coroutine");
    KEEP(block);
    swapcontext(&coroutine_context, &main_context);
}

/* On a mapping of one page less than its neighbours: what lies above can't be read. */
NOINLINE int on_coroutine(void) {
    size_t page = 4096, bytes = 16 * page;
    char *memory = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(memory + bytes, page, PROT_NONE);
    getcontext(&coroutine_context);
    coroutine_context.uc_stack.ss_sp = memory;
    coroutine_context.uc_stack.ss_size = bytes;
    coroutine_context.uc_link = NULL;
    makecontext(&coroutine_context, coroutine, 0);
    swapcontext(&main_context, &coroutine_context);
    return 1;
}

/* Machine code that no table knows: calls its argument. RBP is garbage meanwhile. */
NOINLINE int without_rows(void) {
    static const unsigned char code[] = {
        0x55,                               /* push rbp */
        0x48, 0xc7, 0xc5, 8, 0, 0, 0,       /* mov rbp, 8 */
        0x48, 0x83, 0xec, 0x10,             /* sub rsp, 16 */
        0xff, 0xd7,                         /* call rdi */
        0x48, 0x83, 0xc4, 0x10,             /* add rsp, 16 */
        0x5d, 0xc3,                         /* pop rbp; ret */
    };
    unsigned char *memory =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(memory, code, sizeof code);
    ((int (*)(int (*)(void)))memory)(plain);
    /* The note is of this kind. */
    strcpy(notes[notes_count - 1].kind, "rowless");
    return 1;
}

static void *thread(void *kind) {
    void *block = noted(kind);
    KEEP(block);
    return NULL;
}

NOINLINE int threads(void) {
    pthread_t made;
    pthread_create(&made, NULL, thread, "thread");
    pthread_join(made, NULL);
    /* On memory of the program's own. */
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    size_t bytes = 1 << 18;
    char *memory = aligned_alloc(4096, bytes);
    pthread_attr_setstack(&attributes, memory, bytes);
    pthread_create(&made, &attributes, thread, "own_stack");
    pthread_join(made, NULL);
    return 1;
}

typedef int (*callback)(void);
NOINLINE int through_callback(callback function) {
    char room[64];
    room[0] = 1;
    KEEP(room);
    int result = function();
    KEEP(room);
    return result;
}

/* A library that comes and goes. */
static void *library;

int load(const char *path) {
    library = dlopen(path, RTLD_NOW);
    return library != NULL;
}

NOINLINE int call_loaded(const char *kind) {
    int (*call)(void *(*)(const char *), const char *) =
        (int (*)(void *(*)(const char *), const char *))dlsym(library, "call_in_library");
    int result = call(noted, kind);
    KEEP(&result);
    return result;
}

int unload(void) {
    return dlclose(library) == 0;
}

int warm(void) {
    void *frames[4];
    return backtrace(frames, 4);
}

int all(void) {
    plain();
    deep(300);
    with_alloca(200);
    realigned(200);
    large();
    sorted();
    signalled("signal", 0);
    in_vdso();
    alternate();
    on_coroutine();
    without_rows();
    threads();
    return notes_count;
}

int print_notes(const char *path) {
    FILE *file = fopen(path, "w");
    for (int index = 0; index < notes_count; index++) {
        fprintf(file, "%s %zu", notes[index].kind, notes[index].size);
        for (int frame = 0; frame < notes[index].count; frame++)
            fprintf(file, " %p", notes[index].frames[frame]);
        fprintf(file, "\n");
    }
    fclose(file);
    notes_count = 0;
    return 1;
}
