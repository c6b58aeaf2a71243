/* Pointers to the allocation functions in data: tables that keep them, and pointers that the program changes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* In writable data, and, where the library is built without PIC, in read-only data with text relocations. */
void *(*volatile table_malloc)(size_t) = malloc;
void (*volatile table_free)(void *) = free;
static void *(*const constant_malloc[])(size_t) = {NULL, malloc};
static void (*const constant_free[])(void *) = {NULL, free};
static volatile int one = 1;

/* Not a pointer to the function, but near it. */
char *inside_malloc = (char *)malloc + 16;
char *behind_free = (char *)free + 1;
char *before_malloc = (char *)malloc - 8;

/* As libxml2 does: pointers with a default, which the program may replace by functions of its own. */
void *(*volatile chosen_malloc)(size_t) = malloc;
void (*volatile chosen_free)(void *) = free;

enum { HEADER = 32 };
static const char magic[HEADER] = "a block of the program's own";

static void *own_malloc(size_t size)
{
    char *block = malloc(size + HEADER);
    memcpy(block, magic, HEADER);
    return block + HEADER;
}

static void own_free(void *pointer)
{
    char *block = (char *)pointer - HEADER;
    if (memcmp(block, magic, HEADER))
        abort();
    free(block);
}

static void *chosen_block;

long choose(void)
{
    chosen_malloc = own_malloc;
    chosen_free = own_free;
    chosen_block = chosen_malloc(100);
    return 0;
}

/* The same with functions of somebody else's, by their names. */
long choose_foreign(const char *allocate, const char *release)
{
    chosen_malloc = dlsym(RTLD_DEFAULT, allocate);
    chosen_free = dlsym(RTLD_DEFAULT, release);
    chosen_block = chosen_malloc(100);
    return chosen_block != NULL;
}

long chosen_are(const char *allocate, const char *release)
{
    void *block = chosen_malloc(200);
    chosen_free(chosen_block);
    chosen_block = block;
    return (void *)chosen_malloc == dlsym(RTLD_DEFAULT, allocate) && (void *)chosen_free == dlsym(RTLD_DEFAULT, release);
}

/* What the program chose is what it gets. */
long chosen(long size)
{
    if (chosen_malloc != own_malloc || chosen_free != own_free)
        return -1;
    chosen_free(chosen_block);
    chosen_block = chosen_malloc(size);
    return memcmp((char *)chosen_block - HEADER, magic, HEADER) == 0;
}

long table(long size)
{
    table_free(table_malloc(size));
    constant_free[one](constant_malloc[one](size + 1));
    return 0;
}

long found(const char *name) { return (long)dlsym(RTLD_DEFAULT, name); }

long taken(void) { return (long)table_malloc; }

/* Whether each is still where it was meant to be. */
long near_by_real(void)
{
    char *m = dlsym(RTLD_DEFAULT, "malloc"), *f = dlsym(RTLD_DEFAULT, "free");
    return inside_malloc == m + 16 && before_malloc == m - 8 && behind_free == f + 1;
}
