/* Loads and unloads a library again and again, maps memory of its own where the library was, and checks that nobody
 * wrote to it. The memory holds what a slot would hold: addresses of the C library's functions. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

struct range {
    uintptr_t base, start, end;
};

static int find(struct dl_phdr_info *info, size_t size, void *data)
{
    struct range *range = data;
    if (info->dlpi_addr != range->base)
        return 0;
    range->start = ~(uintptr_t)0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *header = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + header->p_vaddr;
        if (header->p_type != PT_LOAD)
            continue;
        if (start < range->start)
            range->start = start & ~(uintptr_t)4095;
        if (start + header->p_memsz > range->end)
            range->end = (start + header->p_memsz + 4095) & ~(uintptr_t)4095;
    }
    return 1;
}

static void wait_us(long us)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000000 + (now.tv_nsec - start.tv_nsec) / 1000 < us);
}

/* How many words were changed in all rounds; -1 where a call failed. `took` counts the rounds in which the memory was
 * where the library had been. */
long took;

long churn(long rounds, const char *path)
{
    uintptr_t values[] = {
        (uintptr_t)dlsym(RTLD_DEFAULT, "malloc"), (uintptr_t)dlsym(RTLD_DEFAULT, "free"),
        (uintptr_t)dlsym(RTLD_DEFAULT, "calloc"), (uintptr_t)dlsym(RTLD_DEFAULT, "realloc"),
    };
    long changed = 0;
    for (long round = 0; round < rounds; round++) {
        void *library = dlopen(path, RTLD_LAZY);
        if (!library)
            return -1;
        struct link_map *map = library;
        struct range range = {map->l_addr, 0, 0};
        dl_iterate_phdr(find, &range);
        if (round % 3 == 0) {
            long (*both)(long) = (long (*)(long))dlsym(library, "both");
            if (!both || both(500 + round % 100) != 1)
                return -1;
        }
        dlclose(library);
        size_t bytes = range.end - range.start;
        uintptr_t *memory = mmap((void *)range.start, bytes, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (memory == MAP_FAILED)
            continue;
        took++;
        /* One value in all words: any of them may be what the slot there held. */
        uintptr_t value = values[round % 4];
        for (size_t i = 0; i < bytes / sizeof *memory; i++)
            memory[i] = value;
        wait_us(round % 7 * 150);
        for (size_t i = 0; i < bytes / sizeof *memory; i++)
            changed += memory[i] != value;
        munmap(memory, bytes);
    }
    return changed;
}

long times(void) { return took; }

/* Two libraries that take turns at one address, each called each time. */
long alternate(long rounds, const char *first, const char *second)
{
    const char *paths[] = {first, second};
    uintptr_t at = 0;
    for (long round = 0; round < rounds; round++) {
        void *library = dlopen(paths[round % 2], RTLD_LAZY);
        if (!library)
            return -1;
        took += ((struct link_map *)library)->l_addr == at;
        at = ((struct link_map *)library)->l_addr;
        long (*both)(long) = (long (*)(long))dlsym(library, "both");
        if (!both || both(600 + round % 100) != 1)
            return -1;
        dlclose(library);
    }
    return 0;
}
