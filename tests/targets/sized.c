/* C23's sized frees: defined by one library (PROVIDER), by way of free, and called by another. */
#include <stdlib.h>

void free_sized(void *, size_t);
void free_aligned_sized(void *, size_t, size_t);

#ifdef PROVIDER
void free_sized(void *block, size_t size)
{
    (void)size;
    free(block);
}

void free_aligned_sized(void *block, size_t alignment, size_t size)
{
    (void)alignment, (void)size;
    free(block);
}
#else
long sized(long size)
{
    free_sized(malloc(size), size);
    free_aligned_sized(aligned_alloc(64, 64 * size), 64, 64 * size);
    free_sized(NULL, 0);
    free(malloc(size + 1));
    return 0;
}
#endif
