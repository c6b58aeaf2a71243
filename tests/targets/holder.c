/* Holds a block and lets it go, each through a slot of its own that is bound when first used. With OWN_ALLOCATOR the
 * library defines the functions as well: which ones it calls is the dynamic linker's choice. */
#include <stddef.h>
#include <stdlib.h>

void *malloc(size_t);
void free(void *);

#ifdef PADDING
/* The same slots, at the same places, but other stubs: .init comes before the stubs. */
__asm__(".pushsection .init,\"ax\",@progbits\n .skip 64, 0x90\n .popsection");
#endif

static void *held;

long hold(long size)
{
    held = malloc(size);
    return held != NULL;
}

long let_go(void)
{
    free(held);
    held = NULL;
    return 0;
}

long both(long size)
{
    return hold(size) && let_go() == 0;
}

#ifdef OWN_ALLOCATOR
static char memory[1 << 22] __attribute__((aligned(16)));
static size_t used;
static long mallocs, frees;

void *malloc(size_t size)
{
    void *block = memory + used;
    used += (size + 15) / 16 * 16;
    mallocs++;
    return used <= sizeof memory ? block : NULL;
}

void free(void *block)
{
    /* Another allocator's block here, or one of these there, is a crash in any real program. */
    if (block && ((char *)block < memory || (char *)block >= memory + sizeof memory))
        abort();
    frees++;
}

long own_mallocs(void) { return mallocs; }
long own_frees(void) { return frees; }
#endif
