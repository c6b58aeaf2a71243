// Allocates in places that are hard to walk from, and notes by glibc's own unwinder from where: at single instructions
// of code (prologues, lazy binding, the program's PLT), while C++ exceptions unwind the stack, on greenlets' stacks. Each
// block has a size of its own, by which its record is known.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <new>
#include <pthread.h>
#include <stdexcept>
#include <ucontext.h>
#include <unistd.h>

#define KEEP(value) __asm__ volatile("" ::"r"(value) : "memory")
#define NOINLINE __attribute__((noinline, noclone))

enum { PLACES_MAX = 3000, FRAMES_MAX = 1000 };

static struct note {
    size_t size;
    char kind[24];
    int count;
    void *frames[FRAMES_MAX];
} notes[PLACES_MAX];
static int notes_count;
static size_t next_size = 700001;

extern "C" NOINLINE void *noted(const char *kind) {
    if (notes_count == PLACES_MAX)
        return nullptr;
    struct note *note = &notes[notes_count++];
    snprintf(note->kind, sizeof note->kind, "%s", kind);
    note->size = next_size;
    next_size += 16;
    note->count = backtrace(note->frames, FRAMES_MAX);
    void *block = malloc(note->size);
    KEEP(block);
    return block;
}

extern "C" int through_callback(int (*function)(void)) {
    char room[64];
    room[0] = 1;
    KEEP(room);
    int result = function();
    KEEP(room);
    return result;
}

// --- at each instruction

static volatile int is_stepping, steps;
enum { STEPS_NOTED = 700 };

static void on_step(int, siginfo_t *, void *context) {
    if (!is_stepping) {
        static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_EFL] &= ~0x100;
        return;
    }
    if (++steps <= STEPS_NOTED)
        noted("step");
}

NOINLINE static int saves_registers(int a, int b, int c, int d) {
    KEEP(&a);
    int sum = a;
    for (int i = 0; i < 2; i++)
        sum += (i ^ b) + (c | i) * d;
    KEEP(&sum);
    return sum;
}

NOINLINE static int with_alloca(int bytes) {
    char *room = static_cast<char *>(__builtin_alloca(bytes));
    room[0] = 1;
    KEEP(room);
    return saves_registers(bytes, 2, 3, 4);
}

// With the trap flag set each instruction but those in the handler raises SIGTRAP.
NOINLINE static int stepped(int (*work)(void)) {
    struct sigaction action = {}, before;
    action.sa_sigaction = on_step;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGTRAP, &action, &before);
    steps = 0;
    is_stepping = 1;
    __asm__ volatile("pushfq\n\torq $0x100, (%%rsp)\n\tpopfq" ::: "memory", "cc");
    int result = work();
    is_stepping = 0;
    __asm__ volatile("nop");
    sigaction(SIGTRAP, &before, nullptr);
    return result;
}

static int compare(const void *left, const void *right) {
    return *static_cast<const int *>(left) - *static_cast<const int *>(right);
}

// Its own, and the C library's.
static int own_code(void) {
    int numbers[] = {3, 1, 2};
    qsort(numbers, 3, sizeof *numbers, compare);
    return with_alloca(100) + numbers[0] + static_cast<int>(strtod("12.5e1", nullptr));
}

// Bound on its first call, through the PLT and the dynamic linker; on its second through the PLT alone.
extern "C" int bound_lazily(void) { return getsid(0) != 0; }

// `copy` is this library under another name: ctypes binds at once whatever it loads.
extern "C" int all_steps(const char *copy) {
    void *handle = dlopen(copy, RTLD_LAZY);
    int (*lazily)(void) = reinterpret_cast<int (*)(void)>(dlsym(handle, "bound_lazily"));
    int count = 0;
    stepped(own_code);
    count += steps;
    stepped(lazily);
    count += steps;
    stepped(lazily);
    return count + steps;
}

extern "C" int load(const char *copy) { return dlopen(copy, RTLD_LAZY) != nullptr; }

// --- exceptions

struct Guard {
    const char *kind;
    ~Guard() { KEEP(kind ? noted(kind) : malloc(100)); }
};

static const char *const message = "one that is too long to be kept within the object itself";

NOINLINE static int thrower(int depth, const char *kind) {
    Guard guard{kind};
    if (depth == 0)
        throw std::runtime_error(message);
    return thrower(depth - 1, kind) + 1;
}

static void on_out_of_memory() {
    noted("new_handler");
    throw std::bad_alloc();
}

extern "C" int exceptions(void) {
    int caught = 0;
    try {
        thrower(4, "unwinding");
    } catch (const std::exception &) {
        noted("caught");
        caught++;
    }
    std::set_new_handler(on_out_of_memory);
    try {
        KEEP(::operator new(static_cast<size_t>(1) << 60));
    } catch (const std::bad_alloc &) {
        noted("caught");
        caught++;
    }
    std::set_new_handler(nullptr);
    return caught;
}

static void *many(void *) {
    long caught = 0;
    for (int i = 0; i < 500; i++) {
        try {
            thrower(i % 7, nullptr);
        } catch (const std::runtime_error &error) {
            caught += std::strcmp(error.what(), message) == 0;
        }
    }
    return reinterpret_cast<void *>(caught);
}

// Of several threads at once.
extern "C" long many_exceptions(void) {
    pthread_t threads[4];
    long caught = 0;
    for (pthread_t &thread : threads)
        pthread_create(&thread, nullptr, many, nullptr);
    for (pthread_t &thread : threads) {
        void *result;
        pthread_join(thread, &result);
        caught += reinterpret_cast<long>(result);
    }
    return caught;
}

extern "C" int warm(void) {
    void *frames[4];
    return backtrace(frames, 4);
}

extern "C" void print_notes(const char *path) {
    FILE *file = fopen(path, "w");
    for (int index = 0; index < notes_count; index++) {
        fprintf(file, "%s %zu", notes[index].kind, notes[index].size);
        for (int frame = 0; frame < notes[index].count; frame++)
            fprintf(file, " %p", notes[index].frames[frame]);
        fprintf(file, "\n");
    }
    fclose(file);
    notes_count = 0;
}
