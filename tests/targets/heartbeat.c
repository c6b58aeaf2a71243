/* Beats that need no GIL: each beat that comes late is noted, as seen from inside the thread. For scripts/bench_pause. */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LATE_MAX 65536
#define LATE_NS 20000

struct late {
    uint64_t begin_ns, late_ns;
};
struct notes {
    uint64_t count;
    struct late late[LATE_MAX];
};

static struct notes *notes;
static uint64_t period_ns;
static int allocates;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void *beat(void *unused) {
    (void)unused;
    uint64_t last = now();
    for (unsigned i = 0;; i++) {
        if (period_ns) {
            struct timespec time = {period_ns / 1000000000, period_ns % 1000000000};
            nanosleep(&time, 0);
        }
        if (allocates) {
            volatile char *block = malloc(600 + i % 5 * 1000);
            block[0] = 1;
            free((void *)block);
        }
        uint64_t at = now(), late_ns = at - last - period_ns;
        if (late_ns >= LATE_NS) {
            uint64_t index = __atomic_fetch_add(&notes->count, 1, __ATOMIC_RELAXED);
            notes->late[index % LATE_MAX] = (struct late){last, late_ns};
        }
        last = at;
    }
}

/* Starts `threads` beating threads, the calling one being the last. Notes go to the file. */
void beat_for_ever(const char *path, int threads, uint64_t period, int with_malloc, int ready) {
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof *notes))
        abort();
    notes = mmap(0, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (notes == MAP_FAILED)
        abort();
    close(file);
    period_ns = period;
    allocates = with_malloc;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 << 10);
    for (int i = 1; i < threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, beat, 0))
            abort();
    }
    if (write(ready, "r", 1) != 1)
        abort();
    beat(0);
}
